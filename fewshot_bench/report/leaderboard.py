"""The leaderboard: every stored cell as a row of one table, and as a CSV that the outcomes alone determine."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fewshot_bench._io.locations import Location
from fewshot_bench._io.storage import read_bytes, write_atomically
from fewshot_bench._io.text import guarded, unguarded
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.errors import LocationError, OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.report.leaderboard_rows import (
    COLUMNS,
    MEASURED,
    OF_WHOLE_SPLITS,
    ONE_TRAINING,
    protocol_rows,
    training_rows,
)
from fewshot_bench.report.names import cells_of_method, is_transductive, shown_names, the_trainings
from fewshot_bench.report.published.rows import published_comparisons_of, published_rows_of
from fewshot_bench.report.published.tables import PublishedResult, published_results
from fewshot_bench.report.scores import TaskScores, over_trainings, stored_scores
from fewshot_bench.report.trainings import method_cell, trainings_of_methods
from fewshot_bench.statistics import Correction
from fewshot_bench.units import rate_text

_PROTOCOL = ["dataset", "split", "way", "shot", "queries", "sampler", "seed", "protocol_fingerprint"]


@checked_arguments
def leaderboard(
    store: OutcomeStore,
    baseline: str | None = None,
    *,
    cells: Sequence[Cell] | None = None,
    correct: Correction = "holm",
    published: Sequence[PublishedResult] = (),
) -> pd.DataFrame:
    """Summarise cells, each tested against the baseline's cell of the same protocol.

    All stored episodes count. Where runs differ in length, `episodes` is that of the shortest, and the median over
    the runs is that of the means of what each run has.

    Args:
        store: where the outcomes are.
        baseline: name of the method that the others are tested against, a part that no other name has, or a label.
        cells: which cells; all that are stored by default.
        correct: how p is corrected for the number of tests on one protocol.
        published: numbers to show beside the cells of the protocols that they fit.

    Returns:
        A row per method, training of a method with several, and fitting published number, with the columns
        `leaderboard_rows.COLUMNS`, those of whole splits where there are any, sorted by protocol, then from the best
        mean to the worst; trainings stand below their method. The test is empty for the baseline itself, and on
        protocols that have no baseline or several of its name.

    Raises:
        OutcomeError: nothing is stored, or a part is damaged.
        UnknownNameError: no method has the baseline's name.
        ComparisonError: the baseline's name fits several methods.

    >>> from tempfile import TemporaryDirectory
    >>> import fewshot_bench as fb
    >>> novel = fb.open_dataset("glyphs").novel
    >>> pixels = novel.images.reshape(len(novel), -1)
    >>> episodes = fb.sample_episodes(novel, fb.Protocol("glyphs", shot=5, episodes=50, runs=1))
    >>> with TemporaryDirectory() as results:
    ...     for method in ("centroid", "knn"):
    ...         store = fb.evaluate(method, pixels, episodes).save(results)
    ...     frame = fb.leaderboard(store, baseline="knn")
    >>> frame[["method", "mean"]].round(2).values.tolist()
    [['centroid', 60.05], ['knn', 48.24]]
    """
    cells = store.cells() if cells is None else list(cells)
    if not cells:
        raise OutcomeError(f"there are no outcomes in {store.folder}. Make some with: fewshot-bench run")
    baselines = _baselines(cells, baseline) if baseline is not None else {}
    names = shown_names(cells)
    by_protocol: dict[str, list[Cell]] = {}
    for cell in cells:
        by_protocol.setdefault(cell.protocol.fingerprint, []).append(cell)
    rows: list[dict[str, Any]] = []
    for protocol, same in by_protocol.items():
        scores = stored_scores(store, same)
        methods = over_trainings(scores, trainings_of_methods(same))
        position = _position(methods, baselines.get(protocol))
        reported: dict[str, dict[str, Any]] = {}
        for pair in published_comparisons_of(methods, names, published, correct):
            reported.setdefault(pair.cell.key, pair.columns())
        rows += [
            row | reported.get(cell.key, {})
            for row, cell in zip(protocol_rows(methods, names, position, correct), methods.cells, strict=True)
        ]
        rows += training_rows(scores, methods, names)
        baseline_name = None if position is None else names[methods.cells[position].key]
        rows += published_rows_of(methods, published, position, baseline_name, correct)
    has_whole = any(cell.protocol.is_whole for cell in cells)
    columns = [name for name in COLUMNS if has_whole or name not in OF_WHOLE_SPLITS]
    return sorted_rows(pd.DataFrame(rows, columns=columns))


def _position(methods: TaskScores, baseline: Cell | None) -> int | None:
    """Which of the methods a cell belongs to, as the whole or as one of its trainings."""
    if baseline is None:
        return None
    for row, cell in enumerate(methods.cells):
        several = methods.trainings[row] if methods.trainings else None
        if baseline.key in {cell.key} | {training.key for training in (several.cells if several else ())}:
            return row
    return None


def sorted_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by protocol, inductive methods before transductive ones, each from the best mean to the worst.

    Beside measured transductive methods the published rows come last, else among the others. Trainings stand below
    their method, by their seeds. A text that does not exist is None.
    """
    frame = frame[[name for name in COLUMNS if name in frame]].copy()
    for column in (name for name, kind in COLUMNS.items() if kind == "text"):
        frame[column] = frame[column].astype(object).where(frame[column].notna(), None)
    keys = [*_PROTOCOL, "kind", "mean", "method", "method_fingerprint"]
    ascending = [key != "mean" for key in keys]
    is_training = frame["source"] == ONE_TRAINING
    methods = frame[~is_training]
    methods = methods.assign(kind=kind_order(methods))
    methods = methods.sort_values(keys, ascending=ascending, kind="stable", ignore_index=True).drop(columns="kind")
    return _with_trainings(methods, frame[is_training]) if is_training.any() else methods


def _with_trainings(methods: pd.DataFrame, trainings: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods, each with those of its trainings below it."""
    below = dict(list(trainings.sort_values("training_seed", kind="stable").groupby(_TRAINED_METHOD)))
    parts = []
    for row, key in enumerate(zip(methods["protocol_fingerprint"], methods["method_fingerprint"], strict=True)):
        parts += [methods.iloc[[row]], *([below[key]] if key in below else [])]
    return pd.concat(parts, ignore_index=True)


def kind_order(frame: pd.DataFrame) -> list[int]:
    """Where the rows of each kind stand within their protocol: 0 inductive, 1 transductive, 2 and 3 published ones.

    Without measured transductive methods, published ones that are inductive or do not say stand at 0.
    """
    rows = frame.to_dict("records")
    beside = {row["protocol_fingerprint"] for row in rows if is_transductive(row) and row["source"] == MEASURED}
    return [
        is_transductive(row) + 2 * (row["source"] != MEASURED and row["protocol_fingerprint"] in beside) for row in rows
    ]


def _baselines(cells: Sequence[Cell], wanted: str) -> dict[str, Cell]:
    """The baseline's cell on each protocol where its name means one method."""
    by_protocol = cells_of_method(cells, wanted)
    clear = {protocol: same[0] for protocol, same in by_protocol.items() if len(trainings_of_methods(same)) == 1}
    return clear or {protocol: the_trainings(same)[0] for protocol, same in by_protocol.items()}


_TRAINED_METHOD = ["protocol_fingerprint", "training_of"]
TIMING_COLUMNS = ("episodes_per_second", "peak_bytes")
"""What differs between two identical studies; everything else is the same to the byte."""

_LARGEST = 64_000_000  # bytes of a leaderboard


def write_leaderboard(frame: pd.DataFrame, path: Location) -> None:
    """Write a leaderboard as CSV, all or nothing, with fixed decimals and line ends.

    Text that a spreadsheet would run as a formula gets an apostrophe in front; numbers keep their minus.

    Args:
        frame: as `leaderboard` returns it.
        path: the file; an older one is replaced.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([guarded(str(column)) for column in frame.columns])
    for row in frame.to_dict("records"):
        writer.writerow([_csv_text(str(column), value) for column, value in row.items()])
    write_atomically(path, text.getvalue().encode())


def _csv_text(column: str, value: Any) -> str:
    if value is None or value != value:
        return ""
    kind = COLUMNS.get(column)
    if kind == "p":
        return repr(float(value))
    if kind == "percent":
        return f"{round(value, 4) + 0.0:.4f}"  # + 0.0: never "-0.0000"
    if kind == "rate":
        return rate_text(value) if 0 < value < 0.95 else f"{value:.1f}"  # two digits of a small rate
    if kind == "count" and isinstance(value, float):
        return f"{value:.0f}"
    return guarded(value) if isinstance(value, str) else str(value)


def update_leaderboard(
    store: OutcomeStore,
    path: Location,
    baseline: str | None = None,
    *,
    cells: Sequence[Cell] | None = None,
    correct: Correction = "holm",
    with_published: bool = True,
) -> pd.DataFrame:
    """Write the leaderboard of everything that is stored.

    Args:
        store: where the outcomes are.
        path: the CSV; the baselines of an older one stay in force where no new one is named.
        baseline: name of the method that the others are tested against, on the protocols of `cells`.
        cells: which rows to return; all by default.
        correct: how p is corrected for the number of tests on one protocol.
        with_published: whether numbers that papers report stand beside the cells, those of this project's tables and
            of the folder `published` beside the outcomes.

    Returns:
        The rows of those cells, in the order of the file.

    Raises:
        OutcomeError: nothing is stored, or a part is damaged.
        UnknownNameError: no method has the baseline's name.
        ComparisonError: the baseline's name fits several methods.
    """
    frame = current_leaderboard(store, path, baseline, cells=cells, correct=correct, with_published=with_published)
    write_leaderboard(frame, path)
    return frame if cells is None else rows_of_cells(frame, cells)


def rows_of_cells(frame: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    """The rows of a leaderboard that are about some cells or methods with such trainings, in its order."""
    identities = {(cell.protocol.fingerprint, cell.method.fingerprint) for cell in cells}
    pairs = list(zip(frame["protocol_fingerprint"], frame["method_fingerprint"], strict=True))
    of_methods = zip(frame["protocol_fingerprint"], frame["training_of"], strict=True)
    identities |= {method for pair, method in zip(pairs, of_methods, strict=True) if pair in identities and method[1]}
    chosen = [pair in identities for pair in pairs]
    return frame[chosen].reset_index(drop=True)


def current_leaderboard(
    store: OutcomeStore,
    path: Location,
    baseline: str | Mapping[str, str] | None = None,
    *,
    cells: Sequence[Cell] | None = None,
    correct: Correction = "holm",
    with_published: bool = True,
) -> pd.DataFrame:
    """The leaderboard of everything that is stored, each protocol with the baseline it was given last; writes nothing.

    Args and errors are those of `update_leaderboard`, whose `path` need not be there; `baseline` may also
    be the label of a method for each of some protocols, by their fingerprints.
    """
    stored = store.cells()
    results = store.folder.parent
    kept = _baselines_in(results / path.name) | _baselines_in(path)
    by_protocol: dict[str, list[Cell]] = {}
    for cell in stored:
        by_protocol.setdefault(cell.protocol.fingerprint, []).append(cell)
    groups: dict[str | None, list[Cell]] = {}
    named = _labels(list(cells or stored), baseline) if isinstance(baseline, str) else baseline or {}
    for protocol, same in by_protocol.items():
        groups.setdefault(named.get(protocol) or _remembered(kept.get(protocol), same), []).extend(same)
    published = published_results(results) if with_published else []
    frames = [
        leaderboard(store, name, cells=group, correct=correct, published=published) for name, group in groups.items()
    ]
    return sorted_rows(pd.concat(frames, ignore_index=True) if frames else leaderboard(store))


def _baselines_in(path: Location) -> dict[str, str]:
    """Baseline of each protocol in an existing leaderboard; none where it cannot be read."""
    try:
        content = io.BytesIO(read_bytes(path, _LARGEST))
        rows = pd.read_csv(content, dtype=str, usecols=["protocol_fingerprint", "baseline"]).dropna()
    except LocationError:
        raise
    except (OSError, ValueError, OutcomeError):
        return {}
    return dict(zip(rows["protocol_fingerprint"], rows["baseline"].map(unguarded), strict=True))


def _labels(cells: Sequence[Cell], baseline: str) -> dict[str, str]:
    """The label of the method that a name means, by protocol; without protocols on which it means several.

    Raises:
        UnknownNameError: no method has this name.
        ComparisonError: the name means several methods everywhere.
    """
    return {protocol: cell.method.label for protocol, cell in _baselines(cells, baseline).items()}


def _remembered(baseline: str | None, same: Sequence[Cell]) -> str | None:
    """The label of a remembered baseline; None where it is gone, or where its name has come to mean several methods."""
    names = shown_names(same)
    found = []
    for trainings in trainings_of_methods(same):
        called = {text for cell in trainings for text in (cell.method.name, cell.method.label)}
        if baseline in called | {names[method_cell(trainings).key]}:
            found.append(trainings[0].method.label)
    return found[0] if len(found) == 1 else None
