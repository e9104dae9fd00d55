"""What the page shows, as plain data; everything that draws or writes starts from here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.outcomes import Cell, marked
from fewshot_bench.report.per_class import ClassDifferences
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.verdicts import verdict
from fewshot_bench.report.wording import is_transductive
from fewshot_bench.statistics import Correction, DataInterval


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
    """The best methods of a protocol against each other, each pair on the episodes that both have.

    Attributes:
        methods: their names, inductive ones first, each kind best first, [A].
        difference: mean of the row's method minus the column's, in points, NaN for fewer than two episodes, [A, A].
        p: of the paired t-test over episodes, corrected over all pairs of the protocol, NaN where there is no
            difference, [A, A].
        p_beyond: over classes and images, corrected over the same pairs, NaN where it is unknown, [A, A].
        episodes: how many a pair has in common, [A, A].
        correction: of p.
        best_two: the difference of the first two with its data interval, in points; None where they cannot be compared.
        best_two_task: half-width of its interval over episodes, in points.
        left_out: methods of the protocol that are not among them.
    """

    methods: Sequence[str]
    difference: NDArray[np.float64]
    p: NDArray[np.float64]
    p_beyond: NDArray[np.float64]
    episodes: NDArray[np.int64]
    correction: Correction = "holm"
    best_two: DataInterval | None = None
    best_two_task: float = math.nan
    left_out: int = 0

    def verdict(self, row: int, column: int) -> str:
        """What the tests of a pair show of the row's method, in words."""
        covers = "" if self.best_two is None else self.best_two.covers
        difference, p, p_beyond = (float(of[row, column]) for of in (self.difference, self.p, self.p_beyond))
        return verdict(difference, p, p_beyond, covers)


def correction_of(frame: pd.DataFrame) -> Correction:
    """How the p values of the measured rows are corrected; Holm where nothing was measured."""
    found: list[Correction] = frame.loc[frame["source"] == MEASURED, "correction"].tolist()
    return found[0] if found else "holm"


@dataclass(frozen=True, eq=False)
class ClassPair:
    """The methods whose difference is shown class by class, A - B."""

    a: str
    b: str
    classes: ClassDifferences


@dataclass(frozen=True)
class ProtocolResults:
    """Everything about one protocol.

    Attributes:
        name: what people call it, e.g. "cifar-fs 5-way 1-shot".
        rows: of the leaderboard, inductive, transductive and published methods, each best first.
        quantiles: by name, of the best methods.
        pairs: of the best methods; None where no two share episodes.
        by_class: the best method against the baseline, or the two best; None where it is unknown.
    """

    name: str
    rows: pd.DataFrame
    quantiles: Mapping[str, Quantiles] = field(default_factory=dict)
    pairs: Pairs | None = None
    by_class: ClassPair | None = None

    @property
    def measured(self) -> pd.DataFrame:
        """The rows that have outcomes."""
        return self.rows[self.rows["source"] == MEASURED]

    @cached_property
    def transductive(self) -> frozenset[str]:
        """Names of the methods that see all queries of an episode at once."""
        return frozenset(row["method"] for row in self.rows.to_dict("records") if is_transductive(row))

    def shown(self, name: str) -> str:
        """A method's name as people should read it."""
        return marked(name, name in self.transductive)


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
        transductive: names of those that see all queries of an episode at once.
    """

    name: str
    methods: Sequence[str]
    mean_ranks: Sequence[float]
    critical_difference: float
    p: float
    left_out: int = 0
    transductive: frozenset[str] = frozenset()


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

    @property
    def correction(self) -> Correction:
        """How the p values of the leaderboard are corrected for the number of tests on a protocol."""
        return correction_of(self.frame)
