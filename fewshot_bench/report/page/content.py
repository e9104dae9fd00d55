"""What the page shows, as plain data; everything that draws or writes starts from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.outcomes import Cell
from fewshot_bench.report.summary import MEASURED


@dataclass(frozen=True)
class Quantiles:
    """The accuracies of one cell over its episodes, in %: a box plot without the episodes."""

    low: float
    first_quartile: float
    median: float
    third_quartile: float
    high: float
    mean: float


@dataclass(frozen=True)
class Pairs:
    """Every method of a protocol against every other, on the episodes that all of them have seen.

    Attributes:
        methods: their names, best first, [A].
        difference: mean of the row's method minus the column's, in points, [A, A].
        p: of the paired t-test, corrected by Holm over all pairs, [A, A]; 1 on the diagonal.
        episodes: how many they have in common.
        left_out: methods of the protocol that are not among them.
    """

    methods: Sequence[str]
    difference: NDArray[np.float64]
    p: NDArray[np.float64]
    episodes: int
    left_out: int = 0


@dataclass(frozen=True)
class ProtocolResults:
    """Everything about one protocol.

    Attributes:
        name: what people call it, e.g. "cifar-fs 5-way 1-shot".
        rows: of the leaderboard, measured and published, best first.
        quantiles: by name, of the best methods.
        pairs: of the best methods; None where fewer than two share episodes.
    """

    name: str
    rows: pd.DataFrame
    quantiles: Mapping[str, Quantiles] = field(default_factory=dict)
    pairs: Pairs | None = None

    @property
    def measured(self) -> pd.DataFrame:
        """The rows that have outcomes."""
        return self.rows[self.rows["source"] == MEASURED]


@dataclass(frozen=True)
class SweepResults:
    """A sweep that is stored: its name and its table, as `sweep_frame` makes it."""

    name: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Ranking:
    """Methods over several datasets, best first.

    Attributes:
        name: the size of the task and the datasets.
        methods: their names, [A].
        mean_ranks: over the datasets, 1 for the best, [A].
        critical_difference: mean ranks further apart than this differ (Nemenyi, 5%).
        p: of Friedman's test that all rank alike (Iman and Davenport).
        left_out: methods that are not among them.
    """

    name: str
    methods: Sequence[str]
    mean_ranks: Sequence[float]
    critical_difference: float
    p: float
    left_out: int = 0


@dataclass(frozen=True)
class PageContent:
    """Everything that the page shows.

    Attributes:
        frame: the whole leaderboard, completed by `completed`.
        protocols: in the order of the leaderboard.
        sweeps: by name.
        rankings: one for each size of task that several datasets share.
        cells: whose run cards are shown, by the name of the method that the leaderboard uses.
        cells_left_out: cells that have no card on the page.
    """

    frame: pd.DataFrame
    protocols: Sequence[ProtocolResults]
    sweeps: Sequence[SweepResults] = ()
    rankings: Sequence[Ranking] = ()
    cells: Sequence[tuple[str, Cell]] = ()
    cells_left_out: int = 0
