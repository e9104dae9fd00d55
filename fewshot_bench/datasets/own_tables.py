"""Tables of a user's own images: CSV, TSV, Parquet, and Hugging Face datasets.

The columns of a file are `path`, `label` and, if there are splits, `split`. A Hugging Face dataset, saved on disk or by
name, needs the optional package `datasets`.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench._io.hub import nothing_asked, why_hub_is_away
from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.images import SkippedImage
from fewshot_bench.datasets.official_splits import published_split
from fewshot_bench.datasets.own_listing import FileClaims, OwnListing, class_names_of, file_identity, read_image_file
from fewshot_bench.datasets.sources.tree import NameFinder, composed
from fewshot_bench.errors import DatasetError

HUGGING_FACE_PREFIX = "hf:"
_INSTALL = "It needs an optional package: pip install 'fewshot-bench[huggingface]'"


_SUFFIXES = (".csv", ".tsv", ".parquet")
_SPELLINGS = {
    "path": ("path", "file", "filename", "file_name", "image", "image_path"),
    "label": ("label", "class", "class_name", "category"),
    "split": ("split", "set", "subset"),
}
_SEPARATORS = {";": "semicolons", "|": "bars", "\t": "tabs", ",": "commas"}
_TO_SEPARATE = "A .csv is read with commas, a .tsv with tabs."
_MOST_LINES_OF_A_ROW = 50  # of a caption, say; a quote that is never closed would take all that follow


def looks_like_table(path: Path) -> bool:
    """Whether the name is that of a table."""
    return path.suffix.lower() in _SUFFIXES


def list_table(path: Path) -> OwnListing:
    """Read a table of images; relative paths start at the table's folder.

    Rows that cannot be used are skipped and named: no label, no such file, too many or too few fields.

    Raises:
        DatasetError: it is not a table, lacks a column, names no existing image, or gives one image two classes or
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
        image, status, reason = _locate(path.parent, row, label, finder)
        row_name = f"row {number}, {row.path}" if row.path else f"row {number}"
        if reason or status is None or label is None:
            skipped.append(SkippedImage(row_name, reason))
            continue
        split = None if row.split is None else _split_of_row(row.split, number, path)
        if (first := claims.first_name(file_identity(image, status), row.path, split, label)) is not None:
            same = "the same row comes before" if first == row.path else f"the same file as {first}"
            skipped.append(SkippedImage(row_name, same))
            continue
        classes.setdefault(split, {}).setdefault(label, []).append((composed(row.path), image))
        state.append((row.path, status.st_size, status.st_mtime_ns))
    if not classes:
        first_row = f": {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise DatasetError(f"{path} names no image that is there{first_row}. Relative paths start at {path.parent}.")
    return OwnListing(str(path), classes, read_image_file, skipped, state, "manifest", notes)


@dataclass(frozen=True)
class _Row:
    """A row of a table; `problem` is why it cannot be used."""

    path: str = ""
    label: Any = None
    split: str | None = None
    problem: str = ""


def _locate(folder: Path, row: _Row, label: str | None, finder: NameFinder) -> tuple[Path, os.stat_result | None, str]:
    """Path and status of the image of a row, and why the row is skipped; "" if it is not."""
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


def _split_of_row(text: str, number: int, path: Path) -> SplitName:
    split = published_split(text)
    if split is None:
        raise DatasetError(
            f"row {number} of {path} has the split '{text}'; train, val and test (or base, validation, novel) are "
            "known."
        )
    return split


def _our_columns(columns: Sequence[str], path: Path) -> dict[str, int]:
    """The position of each of our columns; raises DatasetError if a required one is missing, or one is there twice."""
    named = {name.strip().lower(): place for place, name in enumerate(columns)}
    ours: dict[str, int] = {}
    for name, spellings in _SPELLINGS.items():
        place = next((named[spelling] for spelling in spellings if spelling in named), None)
        if place is not None:
            title = columns[place].strip().lower()
            if [column.strip().lower() for column in columns].count(title) > 1:
                raise DatasetError(f"{path} has several columns '{title}'. Rename or remove all but one.")
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
    except ValueError as error:
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
    """The fields of one row of a text table, or why it has none; `is_open` if its last quote is not closed."""

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
    """A `DatasetError` about a damaged table; the error itself if it comes from the disk, which numbers its errors."""
    if isinstance(error, DatasetError) or (isinstance(error, OSError) and error.errno is not None):
        return error
    way_out = " Save it as UTF-8." if isinstance(error, UnicodeDecodeError) else ""
    return DatasetError(f"{path} cannot be read as a table ({' '.join(str(error).split())[:200]}).{way_out}")


def looks_like_hugging_face(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of the package `datasets`."""
    if (path / "dataset_dict.json").is_file():
        return True
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and "_data_files" in state


def list_hugging_face(source: str) -> OwnListing:
    """List a dataset's images by its image column and its class column; rows that lack either are skipped and named.

    Args:
        source: a folder, or "hf:NAME" or "hf:NAME:CONFIGURATION" as on the hub.

    Raises:
        DatasetError: the package is missing, the dataset cannot be loaded, lacks a column of images or classes, or
            gives one image several classes or splits.
    """
    try:
        import datasets
    except ImportError as error:
        raise DatasetError(f"{source} is a Hugging Face dataset. {_INSTALL}") from error
    away = ""
    try:
        if source.startswith(HUGGING_FACE_PREFIX):
            name, _, configuration = source.removeprefix(HUGGING_FACE_PREFIX).partition(":")
            away = why_hub_is_away()
            with nothing_asked() if away else nullcontext():
                loaded = datasets.load_dataset(name, configuration or None)
        else:
            loaded = datasets.load_from_disk(str(Path(source).expanduser()))
    # The package raises whatever its many parts raise; all of it means that the dataset cannot be loaded.
    except Exception as error:
        reason = away or (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{source} cannot be loaded as a Hugging Face dataset ({reason[:300]}).") from error
    parts = dict(loaded) if isinstance(loaded, dict) else {None: loaded}
    rows: dict[Any, Any] = {}
    classes: dict[SplitName | None, dict[str, list[tuple[str, tuple[Any, int]]]]] = {}
    skipped: list[SkippedImage] = []
    notes: list[str] = []
    claims = FileClaims(source)
    for part, table in parts.items():
        image_column, label_column = _hub_columns(datasets, table, source)
        split = published_split(str(part)) if len(parts) > 1 else None
        if len(parts) > 1 and split is None:
            raise DatasetError(
                f"{source} has a split '{part}'; train, val and test (or base, validation, novel) are known."
            )
        images = table.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
        rows[part] = images[image_column]
        by_class = classes.setdefault(split, {})
        labels, problems, more = _hub_labels(table, label_column, source)
        notes += more
        for number, (label, problem, (has_bytes, path)) in enumerate(
            zip(labels, problems, _hub_contents(images, image_column), strict=True)
        ):
            reason = "no image" if not has_bytes and path is None else problem
            if not reason and not has_bytes and path is not None and label is not None:
                reason = _hub_claim(claims, path, split, label)
            if reason or label is None:
                of_part = f" of {part}" if len(parts) > 1 else ""
                skipped.append(SkippedImage(f"row {number + 1}{of_part}", reason))
                continue
            by_class.setdefault(label, []).append((f"{number:08d}", (part, number)))
    if not any(classes.values()):
        first = f": {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise DatasetError(f"{source} has no row with an image and a class{first}.")

    def load(place: tuple[Any, int]) -> bytes | NDArray[np.uint8]:
        image = rows[place[0]][place[1]]
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        return read_image_file(Path(image["path"]))

    fingerprints = [str(getattr(table, "_fingerprint", "")) for table in parts.values()]
    found = {split: by_class for split, by_class in classes.items() if by_class}
    return OwnListing(source, found, load, skipped, fingerprints, "Hugging Face dataset", notes)


def _hub_labels(table: Any, column: str, source: str) -> tuple[list[str | None], list[str], list[str]]:
    """For each row its class, or None and why not; and notes."""
    values = list(table[column])
    names = getattr(table.features[column], "names", None)
    texts, notes = class_names_of(values, f"the column '{column}' of {source}")
    if names is None:
        return texts, ["" if text is not None else "no label" for text in texts], notes
    labels: list[str | None] = []
    problems = []
    for value, text in zip(values, texts, strict=True):
        is_known = text is not None and 0 <= value < len(names)
        labels.append(composed(names[value]) if is_known else None)
        problems.append(
            ""
            if is_known
            else "no label"
            if text is None or value == -1
            else f"its label {value} is none of the {len(names)} classes"
        )
    return labels, problems, []  # what the numbers mean is known


def _hub_contents(table: Any, column: str) -> list[tuple[bool, str | None]]:
    """For each row whether it holds an image's bytes, and the path of its file; no bytes are copied."""
    import pyarrow.compute as pc

    found: list[tuple[bool, str | None]] = []
    for batch in table.with_format("arrow").iter(batch_size=1000):
        images = batch.column(column)
        has_bytes = pc.is_valid(pc.struct_field(images, "bytes")).to_pylist()
        found += zip(has_bytes, pc.struct_field(images, "path").to_pylist(), strict=True)
    return found


def _hub_claim(claims: FileClaims, path: str, split: SplitName | None, label: str) -> str:
    """Why the file of a row is skipped; "" if it is not."""
    try:
        first = claims.first_name(file_identity(Path(path), Path(path).stat()), path, split, label)
    except (OSError, ValueError):
        return f"no such file ({path[:100]})"
    return "" if first is None else "an earlier row of its class has the same file"


def _hub_columns(datasets: Any, table: Any, source: str) -> tuple[str, str]:
    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [name for name in ("label", "labels", "class", "fine_label") if name in features]
    labels = [name for name in ("label", "fine_label") if name in labels] or labels
    if not images or not labels:
        raise DatasetError(
            f"{source} lacks a column of images or one of classes; its columns are {', '.join(features)}."
        )
    return images[0], labels[0]
