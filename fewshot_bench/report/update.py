"""Bring leaderboard.csv up to date with what is stored, each protocol with the baseline it was given last."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pandas as pd

from fewshot_bench.errors import OutcomeError, PlaceError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.paths import Place
from fewshot_bench.report.leaderboard import leaderboard, sorted_rows
from fewshot_bench.report.leaderboard_csv import write_leaderboard
from fewshot_bench.report.method_names import cells_of_method, the_only
from fewshot_bench.report.published import published_results
from fewshot_bench.report.spreadsheet_text import unguarded
from fewshot_bench.statistics import Correction
from fewshot_bench.stored_files import read_bytes

_LARGEST = 64_000_000  # bytes of a leaderboard


def update_leaderboard(
    store: OutcomeStore,
    path: Place,
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
        UnknownNameError: no method is called like the baseline.
        ComparisonError: the baseline's name fits several methods.
    """
    frame = current_leaderboard(store, path, baseline, cells=cells, correct=correct, with_published=with_published)
    write_leaderboard(frame, path)
    return frame if cells is None else rows_of_cells(frame, cells)


def rows_of_cells(frame: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    """The rows of a leaderboard that are about some cells, in its order."""
    identities = {(cell.protocol.fingerprint, cell.method.fingerprint) for cell in cells}
    chosen = [
        pair in identities for pair in zip(frame["protocol_fingerprint"], frame["method_fingerprint"], strict=True)
    ]
    return frame[chosen].reset_index(drop=True)


def current_leaderboard(
    store: OutcomeStore,
    path: Place,
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
        groups.setdefault(named.get(protocol) or _still_there(kept.get(protocol), same), []).extend(same)
    published = published_results(results) if with_published else []
    frames = [
        leaderboard(store, name, cells=group, correct=correct, published=published) for name, group in groups.items()
    ]
    return sorted_rows(pd.concat(frames, ignore_index=True) if frames else leaderboard(store))


def _baselines_in(path: Place) -> dict[str, str]:
    """Baseline of each protocol in an existing leaderboard; none where it cannot be read."""
    try:
        content = io.BytesIO(read_bytes(path, _LARGEST))
        rows = pd.read_csv(content, dtype=str, usecols=["protocol_fingerprint", "baseline"]).dropna()
    except PlaceError:
        raise
    except (OSError, ValueError, OutcomeError):
        return {}
    return dict(zip(rows["protocol_fingerprint"], rows["baseline"].map(unguarded), strict=True))


def _labels(cells: Sequence[Cell], baseline: str) -> dict[str, str]:
    """The label of the method that a name means, by protocol; protocols on which it means several are left out.

    Raises:
        UnknownNameError: no method is called so.
        ComparisonError: the name means several methods everywhere.
    """
    found = cells_of_method(cells, baseline)
    clear = {protocol: same[0].method.label for protocol, same in found.items() if len(same) == 1}
    return clear or {protocol: the_only(same).method.label for protocol, same in found.items()}


def _still_there(baseline: str | None, same: Sequence[Cell]) -> str | None:
    """The label of a remembered baseline; None where it is gone, or where its name has come to mean several methods."""
    meant = [cell.method.label for cell in same if baseline in (cell.method.name, cell.method.label)]
    return meant[0] if len(meant) == 1 else None
