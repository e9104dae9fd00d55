"""Layouts in which people have datasets: what recognizing one gives, and the official counts to compare it with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import IdentifiedBy, SplitName
from fewshot_bench.datasets.images import Filter, Fit
from fewshot_bench.datasets.official_splits import ilsvrc_class_sizes
from fewshot_bench.datasets.store import SplitContent
from fewshot_bench.errors import DatasetError
from fewshot_bench.progress import SILENT, Progress


@dataclass(frozen=True)
class ImportRequest:
    """What a user wants of a source.

    Attributes:
        dataset: the name.
        size: side of the stored images in pixels; None takes the dataset's default.
        fit: how images become square; None takes the default.
        interpolation: Pillow's filter; None takes the default.
        progress: shown one unit per image.
        stack: closes what was opened for reading, after the import.
    """

    dataset: str
    size: int | None = None
    fit: Fit | None = None
    interpolation: Filter | None = None
    progress: Progress = SILENT
    stack: ExitStack = field(default_factory=ExitStack)


@dataclass(frozen=True)
class Imported:
    """The content of every split, and where it comes from.

    Attributes:
        splits: ready to be stored.
        preprocessing: where the pixels came from and what was done to them.
        identified_by: how an image is known whatever copy it comes from; see `Dataset`.
        warnings: what the user should know, one sentence each.
    """

    splits: Mapping[SplitName, SplitContent]
    preprocessing: dict[str, Any]
    identified_by: IdentifiedBy = "pixels"
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A layout that was recognized.

    Attributes:
        layout: what people call it.
        place: the folder or archive in which it lies.
        datasets: what can be made of it.
        missing: what a complete copy has and this one lacks.
        read: reads the dataset.
    """

    layout: str
    place: Path
    datasets: tuple[str, ...]
    read: Callable[[ImportRequest], Imported]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Official:
    """Published facts about a dataset.

    Attributes:
        classes: number of classes, the same in every split.
        images: number of images in each split.
        source: publication of these numbers.
        division: what the splits are.
        image_name: pattern of the official file names.
        class_sizes: images of every class of a split, one number where all are alike; absent where only totals are
            published.
        is_tested_on_validation: whether "test" is the published validation set, as the labels of the test set are kept.
    """

    classes: int
    images: Mapping[SplitName, int]
    source: str
    division: str
    image_name: str
    class_sizes: Mapping[SplitName, int | Mapping[str, int]] = field(default_factory=dict)
    is_tested_on_validation: bool = False


_AS_PUBLISHED = "as published"
_ON_VALIDATION = "as published; test is the published validation set"

OFFICIAL: dict[str, Official] = {
    "cifar-100": Official(
        100,
        {"train": 50_000, "test": 10_000},
        "Krizhevsky, 2009, Learning multiple layers of features from tiny images",
        _AS_PUBLISHED,
        r".+\.png",
        {"train": 500, "test": 100},
    ),
    "cub-200-2011": Official(
        200,
        {"train": 5_994, "test": 5_794},
        "Wah et al., 2011, CNS-TR-2011-001; train_test_split.txt",
        _AS_PUBLISHED,
        r".+_\d{4}_\d+\.jpg",
    ),
    # There is no official division. Griffin et al. draw up to 60 images of each class for training; "the first 60 by
    # number" is the reading that anybody can repeat. Each of the 257 classes (with clutter) has 80 images or more.
    "caltech-256": Official(
        257,
        {"train": 257 * 60, "test": 30_607 - 257 * 60},
        "Griffin et al., 2007, CNS-TR-2007-001: 30,607 images",
        "none is official: the first 60 images of each class by number are train, the rest test; clutter is a class",
        r"\d{3}_\d{4}\.jpg",
        {"train": 60},
    ),
    "flowers-102": Official(
        102,
        {"train": 1_020, "validation": 1_020, "test": 6_149},
        "Nilsback and Zisserman, 2008; setid.mat",
        _AS_PUBLISHED,
        r"image_\d{5}\.jpg",
        {"train": 10, "validation": 10},
    ),
    "oxford-iiit-pet": Official(
        37,
        {"train": 3_680, "test": 3_669},
        "Parkhi et al., 2012; annotations/trainval.txt and test.txt",
        "as published; train is trainval",
        r"[A-Za-z_]+_\d+\.jpg",
    ),
    "inaturalist-2017": Official(
        5_089,
        {"train": 579_184, "test": 95_986},
        "Van Horn et al., 2018; https://github.com/visipedia/inat_comp/tree/master/2017",
        _ON_VALIDATION,
        r"[0-9a-f]{32}\.jpg",
        is_tested_on_validation=True,
    ),
    "places365": Official(
        365,
        {"train": 1_803_460, "test": 36_500},
        "Zhou et al., 2017; places365_train_standard.txt and places365_val.txt",
        _ON_VALIDATION,
        r"(Places365_val_)?\d{8}\.jpg",
        is_tested_on_validation=True,
    ),
    "imagenet-1k": Official(
        1_000,
        {"train": 1_281_167, "test": 50_000},
        "Russakovsky et al., 2015, ImageNet large scale visual recognition challenge",
        _ON_VALIDATION,
        r"(n\d{8}|ILSVRC2012_val)_\d+\.\w+",
        {"train": ilsvrc_class_sizes(), "test": 50},
        is_tested_on_validation=True,
    ),
}


def check_counts(dataset: str, found: Mapping[SplitName, Mapping[str, int]]) -> None:
    """Compare what a source holds with the official numbers.

    Args:
        dataset: a name in `OFFICIAL`.
        found: for each split the number of images of each class.

    Raises:
        DatasetError: a class or images are missing or too many; it names the class where that is known.
    """
    official = OFFICIAL[dataset]
    everywhere = sorted({name for sizes in found.values() for name in sizes})
    for split, total in official.images.items():
        sizes = {name: size for name, size in found.get(split, {}).items() if size}
        published = official.class_sizes.get(split, {})
        expected = dict.fromkeys(sizes, published) if isinstance(published, int) else published
        _check_classes(dataset, split, list(sizes), sorted({*everywhere, *expected}))
        if expected:
            check_class_sizes(sizes, expected, split, dataset)
        if sum(sizes.values()) != total:
            least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
            raise DatasetError(
                f"the {split} split of {dataset} has {total:,} images ({official.source}); the source has "
                f"{sum(sizes.values()):,}, from {sizes[least]:,} of class {least} to {sizes[most]:,} of class {most}. "
                "Obtain the whole dataset."
            )


def _check_classes(dataset: str, split: SplitName, present: Sequence[str], known: Sequence[str]) -> None:
    expected = OFFICIAL[dataset].classes
    if len(present) == expected:
        return
    absent = sorted(set(known) - set(present))
    which = f" (none of {', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''})" if absent else ""
    raise DatasetError(
        f"the {split} split of {dataset} has {expected:,} classes; the source has {len(present):,}{which}. "
        "Obtain the whole dataset."
    )


def are_official_names(dataset: str, names: Sequence[str]) -> bool:
    """Whether all files are called as the dataset's authors called them."""
    pattern = re.compile(OFFICIAL[dataset].image_name)
    return all(pattern.fullmatch(name) for name in names)


def check_class_sizes(found: Mapping[str, int], official: Mapping[str, int], split: str, dataset: str) -> None:
    """Compare what a source holds of a split with the official numbers.

    Raises:
        DatasetError: a class is missing, too many, or has another number of images.
    """
    missing = [name for name in official if not found.get(name)]
    if missing:
        raise DatasetError(
            f"the {split} split of {dataset} has {len(official)} classes; the source lacks {len(missing)} of them "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}). Obtain the whole dataset."
        )
    foreign = [name for name in found if name not in official]
    if foreign:
        raise DatasetError(
            f"the source has {len(foreign)} classes in its {split} split that {dataset} does not have there "
            f"({', '.join(foreign[:3])}): it is another division of the images."
        )
    for name, expected in official.items():
        if found[name] != expected:
            raise DatasetError(
                f"class {name} of the {split} split of {dataset} has {expected:,} images; the source has "
                f"{found[name]:,}. Obtain the whole dataset."
            )


def whole_numbers(values: Any, file: str, *, below: int | None = None, length: int | None = None) -> NDArray[np.int64]:
    """Labels or positions of images from a stranger's file.

    Args:
        values: whatever the file holds.
        file: for messages.
        below: number of images, where these are positions.
        length: how many there must be, where that is known.

    Raises:
        DatasetError: they are anything but a list of whole numbers, or do not fit the images.
    """
    try:
        numbers = np.asarray(values)
    except ValueError:  # lists of several lengths
        numbers = np.empty(0)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or (length is not None and len(numbers) != length):
        raise DatasetError(
            f"the labels in {file} should be a list of whole numbers, one per image. Obtain the file again."
        )
    if below is not None and len(numbers) and not (numbers.min() >= 0 and numbers.max() < below):
        raise DatasetError(f"{file} names images that it does not hold. Obtain the file again.")
    return numbers.astype(np.int64)
