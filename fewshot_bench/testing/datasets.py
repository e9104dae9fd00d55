"""What every dataset must keep, so that an episode means the same images everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fewshot_bench.datasets import Dataset, known_dataset
from fewshot_bench.datasets.catalogue import checked_dataset
from fewshot_bench.datasets.dataset import ALL_SPLIT_NAMES, split_fingerprint
from fewshot_bench.errors import ConformanceError
from fewshot_bench.plugins import described
from fewshot_bench.testing.conformance import Properties


def check_dataset(dataset: Dataset | Callable[[], Dataset] | str, *properties: str) -> None:
    """Check that a dataset has the properties that episodes rely on; it is opened twice.

    Args:
        dataset: a function that opens it, a registered or imported name, or a `Dataset`, which is not opened again.
        properties: some of `DATASET_PROPERTIES`; none for all.

    Raises:
        ConformanceError: it lacks a property. The sentence says which and how to mend it.
        UnknownNameError: there is no such property or dataset.

    >>> check_dataset("glyphs", "splits", "classes")
    """
    subject = _subject(dataset)
    DATASET_PROPERTIES.check(subject.name, subject, properties)


@dataclass(frozen=True)
class _Subject:
    """A dataset under test: its name for messages, and what opens it."""

    name: str
    open: Callable[[], Dataset]


def _subject(dataset: Dataset | Callable[[], Dataset] | str) -> _Subject:
    if isinstance(dataset, Dataset):
        opened = dataset
        return _Subject(opened.name, lambda: opened)
    if isinstance(dataset, str):
        name = dataset
        return _Subject(name, lambda: known_dataset(name))
    if callable(dataset):
        factory, called = dataset, getattr(dataset, "__name__", "dataset")
        return _Subject(called, lambda: checked_dataset(called, factory))
    raise ConformanceError(
        f"{described(dataset)} is not a dataset. Pass a function that returns a Dataset, its name, or a Dataset."
    )


def _splits(subject: _Subject) -> None:
    dataset = subject.open()
    if not {"novel", "train", "test"} & set(dataset.splits):
        raise ConformanceError(
            f"it has the splits {', '.join(dataset.splits) or 'none'}. Methods are compared on a split called novel, "
            "or on train or test where splits share their classes."
        )
    for name, split in dataset.splits.items():
        if name not in ALL_SPLIT_NAMES:
            raise ConformanceError(f"there is no split called {name}. Known: {', '.join(ALL_SPLIT_NAMES)}.")
        if (split.dataset, split.name) != (dataset.name, name):
            raise ConformanceError(
                f"its {name} split says that it is {split.name} of {split.dataset}, not {name} of {dataset.name}. "
                "Episodes are drawn by these names: give both the same."
            )


def _classes(subject: _Subject) -> None:
    dataset = subject.open()
    for name, split in dataset.splits.items():
        if len(split.class_names) != len(split.class_sizes):
            raise ConformanceError(
                f"the {name} split has {len(split.class_names)} class names and {len(split.class_sizes)} class sizes."
            )
        if len(set(split.class_names)) != len(split.class_names) or not all(split.class_names):
            raise ConformanceError(f"the {name} split has two classes of one name, or one without. Name each.")
        if sum(split.class_sizes) != len(split.images):
            raise ConformanceError(
                f"the class sizes of the {name} split add up to {sum(split.class_sizes):,}, and it has "
                f"{len(split.images):,} images. Order images by class, and count those of each."
            )
        if len(split.class_sizes) < 2 or min(split.class_sizes) < 2:
            smallest = min(split.class_sizes, default=0)
            raise ConformanceError(
                f"the {name} split has {len(split.class_sizes)} classes, the smallest of {smallest} images. "
                "An episode needs 2 classes, with an image to learn from and one to classify."
            )
    if dataset.is_few_shot:
        for one, other in combinations(dataset.splits, 2):
            common = sorted(set(dataset.splits[one].class_names) & set(dataset.splits[other].class_names))
            if common:
                raise ConformanceError(
                    f"{len(common)} classes are in the {one} and the {other} split, such as {common[0]}. Novel classes "
                    "must be new to the network: give each class to one split, or name the splits train and test."
                )


def _images(subject: _Subject) -> None:
    for name, split in subject.open().splits.items():
        images = split.images
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ConformanceError(
                f"the images of the {name} split are {described(images)}; uint8 [I, H, W, C] is expected, in 0..255 "
                "with 1 or 3 channels last."
            )
        if len(images) > 1 and bool((images[:1] == images[1:]).all()):
            raise ConformanceError(f"all images of the {name} split are the same. Check how they are read.")
        if split.image_names is not None and len(split.image_names) != len(images):
            raise ConformanceError(
                f"the {name} split has {len(images):,} images and {len(split.image_names):,} image names."
            )


def _fingerprints(subject: _Subject) -> None:
    first, second = subject.open(), subject.open()
    for name, split in first.splits.items():
        expected = split_fingerprint(split.images, split.class_names, split.class_sizes)
        if split.fingerprint != expected:
            raise ConformanceError(
                f"the fingerprint of the {name} split is {split.fingerprint[:12]!r}, that of its images is "
                f"{expected[:12]!r}. Make it by fewshot_bench.datasets.dataset.split_fingerprint."
            )
    if first.fingerprint != second.fingerprint:
        changed = [name for name in first.splits if first.splits[name].fingerprint != second.splits[name].fingerprint]
        raise ConformanceError(
            f"opened a second time it has other images or classes ({', '.join(changed)}), so no result can be "
            "repeated. Sort file names, and seed what is drawn by numpy.random.default_rng(0)."
        )


DATASET_PROPERTIES = Properties(
    {"splits": _splits, "classes": _classes, "images": _images, "fingerprints": _fingerprints}
)
"""The names of what `check_dataset` checks, for `pytest.mark.parametrize`."""
