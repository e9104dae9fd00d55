"""What a user's own images are before any is decoded: the listing, the names of classes, the division into splits."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SPLIT_NAMES, SplitName
from fewshot_bench.datasets.images import Place, SkippedImage
from fewshot_bench.datasets.sources.tree import LARGEST_IMAGE_FILE, composed
from fewshot_bench.errors import DatasetError


@dataclass(frozen=True)
class OwnListing:
    """Images by split and class.

    Attributes:
        place: where they are, for messages.
        classes: for each split, or None where there are no splits, the name and place of the images of each class.
        load: an image file's bytes, or its pixels.
        skipped: files, rows and folders that are not images of a class.
        state: changes when an image does.
        kind: of source, for the description of the dataset.
        notes: what a user should know, one sentence each.
        clutter: paths that were passed over and their kind; see `clutter_kind`.
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
        """Changes when an image, its class, its split, or the report of skipped images does."""
        names = {
            str(split): {name: [image for image, _ in images] for name, images in classes.items()}
            for split, classes in self.classes.items()
        }
        left_out = [[image.name, image.reason] for image in self.skipped]
        content = json.dumps([self.place, names, self.state, left_out, self.notes], sort_keys=True)
        return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def file_identity(path: Path, status: os.stat_result) -> Hashable:
    """Equal for two names of one file: links, ./a, b/../a, and other upper and lower case where the disk ignores it.

    Args:
        path: of the file.
        status: of the file that the path leads to.
    """
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.normcase(os.path.realpath(path))


class FileClaims:
    """The class and split of each file, so that no file is support and query of different classes.

    Args:
        place: where the images are, for messages.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._claims: dict[Hashable, tuple[SplitName | None, str, str]] = {}

    def first_name(self, identity: Hashable, name: str, split: SplitName | None, label: str) -> str | None:
        """The name under which the same file is already in this class and split; None if it is new.

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
            "none is support and query of two classes. Remove one."
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


def read_image_file(path: Path) -> bytes:
    """Bytes of an image file; raises DatasetError if it is too large."""
    size = path.stat().st_size
    if size > LARGEST_IMAGE_FILE:
        raise DatasetError(f"{size:,} bytes; at most {LARGEST_IMAGE_FILE:,} are read")
    return path.read_bytes()


_NEVER_A_CLASS = {"", "nan", "<na>", "nat"}
_PERHAPS_A_CLASS = {"none", "null", "na", "n/a", "#n/a", "-1"}
_LIST = re.compile(r"\[.*\]|\(\s*\)|\{\s*\}|[({]\s*(['\"\d-].*|.*,.*)[)}]", re.DOTALL)
_WHOLE = re.compile(r"[-+]?\d+")
_WHOLE_WITH_POINT = re.compile(r"([-+]?\d+)\.0+")


def class_names_of(labels: Sequence[Any], what: str) -> tuple[list[str | None], list[str]]:
    """The class of each row, and what a user should know about it.

    Whole numbers stay whole: a column that holds a missing value comes as 0.0, 1.0, ..., which are classes 0, 1, ...

    Args:
        labels: values of any type, as a reader of tables gives them.
        what: the column, for messages.

    Returns:
        One name for each label, None where it is missing; and notes, one sentence each.

    Raises:
        DatasetError: a label is a list or a fraction.
    """
    texts = [_text(label, number, what) for number, label in enumerate(labels, 1)]
    counts = Counter(text for text in texts if text is not None)
    classes = [text for text in counts if text.lower() not in _PERHAPS_A_CLASS | _NEVER_A_CLASS]
    are_numbers = bool(classes) and all(_WHOLE.fullmatch(text) or _WHOLE_WITH_POINT.fullmatch(text) for text in classes)
    missing = _NEVER_A_CLASS | (_PERHAPS_A_CLASS - {"-1"} if are_numbers else set())
    names: list[str | None] = []
    for text in texts:
        if text is None or text.lower() in missing:
            names.append(None)
        elif are_numbers and (whole := _WHOLE_WITH_POINT.fullmatch(text)):
            names.append(whole[1])
        else:
            names.append(text)
    taken = {name for name in names if name is not None and name.lower() in _PERHAPS_A_CLASS}
    notes = [
        f"'{name}' in {what} is a class of {names.count(name):,} images. If it means that there is no label, leave the "
        "field empty."
        for name in sorted(taken)
    ]
    return names, notes


def _text(label: Any, number: int, what: str) -> str | None:
    """One label as text, None where it is missing."""
    if isinstance(label, np.generic):
        label = label.item()
    if isinstance(label, bytes):
        label = label.decode(errors="backslashreplace")
    if label is None:
        return None
    if isinstance(label, list | tuple | set | dict | np.ndarray) or (
        isinstance(label, str) and _LIST.fullmatch(label.strip())
    ):
        shown = " ".join(str(label).split())
        raise DatasetError(
            f"row {number} of {what} has the label {shown[:60]}: several classes for one image. An episode needs one "
            "class per image; write one name or number in each row."
        )
    if isinstance(label, float):
        if math.isnan(label):
            return None
        if not label.is_integer():
            raise DatasetError(
                f"row {number} of {what} has the label {label}, a fraction, which cannot be a class. Write a name or a "
                "whole number in each row."
            )
        return str(int(label))
    return composed(str(label).strip())
