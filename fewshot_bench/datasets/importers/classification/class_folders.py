"""Any of the classification datasets as {train,val,test}/<class>/<image>, as many tools pass them on.

Nothing in such a tree says which dataset it is: it is taken for one if it has its number of classes, the same ones in
every split, and nearly its number of images. What then is missing is named by the import. Where the files are not
called as the dataset's authors called them, images are known by their rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from fewshot_bench.datasets.cifar import CifarClasses
from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.importers.cifar_layouts import imported_cifar_100
from fewshot_bench.datasets.importers.classification.listing import Classes, ClassImages, have_official_names, imported
from fewshot_bench.datasets.importers.classification.official import OFFICIAL, Official
from fewshot_bench.datasets.importers.found import Found, Imported, ImportRequest
from fewshot_bench.datasets.importers.imagenet_images import IMAGE_FILE, is_synset
from fewshot_bench.datasets.listed import DecodedSplit, ListedSplit
from fewshot_bench.datasets.official_splits import published_split
from fewshot_bench.datasets.pixels import PixelRecipe
from fewshot_bench.datasets.sources import FileTree

_LAYOUT = "class folders per split"
_NEARLY = 0.1


def find_class_folders(tree: FileTree) -> Found | None:
    """Split folders whose class folders are as many as a dataset has."""
    folders = {split: name for name in tree.folders() if (split := published_split(name)) is not None}
    classes = {split: tree.folders(name) for split, name in folders.items()}
    fitting = tuple(
        name
        for name, official in OFFICIAL.items()
        if (places := _places(official, folders)) is not None
        and {len(classes[place]) for place in places.values()} == {official.classes}
        and len({tuple(classes[place]) for place in places.values()}) == 1
        and not all(is_synset(label) for label in classes[places["train"]])
        and _has_nearly_as_many(tree, official, {split: folders[place] for split, place in places.items()})
    )
    return Found(_LAYOUT, tree.path, fitting, partial(_read, tree, folders)) if fitting else None


def _places(official: Official, folders: Mapping[SplitName, str]) -> dict[SplitName, SplitName] | None:
    """For each split of a dataset, which of the folders it is."""
    places: dict[SplitName, SplitName] = {"train": "base", "validation": "validation", "test": "novel"}
    if official.is_tested_on_validation and "validation" in folders:
        places["test"] = "validation"
    chosen = {split: places[split] for split in official.images}
    is_whole = official.is_tested_on_validation or set(chosen.values()) == set(folders)
    return chosen if is_whole and set(chosen.values()) <= set(folders) else None


def _has_nearly_as_many(tree: FileTree, official: Official, folders: Mapping[SplitName, str]) -> bool:
    for split, expected in official.images.items():
        present = sum(len(tree.files(f"{folders[split]}/{name}")) for name in tree.folders(folders[split]))
        if abs(present - expected) > _NEARLY * expected:
            return False
    return True


def _read(tree: FileTree, folders: Mapping[SplitName, str], request: ImportRequest) -> Imported:
    places = _places(OFFICIAL[request.dataset], folders) or {}
    splits = {split: _classes(tree, folders[place]) for split, place in places.items()}
    if request.dataset == "cifar-100":
        return imported_cifar_100(
            request, {split: _pixels(request, split, classes) for split, classes in splits.items()}, _LAYOUT
        )
    return imported(request, _LAYOUT, splits, are_named=have_official_names(request.dataset, splits))


def _classes(tree: FileTree, folder: str) -> Classes:
    return {
        name: ClassImages(
            tree, f"{folder}/{name}", [f for f in tree.files(f"{folder}/{name}") if IMAGE_FILE.fullmatch(f)]
        )
        for name in tree.folders(folder)
    }


def _pixels(request: ImportRequest, split: SplitName, classes: Classes) -> CifarClasses:
    """The images of CIFAR-100 themselves, which are small, and known by their pixels."""
    listed = ListedSplit(classes, lambda place: place[0].read(place[1]))
    step = request.stack.enter_context(request.progress.step(f"reading the {split} split", len(listed)))
    decoded = DecodedSplit(listed, PixelRecipe(), (32, 32, 3), step)
    images = np.concatenate([*decoded.blocks(), np.empty((0, 32, 32, 3), np.uint8)])
    ends = np.cumsum(decoded.class_sizes)
    return dict(zip(decoded.class_names, np.split(images, ends[:-1]), strict=True))
