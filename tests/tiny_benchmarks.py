"""Benchmarks of a handful of images, so that every layout can be written and read in a moment."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fewshot_bench.datasets import official_splits

CIFAR_CLASSES = ("apple", "bee", "crab", "dolphin", "elm", "fox", "goat", "hat")
IMAGES_PER_CLASS = 6
BASE, VALIDATION, NOVEL = ("n00000001", "n00000004"), ("n00000003",), ("n00000002", "n00000006", "n00000005")
OTHERS = ("n00000007", "n00000008")
ILSVRC_SIZES = dict(zip((*BASE, *VALIDATION, *NOVEL, *OTHERS), (9, 10, 8, 9, 11, 10, 7, 8), strict=True))
RANKS = {name: [1, 3, 4, 7] for name in (*BASE, *VALIDATION, *NOVEL)}


@dataclass(frozen=True)
class TinyBenchmarks:
    """What a source of each benchmark would hold.

    Attributes:
        cifar: images of each class, uint8 [I, 32, 32, 3].
        ilsvrc: images of each class by the number in their name, uint8 [84, 84, 3].
    """

    cifar: dict[str, np.ndarray]
    ilsvrc: dict[str, dict[int, np.ndarray]]

    def mini(self, name: str) -> np.ndarray:
        """The images that miniImageNet takes of a class, in canonical order."""
        numbers = sorted(self.ilsvrc[name])
        return np.stack([self.ilsvrc[name][numbers[rank - 1]] for rank in RANKS[name]])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TinyBenchmarks:
    """Shrink the official tables to a few classes, and make up their images."""
    generator = np.random.default_rng(7)
    cifar = {name: generator.integers(0, 256, (IMAGES_PER_CLASS, 32, 32, 3), dtype=np.uint8) for name in CIFAR_CLASSES}
    ilsvrc = {
        name: {
            int(number): generator.integers(0, 256, (84, 84, 3), dtype=np.uint8)
            for number in generator.choice(20_000, size, replace=False)
        }
        for name, size in ILSVRC_SIZES.items()
    }
    tables: dict[str, Any] = {
        "cifar-100": {"images_per_class": IMAGES_PER_CLASS, "digests": {n: _class_digest(i) for n, i in cifar.items()}},
        "cifar-fs": {"train": ["bee", "apple", "fox", "hat"], "val": ["crab", "elm"], "test": ["goat", "dolphin"]},
        "fc100": {
            "train": {"superclasses": [], "classes": ["goat", "elm", "hat"]},
            "val": {"superclasses": [], "classes": ["bee", "crab"]},
            "test": {"superclasses": [], "classes": ["apple", "fox", "dolphin"]},
        },
        "ilsvrc-2012": {"sizes": ILSVRC_SIZES},
        "mini-imagenet": {
            "classes": {
                split: {name: RANKS[name] for name in names}
                for split, names in (("train", BASE), ("val", VALIDATION), ("test", NOVEL))
            }
        },
        "tiered-imagenet": {
            "categories": {"train": {"n1": list(BASE[:1]), "n2": list(BASE[1:])}, "val": {"n3": list(VALIDATION)},
                           "test": {"n4": list(NOVEL)}},
        },
    }  # fmt: skip
    monkeypatch.setattr(official_splits, "_published", lambda name: tables[name])
    return TinyBenchmarks(cifar, ilsvrc)


def _class_digest(images: np.ndarray) -> str:
    digests = sorted(hashlib.sha256(image.tobytes()).digest() for image in images)
    return hashlib.sha256(b"".join(digests)).hexdigest()
