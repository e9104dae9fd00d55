"""Places365-standard (Zhou et al., 2017): data_256/<letter>/<class>/<image>.jpg, val_256/, and three lists.

The same with `large` for `256`, and torchvision's data_256_standard; images still in train_256_places365standard.tar
and val_256.tar, lists in filelist_places365-standard.tar. torchvision's Places365 insists on the md5 of the lists, so
they are read here; a test holds both to the same images and labels. A class is called by its path without the letter:
"airfield" for /a/airfield, "apartment_building-outdoor" for /a/apartment_building/outdoor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.importers.classification.listing import (
    Classes,
    Part,
    find_part,
    imported,
    listed_images,
    present_files,
    rows,
)
from fewshot_bench.datasets.importers.found import Found, Imported, ImportRequest
from fewshot_bench.datasets.sources import FileTree
from fewshot_bench.datasets.sources.tree import within
from fewshot_bench.errors import DatasetError

_LAYOUT = "Places365-standard"
_CATEGORIES, _TRAIN, _VALIDATION = "categories_places365.txt", "places365_train_standard.txt", "places365_val.txt"
_SIZES = ("256", "large")


def find_places365(tree: FileTree) -> Found | None:
    """The folder with the lists; images of 256 pixels are taken before larger ones."""
    lists = {
        file: find_part(tree, ("", "filelist_places365-standard"), ("filelist_places365-standard.tar",), holding=file)
        for file in (_CATEGORIES, _TRAIN, _VALIDATION)
    }
    found = [(size, _images(tree, size)) for size in _SIZES]
    size, images = next(((s, parts) for s, parts in found if all(parts.values())), found[0])
    present = {name: part for name, part in (lists | images).items() if part is not None}
    if not any(lists.values()):
        return None
    missing = tuple(name for name in (*lists, *images) if name not in present)
    return Found(f"{_LAYOUT} ({size})", tree.path, ("places365",), partial(_read, size, present), missing)


def _images(tree: FileTree, size: str) -> dict[str, Part | None]:
    return {
        f"data_{size}": find_part(
            tree, (f"data_{size}_standard", f"data_{size}"), (f"train_{size}_places365standard.tar",)
        ),
        f"val_{size}": find_part(tree, (f"val_{size}",), (f"val_{size}.tar",)),
    }


def _read(size: str, parts: Mapping[str, Part], request: ImportRequest) -> Imported:
    def lines(name: str) -> Iterator[list[str]]:
        tree, folder = parts[name].opened(request.stack)
        return rows(tree, within(folder, name), 2)

    categories = {number: path.strip("/") for path, number in lines(_CATEGORIES)}
    train: dict[str, list[str]] = {}
    for path, number in lines(_TRAIN):
        folder, _, file = path.strip("/").rpartition("/")
        if categories.get(number) != folder:
            raise _disagree(path, number)
        train.setdefault(folder, []).append(file)
    validation: dict[str, list[str]] = {}
    for file, number in lines(_VALIDATION):
        if number not in categories:
            raise _disagree(file, number)
        validation.setdefault(categories[number], []).append(file)
    train_tree, top = parts[f"data_{size}"].opened(request.stack)
    val_tree, val_folder = parts[f"val_{size}"].opened(request.stack)
    present = present_files(val_tree, val_folder)
    splits: dict[SplitName, Classes] = {
        "train": {
            _name(path): listed_images(train_tree, within(top, path), _name(path), files)
            for path, files in train.items()
        },
        "test": {
            _name(path): listed_images(val_tree, val_folder, _name(path), files, present)
            for path, files in validation.items()
        },
    }
    return imported(request, f"{_LAYOUT} ({size})", splits)


def _name(path: str) -> str:
    """The class at a/apartment_building/outdoor."""
    return "-".join(path.split("/")[1:])


def _disagree(path: str, number: str) -> DatasetError:
    return DatasetError(f"{_CATEGORIES} has no class {number} that image {path} can be of. Obtain the lists again.")
