"""Oxford-IIIT Pet (Parkhi et al., 2012): images/<class>_<number>.jpg, annotations/{trainval,test}.txt.

Both folders may still be in images.tar.gz and annotations.tar.gz. torchvision's OxfordIIITPet opens nothing but a
folder called oxford-iiit-pet; reading its two lists here serves other folders and archives as well. A test holds both
to the same images and labels. A class is called as in the files' names, e.g. "Abyssinian" or "american_bulldog".
"""

from __future__ import annotations

from functools import partial

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.importers.classification.listing import (
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

_LAYOUT = "Oxford-IIIT Pet"
_LISTS: dict[SplitName, str] = {"train": "trainval.txt", "test": "test.txt"}


def find_oxford_iiit_pet(tree: FileTree) -> Found | None:
    """The folder with both parts."""
    lists = find_part(tree, ("annotations",), ("annotations.tar.gz", "annotations.tar"), holding="trainval.txt")
    if lists is None:
        return None
    images = find_part(tree, ("images",), ("images.tar.gz", "images.tar"))
    missing = () if images else ("images or images.tar.gz",)
    return Found(
        _LAYOUT, tree.path, ("oxford-iiit-pet",), partial(_read, lists, images or Part(tree, ("images",))), missing
    )


def _read(lists: Part, images: Part, request: ImportRequest) -> Imported:
    tree, folder = images.opened(request.stack)
    present = present_files(tree, folder)
    annotations, annotations_folder = lists.opened(request.stack)
    numbers: dict[str, str] = {}
    splits = {}
    for split, file in _LISTS.items():
        classes: dict[str, list[str]] = {}
        for image, number, _, _ in rows(annotations, within(annotations_folder, file), 4):
            name = image.rpartition("_")[0]
            if numbers.setdefault(name, number) != number:
                raise DatasetError(f"{annotations.path} numbers class {name} {numbers[name]} and {number}.")
            classes.setdefault(name, []).append(f"{image}.jpg")
        splits[split] = {name: listed_images(tree, folder, name, files, present) for name, files in classes.items()}
    return imported(request, _LAYOUT, splits)
