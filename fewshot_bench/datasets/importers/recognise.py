"""Which layout is it? Answered by looking into folders and files, never by the name that somebody gave an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fewshot_bench.datasets.importers.cifar_layouts import find_cifar_arrays, find_cifar_images
from fewshot_bench.datasets.importers.classification.layouts import CLASSIFICATION_LAYOUTS
from fewshot_bench.datasets.importers.found import Found
from fewshot_bench.datasets.importers.imagenet_arrays import find_imagenet_arrays
from fewshot_bench.datasets.importers.imagenet_images import find_imagenet_flat, find_imagenet_images
from fewshot_bench.datasets.sources import FileTree, Subtree
from fewshot_bench.datasets.sources.tree import within
from fewshot_bench.errors import DatasetError

LAYOUTS: tuple[Callable[[FileTree], Found | None], ...] = (
    find_cifar_images,
    find_cifar_arrays,
    find_imagenet_arrays,
    find_imagenet_images,
    find_imagenet_flat,
    *CLASSIFICATION_LAYOUTS,
)
_DEEPEST = 3
_MOST_FOLDERS = 40  # a folder with more sub-folders holds classes, not layouts


def recognise(tree: FileTree) -> list[Found]:
    """Every layout in a tree or up to three folders below its top, complete ones first.

    Raises:
        DatasetError: a file that belongs to a layout is damaged or hostile, and nothing else was found.
    """
    found: list[Found] = []
    damage: DatasetError | None = None
    for place in _places(tree):
        for find in LAYOUTS:
            try:
                one = find(place)
            except DatasetError as error:
                damage = damage or error
                continue
            if one is not None:
                found.append(one)
    if damage is not None and not any(not one.missing for one in found):
        raise damage
    return sorted(found, key=lambda one: bool(one.missing))


def _places(tree: FileTree) -> Iterator[FileTree]:
    """The tree and the folders in it, the upper ones first."""
    level = [""]
    for _ in range(_DEEPEST + 1):
        below: list[str] = []
        for folder in level:
            yield Subtree(tree, folder) if folder else tree
            names = tree.folders(folder)
            if len(names) <= _MOST_FOLDERS:
                below += [within(folder, name) for name in names]
        level = below
