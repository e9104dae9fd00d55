"""ImageNet-1k, that is ILSVRC-2012 (Russakovsky et al., 2015): train/<WordNet id>/<image>, val/<WordNet id>/<image>.

Instead of train/ its official archive, ILSVRC2012_img_train.tar, may lie there; or one tar per class in train/. The
validation images must have been sorted into class folders, as torchvision and most scripts do. torchvision's ImageNet
unpickles meta.bin, so the folders are read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.importers.classification.listing import (
    Classes,
    ClassImages,
    Part,
    find_part,
    have_official_names,
    imported,
)
from fewshot_bench.datasets.importers.classification.official import OFFICIAL
from fewshot_bench.datasets.importers.found import Found, Imported, ImportRequest
from fewshot_bench.datasets.importers.imagenet_images import IMAGE_FILE, ClassFiles, class_files_in
from fewshot_bench.datasets.official_splits import published_split
from fewshot_bench.datasets.sources import FileTree

_LAYOUT = "ILSVRC-2012 training and validation images"
_TAR = "ILSVRC2012_img_train.tar"
_SORTED = "val/<WordNet id> (the validation images sorted into class folders)"


def find_imagenet_1k(tree: FileTree) -> Found | None:
    """The folder with train and val."""
    names = set(_official_classes())
    validation = next((dict(class_files_in(tree, f)) for f in ("val", "validation") if tree.has_folder(f)), {})
    part = find_part(tree, ("train",), (_TAR,))
    if part is not None and part.archive:
        return _found(tree, part, validation, () if validation else (_SORTED,))
    is_beside = published_split(tree.path.name) is None  # the classes of train/ alone are found one folder above
    train = dict(class_files_in(tree, "train" if part else "")) if part or is_beside else {}
    if len(names & set(train)) <= len(names) / 2:
        return None
    missing = [f"class {name}" for name in sorted(names - set(train))]
    missing += [f"val/{name}" for name in sorted(names - set(validation))] if validation else [_SORTED]
    return _found(tree, train, validation, tuple(missing))


def _official_classes() -> Mapping[str, int]:
    sizes = OFFICIAL["imagenet-1k"].class_sizes["train"]
    assert not isinstance(sizes, int), "the classes differ in size"
    return sizes


def _found(
    tree: FileTree,
    train: Part | Mapping[str, ClassFiles],
    validation: Mapping[str, ClassFiles],
    missing: tuple[str, ...],
) -> Found:
    return Found(_LAYOUT, tree.path, ("imagenet-1k",), partial(_read, train, validation), missing)


def _read(
    train: Part | Mapping[str, ClassFiles], validation: Mapping[str, ClassFiles], request: ImportRequest
) -> Imported:
    if isinstance(train, Part):
        opened, folder = train.opened(request.stack)
        train = dict(class_files_in(opened, folder))
    splits: dict[SplitName, Classes] = {"train": _classes(train, request), "test": _classes(validation, request)}
    return imported(request, _LAYOUT, splits, are_named=have_official_names(request.dataset, splits))


def _classes(files: Mapping[str, ClassFiles], request: ImportRequest) -> Classes:
    classes = {}
    for label, place in files.items():
        tree, folder = place.opened()
        if place.is_tar:
            request.stack.callback(tree.close)
        # Copies that were converted to another format keep the official stem.
        images = sorted((f"{PurePosixPath(f).stem}.JPEG", f) for f in tree.files(folder) if IMAGE_FILE.fullmatch(f))
        classes[label] = ClassImages(tree, folder, [file for _, file in images], [name for name, _ in images])
    return classes
