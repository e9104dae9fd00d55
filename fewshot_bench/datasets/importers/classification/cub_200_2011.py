"""CUB-200-2011 (Wah et al., 2011): images/<class>/<image>.jpg with four lists, as in CUB_200_2011.tgz.

torchvision has no class for it.
"""

from __future__ import annotations

from functools import partial

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.importers.classification.listing import imported, listed_images, rows
from fewshot_bench.datasets.importers.found import Found, Imported, ImportRequest
from fewshot_bench.datasets.sources import FileTree
from fewshot_bench.errors import DatasetError

_LISTS = ("classes.txt", "image_class_labels.txt", "images.txt", "train_test_split.txt")
_LAYOUT = "CUB_200_2011"


def find_cub_200_2011(tree: FileTree) -> Found | None:
    """The folder with the lists."""
    present = {*tree.files(), *tree.folders()}
    if not {"images.txt", "image_class_labels.txt"} <= present:
        return None
    missing = tuple(name for name in (*_LISTS, "images") if name not in present)
    return Found(_LAYOUT, tree.path, ("cub-200-2011",), partial(_read, tree), missing)


def _read(tree: FileTree, request: ImportRequest) -> Imported:
    class_names = dict(rows(tree, "classes.txt", 2))
    labels = dict(rows(tree, "image_class_labels.txt", 2))
    is_train = {image: flag == "1" for image, flag in rows(tree, "train_test_split.txt", 2)}
    files: dict[SplitName, dict[str, list[str]]] = {"train": {}, "test": {}}
    for image, path in rows(tree, "images.txt", 2):
        folder, _, file = path.rpartition("/")
        if image not in is_train or class_names.get(labels.get(image, "")) != folder:
            raise DatasetError(f"the lists in {tree.path} do not agree on image {image} ({path}). Obtain them again.")
        files["train" if is_train[image] else "test"].setdefault(folder, []).append(file)
    splits = {
        split: {name: listed_images(tree, f"images/{name}", name, members) for name, members in classes.items()}
        for split, classes in files.items()
    }
    return imported(request, _LAYOUT, splits)
