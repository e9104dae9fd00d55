"""Caltech-256 (Griffin et al., 2007): <number>.<class>/<number>_<image>.jpg, as in 256_ObjectCategories.tar.

torchvision's Caltech256 opens nothing but a folder called caltech256/256_ObjectCategories, and makes the first where it
is not there; reading the names here serves other folders and archives as well. A test holds both to the same images
and labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from fewshot_bench.datasets.importers.classification.listing import ClassImages, imported
from fewshot_bench.datasets.importers.classification.official import OFFICIAL
from fewshot_bench.datasets.importers.found import Found, Imported, ImportRequest
from fewshot_bench.datasets.sources import FileTree
from fewshot_bench.errors import DatasetError

_LAYOUT = "256_ObjectCategories of Caltech-256"
_CLASS = re.compile(r"(\d{3})\.[\w.+-]+")
_IMAGE = re.compile(r"(\d{3})_(\d{4})\.jpg")


def find_caltech_256(tree: FileTree) -> Found | None:
    """The folder of the class folders, told from others with numbered classes by the names of the images."""
    numbers = {match[1]: name for name in tree.folders() if (match := _CLASS.fullmatch(name))}
    if not numbers or not _images(tree, next(iter(numbers.values()))):
        return None
    expected = [f"{number:03d}" for number in range(1, OFFICIAL["caltech-256"].classes + 1)]
    missing = tuple(f"{number}.*" for number in expected if number not in numbers)
    return Found(_LAYOUT, tree.path, ("caltech-256",), partial(_read, tree, sorted(numbers.values())), missing)


def _images(tree: FileTree, folder: str) -> list[str]:
    """Images by number; the official archive also holds a few files that are none, e.g. RENAME2."""
    return [name for name in tree.files(folder) if (match := _IMAGE.fullmatch(name)) and match[1] == folder[:3]]


def _read(tree: FileTree, names: Sequence[str], request: ImportRequest) -> Imported:
    trained = OFFICIAL["caltech-256"].class_sizes["train"]
    assert isinstance(trained, int), "every class trains on equally many images"
    train: dict[str, ClassImages] = {}
    test: dict[str, ClassImages] = {}
    for name in names:
        files = _images(tree, name)
        absent = next((f for n, f in enumerate(files, 1) if f != f"{name[:3]}_{n:04d}.jpg"), None)
        if absent is not None:
            raise DatasetError(
                f"the images of class {name} are numbered without a gap; the source lacks one before {absent}. "
                "Obtain the whole of it."
            )
        train[name] = ClassImages(tree, name, files[:trained])
        test[name] = ClassImages(tree, name, files[trained:])
    return imported(request, _LAYOUT, {"train": train, "test": test})
