"""`fewshot-bench compare --published`: stored methods beside the numbers that their recipes are published with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from fewshot_bench.errors import ComparisonError, OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.report.leaderboard_output import REPORTED_TITLE, WHOLE_REPORTED_TITLE, print_table, reported_table
from fewshot_bench.report.names import (
    TRAININGS_NOTE,
    TRANSDUCTIVE_NOTE,
    cells_of_method,
    is_whole,
    protocol_names,
    shown_names,
)
from fewshot_bench.report.notes import REPORTED_NOTE, correction_note, published_notes
from fewshot_bench.report.published.rows import PublishedComparison, is_about, published_comparisons_of
from fewshot_bench.report.published.tables import published_results
from fewshot_bench.report.scores import over_trainings, stored_scores, task_columns
from fewshot_bench.report.trainings import trainings_of_methods
from fewshot_bench.statistics import Correction


def compare_with_published(
    store: OutcomeStore, methods: Sequence[str] = (), *, correct: Correction = "holm"
) -> list[PublishedComparison]:
    """Compare stored methods with the numbers that their recipes are published with, on every protocol.

    Args:
        store: where the outcomes are; the tables of the folder `published` beside them are read as well.
        methods: names, parts that no other name has, or labels; every stored method by default.
        correct: how p is corrected for the number of these tests on one protocol.

    Returns:
        One comparison per method and published number, sorted by dataset, way and shot.

    Raises:
        OutcomeError: nothing is stored, or a table cannot be read.
        UnknownNameError: no method has this name.
        ComparisonError: no method has a published number on its tasks.
    """
    cells = store.cells()
    if not cells:
        raise OutcomeError(f"there are no outcomes in {store.folder}. Make some with: fewshot-bench run")
    published = published_results(store.folder.parent)
    names = shown_names(cells)
    by_protocol: dict[str, list[Cell]] = {}
    for cell in _chosen(cells, methods):
        if any(is_about(result, cell) for result in published):
            by_protocol.setdefault(cell.protocol.fingerprint, []).append(cell)
    found = [
        pair
        for same in by_protocol.values()
        for pair in published_comparisons_of(
            over_trainings(stored_scores(store, same), trainings_of_methods(same)), names, published, correct
        )
    ]
    if not found:
        whose = " or ".join(methods) if methods else "any stored method"
        recipes = ", ".join(sorted({recipe for result in published for recipe in result.recipes}))
        raise ComparisonError(
            f"there is no published number for {whose} on its tasks; there are numbers for the recipes {recipes}. "
            "Train and evaluate one: fewshot-bench run --recipe NAME"
        )
    return sorted(found, key=_order)


def _chosen(cells: Sequence[Cell], methods: Sequence[str]) -> list[Cell]:
    """The cells of the methods that are named, each once; all without a name."""
    if not methods:
        return list(cells)
    named = [cells_of_method(cells, name) for name in methods]
    keys = {cell.key for by_protocol in named for same in by_protocol.values() for cell in same}
    return [cell for cell in cells if cell.key in keys]


def _order(pair: PublishedComparison) -> tuple[object, ...]:
    card = pair.cell.protocol
    return card.dataset, card.split, card.way, card.shot, card.query, card.seed, card.fingerprint, pair.name


def published_comparison_record(pair: PublishedComparison) -> dict[str, Any]:
    """A comparison as a mapping: accuracies in %, differences in percentage points, None for what is unknown."""
    result, method = pair.result, pair.cell.method
    record = {
        "method": pair.name,
        "is_transductive": method.is_transductive,
        **task_columns(pair.cell.protocol),
        "protocol_fingerprint": pair.cell.protocol.fingerprint,
        "method_fingerprint": method.fingerprint,
        "episodes": pair.episodes,
        "mean": pair.mean,
        "ci95": pair.half_width,
        "trainings": 1 if pair.spread is None else pair.spread.trainings,
        "training_sd": math.nan if pair.spread is None else pair.spread.sd,
        "training_ci95": math.nan if pair.spread is None else pair.spread.half_width,
        **pair.columns(),
        "correction": pair.correction,
        "measured_by": result.source,
        "reported_in": result.table,
        "is_quoted": result.is_quoted,
        "reported_method": f"{result.backbone} {result.method}",
        "reported_is_transductive": result.is_transductive,
        "reported_flags": "; ".join(result.flags) or None,
        "recipe": result.recipe,
        "note": result.note or None,
    }
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in record.items()}


def print_published_comparisons(pairs: Sequence[PublishedComparison], console: Console) -> None:
    """Print comparisons as `compare_with_published` returns them, a table per protocol."""
    names = protocol_names([pair.cell.protocol for pair in pairs])
    records = []
    for fingerprint, same in groupby(pairs, key=lambda pair: pair.cell.protocol.fingerprint):
        rows = [_row(pair) for pair in same]
        title = WHOLE_REPORTED_TITLE if is_whole(rows[0]) else REPORTED_TITLE
        print_table(console, f"{names[fingerprint]}: {title}", reported_table(rows, console))
        records += rows
    notes = [REPORTED_NOTE, *correction_note(pairs[0].correction)]
    if any(pair.spread is not None for pair in pairs):
        notes.append(TRAININGS_NOTE)
    if any(row["is_transductive"] or row["reported_is_transductive"] for row in records):
        notes.append(TRANSDUCTIVE_NOTE)
    for note in [*notes, *published_notes([row | {"method": row["reported_method"]} for row in records])]:
        console.print(Text(note, "dim"))


def _row(pair: PublishedComparison) -> dict[str, Any]:
    """The record of a comparison with NaN for unknown numbers, as rows of a leaderboard have them."""
    record = published_comparison_record(pair)
    return record | {"ci95": pair.half_width} | pair.columns()
