"""CIFAR-100 (Krizhevsky, 2009) in every layout in circulation.

- `cifar100.zip` of the CIFAR-FS distribution, zipped or not: data/<class>/<image>.png
- `cifar-100-python`, as torchvision downloads it: pickles `train`, `test`, `meta`
- `CIFAR_FS_{train,val,test}.pickle` and `FC100_{train,val,test}.pickle` of MetaOptNet: `data`, `labels`
- `few-shot-{train,val,test}.npz` of TADAM: `features`, `targets`

Each gives CIFAR-FS and FC100, two ways to divide the 100 classes; those with its own division give CIFAR-100 too.

Canonical order: classes by name, images by the SHA-256 of their pixels. It depends on the images alone, so that every
copy of CIFAR-100 gives the same episodes. The digest of all 600 images also says which class it is, whatever number its
file gives it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.images import DecodedSplit, ListedSplit, Preprocessing
from fewshot_bench.datasets.layouts import OFFICIAL, Found, Imported, ImportRequest, whole_numbers
from fewshot_bench.datasets.official_splits import (
    cifar_class_digests,
    cifar_class_names,
    official_class_sizes,
    published_split,
)
from fewshot_bench.datasets.sources import FileTree
from fewshot_bench.datasets.sources.arrays import array_files, read_arrays
from fewshot_bench.datasets.store import WholeSplit
from fewshot_bench.errors import DatasetError

SPLITS_OF_CIFAR = ("cifar-fs", "fc100")
CifarClasses = Mapping[str, NDArray[np.uint8]]
"""Images of each class by name, uint8 [I, 32, 32, 3], in any order."""


def divide_cifar(dataset: str, classes: CifarClasses) -> dict[SplitName, WholeSplit]:
    """Divide the images of CIFAR-100 by the official split of a benchmark, in canonical order.

    Args:
        dataset: "cifar-fs" or "fc100".
        classes: all 100 classes.

    Raises:
        DatasetError: a class is missing or does not have its 600 images of 32 x 32 RGB pixels.
    """
    return {split: canonical_split(classes, sizes) for split, sizes in official_class_sizes(dataset).items()}


def canonical_split(classes: CifarClasses, sizes: Mapping[str, int]) -> WholeSplit:
    """Put the images of some classes into canonical order.

    Args:
        classes: the images.
        sizes: how many images each class must have, in canonical order of the classes.

    Raises:
        DatasetError: a class is missing, or has another number or shape of images.
    """
    missing = [name for name in sizes if name not in classes]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DatasetError(
            f"the source has no images of {', '.join(missing[:3])}{more}: it is not all of CIFAR-100. Obtain it again."
        )
    ordered = []
    for name, size in sizes.items():
        images = classes[name]
        if images.shape != (size, 32, 32, 3):
            raise DatasetError(
                f"class '{name}' should have {size} images of 32 x 32 x 3 pixels, but the source has "
                f"{len(images)} of {' x '.join(map(str, images.shape[1:]))}. Obtain it again."
            )
        digests = image_digests(images)
        ordered.append(images[sorted(range(len(images)), key=digests.__getitem__)])
    return WholeSplit(np.concatenate(ordered), tuple(sizes), tuple(sizes.values()))


def image_digests(images: NDArray[np.uint8]) -> list[bytes]:
    """SHA-256 of the pixels of each image, [I]."""
    return [hashlib.sha256(image).digest() for image in np.ascontiguousarray(images)]


def class_digest(images: NDArray[np.uint8]) -> str:
    """Digest of a class's images, whatever their order."""
    return hashlib.sha256(b"".join(sorted(image_digests(images)))).hexdigest()


_LARGEST_PNG = 1 << 16  # a 32 x 32 image has 3 KB of pixels


def find_cifar_images(tree: FileTree) -> Found | None:
    """The distribution of CIFAR-FS: one folder of PNGs per class."""
    if not tree.has_folder("data"):
        return None
    present = set(tree.folders("data"))
    names = cifar_class_names()
    missing = [name for name in names if name not in present]
    if len(missing) > len(names) / 2:
        return None
    layout = "cifar100.zip of the CIFAR-FS distribution"
    absent = tuple(f"data/{name}" for name in missing)
    return Found(layout, tree.path, SPLITS_OF_CIFAR, partial(_read_images, tree), absent)


def _read_images(tree: FileTree, request: ImportRequest) -> Imported:
    places = {
        name: [(file, f"data/{name}/{file}") for file in tree.files(f"data/{name}") if file.lower().endswith(".png")]
        for name in cifar_class_names()
        if tree.has_folder(f"data/{name}")
    }
    listed = ListedSplit(places, lambda place: tree.read(place, limit=_LARGEST_PNG))
    return _imported(request, decoded_classes(listed, f"reading {tree.path.name}", request), "cifar100.zip")


def decoded_classes(listed: ListedSplit, description: str, request: ImportRequest) -> CifarClasses:
    """Decode the images of a split, which are small enough for memory, while `description` shows the progress."""
    step = request.stack.enter_context(request.progress.step(description, len(listed)))
    decoded = DecodedSplit(listed, Preprocessing(), (32, 32, 3), step)
    images = np.concatenate([*decoded.blocks(), np.empty((0, 32, 32, 3), np.uint8)])
    ends = np.cumsum(decoded.class_sizes)
    return dict(zip(decoded.class_names, np.split(images, ends[:-1]), strict=True))


def find_cifar_arrays(tree: FileTree) -> Found | None:
    """Pickles or npz files of 32 x 32 images with labels, told apart by what is in them."""
    parts = list(_parts(tree))
    if not parts:
        return None
    kinds = sorted({part.kind for part in parts}, key=lambda kind: -sum(len(p.labels) for p in parts if p.kind == kind))
    chosen = [part for part in parts if part.kind == kinds[0]]
    names = {part.split for part in chosen}
    expected = _PARTS[chosen[0].layout]
    missing = tuple(chosen[0].kind.replace("*", name) for name in expected if name not in names)
    datasets = (*SPLITS_OF_CIFAR, "cifar-100") if chosen[0].layout == _TORCHVISION else SPLITS_OF_CIFAR
    return Found(chosen[0].layout, tree.path, datasets, partial(_read_arrays, tree, chosen), missing)


_TORCHVISION = "CIFAR-100 as torchvision downloads it"
_PICKLES = "CIFAR_FS or FC100 pickles of MetaOptNet"
_TADAM = "few-shot npz files of TADAM"
_PARTS = {_TORCHVISION: ("train", "test"), _PICKLES: ("train", "val", "test"), _TADAM: ("train", "val", "test")}
_KEYS = {("data", "fine_labels"): _TORCHVISION, ("data", "labels"): _PICKLES, ("features", "targets"): _TADAM}


@dataclass(frozen=True)
class _Part:
    """One file: images as they lie in it, with the label of each."""

    layout: str
    kind: str  # the file name with * for the split
    split: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def _parts(tree: FileTree) -> Iterator[_Part]:
    for file in array_files(tree):
        found = re.search(r"train|valid(?:ation)?|val|test", file, re.IGNORECASE)
        split = published_split(found.group()) if found else None
        if found is None or split is None:
            continue
        content = read_arrays(tree, file)
        layout = next((name for keys, name in _KEYS.items() if _has_images(content, *keys)), None)
        if layout is not None:
            images, labels = next(keys for keys, name in _KEYS.items() if name == layout)
            kind = f"{file[: found.start()]}*{file[found.end() :]}"
            short = {"base": "train", "validation": "val", "novel": "test"}[split]
            yield _Part(
                layout,
                kind,
                short,
                cifar_pixels(content[images]),
                whole_numbers(content[labels], str(tree.path / file)),
            )


def _has_images(content: Any, images: str, labels: str) -> bool:
    if not isinstance(content, dict) or images not in content or labels not in content:
        return False
    array = content[images]
    is_small = isinstance(array, np.ndarray) and array.dtype == np.uint8
    return is_small and array.shape[1:] in {(3072,), (32, 32, 3), (3, 32, 32)}


def cifar_pixels(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images as [I, 32, 32, 3]; flat rows hold one channel after the other."""
    if array.ndim == 2:
        array = array.reshape(-1, 3, 32, 32)
    return array.transpose(0, 2, 3, 1) if array.shape[1] == 3 else array


def _read_arrays(tree: FileTree, parts: list[_Part], request: ImportRequest) -> Imported:
    classes: dict[tuple[int, int], list[NDArray[np.uint8]]] = {}
    total = sum(len(part.labels) for part in parts)
    step = request.stack.enter_context(request.progress.step(f"reading {tree.path.name}", total))
    for number, part in enumerate(parts):
        if len(part.labels) != len(part.images):
            raise DatasetError(
                f"{part.kind.replace('*', part.split)} in {tree.path} has {len(part.images):,} images but "
                f"{len(part.labels):,} labels. Obtain it again."
            )
        # torchvision's two parts share their classes; elsewhere each file counts its own.
        file = 0 if part.layout == _TORCHVISION else number
        for label in np.unique(part.labels):
            rows = np.flatnonzero(part.labels == label)
            classes.setdefault((file, int(label)), []).append(np.asarray(part.images[rows]))
            step.advance(len(rows))
    whole = {key: np.concatenate(images) for key, images in classes.items()}
    named = _named(whole, tree)
    if request.dataset != "cifar-100":
        return _imported(request, named, parts[0].layout)
    names = {label: name for (_, label), name in zip(whole, named, strict=True)}
    splits: dict[SplitName, CifarClasses] = {
        "train" if part.split == "train" else "test": {
            names[int(label)]: np.asarray(part.images[part.labels == label]) for label in np.unique(part.labels)
        }
        for part in parts
    }
    return imported_cifar_100(request, splits, parts[0].layout)


def _named(classes: dict[tuple[int, int], NDArray[np.uint8]], tree: FileTree) -> CifarClasses:
    """Classes by name: known by their images, else by their numbers where these are those of CIFAR-100."""
    known = cifar_class_digests()
    names = {key: known.get(class_digest(images)) for key, images in classes.items()}
    if None not in names.values() and len(set(names.values())) == len(names):
        return {str(names[key]): images for key, images in classes.items()}
    fine = cifar_class_names()
    numbers = [label for _, label in classes]
    if len(set(numbers)) == len(numbers) and set(numbers) <= set(range(len(fine))):
        return {fine[label]: images for (_, label), images in classes.items()}
    unknown = sum(name is None for name in names.values())
    raise DatasetError(
        f"{unknown} of the {len(names)} classes in {tree.path} have other pixels than CIFAR-100's, and their labels "
        "are not CIFAR-100's either. Obtain the files again, or import the original CIFAR-100."
    )


def imported_cifar_100(request: ImportRequest, splits: Mapping[SplitName, CifarClasses], layout: str) -> Imported:
    """CIFAR-100 itself, whose two splits share their classes.

    Raises:
        DatasetError: a size was asked for, or a class does not have its official number of images.
    """
    official = OFFICIAL["cifar-100"].class_sizes
    names = cifar_class_names()
    canonical = {
        split: canonical_split(splits.get(split, {}), dict.fromkeys(names, size))
        for split, size in official.items()
        if isinstance(size, int)
    }
    classes = {name: np.concatenate([classes[name] for classes in splits.values()]) for name in names}
    return _imported(request, classes, layout, canonical)


def _imported(
    request: ImportRequest,
    classes: CifarClasses,
    layout: str,
    divided: Mapping[SplitName, WholeSplit] | None = None,
) -> Imported:
    if request.size not in (None, 32):
        raise DatasetError(
            f"{request.dataset} is stored as published, 32 x 32. Leave --size out; run --image-size sets what a "
            "backbone sees."
        )
    splits = divided or divide_cifar(request.dataset, classes)
    known = set(cifar_class_digests())
    foreign = [name for name, images in classes.items() if class_digest(images) not in known]
    facts = {"source": layout} | Preprocessing().as_dict()
    if not foreign:
        return Imported(splits, facts | {"pixels": "as published"})
    warning = (
        f"the images of {len(foreign)} of {len(classes)} classes ({', '.join(sorted(foreign)[:3])}, ...) are not those "
        "of CIFAR-100 as published; the episodes differ from other copies', and lock files will say so."
    )
    return Imported(splits, facts | {"pixels": f"not as published in {len(foreign)} classes"}, warnings=(warning,))
