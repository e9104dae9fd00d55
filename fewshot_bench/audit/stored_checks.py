"""The stored outcomes: readable, complete, and counted as their predictions say."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from fewshot_bench.audit.finding import Finding
from fewshot_bench.episodes import Episodes
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell
from fewshot_bench.outcomes.checking import first_missing
from fewshot_bench.outcomes.columns import Identity
from fewshot_bench.outcomes.counts import even_rows, first_wrong
from fewshot_bench.outcomes.packing import Positions
from fewshot_bench.outcomes.parts import merged, parts_in
from fewshot_bench.outcomes.stored_table import LARGEST_PART
from fewshot_bench.paths import Place
from fewshot_bench.stored_files import read_bytes

PARTS = "stored parts"
COUNTS = "counts"


def read_parts(cell: Cell, folder: Place) -> tuple[pd.DataFrame | None, Finding]:
    """Read every part, and see that no episode is missing between others or stored in two ways.

    Args:
        cell: whose outcomes.
        folder: of the cell.

    Returns:
        One row per episode, by run and number, if every part can be read; and the finding.
    """
    parts = parts_in(folder)
    if not parts:
        return None, Finding(PARTS, "fail", "there are no outcomes")
    try:
        contents = ((part, read_bytes(part.place, LARGEST_PART)) for part in parts)
        columns = [part.read(content, Identity.of(cell), with_predictions=True) for part, content in contents]
        frame = merged(parts, columns)
    except OutcomeError as error:
        return None, Finding(PARTS, "fail", re.split(r"\. (Delete|Move) ", str(error))[0])
    assert frame is not None
    if cell.protocol.is_claimed:  # whose runs and numbers may be any
        return frame, Finding(PARTS, "pass", f"{len(parts)} readable, {len(frame):,} episodes")
    return frame, _completeness(frame, sum(len(part["run"]) for part in columns), len(parts))


def _completeness(frame: pd.DataFrame, rows: int, parts: int) -> Finding:
    runs = frame["run"].unique()
    if list(runs) != list(range(len(runs))):
        return Finding(PARTS, "fail", f"there are the runs {', '.join(map(str, runs[:9]))}; one is missing")
    for run, numbers in frame.groupby("run")["episode"]:
        missing = first_missing(numbers.to_numpy())
        if missing < len(numbers):
            return Finding(PARTS, "fail", f"run {run} has {len(numbers):,} episodes, but not episode {missing}")
    counts = sorted({len(numbers) for _, numbers in frame.groupby("run")["episode"]})
    each = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    copies = rows - len(frame)
    note = f"; {copies:,} are stored twice alike" if copies else ""
    return Finding(PARTS, "pass", f"{parts} readable, {len(runs)} runs of {each} episodes without a gap{note}")


def check_counts(cell: Cell, frame: pd.DataFrame, groups: Sequence[Episodes] | None) -> Finding:
    """Whether the stored predictions give the stored numbers of correct answers and accuracies.

    Args:
        cell: whose outcomes.
        frame: one row per episode.
        groups: the tasks, which say what is true; without them every class has as many queries.
    """
    if groups is None and not cell.protocol.has_even_queries:
        return Finding(COUNTS, "not checked", "how many queries each class has differs by task, and is not known")
    for rows, truth, way in _with_truth(cell, frame, groups):
        wrong = first_wrong(rows, truth, way, cell.protocol.way)
        if wrong:
            return Finding(COUNTS, "fail", wrong)
    mean = 100 * float(frame["accuracy"].mean())
    return Finding(
        COUNTS, "pass", f"the predictions of {len(frame):,} episodes give the stored counts, on average {mean:.2f}%"
    )


def _with_truth(
    cell: Cell, frame: pd.DataFrame, groups: Sequence[Episodes] | None
) -> list[tuple[pd.DataFrame, Positions, int]]:
    """Rows with as many predictions each, the true classes of their queries, [E, M], and N."""
    if groups is not None:
        by_name = frame.set_index(["run", "episode"], drop=False)
        names = [pd.MultiIndex.from_product([[episodes.run], episodes.numbers]) for episodes in groups]
        return [(by_name.loc[some], one.truth, one.way) for some, one in zip(names, groups, strict=True)]
    return even_rows(cell, frame)
