"""What somebody's own images are, before any is decoded, and how their classes can be divided."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SPLIT_NAMES, SplitName
from fewshot_bench.datasets.listed import Place, SkippedImage
from fewshot_bench.errors import DatasetError


@dataclass(frozen=True)
class OwnListing:
    """Images by split and class.

    Attributes:
        place: where they lie, for messages.
        classes: for each split, or None where there are no splits, the name and place of the images of each class.
        load: an image file's bytes, or its pixels.
        skipped: what was seen and is no image of a class.
        state: whatever changes when an image does.
        kind: what sort of source it is, for the recipe.
        notes: what a user should know, one sentence each.
        clutter: what was passed over, its path and what it is; see `clutter_kind`.
    """

    place: str
    classes: Mapping[SplitName | None, Mapping[str, list[tuple[str, Place]]]]
    load: Callable[[Place], bytes | NDArray[np.uint8]]
    skipped: list[SkippedImage] = field(default_factory=list)
    state: object = None
    kind: str = "class folders"
    notes: list[str] = field(default_factory=list)
    clutter: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        """What changes when an image, its class or its split does, or what is told of those that were left out."""
        names = {
            str(split): {name: [image for image, _ in images] for name, images in classes.items()}
            for split, classes in self.classes.items()
        }
        left_out = [[image.name, image.reason] for image in self.skipped]
        content = json.dumps([self.place, names, self.state, left_out, self.notes], sort_keys=True)
        return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def file_identity(path: Path, status: os.stat_result) -> Hashable:
    """What two names of one file have in common: links, ./a, b/../a, and other cases where the disk knows none.

    Args:
        path: of the file.
        status: of what it leads to.
    """
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.normcase(os.path.realpath(path))


class FileClaims:
    """Which class and split each file belongs to, so that none is support and query of different classes.

    Args:
        place: where the images lie, for messages.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._claims: dict[Hashable, tuple[SplitName | None, str, str]] = {}

    def first_name(self, identity: Hashable, name: str, split: SplitName | None, label: str) -> str | None:
        """Under which name the same file is already in the same class and split; None if it is new.

        Args:
            identity: of the file.
            name: of the file, for messages.
            split: the split, if there are any.
            label: the class.

        Raises:
            DatasetError: the file is already in another class or split.
        """
        earlier = self._claims.get(identity)
        if earlier is None:
            self._claims[identity] = (split, label, name)
            return None
        first_split, first_label, first_name = earlier
        if (first_split, first_label) == (split, label):
            return first_name
        file = f"{name} is" if name == first_name else f"{first_name} and {name} are one file,"
        homes = [f"class '{first_label}'", f"class '{label}'"] if first_label != label else []
        if first_split != split:
            homes = [f"{home} of the " for home in homes] or ["the ", "the "]
            homes = [f"{home}{part} split" for home, part in zip(homes, (first_split, split), strict=True)]
        raise DatasetError(
            f"{self._place}: {file} in {homes[0]} and in {homes[1]}. An image needs one class and one split, so that "
            "none is support and query of two classes. Leave one of them."
        )


def divide_by_class(
    classes: Mapping[str, list[tuple[str, Place]]], fractions: Sequence[float], seed: int
) -> dict[SplitName, dict[str, list[tuple[str, Place]]]]:
    """Give each class as a whole to one split.

    Which class goes where depends on its name, the names of the others and the seed, and on nothing else.

    Args:
        classes: the images of each class.
        fractions: of the classes for base, validation and novel.
        seed: any integer.

    Raises:
        DatasetError: there are fewer classes than splits that want some.
    """
    wanted = [split for split, fraction in zip(SPLIT_NAMES, fractions, strict=True) if fraction > 0]
    if len(classes) < len(wanted):
        raise DatasetError(f"{len(classes)} classes cannot be divided into {len(wanted)} splits.")
    shuffled = sorted(classes, key=lambda name: hashlib.sha256(f"{seed}\n{name}".encode()).digest())
    divided: dict[SplitName, dict[str, list[tuple[str, Place]]]] = {}
    first = 0
    for split, count in zip(SPLIT_NAMES, _counts(len(classes), fractions), strict=True):
        if count:
            divided[split] = {name: classes[name] for name in shuffled[first : first + count]}
        first += count
    return divided


def _counts(total: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers nearest to the fractions that sum to the total; none of a positive fraction is zero."""
    counts = [max(int(total * fraction), int(fraction > 0)) for fraction in fractions]
    while sum(counts) != total:
        rest = [total * fraction - count for fraction, count in zip(fractions, counts, strict=True)]
        if sum(counts) < total:
            counts[int(np.argmax(rest))] += 1
        else:
            counts[
                int(np.argmin([part if count > 1 else np.inf for part, count in zip(rest, counts, strict=True)]))
            ] -= 1
    return counts
