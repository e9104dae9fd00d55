"""What a dataset is to the rest of the project: up to three splits of images in canonical order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.errors import DatasetError, UnknownNameError

SplitName = Literal["base", "validation", "novel"]
SPLIT_NAMES: tuple[SplitName, ...] = ("base", "validation", "novel")


@dataclass(frozen=True)
class ImageSplit:
    """The images of one split, grouped by class, in canonical order.

    Attributes:
        dataset: name of the dataset.
        name: "base", "validation" or "novel".
        images: uint8 [I, H, W, C], C is 1 or 3; usually a read-only memory map.
        class_names: one name per class, in canonical order, [C].
        class_sizes: images per class; class c owns rows offsets[c] to offsets[c + 1].
        fingerprint: digest of names, sizes and pixels in canonical order.
        dataset_fingerprint: of the whole dataset; that of the split where it belongs to none.
    """

    dataset: str
    name: SplitName
    images: NDArray[np.uint8]
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...]
    fingerprint: str
    dataset_fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.dataset_fingerprint:
            object.__setattr__(self, "dataset_fingerprint", self.fingerprint)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """First row of each class, then the number of images, [C + 1]."""
        return np.concatenate([[0], np.cumsum(self.class_sizes)]).astype(np.int64)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class of every image, [I]."""
        return np.repeat(np.arange(len(self.class_sizes)), self.class_sizes)

    def image_id(self, index: int) -> str:
        """The image's name whatever archive it came from: class, then rank in canonical order."""
        label = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return f"{self.class_names[label]}/{index - int(self.offsets[label]):04d}"

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """A named dataset with its splits and the recipe that made its pixels."""

    name: str
    splits: Mapping[SplitName, ImageSplit]
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Digest over the fingerprints of the splits."""
        digest = hashlib.sha256()
        for name in SPLIT_NAMES:
            if name in self.splits:
                digest.update(f"{name} {self.splits[name].fingerprint}\n".encode())
        return digest.hexdigest()

    def split(self, name: SplitName) -> ImageSplit:
        """The split of that name.

        Raises:
            DatasetError: the dataset has no such split.
        """
        if name not in self.splits:
            present = ", ".join(self.splits)
            raise DatasetError(f"{self.name} has no {name} split; it has {present}.")
        return replace(self.splits[name], dataset_fingerprint=self.fingerprint)

    @property
    def base(self) -> ImageSplit:
        """The split that backbones are trained on (meta-train)."""
        return self.split("base")

    @property
    def validation(self) -> ImageSplit:
        """The split that hyper-parameters are chosen on (meta-validation)."""
        return self.split("validation")

    @property
    def novel(self) -> ImageSplit:
        """The split that methods are compared on (meta-test)."""
        return self.split("novel")


def split_fingerprint(images: NDArray[np.uint8], class_names: tuple[str, ...], class_sizes: tuple[int, ...]) -> str:
    """Digest of one split's class names, sizes and pixels in canonical order.

    Args:
        images: uint8 [I, H, W, C], in canonical order.
        class_names: [C].
        class_sizes: [C].

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    digest.update(repr((tuple(images.shape), class_names, class_sizes)).encode())
    rows = max(1, (1 << 24) // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), rows):
        digest.update(np.ascontiguousarray(images[start : start + rows]).data)
    return digest.hexdigest()


def split_name(text: str) -> SplitName:
    """Check a split's name.

    Raises:
        UnknownNameError: there is no such split.
    """
    for name in SPLIT_NAMES:
        if text == name:
            return name
    raise UnknownNameError("split", text, SPLIT_NAMES)
