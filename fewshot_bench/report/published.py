"""Numbers that papers report, as rows beside what was measured: read, marked, and tested from their summary.

A table is a CSV file of text and numbers, one of this project's or of a user's. It is read as data: whatever is not
what its column should hold is refused with the file and the line.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from fewshot_bench._io.locations import Location
from fewshot_bench._io.storage import files_under, is_file, read_bytes
from fewshot_bench.errors import IrregularFileError, OutcomeError
from fewshot_bench.outcomes import STANDARD_SAMPLER, ProtocolCard
from fewshot_bench.report.scores import TaskScores, task_columns
from fewshot_bench.report.verdicts import verdict
from fewshot_bench.statistics import Correction, corrected, implied_standard_error, welch_from_standard_errors
from fewshot_bench.statistics.welch import implied_sd, is_plausible_sd, plausible_sd_range

ACCURACY_COLUMNS = (
    "table", "backbone", "method", "dataset", "split", "way", "shot", "queries", "accuracy", "ci95", "episodes",
    "source", "reported_in",
)  # fmt: skip
"""Of a table of accuracies in %; way, shot, queries, ci95 and episodes may be empty."""

METRIC_COLUMNS = ("table", "backbone", "method", "dataset", "metric", "value", "source", "reported_in")
"""Of a table of other numbers; these are kept, but no accuracy is compared with them."""

WELCH = "Welch"
_LARGEST = 1_000_000  # bytes
_LONGEST = 300  # characters of a text
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_SPLITS = ("base", "train", "validation", "novel", "test")


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
        source: whose number it is, as the table cites it.
        table: where it is printed, e.g. "Long et al. 2023, Table 1".
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


def published_results(results: Location | None = None) -> list[PublishedResult]:
    """Every published accuracy, each once, whatever it was measured on.

    Args:
        results: a folder of results whose own tables, RESULTS/published/*.csv, are read as well.

    Raises:
        OutcomeError: a table cannot be read.
    """
    folders: list[Location] = [published_tables_folder()]
    if results is not None:
        folders.append(results / "published")
    tables = {place.resolve(): place for folder in folders for place in _tables_in(folder)}
    return list(dict.fromkeys(row for place in tables.values() for row in read_table(place)))


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
    lines = _lines(path)
    number, header = next(lines, (1, []))
    if tuple(header) not in (ACCURACY_COLUMNS, METRIC_COLUMNS):
        raise _refused(path, number, f"its columns should be {', '.join(ACCURACY_COLUMNS)}")
    rows = []
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
        if tuple(header) == ACCURACY_COLUMNS:
            rows.append(_result(values, cells["ci95"]))
    return rows


def _result(values: Mapping[str, Any], printed_interval: str) -> PublishedResult:
    decimals = len(printed_interval.partition(".")[2])
    same = ("method", "backbone", "dataset", "split", "way", "shot", "queries", "accuracy", "episodes", "source")
    return PublishedResult(
        **{name: values[name] for name in same},
        half_width=values["ci95"],
        rounding=float(Decimal(5).scaleb(-decimals - 1)) if printed_interval else 0.0,
        table=f"{values['reported_in']}, Table {values['table']}",
    )


def published_tables_folder() -> Path:
    """Folder of the tables that come with this project, in a wheel or in a checkout."""
    shipped = Path(__file__).parent / "published_tables"
    return shipped if shipped.is_dir() else Path(__file__).parents[2] / "results" / "published"


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


def _count(least: int) -> tuple[Callable[[str], int | None], str]:
    def read(text: str) -> int | None:
        if text and (not _COUNT.fullmatch(text) or int(text) < least):
            raise ValueError
        return int(text) if text else None

    return read, f"a whole number of {least} or more, or empty"


_TEXT_COLUMN: tuple[Callable[[str], Any], str] = (_text, f"text of 1 to {_LONGEST} printable characters")
_COLUMN_TYPES: dict[str, tuple[Callable[[str], Any], str]] = {
    "split": (lambda text: _SPLITS[_SPLITS.index(text)], f"one of {', '.join(_SPLITS)}"),
    "way": _count(2),
    "shot": _count(1),
    "queries": _count(1),
    "accuracy": (_number, "a number from 0 to 100"),
    "ci95": (lambda text: _number(text) if text else None, "a number from 0 to 100, or empty"),
    "episodes": _count(2),
    "value": (lambda text: _number(text, math.inf), "a number of at least 0"),
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


def published_rows_of(
    scores: TaskScores,
    published: Sequence[PublishedResult],
    baseline: int | None,
    baseline_name: str | None,
    correct: Correction = "holm",
) -> list[dict[str, Any]]:
    """The rows of the published numbers on tasks like those of a protocol.

    Their episodes are others, so they are tested by Welch's unpaired test, where an interval is printed; p is corrected
    for the number of these tests. A printed mean has no outcomes, so it cannot be compared beyond the split.

    Args:
        scores: of the cells of the protocol.
        published: numbers on whatever tasks.
        baseline: position of the cell that they are tested against; None for no test.
        baseline_name: what it is called.
        correct: how p is corrected.

    Returns:
        Mappings with some of the columns of the leaderboard; the others do not exist for a published number.
    """
    fitting = _without_repeats([result for result in published if _fits(result, scores.protocol)])
    names = _names(fitting)
    tests = [_tested(scores, baseline, result) for result in fitting]
    for test, p in zip(tests, corrected([test.get("p", math.nan) for test in tests], correct), strict=True):
        if "p" in test:
            test |= {"p_corrected": float(p), "test": WELCH, "baseline": baseline_name, "correction": correct}
            test["verdict"] = verdict(test["difference"], float(p))
    return [
        {**_row(result, scores.protocol), "method": name, **test}
        for result, name, test in zip(fitting, names, tests, strict=True)
    ]


def _fits(result: PublishedResult, protocol: ProtocolCard) -> bool:
    task = (protocol.dataset, protocol.split, protocol.way, protocol.shot)
    same = (result.dataset, result.split, result.way, result.shot) == task
    return same and protocol.sampler == STANDARD_SAMPLER and result.queries in (None, protocol.query)


def _without_repeats(results: Sequence[PublishedResult]) -> list[PublishedResult]:
    """Without those that only repeat another table's number and leave its interval out."""
    with_interval = {_printed_number(result) for result in results if result.half_width is not None}
    return [
        result for result in results if result.half_width is not None or _printed_number(result) not in with_interval
    ]


def _printed_number(result: PublishedResult) -> tuple[str, str, float]:
    return result.backbone, result.method, result.accuracy


def _names(results: Sequence[PublishedResult]) -> list[str]:
    """Backbone and method, and the table where two tables print other numbers for them."""
    names = [f"{result.backbone} {result.method}" for result in results]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name} ({result.table})" for name, result in zip(names, results, strict=True)
    ]


def _row(result: PublishedResult, protocol: ProtocolCard) -> dict[str, Any]:
    half_width = math.nan if result.half_width is None else result.half_width
    return {
        **task_columns(protocol),
        "episodes": result.episodes,
        "median": result.accuracy,
        "median_ci95": half_width,
        "mean": result.accuracy,
        "ci95": half_width,
        "flags": interval_flag(result) or None,
        "source": f"{result.source}; {result.table}",
        "backbone": result.backbone,
        "protocol_fingerprint": protocol.fingerprint,
    }


def _tested(scores: TaskScores, baseline: int | None, result: PublishedResult) -> dict[str, Any]:
    """Welch's test of a published mean against the baseline's episodes; empty without an interval of some width."""
    if baseline is None or not result.half_width:
        return {}
    accuracy = 100 * scores.accuracy[baseline, scores.of(baseline)]
    if len(accuracy) < 2:
        return {}
    error, df = implied_standard_error(result.half_width, result.episodes)
    own = float(accuracy.std(ddof=1)) / math.sqrt(len(accuracy))
    test = welch_from_standard_errors(result.accuracy, error, df, float(accuracy.mean()), own, len(accuracy) - 1)
    return {"difference": test.difference, "diff_ci95_low": test.ci_low, "diff_ci95_high": test.ci_high, "p": test.p}
