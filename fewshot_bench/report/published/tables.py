"""Tables of numbers that papers report: read, checked, and each number once.

A table is a CSV file of text and numbers, one of this project's or of a user's. It is read as data: whatever is not
what its column should hold is refused with the file and the line.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from fewshot_bench._io.locations import Location
from fewshot_bench._io.storage import files_under, is_file, read_bytes
from fewshot_bench.errors import IrregularFileError, OutcomeError
from fewshot_bench.statistics.welch import implied_sd, is_plausible_sd, plausible_sd_range

ACCURACY_COLUMNS = (
    "table", "backbone", "method", "dataset", "split", "way", "shot", "queries", "accuracy", "ci95", "episodes",
    "source", "reported_in",
)  # fmt: skip
"""Columns of a table of accuracies in %; table, way, shot, queries, ci95 and episodes may be empty."""

OPTIONAL_COLUMNS = ("is_transductive", "is_quoted", "trained_on", "recipe", "adaptation", "note")
"""Columns that may follow in any order, and may be empty."""

METRIC_COLUMNS = ("table", "backbone", "method", "dataset", "metric", "value", "source", "reported_in")
"""Columns of a table of other numbers, which are read but not compared."""

_LARGEST = 1_000_000  # bytes
_LONGEST = 300  # characters of a text
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_SPLITS = ("base", "train", "validation", "novel", "test")
_FLAGS = {"true": True, "false": False, "": None}
_BASE_AND_VALIDATION = "base + validation"
_TRAINED_ON = ("base", _BASE_AND_VALIDATION, "")


@dataclass(frozen=True)
class PublishedResult:
    """One accuracy that a paper prints.

    Attributes:
        method: as the table calls it.
        backbone: as the table calls it.
        dataset: by its name in this project.
        split: that the queries are of.
        way: N; None for a table on the whole dataset, like `shot`.
        shot: K.
        queries: Q per class; None where the paper does not say.
        accuracy: in %.
        half_width: of its 95% interval, in percentage points; None where none is printed.
        episodes: that the accuracy and its interval are over; None where the paper does not say.
        rounding: how far the half-width may be off because of the digits that are printed, in percentage points.
        source: who measured it.
        table: where it is printed, e.g. "Long et al. 2023, Table 1".
        is_transductive: whether the method sees all queries of an episode at once; None where the table does not say.
        is_quoted: whether it was read elsewhere than where its authors print it; None where the table does not say.
        trained_on: "base" or "base + validation"; empty where the table does not say.
        recipe: names of the training recipes, or of other base stages in a method's name, that should give it, with
            spaces between them; BACKBONE/STAGE where it is not any backbone's.
        adaptation: name of the adaptation that belongs to the recipe; empty for any.
        note: what a reader should know of the number.
    """

    method: str
    backbone: str
    dataset: str
    split: str
    way: int | None
    shot: int | None
    queries: int | None
    accuracy: float
    half_width: float | None
    episodes: int | None
    rounding: float
    source: str
    table: str
    is_transductive: bool | None = None
    is_quoted: bool | None = None
    trained_on: str = ""
    recipe: str = ""
    adaptation: str = ""
    note: str = ""

    @property
    def recipes(self) -> list[str]:
        """The names in `recipe`."""
        return self.recipe.split()

    @property
    def printed_by(self) -> str:
        """Who measured the number, whether it was read elsewhere, and where it is printed: "A 2019, quoted; B 2023"."""
        says_so = "quoted" in self.source
        return f"{self.source}{', quoted' if self.is_quoted and not says_so else ''}; {self.table}"

    @property
    def flags(self) -> list[str]:
        """What a reader should know before believing the number; an odd interval comes last."""
        return [
            *(["transductive"] if self.is_transductive else []),
            *([f"trained on {_BASE_AND_VALIDATION}"] if self.trained_on == _BASE_AND_VALIDATION else []),
            *([flag] if (flag := interval_flag(self)) else []),
        ]


def published_rows(
    dataset: str, split: str, way: int, shot: int, *, results: Location | None = None
) -> list[PublishedResult]:
    """The published accuracies on tasks of one kind, in the order of the tables.

    Args:
        dataset: its name.
        split: "novel" for the split that methods are compared on.
        way: N.
        shot: K.
        results: a folder of results whose own tables, RESULTS/published/*.csv, are read as well.

    Raises:
        OutcomeError: a table cannot be read.
    """
    wanted = (dataset, split, way, shot)
    return [row for row in published_results(results) if (row.dataset, row.split, row.way, row.shot) == wanted]


def published_for_recipe(recipe: str, *, results: Location | None = None) -> list[PublishedResult]:
    """What a recipe is expected to give: the first published number of each task, in the order of the tables.

    Args:
        recipe: its name, such as "protonet-conv4".
        results: a folder of results whose own tables, RESULTS/published/*.csv, are read as well.

    Raises:
        OutcomeError: a table cannot be read.
    """
    first: dict[object, PublishedResult] = {}
    for row in published_results(results):
        if recipe in row.recipes:
            first.setdefault((row.dataset, row.split, row.way, row.shot), row)
    return list(first.values())


def published_results(results: Location | None = None) -> list[PublishedResult]:
    """Every published accuracy, each once, whatever it was measured on.

    A number that several tables print, such as a paper's own and one that cites it, is one result: the first, with
    what the others add.

    Args:
        results: a folder of results whose own tables, RESULTS/published/*.csv, are read as well.

    Raises:
        OutcomeError: a table cannot be read.
    """
    folders: list[Location] = [published_tables_folder()]
    if results is not None:
        folders.append(results / "published")
    tables = {place.resolve(): place for folder in folders for place in _tables_in(folder)}
    return _each_once(row for place in tables.values() for row in read_table(place))


def _each_once(results: Iterable[PublishedResult]) -> list[PublishedResult]:
    """Without repeats, in the order of first appearance."""
    found: dict[object, list[PublishedResult]] = {}  # by what equal numbers agree in
    order: list[tuple[object, int]] = []
    for result in dict.fromkeys(results):
        key = (result.dataset, result.split, result.way, result.shot, result.backbone, result.accuracy)
        same = found.setdefault(key, [])
        place = next((n for n, other in enumerate(same) if _is_same_number(other, result)), None)
        if place is None:
            order.append((key, len(same)))
            same.append(result)
        else:
            same[place] = _merged(same[place], result)
    return [found[key][place] for key, place in order]


def _is_same_number(a: PublishedResult, b: PublishedResult) -> bool:
    """Whether two rows with the same accuracy of a backbone on the same tasks are one number.

    Tables call methods differently: then the measurer and a printed interval must agree, and the tables must differ.
    """
    if any(None not in pair and pair[0] != pair[1] for pair in ((a.queries, b.queries), (a.episodes, b.episodes))):
        return False
    if a.method == b.method and (a.half_width is None) != (b.half_width is None):
        return True
    has_same_interval = a.source == b.source and a.half_width == b.half_width
    return has_same_interval and (a.method == b.method or (a.half_width is not None and a.table != b.table))


def _merged(first: PublishedResult, other: PublishedResult) -> PublishedResult:
    """One number that two tables print; the first row with what the other adds."""
    as_called = "" if other.method == first.method else f" as {other.method}"
    missing = {
        name: getattr(other, name)
        for name in ("queries", "episodes", "is_transductive", "trained_on", "recipe", "adaptation")
        if getattr(first, name) in (None, "")
    }
    if first.half_width is None:
        missing |= {"half_width": other.half_width, "rounding": other.rounding}
    quoted = [value for value in (first.is_quoted, other.is_quoted) if value is not None]
    return replace(
        first,
        **missing,
        is_quoted=all(quoted) if quoted else None,
        table="; ".join(dict.fromkeys([first.table, f"{other.table}{as_called}"])),
        note="; ".join(dict.fromkeys(note for note in (first.note, other.note) if note)),
    )


def _tables_in(folder: Location) -> list[Location]:
    """The tables in a folder, by name; none where there is no folder."""
    if isinstance(folder, Path):
        return list[Location](sorted(folder.glob("*.csv")))
    names = [name for name in files_under(folder) if "/" not in name and name.endswith(".csv")]
    return [folder / name for name in sorted(names)]


def read_table(path: Location) -> list[PublishedResult]:
    """The accuracies of one table; none where it is a table of other numbers.

    Raises:
        OutcomeError: the file is not such a table; the sentence names the line.
    """
    return [_result(values, printed_interval) for values, printed_interval in _rows(path, ACCURACY_COLUMNS)]


@dataclass(frozen=True)
class PublishedMetric:
    """A number of another kind than an accuracy that a paper prints.

    Attributes:
        metric: such as "isotropy".
        value: the number.
        method: as the table calls it, like the others.
        backbone: the network.
        dataset: by its name in this project.
        source: who measured it.
        table: where it is printed.
        note: what a reader should know of the number.
    """

    metric: str
    value: float
    method: str
    backbone: str
    dataset: str
    source: str
    table: str
    note: str = ""


def published_metrics(metric: str) -> list[PublishedMetric]:
    """The numbers of one kind that come with this project, in the order of the tables."""
    rows = [values for path in _tables_in(published_tables_folder()) for values, _ in _rows(path, METRIC_COLUMNS)]
    same = ("metric", "value", "method", "backbone", "dataset", "source")
    return [
        PublishedMetric(**{name: values[name] for name in same}, table=_printed_in(values), note=values.get("note", ""))
        for values in rows
        if values["metric"] == metric
    ]


def _rows(path: Location, wanted: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], str]]:
    """The values of each row of a table, and its interval as printed; none of a table with other columns.

    Raises:
        OutcomeError: the file is not a table; the sentence names the line.
    """
    lines = _lines(path)
    number, header = next(lines, (1, []))
    required = METRIC_COLUMNS if tuple(header[: len(METRIC_COLUMNS)]) == METRIC_COLUMNS else ACCURACY_COLUMNS
    optional = ("note",) if required == METRIC_COLUMNS else OPTIONAL_COLUMNS
    more = header[len(required) :]
    if tuple(header[: len(required)]) != required or not set(more) <= set(optional) or len(set(more)) < len(more):
        raise _refused(
            path, number, f"its columns should be {', '.join(required)}; any of {', '.join(optional)} may follow"
        )
    for number, texts in lines:
        if len(texts) != len(header):
            raise _refused(path, number, f"it has {len(texts)} fields instead of {len(header)}")
        cells = dict(zip(header, texts, strict=True))
        values: dict[str, Any] = {}
        for column, text in cells.items():
            read, expected = _COLUMN_TYPES.get(column, _TEXT_COLUMN)
            try:
                values[column] = read(text)
            except ValueError:
                shown = text if len(text) <= 40 else f"{text[:40]}..."
                raise _refused(path, number, f"{column} should be {expected}, not {shown!r}") from None
        if required == wanted:
            yield values, cells.get("ci95", "")


def _result(values: Mapping[str, Any], printed_interval: str) -> PublishedResult:
    decimals = len(printed_interval.partition(".")[2])
    same = ("method", "backbone", "dataset", "split", "way", "shot", "queries", "accuracy", "episodes", "source")
    return PublishedResult(
        **{name: values[name] for name in same},
        half_width=values["ci95"],
        rounding=float(Decimal(5).scaleb(-decimals - 1)) if printed_interval else 0.0,
        table=_printed_in(values),
        **{name: values[name] for name in OPTIONAL_COLUMNS if name in values},
    )


def _printed_in(values: Mapping[str, Any]) -> str:
    return str(values["reported_in"]) + (f", Table {values['table']}" if values["table"] else "")


def published_tables_folder() -> Path:
    """Folder of the tables that come with this project, in a wheel or in a checkout."""
    shipped = Path(__file__).parents[1] / "published_tables"
    return shipped if shipped.is_dir() else Path(__file__).parents[3] / "results" / "published"


def _lines(path: Location) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line that is not empty, with its number."""
    try:
        if not is_file(path):
            raise _refused(path, 1, "it is not a file")
        text = read_bytes(path, _LARGEST).decode("utf-8-sig")
    except IrregularFileError:
        raise
    except OutcomeError as error:
        raise _refused(path, 1, error) from error
    except UnicodeDecodeError as error:
        raise _refused(path, error.object[: error.start].count(b"\n") + 1, "it is not UTF-8") from error
    except OSError as error:
        raise OutcomeError(f"{path} cannot be read ({error.strerror or error}). Correct or remove it.") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise _refused(path, reader.line_num, str(error)) from error


def _text(text: str) -> str:
    if not 1 <= len(text) <= _LONGEST or not text.isprintable() or text != text.strip():
        raise ValueError
    return text


def _number(text: str, largest: float = 100.0) -> float:
    if not _NUMBER.fullmatch(text) or float(text) > largest:  # also keeps nan, inf, 1e5 and digits of other scripts out
        raise ValueError
    return float(text)


def _one_of(words: Collection[str], text: str) -> str:
    if text not in words:
        raise ValueError
    return text


def _count(least: int) -> tuple[Callable[[str], int | None], str]:
    def read(text: str) -> int | None:
        if text and (not _COUNT.fullmatch(text) or int(text) < least):
            raise ValueError
        return int(text) if text else None

    return read, f"a whole number of {least} or more, or empty"


_TEXT_COLUMN: tuple[Callable[[str], Any], str] = (_text, f"text of 1 to {_LONGEST} printable characters")
_OPTIONAL_TEXT = (lambda text: text and _text(text), f"{_TEXT_COLUMN[1]}, or empty")
_OPTIONAL_FLAG = (lambda text: _FLAGS[_one_of(_FLAGS, text)], "true, false or empty")
_COLUMN_TYPES: dict[str, tuple[Callable[[str], Any], str]] = {
    "table": _OPTIONAL_TEXT,
    "split": (lambda text: _one_of(_SPLITS, text), f"one of {', '.join(_SPLITS)}"),
    "way": _count(2),
    "shot": _count(1),
    "queries": _count(1),
    "accuracy": (_number, "a number from 0 to 100"),
    "ci95": (lambda text: _number(text) if text else None, "a number from 0 to 100, or empty"),
    "episodes": _count(2),
    "value": (lambda text: _number(text, math.inf), "a number of at least 0"),
    "is_transductive": _OPTIONAL_FLAG,
    "is_quoted": _OPTIONAL_FLAG,
    "trained_on": (lambda text: _one_of(_TRAINED_ON, text), f"base, {_BASE_AND_VALIDATION} or empty"),
    "recipe": _OPTIONAL_TEXT,
    "adaptation": _OPTIONAL_TEXT,
    "note": _OPTIONAL_TEXT,
}
"""How the text of a column is read, and what it should be; all other columns hold text."""


def _refused(path: Location, line: int, finding: Any) -> OutcomeError:
    return OutcomeError(
        f"line {line} of {path} is not a row of published numbers: {finding}. Correct the file or move it out of the "
        "folder."
    )


def interval_flag(result: PublishedResult) -> str:
    """What is odd about a published interval, in words; empty where it may be right, or where too little is said.

    An interval and a number of episodes imply a standard deviation over episodes. ±0.80 at 3,000 episodes implies 22
    points, which no method has on episodes of 5 classes with 15 queries each; ±0.36, about 10, is usual. A likely
    reason for too much is an interval over fewer episodes than the protocol names. Without a number of episodes any
    interval may be right but one of no width.

    Args:
        result: one row of a published table.
    """
    if result.half_width == 0:
        return "±0 is not an interval over episodes; the row is not tested"
    if result.half_width is None or result.episodes is None or result.way is None or result.queries is None:
        return ""
    sd = implied_sd(result.half_width / 100, result.episodes)
    rounding = implied_sd(result.rounding / 100, result.episodes)
    accuracy = result.accuracy / 100
    if is_plausible_sd(sd, accuracy, way=result.way, query=result.queries, rounding=rounding):
        return ""
    low, high = plausible_sd_range(accuracy, way=result.way, query=result.queries)
    return (
        f"±{result.half_width:.2f} over {result.episodes:,} episodes implies a standard deviation of {100 * sd:.1f} "
        f"points; {100 * low:.1f} to {100 * high:.1f} is plausible"
    )
