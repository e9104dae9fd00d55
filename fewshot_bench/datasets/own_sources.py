"""What somebody's own images are, before any is decoded, and how their classes can be divided.

A table of images: CSV, TSV or Parquet with the columns `path`, `label` and, if there are splits, `split`.

From the column of labels of somebody's table to the names of classes; what is missing is no class.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SPLIT_NAMES, SplitName
from fewshot_bench.datasets.images import Place, SkippedImage
from fewshot_bench.datasets.official_splits import published_split
from fewshot_bench.datasets.sources.tree import LARGEST_IMAGE_FILE, NameFinder, composed
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


_NEVER_A_CLASS = {"", "nan", "<na>", "nat"}
_PERHAPS_A_CLASS = {"none", "null", "na", "n/a", "#n/a", "-1"}
_LIST = re.compile(r"\[.*\]|\(\s*\)|\{\s*\}|[({]\s*(['\"\d-].*|.*,.*)[)}]", re.DOTALL)
_WHOLE = re.compile(r"[-+]?\d+")
_WHOLE_WITH_POINT = re.compile(r"([-+]?\d+)\.0+")


def class_names_of(labels: Sequence[Any], what: str) -> tuple[list[str | None], list[str]]:
    """The class of each row, and what a user should know of that.

    Whole numbers stay whole: a column that holds a missing value comes as 0.0, 1.0, ..., which are classes 0, 1, ...

    Args:
        labels: values of any type, as a reader of tables gives them.
        what: the column, for messages.

    Returns:
        One name for each label, None where it is missing; and notes, one sentence each.

    Raises:
        DatasetError: a label is a list, which no class can be, or a fraction.
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
                f"row {number} of {what} has the label {label}, a fraction, which is no class. Write a name or a whole "
                "number in each row."
            )
        return str(int(label))
    return composed(str(label).strip())


_SUFFIXES = (".csv", ".tsv", ".parquet")
_SPELLINGS = {
    "path": ("path", "file", "filename", "file_name", "image", "image_path"),
    "label": ("label", "class", "class_name", "category"),
    "split": ("split", "set", "subset"),
}
_SEPARATORS = {";": "semicolons", "|": "bars", "\t": "tabs", ",": "commas"}
_TO_SEPARATE = "A .csv is read with commas, a .tsv with tabs."
_MOST_LINES_OF_A_ROW = 50  # of a caption, say; a quote that is never closed would take all that follow


def looks_like_manifest(path: Path) -> bool:
    """Whether the name is that of a table."""
    return path.suffix.lower() in _SUFFIXES


def list_manifest(path: Path) -> OwnListing:
    """Read a table of images; relative paths start at the table's folder.

    A row that cannot be used is left out and named: without a label, with a path that leads nowhere, with too many or
    too few fields.

    Raises:
        DatasetError: it is no table, a column is missing, it names no image, or it gives one image two classes or
            splits.
    """
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; a table with the columns path,label was expected.")
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _text_rows(path)
    names, notes = class_names_of([row.label for row in rows], f"the labels of {path}")
    classes: dict[SplitName | None, dict[str, list[tuple[str, Path]]]] = {}
    skipped: list[SkippedImage] = []
    state = []
    claims, finder = FileClaims(str(path)), NameFinder()
    for number, (row, label) in enumerate(zip(rows, names, strict=True), 1):
        image, status, reason = _file(path.parent, row, label, finder)
        row_name = f"row {number}, {row.path}" if row.path else f"row {number}"
        if reason or status is None or label is None:
            skipped.append(SkippedImage(row_name, reason))
            continue
        split = None if row.split is None else _split(row.split, number, path)
        if (first := claims.first_name(file_identity(image, status), row.path, split, label)) is not None:
            same = "the same row comes before" if first == row.path else f"the same file as {first}"
            skipped.append(SkippedImage(row_name, same))
            continue
        classes.setdefault(split, {}).setdefault(label, []).append((composed(row.path), image))
        state.append((row.path, status.st_size, status.st_mtime_ns))
    if not classes:
        first_row = f": {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise DatasetError(f"{path} names no image that is there{first_row}. Relative paths start at {path.parent}.")
    return OwnListing(str(path), classes, _load, skipped, state, "manifest", notes)


@dataclass(frozen=True)
class _Row:
    """What a row says; `problem` is why it cannot be used, whatever it says."""

    path: str = ""
    label: Any = None
    split: str | None = None
    problem: str = ""


def _file(folder: Path, row: _Row, label: str | None, finder: NameFinder) -> tuple[Path, os.stat_result | None, str]:
    """Where the image of a row is, what the disk says of it, and why the row is left out; "" if it is not."""
    image = folder / row.path
    reason = row.problem or (
        "no path" if not row.path else "no label" if label is None else "no split" if row.split == "" else ""
    )
    if reason:
        return image, None, reason
    try:
        try:
            status = image.stat()
        except FileNotFoundError:
            image = finder.find(image)
            status = image.stat()
    except ValueError:
        return image, None, "its path has a character that no path can have"
    except OSError as error:
        return image, None, _why_not_found(row.path, error)
    return image, status, "" if stat.S_ISREG(status.st_mode) else "it is a folder, a pipe or a device, not a file"


def _why_not_found(path: str, error: OSError) -> str:
    if error.errno == errno.ENAMETOOLONG:
        return f"its path of {len(path):,} characters is too long"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"it cannot be opened ({error.strerror})"
    return "no such file; write / where the path has \\" if "\\" in path else "no such file"


def _load(image: Path) -> bytes:
    size = image.stat().st_size
    if size > LARGEST_IMAGE_FILE:
        raise DatasetError(f"{size:,} bytes; at most {LARGEST_IMAGE_FILE:,} are read")
    return image.read_bytes()


def _split(text: str, number: int, path: Path) -> SplitName:
    split = published_split(text)
    if split is None:
        raise DatasetError(
            f"row {number} of {path} has the split '{text}'; train, val and test (or base, validation, novel) are "
            "known."
        )
    return split


def _our_columns(columns: Sequence[str], path: Path) -> dict[str, int]:
    """At which place each of our columns is.

    Raises:
        DatasetError: one that is needed is absent, or there twice.
    """
    named = {name.strip().lower(): place for place, name in enumerate(columns)}
    ours: dict[str, int] = {}
    for name, spellings in _SPELLINGS.items():
        place = next((named[spelling] for spelling in spellings if spelling in named), None)
        if place is not None:
            title = columns[place].strip().lower()
            if [column.strip().lower() for column in columns].count(title) > 1:
                raise DatasetError(f"{path} has several columns '{title}'. Rename or remove those that are not meant.")
            ours[name] = place
        elif name != "split":
            found = ", ".join(columns[:6])
            other = next((mark for mark in (";", "|", "\t", ",") if len(columns) == 1 and mark in columns[0]), "")
            hint = f" Are its fields separated by {_SEPARATORS[other]}? {_TO_SEPARATE}" if other else ""
            raise DatasetError(f"{path} has no column '{name}'; path,label[,split] are expected, it has {found}.{hint}")
    return ours


def _parquet_rows(path: Path) -> list[_Row]:
    """The rows as Parquet has them: integers stay integers beside missing ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        ours = _our_columns(file.schema_arrow.names, path)
        names = {ours_name: file.schema_arrow.names[place] for ours_name, place in ours.items()}
        table = file.read(columns=list(names.values()))
        columns = {name: table.column(theirs).to_pylist() for name, theirs in names.items()}
    except (ValueError, KeyError, OverflowError, OSError, pa.ArrowException) as error:
        raise _no_table(path, error) from error
    if any(isinstance(value, dict | bytes) for value in columns["path"]):
        raise DatasetError(
            f"the column '{names['path']}' of {path} holds images, not their paths. Load it with the package datasets "
            "(load_dataset('parquet', ...)), save it with save_to_disk, and give that folder."
        )
    splits = columns.get("split", [None] * table.num_rows)
    has_splits = "split" in columns
    return [
        _Row("" if name is None else str(name).strip(), label, _plain(split) if has_splits else None)
        for name, label, split in zip(columns["path"], columns["label"], splits, strict=True)
    ]


def _plain(split: Any) -> str:
    return "" if split is None else str(split).strip()


def _text_rows(path: Path) -> list[_Row]:
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig") as file:
            records = _records([line.rstrip("\n") for line in file], separator)
            header = next(records, None)
            if header is None or header.problem:
                raise ValueError(header.problem if header else "it is empty")
            ours = _our_columns(header.fields, path)
            return [_row(record, len(header.fields), ours) for record in records]
    except (ValueError, OSError) as error:
        if isinstance(error, OSError):
            raise
        raise _no_table(path, error) from error


def _row(record: _Record, columns: int, ours: dict[str, int]) -> _Row:
    fields = record.fields
    if not record.problem and len(fields) > columns and not any(field.strip() for field in fields[columns:]):
        fields = fields[:columns]  # a comma behind the last field
    if record.problem or len(fields) != columns:
        return _Row(problem=record.problem or f"{len(fields)} fields, the header has {columns}")
    values = {name: fields[place].strip() for name, place in ours.items()}
    return _Row(values["path"], values["label"], values.get("split"))


@dataclass(frozen=True)
class _Record:
    """The fields of one row of a text table, or why there are none; it is open if its last quote is not closed."""

    fields: list[str]
    problem: str = ""
    is_open: bool = False


def _records(lines: Sequence[str], separator: str) -> Iterator[_Record]:
    """The rows of a text table. A quote that is never closed spoils one row, not all that follow it."""
    place = 0
    while place < len(lines):
        if not lines[place].strip():
            place += 1
            continue
        first, count = _record(lines[place : place + 1], separator), 1
        record = first
        while record.is_open and count < _MOST_LINES_OF_A_ROW and place + count < len(lines):
            count += 1
            record = _record(lines[place : place + count], separator)
        is_whole = not record.problem
        yield record if is_whole else first
        place += count if is_whole else 1


def _record(lines: Sequence[str], separator: str) -> _Record:
    if any("\0" in line for line in lines):  # which Python 3.10 does not read, and later ones do
        return _Record([], "it has a NUL character")
    try:
        (fields,) = csv.reader(["\n".join(lines)], delimiter=separator, skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        is_open = "unexpected end" in str(error)
        return _Record([], "a quotation mark too many or too few" if '"' in lines[0] else str(error), is_open)
    return _Record(fields)


def _no_table(path: Path, error: Exception) -> Exception:
    """One line about a damaged table; the error itself if it is the disk's, which has a number."""
    if isinstance(error, DatasetError) or (isinstance(error, OSError) and error.errno is not None):
        return error
    way_out = " Save it as UTF-8." if isinstance(error, UnicodeDecodeError) else ""
    return DatasetError(f"{path} is no table that can be read ({' '.join(str(error).split())[:200]}).{way_out}")
