"""A table of images: CSV, TSV or Parquet with the columns `path`, `label` and, if there are splits, `split`."""

from __future__ import annotations

import csv
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.importers.labels import class_names_of
from fewshot_bench.datasets.importers.own_listing import FileClaims, OwnListing, file_identity
from fewshot_bench.datasets.listed import SkippedImage
from fewshot_bench.datasets.official_splits import published_split
from fewshot_bench.datasets.sources.names import NameFinder, composed
from fewshot_bench.datasets.sources.tree import LARGEST_IMAGE_FILE
from fewshot_bench.errors import DatasetError

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
