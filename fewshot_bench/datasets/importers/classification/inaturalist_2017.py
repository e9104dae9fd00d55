"""iNaturalist 2017 (Van Horn et al., 2018): train_val_images/<super-category>/<species>/<image>.jpg.

Which images are for training stands in train2017.json and val2017.json, which torchvision's INaturalist does not read:
it takes all images of a folder called 2017 together. That folder's name is known here, too. The images may still be in
train_val_images.tar.gz, the lists in train_val2017.zip.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.importers.classification.listing import (
    Classes,
    Part,
    find_part,
    imported,
    listed_images,
    read_text,
)
from fewshot_bench.datasets.importers.found import Found, Imported, ImportRequest
from fewshot_bench.datasets.sources import FileTree
from fewshot_bench.datasets.sources.tree import within
from fewshot_bench.errors import DatasetError

_LAYOUT = "iNaturalist 2017"
_LISTS: dict[SplitName, str] = {"train": "train2017.json", "test": "val2017.json"}
_IMAGES = ("train_val_images", "2017")


def find_inaturalist_2017(tree: FileTree) -> Found | None:
    """The folder that holds the images' folder."""
    images = find_part(tree, _IMAGES, ("train_val_images.tar.gz", "train_val_images.tar", "2017.tgz"))
    lists = {file: part for file in _LISTS.values() if (part := _list(tree, file)) is not None}
    if not lists and (images is None or images.folders[0] != _IMAGES[0]):
        return None  # nothing, or a folder that happens to be called after a year
    missing = (() if images else ("train_val_images",)) + tuple(
        f"{file} (in train_val2017.zip)" for file in _LISTS.values() if file not in lists
    )
    read = partial(_read, images or Part(tree, _IMAGES), lists)
    return Found(_LAYOUT, tree.path, ("inaturalist-2017",), read, missing)


def _list(tree: FileTree, file: str) -> Part | None:
    return find_part(tree, ("", "train_val2017", "annotations"), ("train_val2017.zip",), holding=file)


def _read(images: Part, lists: Mapping[str, Part], request: ImportRequest) -> Imported:
    opened, folder = images.opened(request.stack)
    splits: dict[SplitName, Classes] = {}
    for split, file in _LISTS.items():
        holder, place = lists[file].opened(request.stack)
        classes: dict[str, list[str]] = {}
        for path in _file_names(holder, within(place, file)):
            # .../Aves/Accipiter badius/0b2e.jpg; species are told apart within their super-category only.
            label, _, name = "/".join(path.split("/")[-3:]).rpartition("/")
            classes.setdefault(label, []).append(name)
        splits[split] = {
            label: listed_images(opened, within(folder, label), label, names) for label, names in classes.items()
        }
    return imported(request, _LAYOUT, splits)


def _file_names(tree: FileTree, file: str) -> list[str]:
    """The images that a list of COCO's form names; everything else is dropped while it is read."""
    try:
        held = json.loads(read_text(tree, file), object_hook=_slim)
        return [str(name) for name in held["images"] if name is not None]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f"{tree.path / file} is no list of images ({error}). Obtain it again.") from error


def _slim(entry: dict[str, Any]) -> Any:
    return entry.get("file_name") if "images" not in entry else {"images": entry["images"]}
