"""What a dataset is to the rest of the project: splits of images in canonical order, and how they came about."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from fewshot_bench._io.notebooks import html_facts, html_rows, shortened
from fewshot_bench.arrays import checked_position, checked_positions, is_position
from fewshot_bench.errors import DatasetError, UnknownNameError

SplitName = Literal["base", "validation", "novel", "train", "test"]
IdentifiedBy = Literal["pixels", "names", "ranks"]
SPLIT_NAMES: tuple[SplitName, ...] = ("base", "validation", "novel")
"""The splits of a few-shot dataset: disjoint sets of classes."""

ALL_SPLIT_NAMES: tuple[SplitName, ...] = ("base", "train", "validation", "novel", "test")
"""With those of an ordinary classification dataset, whose train, validation and test splits share their classes."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageSplit:
    """The images of one split, grouped by class, in canonical order.

    `split[5]` is image 5 with its class as a number, `split[2:7]` are several as arrays, and a loop goes over all. Two
    are equal if they have the same images under the same names.

    Attributes:
        dataset: name of the dataset.
        name: "base", "validation" or "novel"; "train", "validation" or "test" where the splits share their classes.
        images: uint8 [I, H, W, C], C is 1 or 3; usually a read-only memory map.
        class_names: one name per class, in canonical order, [C].
        class_sizes: images per class; class c owns rows offsets[c] to offsets[c + 1].
        fingerprint: digest of names, sizes and pixels in canonical order.
        dataset_fingerprint: of the whole dataset; that of the split where it belongs to none.
        image_names: the file name of every image, UTF-8 bytes [I]; None where the source has none to keep.

    >>> import fewshot_bench as fb
    >>> novel = fb.open_dataset("glyphs").novel
    >>> image, label = novel[0]
    >>> image.shape, label, novel.class_of(0)
    ((28, 28, 1), 0, 'arabic_letter_ain')
    """

    dataset: str
    name: SplitName
    images: NDArray[np.uint8]
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...]
    fingerprint: str
    dataset_fingerprint: str = ""
    image_names: NDArray[np.bytes_] | None = None

    def __repr__(self) -> str:
        return (
            f"<ImageSplit: {self.name} of {self.dataset}, {len(self.images):,} images, {len(self.class_names)} classes>"
        )

    def _repr_html_(self) -> str:
        facts = {"images": len(self), "classes": len(self.class_sizes), "names": shortened(self.class_names)}
        sides = " x ".join(map(str, self.images.shape[1:]))
        return html_facts(f"{self.name} split of {self.dataset}", facts | {"pixels": sides})

    __array_ufunc__ = None  # so that == with an array is False, and not asked of each element

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, ImageSplit) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        return self.dataset, self.name, self.fingerprint, self.class_names, self.class_sizes

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> tuple[NDArray[np.uint8], int]: ...
    @overload
    def __getitem__(
        self, key: slice | Sequence[int] | NDArray[np.integer[Any] | np.bool_]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]: ...
    def __getitem__(self, key: Any) -> tuple[NDArray[np.uint8], int | NDArray[np.int64]]:
        if is_position(key):
            row = checked_position(key, len(self), repr(self))
            return self.images[row], int(self.labels[row])
        rows = checked_positions(key, len(self), repr(self))
        return self.images[rows], self.labels[rows]

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        return (self[row] for row in range(len(self)))

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

    def class_of(self, index: int) -> str:
        """Name of the image's class."""
        return self.class_names[int(np.searchsorted(self.offsets, index, side="right")) - 1]

    def image_name(self, index: int) -> str:
        """The image's name, the same in every archive: official, or its rank in the canonical order of its class."""
        if self.image_names is not None:
            return bytes(self.image_names[index]).decode()
        label = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return f"{index - int(self.offsets[label]):04d}"

    def image_id(self, index: int) -> str:
        """Class and name of the image."""
        return f"{self.class_of(index)}/{self.image_name(index)}"

    def names_digest(self) -> str:
        """Digest of class names, sizes and image names in canonical order, 64 hexadecimal digits."""
        digest = hashlib.sha256(repr((self.class_names, self.class_sizes)).encode())
        names = np.empty(0, np.bytes_) if self.image_names is None else self.image_names
        for start in range(0, len(names), 1 << 16):
            digest.update(b"\n".join(names[start : start + (1 << 16)].tolist()) + b"\n")
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, repr=False)
class Dataset:
    """A named dataset with its splits.

    Attributes:
        name: what episodes and results call it.
        splits: by name.
        preprocessing: where the pixels came from and what was done to them; the store calls it "recipe".
        identified_by: how an image is known in every copy: by its pixels, by its official file name, or only by its
            rank in its class in this copy, where the source keeps no names.
        place: path of own images as it was typed; empty for a dataset that was opened by its name.

    >>> import fewshot_bench as fb
    >>> glyphs = fb.open_dataset("glyphs")
    >>> glyphs
    <Dataset: glyphs, 3,840 base, 960 validation, 1,200 novel images>
    >>> glyphs.novel
    <ImageSplit: novel of glyphs, 1,200 images, 20 classes>
    >>> glyphs.split("test")
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.DatasetError: glyphs has no test split; it has base, validation, novel.
    """

    name: str
    splits: Mapping[SplitName, ImageSplit]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    identified_by: IdentifiedBy = "pixels"
    place: str = ""

    def __repr__(self) -> str:
        splits = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        return f"<Dataset: {self.name}, {splits or 'no'} images>"

    def _repr_html_(self) -> str:
        rows = [
            (name, len(split.class_sizes), len(split), " x ".join(map(str, split.images.shape[1:])))
            for name, split in self.splits.items()
        ]
        return html_rows(self.name, ("split", "classes", "images", "pixels"), rows)

    def __hash__(self) -> int:
        return hash((self.name, self.fingerprint))

    @cached_property
    def fingerprint(self) -> str:
        """Digest over the fingerprints of the splits."""
        digest = hashlib.sha256()
        for name in ALL_SPLIT_NAMES:
            if name in self.splits:
                digest.update(f"{name} {self.splits[name].fingerprint}\n".encode())
        return digest.hexdigest()

    @cached_property
    def identity(self) -> str:
        """Which images these are: equal for every copy of a benchmark, at whatever size, if both know the names."""
        if self.identified_by != "names":
            return f"{self.identified_by}:{self.fingerprint}"
        digest = hashlib.sha256()
        for name in ALL_SPLIT_NAMES:
            if name in self.splits:
                digest.update(f"{name} {self.splits[name].names_digest()}\n".encode())
        return f"names:{digest.hexdigest()}"

    @property
    def is_few_shot(self) -> bool:
        """Whether the splits are disjoint sets of classes; otherwise they share their classes."""
        return not {"train", "test"} & set(self.splits)

    def split(self, name: SplitName) -> ImageSplit:
        """The split of that name.

        Raises:
            DatasetError: the dataset has no such split.
        """
        if not isinstance(name, str) or name not in self.splits:
            present = ", ".join(self.splits)
            if not self.is_few_shot:
                drawn_from = "test" if "test" in self.splits else "train"
                raise DatasetError(
                    f"{self.name} is for classification: its splits ({present}) share their classes, so it has no "
                    f"{name} split. Use --split {drawn_from} to draw few-shot episodes from it"
                    + (", with --base-loss none" if name == "base" else "")
                    + (", or --protocol full for all of it." if {"train", "test"} <= set(self.splits) else ".")
                )
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
    """Raise UnknownNameError unless there is a split of that name."""
    for name in ALL_SPLIT_NAMES:
        if text == name:
            return name
    raise UnknownNameError("split", text, ALL_SPLIT_NAMES)


def preprocessing_line(preprocessing: Mapping[str, Any]) -> str:
    """Where the pixels of a dataset come from and what was done to them, in one line."""
    words = [str(preprocessing.get("source", "unknown source"))]
    if preprocessing.get("resize", "none") != "none":
        words += [
            f"resized to {preprocessing['resize']}",
            str(preprocessing.get("fit", "")),
            str(preprocessing.get("interpolation", "")),
        ]
    if preprocessing.get("divided", "as it lay") != "as it lay":
        words.append(f"divided by {preprocessing['divided']}")
    if "rotations" in preprocessing:
        words.append(f"rotated by {', '.join(map(str, preprocessing['rotations']))} degrees into classes")
    if preprocessing.get("least_images", 1) > 1:
        words.append(f"classes of {preprocessing['least_images']} images and more")
    if "more_than_8_bits" in preprocessing:
        words.append(f"values {preprocessing['more_than_8_bits']} as black to white")
    if "class_depth" in preprocessing:
        words.append(f"classes {preprocessing['class_depth']} folders deep")
    if "layout" in preprocessing:
        words.append(f"folders taken as {preprocessing['layout']}")
    if "pillow" in preprocessing:
        words.append(f"Pillow {preprocessing['pillow']}")
    return ", ".join(word for word in words if word)


def left_out_lines(preprocessing: Mapping[str, Any]) -> list[str]:
    """What a dataset leaves out: one line for each reason, with the number and the first example."""
    classes = [
        f"class {name}, which has {size} {images}"
        for key, images in (("small_classes", "images"), ("unreadable_classes", "readable images"))
        for name, size in preprocessing.get(key, {}).items()
    ]
    skipped = preprocessing.get("left_out", by_reason(preprocessing.get("skipped", [])))
    return [*skipped, *clutter_lines(preprocessing.get("clutter", {})), *classes]


def by_reason(skipped: Iterable[tuple[str, str]]) -> list[str]:
    """Files or rows that were skipped, in a line for each reason.

    >>> by_reason([("row 9", "no label"), ("a/x.png", "the file is empty"), ("row 10", "no label")])
    ['2 rows: no label (first: row 9)', 'a/x.png: the file is empty']
    """
    names: dict[str, list[str]] = {}
    for name, reason in skipped:
        names.setdefault(reason, []).append(name)
    return [
        f"{found[0]}: {reason}"
        if len(found) == 1
        else f"{len(found):,} {'rows' if found[0].startswith('row ') else 'files'}: {reason} (first: {found[0]})"
        for reason, found in names.items()
    ]


def clutter_lines(kinds: Mapping[str, int]) -> list[str]:
    """What systems and synchronizers left among the images, in at most one line."""
    if not kinds:
        return []
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    return [f"files and folders of systems and synchronisers ({counts}); docs/datasets.md lists them"]
