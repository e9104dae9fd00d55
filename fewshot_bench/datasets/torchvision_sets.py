"""torchvision's classification datasets as novel splits: `torchvision:NAME`, from files that torchvision downloaded.

torchvision's class finds the files and their labels. Images in files are decoded here, with the same checks as all
others: where the class takes a loader, it is given one that returns the path. Classes that unpickle or load files of
torch are not used: CIFAR's pickles are read by our own reader, ImageNet and LSUN are refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.images import SkippedImage, as_rgb
from fewshot_bench.datasets.layouts import whole_numbers
from fewshot_bench.datasets.layouts.cifar import cifar_pixels
from fewshot_bench.datasets.own_listing import OwnListing, read_image_file
from fewshot_bench.datasets.sources import open_tree
from fewshot_bench.datasets.sources.arrays import read_arrays
from fewshot_bench.datasets.sources.tree import composed
from fewshot_bench.errors import DatasetError, UnknownNameError

TORCHVISION_PREFIX = "torchvision:"

Labelled = Iterable[tuple[Any, Any]]
"""Path or row of each image, and its label."""


@dataclass(frozen=True)
class _Set:
    """One of torchvision's datasets.

    Attributes:
        holds: pattern of what torchvision puts into the root.
        parts: for each official part the arguments of torchvision's class; the first is the default.
        are_files: whether images are files; otherwise they are pixels in an array.
        listed: the images where the class takes no loader.
    """

    holds: str
    parts: Mapping[str, Mapping[str, Any]]
    are_files: bool = True
    listed: Callable[[Any], Labelled] | None = None


def _splits(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {"split": name} for name in names}


_WHOLE: dict[str, dict[str, Any]] = {"all": {}}
_TEST_OR_TRAIN: dict[str, dict[str, Any]] = {"test": {"train": False}, "train": {"train": True}}


def _caltech_101(opened: Any) -> Labelled:
    top = Path(opened.root, "101_ObjectCategories")
    for label, number in zip(opened.y, opened.index, strict=True):
        yield top / opened.categories[label] / f"image_{number:04d}.jpg", label


def _caltech_256(opened: Any) -> Labelled:
    top = Path(opened.root, "256_ObjectCategories")
    for label, number in zip(opened.y, opened.index, strict=True):
        yield top / opened.categories[label] / f"{label + 1:03d}_{number:04d}.jpg", label


_SETS = {
    "CIFAR10": _Set("cifar-10-batches-py", _TEST_OR_TRAIN, are_files=False),
    "CIFAR100": _Set("cifar-100-python", _TEST_OR_TRAIN, are_files=False),
    "CLEVRClassification": _Set("clevr", _splits("val", "train")),
    "Caltech101": _Set("caltech101", _WHOLE, listed=_caltech_101),
    "Caltech256": _Set("caltech256", _WHOLE, listed=_caltech_256),
    "Country211": _Set("country211", _splits("test", "valid", "train")),
    "DTD": _Set("dtd", _splits("test", "val", "train")),
    "EMNIST": _Set(
        "EMNIST/raw",
        {part: {"split": "balanced", **chosen} for part, chosen in _TEST_OR_TRAIN.items()},
        are_files=False,
    ),
    "EuroSAT": _Set("eurosat", _WHOLE),
    "FER2013": _Set("fer2013", _splits("test", "train"), are_files=False),
    "FGVCAircraft": _Set("fgvc-aircraft-2013b", _splits("test", "val", "train", "trainval")),
    "FashionMNIST": _Set("FashionMNIST/raw", _TEST_OR_TRAIN, are_files=False),
    "Flowers102": _Set("flowers-102", _splits("test", "val", "train")),
    "Food101": _Set("food-101", _splits("test", "train")),
    "GTSRB": _Set("gtsrb", _splits("test", "train"), listed=lambda opened: opened._samples),
    "INaturalist": _Set(
        "20*", {part: {"version": part} for part in ("2021_valid", "2021_train_mini", "2021_train", "2019", "2018")}
    ),
    "Imagenette": _Set("imagenette2", _splits("val", "train")),
    "KMNIST": _Set("KMNIST/raw", _TEST_OR_TRAIN, are_files=False),
    "LFWPeople": _Set("lfw-py", _splits("test", "train", "10fold")),
    "MNIST": _Set("MNIST/raw", _TEST_OR_TRAIN, are_files=False),
    "OxfordIIITPet": _Set(
        "oxford-iiit-pet",
        _splits("test", "trainval"),
        listed=lambda opened: zip(opened._images, opened._labels, strict=True),
    ),
    "PCAM": _Set("pcam", _splits("test", "val", "train"), are_files=False),
    "Places365": _Set(
        "places365_*.txt",
        {
            "val": {"split": "val"},
            "val-small": {"split": "val", "small": True},
            "train": {"split": "train-standard"},
            "train-small": {"split": "train-standard", "small": True},
        },
    ),
    "QMNIST": _Set("QMNIST/raw", _TEST_OR_TRAIN, are_files=False),
    "RenderedSST2": _Set("rendered-sst2", _splits("test", "val", "train")),
    "SEMEION": _Set("semeion.data", _WHOLE, are_files=False),
    "STL10": _Set("stl10_binary", _splits("test", "train"), are_files=False),
    "SUN397": _Set("SUN397", _WHOLE),
    "SVHN": _Set("*_32x32.mat", _splits("test", "train", "extra"), are_files=False),
    "StanfordCars": _Set("stanford_cars", _splits("test", "train")),
    "USPS": _Set("usps*.bz2", _TEST_OR_TRAIN, are_files=False),
}  # fmt: skip

_NO_DOWNLOAD = ("FER2013", "LFWPeople", "StanfordCars")
"""torchvision's documentation says where to get their files."""

_ELSEWHERE = {
    "Omniglot": "It is a benchmark: fewshot-bench data import omniglot --from {root}",
    "ImageNet": "torchvision's class loads a file of torch, which is not done here. Use: fewshot-bench data import "
    "imagenet-1k --from {root}",
    "ImageFolder": "Give the folder itself: --dataset {root}",
    "DatasetFolder": "Give the folder itself: --dataset {root}",
    "LSUN": "torchvision's class unpickles a file, which is not done here. Unpack the images into a folder per class.",
    "LSUNClass": "torchvision's class unpickles a file, which is not done here.",
    "FakeData": "Its images are random numbers. The built-in dataset is: --dataset glyphs",
}
_WITHOUT_A_CLASS = (
    "CREStereo", "CarlaStereo", "CelebA", "Cityscapes", "CocoCaptions", "CocoDetection", "ETH3DStereo",
    "FallingThingsStereo", "Flickr30k", "Flickr8k", "FlyingChairs", "FlyingThings3D", "HD1K", "HMDB51", "InStereo2k",
    "Kinetics", "Kitti", "Kitti2012Stereo", "Kitti2015Stereo", "KittiFlow", "LFWPairs", "Middlebury2014Stereo",
    "MovingMNIST", "PhotoTour", "SBDataset", "SBU", "SceneFlowStereo", "Sintel", "SintelStereo", "UCF101",
    "VOCDetection", "VOCSegmentation", "WIDERFace",
)  # fmt: skip


def torchvision_names() -> list[str]:
    """What may follow "torchvision:"."""
    return list(_SETS)


def check_torchvision_name(source: str, root: str | None = None) -> tuple[str, str]:
    """The dataset and the part that a name means; torchvision is not imported.

    Args:
        source: "torchvision:NAME" or "torchvision:NAME:PART".
        root: for messages.

    Raises:
        UnknownNameError: torchvision has no such dataset, or the dataset no such part.
        DatasetError: its images do not have one class each, or it is read elsewhere.

    >>> check_torchvision_name("torchvision:DTD"), check_torchvision_name("torchvision:DTD:train")
    (('DTD', 'test'), ('DTD', 'train'))
    """
    name, _, part = source.removeprefix(TORCHVISION_PREFIX).partition(":")
    if name in _ELSEWHERE:
        raise DatasetError(f"{source} is not read. {_ELSEWHERE[name].format(root=root or 'PATH')}")
    if name in _WITHOUT_A_CLASS:
        raise DatasetError(f"{source} is not for classification: its images do not have one class each.")
    if name not in _SETS:
        raise UnknownNameError("dataset of torchvision", name, _SETS)
    parts = _SETS[name].parts
    if part and part not in parts:
        raise UnknownNameError(f"part of {name}", part, parts)
    return name, part or next(iter(parts))


def list_torchvision(source: str, root: str | None) -> OwnListing:
    """List the images of one part of a dataset by class; all classes are novel.

    Args:
        source: "torchvision:NAME" or "torchvision:NAME:PART".
        root: the folder that torchvision downloads to.

    Raises:
        UnknownNameError: there is no such dataset or part.
        DatasetError: there is no root, the files are not there, or they are damaged.
    """
    name, part = check_torchvision_name(source, root)
    if root is None:
        raise DatasetError(f"{source} needs --root PATH, the folder that holds torchvision's {_SETS[name].holds}.")
    top, chosen = Path(root).expanduser(), _SETS[name]
    missing = f"{source} is not in {root}, where {chosen.holds} was expected"
    held = sorted(top.glob(chosen.holds)) if top.is_dir() else []
    if not held:
        raise DatasetError(f"{missing}. {_how_to_fetch(name, part, root)}")
    if name in _CIFAR:
        images = _cifar(name, part, top)
    else:
        try:
            images = _opened(name, chosen, chosen.parts[part], top)
        except DatasetError:
            raise
        # The classes raise whatever their parsers raise; all of it means that files are missing or damaged.
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise DatasetError(f"{missing} ({reason[:300]}). {_how_to_fetch(name, part, root)}") from error
    arrays = (path for place in held for path in ([place] if place.is_file() else sorted(place.iterdir())))
    kind = f"torchvision's {name}" + (f", {part} part" if len(chosen.parts) > 1 else "")
    return OwnListing(
        f"{source} in {root}",
        {None: images.classes},
        images.load,
        images.skipped,
        [(str(path), (status := path.stat()).st_size, status.st_mtime_ns) for path in images.files or arrays],
        kind,
    )


def _how_to_fetch(name: str, part: str, root: str) -> str:
    if name in _NO_DOWNLOAD:
        return f"torchvision cannot download it; the documentation of torchvision.datasets.{name} says where it is."
    given = "".join(f", {key}={value!r}" for key, value in _SETS[name].parts[part].items())
    call = f"{name}({root!r}{given}, download=True)"
    return f'Fetch it with: python -c "from torchvision.datasets import {name}; {call}"'


@dataclass
class _Images:
    """Images by class, and how to load one.

    Attributes:
        load: from a place, bytes or pixels.
        classes: name and place of the images of each class.
        files: all image files; none where images are pixels in an array.
        skipped: images without a label.
    """

    load: Callable[[Any], bytes | NDArray[np.uint8]]
    classes: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    skipped: list[SkippedImage] = field(default_factory=list)

    def add(self, image: str, place: Any, label: Any, names: Mapping[int, str]) -> None:
        """Add an image to its class, or to those that are skipped."""
        if label is None or int(label) not in names:
            self.skipped.append(SkippedImage(image, "no label" if label is None else f"its label {label} has no class"))
        else:
            self.classes.setdefault(names[int(label)], []).append((image, place))


def _opened(name: str, chosen: _Set, arguments: Mapping[str, Any], top: Path) -> _Images:
    """What torchvision's class finds."""
    from torchvision import datasets

    if any((top / name / "processed").glob("*.pt")):
        raise DatasetError(
            f"{top / name / 'processed'} holds files of an old torchvision, which torch would load. Remove that folder."
        )
    factory = getattr(datasets, name)
    taken = signature(factory).parameters
    given: dict[str, Any] = {"download": False} if "download" in taken else {}
    needs_loader = chosen.are_files and chosen.listed is None
    if needs_loader and "loader" not in taken:
        raise DatasetError(f"torchvision:{name} needs a newer torchvision: pip install --upgrade torchvision")
    if needs_loader:
        given["loader"] = Path
    opened = factory(str(top), **arguments, **given)
    if not chosen.are_files:
        images = _Images(lambda row: np.asarray(as_rgb(opened[row][0])))
        labels = _labels(opened)
        names = _class_names(opened, labels)
        for row, label in enumerate(labels):
            images.add(f"{row:08d}", row, label, names)
        return images
    listed = chosen.listed(opened) if chosen.listed else (opened[row] for row in range(len(opened)))
    found = [(Path(path), label) for path, label in listed]
    names = _class_names(opened, [label for _, label in found])
    images = _Images(read_image_file, files=[path for path, _ in found])
    for path, label in found:
        images.add(composed(os.path.relpath(path, top).replace(os.sep, "/")), path, label, names)
    return images


def _labels(opened: Any) -> list[Any]:
    """The label of every image: as a list that the class keeps, else image by image."""
    for attribute in ("targets", "labels"):
        kept = getattr(opened, attribute, None)
        if kept is not None and len(kept) == len(opened) and np.ndim(kept) == 1:
            return [int(label) for label in kept]
    return [opened[row][1] for row in range(len(opened))]


def _class_names(opened: Any, labels: Sequence[Any]) -> dict[int, str]:
    """The names of the classes by number, as torchvision has them; their numbers where it has none, or two alike."""
    kept = (getattr(opened, attribute, None) for attribute in ("classes", "categories", "all_categories"))
    listed = next(filter(None, kept), ())
    numbered = dict(enumerate(listed)) or {number: name for name, number in getattr(opened, "class_to_idx", {}).items()}
    named = {number: _text(name) for number, name in numbered.items()}
    used = sorted({int(label) for label in labels if label is not None})
    if not named or set(used) - named.keys() or len({*named.values()}) < len(named):
        digits = len(str(max(used, default=0)))
        return {number: f"{number:0{digits}d}" for number in used}
    return named


def _text(name: Any) -> str:
    """A class name; Imagenette's are tuples of synonyms."""
    return composed(", ".join(map(str, name)) if isinstance(name, tuple | list) else str(name))


_CIFAR: dict[str, tuple[dict[str, tuple[str, ...]], str, str, str]] = {
    "CIFAR10": (
        {"test": ("test_batch",), "train": tuple(f"data_batch_{number}" for number in range(1, 6))},
        "labels", "batches.meta", "label_names",
    ),
    "CIFAR100": ({"test": ("test",), "train": ("train",)}, "fine_labels", "meta", "fine_label_names"),
}  # fmt: skip
"""Files of each part, their labels, the file of the class names, and its key."""


def _cifar(name: str, part: str, top: Path) -> _Images:
    """Read the pickles without unpickling."""
    parts, labels_key, meta, names_key = _CIFAR[name]
    with open_tree(top / _SETS[name].holds) as tree:

        def read(file: str, *keys: str) -> list[Any]:
            content = read_arrays(tree, file) if tree.has_file(file) else None
            if not isinstance(content, dict) or any(key not in content for key in keys):
                raise DatasetError(
                    f"{tree.path / file} is missing or not that of torchvision:{name}. "
                    f"{_how_to_fetch(name, part, str(top))}"
                )
            return [content[key] for key in keys]

        (listed,) = read(meta, names_key)
        names = {number: _text(text) for number, text in enumerate(listed)}
        rows: list[tuple[NDArray[np.uint8], int]] = []
        for file in parts[part]:
            data, labels = read(file, "data", labels_key)
            pixels = cifar_pixels(np.array(data, dtype=np.uint8))
            numbers = whole_numbers(labels, str(tree.path / file), below=len(names), length=len(pixels))
            rows += zip(pixels, numbers.tolist(), strict=True)
    images = _Images(lambda place: np.ascontiguousarray(place))
    for row, (image, label) in enumerate(rows):
        images.add(f"{row:08d}", image, label, names)
    return images
