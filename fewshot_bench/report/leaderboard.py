"""The leaderboard: every stored cell as a row of one table, and as a CSV that only outcomes can change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.report.method_names import cells_of_method, shown_names, the_only
from fewshot_bench.report.published import PublishedResult
from fewshot_bench.report.published_summary import published_rows_of
from fewshot_bench.report.summary import COLUMNS, MEASURED, protocol_rows
from fewshot_bench.report.task_scores import stored_scores
from fewshot_bench.report.wording import is_transductive
from fewshot_bench.statistics import Correction

_TEXTS = (
    "group", "group_split", "against_best", "baseline", "test", "beyond", "verdict", "correction", "flags", "adaptation"
)  # fmt: skip
_PROTOCOL = ["dataset", "split", "way", "shot", "queries", "sampler", "seed", "protocol_fingerprint"]


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
        A row per cell and fitting published number with the columns `summary.COLUMNS`, sorted by protocol, then from
        the best mean to the worst. The test is empty for the baseline itself, and on protocols that have no baseline
        or several of its name.

    Raises:
        OutcomeError: nothing is stored, or a part is damaged.
        UnknownNameError: no method is called like the baseline.
        ComparisonError: the baseline's name fits several methods.
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
        tested = baselines.get(protocol)
        position = None if tested is None else [cell.key for cell in same].index(tested.key)
        scores = stored_scores(store, same)
        rows += protocol_rows(scores, names, position, correct)
        baseline_name = None if tested is None else names[tested.key]
        rows += published_rows_of(scores, published, position, baseline_name, correct)
    return sorted_rows(pd.DataFrame(rows, columns=list(COLUMNS)))


def sorted_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by protocol, inductive methods before transductive ones, each from the best mean to the worst.

    Published rows do not say which they are: beside transductive methods they come last, else they stand among the
    others. A text that does not exist is None.
    """
    for column in _TEXTS:
        frame[column] = frame[column].astype(object).where(frame[column].notna(), None)
    keys = [*_PROTOCOL, "kind", "mean", "method", "method_fingerprint"]
    ascending = [key != "mean" for key in keys]
    with_kind = frame.assign(kind=kind_order(frame))
    return with_kind.sort_values(keys, ascending=ascending, kind="stable", ignore_index=True).drop(columns="kind")


def kind_order(frame: pd.DataFrame) -> list[int]:
    """Where the rows of each kind stand within their protocol: 0 inductive, 1 transductive, 2 published beside such."""
    rows = frame.to_dict("records")
    beside = {row["protocol_fingerprint"] for row in rows if is_transductive(row)}
    return [
        1 if is_transductive(row) else 2 * (row["source"] != MEASURED and row["protocol_fingerprint"] in beside)
        for row in rows
    ]


def _baselines(cells: Sequence[Cell], wanted: str) -> dict[str, Cell]:
    """The baseline's cell on each protocol where its name means one method."""
    found = cells_of_method(cells, wanted)
    clear = {protocol: same[0] for protocol, same in found.items() if len(same) == 1}
    return clear or {protocol: the_only(same) for protocol, same in found.items()}
