"""From a results folder to what the page shows; the outcomes of a protocol are read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.paths import Place
from fewshot_bench.report.page.content import ClassPair, PageContent, ProtocolResults, Quantiles, correction_of
from fewshot_bench.report.page.pair_tests import highest, pairs_of
from fewshot_bench.report.page.protocols import Identity, completed, identities, protocol_names, rows_by_protocol
from fewshot_bench.report.page.ranks import rankings
from fewshot_bench.report.page.sweeps import stored_sweeps
from fewshot_bench.report.per_class import class_differences
from fewshot_bench.report.task_scores import stored_scores

MOST_SHOWN = 30
MOST_CARDS = 400
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def gather(store: OutcomeStore, frame: pd.DataFrame, results: Place) -> PageContent:
    """Collect everything that the page shows.

    Args:
        store: where the outcomes are.
        frame: the leaderboard of that store; rows that have no cell in it (published ones) need none.
        results: the folder in which sweeps are looked for, RESULTS/sweeps/NAME/sweep.csv.

    Raises:
        OutcomeError: a part is damaged.
    """
    cells = {(cell.protocol.fingerprint, cell.method.fingerprint): cell for cell in store.cells()}
    whole = completed(frame, cells)
    places = rows_by_protocol(whole)
    names = protocol_names(whole, places)
    protocols = [_protocol(store, names[key], whole.iloc[rows], cells) for key, rows in places.items()]
    cards = _cards(protocols, cells)
    measured = sum(identity in cells for identity in identities(whole))
    return PageContent(
        whole, protocols, stored_sweeps(results / "sweeps"), rankings(whole), cards, measured - len(cards)
    )


def quantiles_of(accuracies: Sequence[float] | np.ndarray) -> Quantiles:
    """Summarise the accuracies of a cell, fractions [E], for a box plot in %."""
    values = 100 * np.asarray(accuracies, dtype=np.float64)
    low, first, median, third, high = (float(value) for value in np.quantile(values, _QUANTILES))
    return Quantiles(low, first, median, third, high, float(values.mean()))


def _protocol(store: OutcomeStore, name: str, rows: pd.DataFrame, cells: Mapping[Identity, Cell]) -> ProtocolResults:
    stored = [
        (method, cells[identity])
        for method, identity in zip(rows["method"], identities(rows), strict=True)
        if identity in cells
    ]
    if not stored:
        return ProtocolResults(name, rows.reset_index(drop=True))
    names = [method for method, _ in stored]
    scores = stored_scores(store, [cell for _, cell in stored])
    quantiles = {
        names[row]: quantiles_of(scores.accuracy[row, scores.of(row)]) for row in highest(scores.accuracy, MOST_SHOWN)
    }
    pairs = pairs_of(scores, names, correction_of(rows))
    baseline = next((text for text in rows["baseline"] if text), "")
    by_class = _by_class(store, dict(stored), baseline)
    return ProtocolResults(name, rows.reset_index(drop=True), quantiles, pairs, by_class)


def _by_class(store: OutcomeStore, cells: Mapping[str, Cell], baseline: str) -> ClassPair | None:
    """The first method against the baseline, class by class; without one, or if it is the first, the first two.

    Args:
        store: where the outcomes are.
        cells: by the names of their methods, the best inductive ones first.
        baseline: name of a method; empty where there is none.
    """
    if len(cells) < 2:
        return None
    best, *others = cells
    pair = (best, baseline if baseline in others else others[0])
    a, b = pair[::-1] if best == baseline else pair
    found = class_differences(stored_scores(store, [cells[a], cells[b]], by_class=True), 0, 1)
    return None if found is None else ClassPair(a, b, found)


def _cards(protocols: Sequence[ProtocolResults], cells: Mapping[Identity, Cell]) -> list[tuple[str, Cell]]:
    """The cells of the best methods of each protocol; all of them unless there are very many."""
    share = max(1, MOST_CARDS // max(1, len(protocols)))
    chosen = []
    for protocol in protocols:
        names = zip(protocol.rows["method"], identities(protocol.rows), strict=True)
        known = [(name, cells[identity]) for name, identity in names if identity in cells]
        chosen += known if len(cells) <= MOST_CARDS else known[:share]
    return chosen
