"""What the page and the figures of a paper show, as plain data: all that draws or writes starts from here.

`gather` goes from a results folder to this data and reads the outcomes of each protocol once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench._io.locations import Location
from fewshot_bench.limits import WHOLE_SAMPLER
from fewshot_bench.outcomes import STANDARD_SAMPLER, Cell, OutcomeStore, marked
from fewshot_bench.report.comparison import ClassDifferences, class_differences, class_names_of
from fewshot_bench.report.comparisons import accuracies_by_dataset, size_text
from fewshot_bench.report.confusion import Confusion, confusion
from fewshot_bench.report.embeddings.cards import EmbeddingCard, PairCard, card_of_cell, stored_cards
from fewshot_bench.report.labels import IS_LABELLED, IS_OWN, without_shared_start
from fewshot_bench.report.leaderboard_rows import COLUMNS, MEASURED, ONE_TRAINING
from fewshot_bench.report.names import is_transductive, task_names
from fewshot_bench.report.scores import TaskScores, data_intervals_of, over_trainings, stored_scores
from fewshot_bench.report.sweeps import SweepResults, stored_sweeps
from fewshot_bench.report.verdicts import claims_of_all_pairs, training_claims, verdict
from fewshot_bench.statistics import Correction, DataInterval, friedman, mean_interval


@dataclass(frozen=True)
class Quantiles:
    """The accuracies of one cell over its episodes, in %: a box plot without the episodes.

    Of a whole split, its recalls over the classes.
    """

    low: float
    first_quartile: float
    median: float
    third_quartile: float
    high: float
    mean: float


@dataclass(frozen=True, eq=False)
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
        p_training: over trainings, corrected over the same pairs, NaN where a method has one, [A, A]; None if all have.
        trainings: how many each method has, [A]; empty if all have one.
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
    p_training: NDArray[np.float64] | None = None
    trainings: Sequence[int] = ()

    def verdict(self, row: int, column: int) -> str:
        """What the tests of a pair show of the row's method, in words."""
        covers = "" if self.best_two is None else self.best_two.covers
        difference, p, p_beyond = (float(of[row, column]) for of in (self.difference, self.p, self.p_beyond))
        p_training = math.nan if self.p_training is None else float(self.p_training[row, column])
        has_trainings = bool(self.trainings) and max(self.trainings[row], self.trainings[column]) > 1
        return verdict(difference, p, p_beyond, covers, p_training=p_training, has_trainings=has_trainings)


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


@dataclass(frozen=True, eq=False)
class MethodConfusion:
    """What a method takes for what."""

    method: str
    classes: Confusion


@dataclass(frozen=True, eq=False)
class ProtocolResults:
    """Everything about one protocol.

    Attributes:
        name: what people call it, e.g. "cifar-fs 5-way 1-shot".
        rows: of the leaderboard, inductive, transductive and published methods, each best first.
        quantiles: by name, of the best methods.
        pairs: of the best methods; None where no two share episodes.
        by_class: the best method against the baseline, or the two best; None where it is unknown.
        confused: what the best method takes for what; None where it is unknown.
    """

    name: str
    rows: pd.DataFrame
    quantiles: Mapping[str, Quantiles] = field(default_factory=dict)
    pairs: Pairs | None = None
    by_class: ClassPair | None = None
    confused: MethodConfusion | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the episodes are the images of a whole split."""
        return bool((self.rows["sampler"] == WHOLE_SAMPLER).any())

    @property
    def measured(self) -> pd.DataFrame:
        """The rows that have outcomes."""
        return self.rows[self.rows["source"] == MEASURED]

    @cached_property
    def transductive(self) -> frozenset[str]:
        """Names of the methods that see all queries of an episode at once."""
        return frozenset(row["method"] for row in self.rows.to_dict("records") if is_transductive(row))

    @cached_property
    def own(self) -> frozenset[str]:
        """Names of the methods that their author wants highlighted."""
        return frozenset(self.rows.loc[self.rows[IS_OWN], "method"]) if IS_OWN in self.rows else frozenset()

    @cached_property
    def labelled(self) -> frozenset[str]:
        """Names that are labels."""
        return frozenset(self.rows.loc[self.rows[IS_LABELLED], "method"]) if IS_LABELLED in self.rows else frozenset()

    @property
    def tested(self) -> pd.DataFrame:
        """The rows that are tested against the baseline, best difference first."""
        rows = self.rows[self.rows["difference"].notna()]
        return rows.sort_values("difference", ascending=False, kind="stable", ignore_index=True)

    def display_name(self, name: str) -> str:
        """A method's name, marked if it is transductive."""
        return marked(name, name in self.transductive)


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

    def display_name(self, name: str) -> str:
        """A method's name, marked if it is transductive."""
        return marked(name, name in self.transductive)


@dataclass(frozen=True, eq=False)
class PageContent:
    """Everything that the page shows.

    Attributes:
        frame: the whole leaderboard, completed by `completed`.
        protocols: in the order of the leaderboard.
        sweeps: by name.
        rankings: one for each size of task that several datasets share.
        cells: whose run cards are shown, by the name of the method that the leaderboard uses.
        cells_left_out: cells that have no card on the page.
        embedding_cards: of every network whose embeddings were measured.
        embedding_pairs: how two of them differ.
        shared_start: the stages that all methods begin with, which their names here lack.
    """

    frame: pd.DataFrame
    protocols: Sequence[ProtocolResults]
    sweeps: Sequence[SweepResults] = ()
    rankings: Sequence[Ranking] = ()
    cells: Sequence[tuple[str, Cell]] = ()
    cells_left_out: int = 0
    embedding_cards: Sequence[EmbeddingCard] = ()
    embedding_pairs: Sequence[PairCard] = ()
    shared_start: str = ""

    @property
    def correction(self) -> Correction:
        """How the p values of the leaderboard are corrected for the number of tests on a protocol."""
        return correction_of(self.frame)


MOST_PAIRED = MOST_RANKED = 25


def pairs_of(scores: TaskScores, names: Sequence[str], correct: Correction = "holm") -> Pairs | None:
    """The best methods against each other, by the tests that stand behind the letters of the leaderboard.

    Args:
        scores: of all methods of the protocol, inductive ones first, each kind best first.
        names: of these methods.
        correct: how p is corrected for the number of all pairs, of those not shown too.

    Returns:
        None where no two of the best share two episodes.
    """
    best = highest(scores.accuracy, MOST_PAIRED)
    accuracy = scores.accuracy[best]
    difference, episodes = _differences(accuracy)
    has_pairs = bool((episodes[np.triu_indices(len(accuracy), 1)] > 1).any())
    claims = claims_of_all_pairs(scores, correct) if has_pairs else None
    if claims is None:
        return None
    split, beyond = (np.where(episodes > 1, p[np.ix_(best, best)], np.nan) for p in claims)
    over = training_claims(scores, correct)
    gap = 100 * (accuracy[0] - accuracy[1])
    common = gap[~np.isnan(gap)]
    (best_two,) = data_intervals_of(scores, gap[None])
    return Pairs(
        [names[row] for row in best],
        100 * difference,
        split,
        beyond,
        episodes,
        correction=correct,
        best_two=best_two,
        best_two_task=mean_interval(common).half_width if len(common) else math.nan,
        left_out=len(names) - len(accuracy),
        p_training=None if over is None else over[np.ix_(best, best)],
        trainings=[1 if (several := scores.trainings[row]) is None else len(several.cells) for row in best]
        if scores.trainings
        else (),
    )


def highest(accuracy: NDArray[np.float64], most: int) -> list[int]:
    """At most `most` rows of accuracies [A, E] (NaN: episode missing) with the highest means, in their order."""
    return sorted(np.argsort(-np.nanmean(accuracy, axis=1), kind="stable")[:most].tolist())


def _differences(accuracy: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean differences on the episodes that both of a pair have, NaN for fewer than two, and how many these are."""
    present = ~np.isnan(accuracy)
    episodes = present.astype(np.int64) @ present.T
    sums = np.where(present, accuracy, 0.0) @ present.T
    return np.where(episodes > 1, (sums - sums.T) / np.maximum(episodes, 1), np.nan), episodes


def rankings(frame: pd.DataFrame) -> list[Ranking]:
    """Rank the methods for each size of task that three of them were run with on two datasets or more.

    A dataset with several seeds counts once, by its mean. Of very many methods the best are ranked among themselves.

    Args:
        frame: a completed leaderboard; published rows do not count, for they are of other episodes.
    """
    measured = frame[frame["source"] == MEASURED]
    ranked = []
    sizes = [size_text(row) for row in measured.to_dict("records")]
    for size, rows in measured.groupby(sizes, sort=False):
        tasks = [
            (str(same["dataset"].iloc[0]), dict(zip(same["method"], same["mean"], strict=True)))
            for _, same in rows.groupby("protocol_fingerprint", sort=False)
        ]
        table = accuracies_by_dataset(tasks)
        if table is not None and table.shape[1] > 2:
            transductive = frozenset(row["method"] for row in rows.to_dict("records") if is_transductive(row))
            ranked.append(_ranking(str(size), table, transductive))
    return ranked


def _ranking(size: str, table: pd.DataFrame, transductive: frozenset[str]) -> Ranking:
    best = table.iloc[:, :MOST_RANKED]
    test = friedman(best.to_numpy())
    by_rank = pd.Series(test.mean_ranks, index=best.columns).sort_values(kind="stable")
    return Ranking(
        name=f"{size} over {', '.join(table.index)}",
        methods=by_rank.index.tolist(),
        mean_ranks=by_rank.tolist(),
        critical_difference=test.critical_difference,
        p=test.iman_davenport_p,
        left_out=table.shape[1] - best.shape[1],
        transductive=transductive & set(best.columns),
    )


_USUAL = {"source": MEASURED, "split": "novel", "sampler": STANDARD_SAMPLER, "correction": "holm"}
Identity = tuple[str, str]


def completed(frame: pd.DataFrame) -> pd.DataFrame:
    """A leaderboard with every column, without None: unknown numbers are NaN, unknown texts are empty."""
    whole = frame.copy()
    for name, kind in COLUMNS.items():
        column = whole[name] if name in whole else pd.Series(np.nan, whole.index)
        if kind == "text":
            column = column.astype(object)
            whole[name] = column.where(column.notna() & (column != ""), _USUAL.get(name, ""))
        elif kind == "flag":
            whole[name] = [value == value and bool(value) for value in column]
        else:
            whole[name] = pd.to_numeric(column, errors="coerce")
    whole["mean"] = whole["mean"].fillna(whole["median"])
    return whole


def identities(frame: pd.DataFrame) -> list[Identity]:
    """Fingerprints of protocol and method of each row."""
    return list(zip(frame["protocol_fingerprint"], frame["method_fingerprint"], strict=True))


def rows_by_protocol(frame: pd.DataFrame) -> dict[str, list[int]]:
    """The numbers of the rows of each protocol that was measured, in the order of the leaderboard, by fingerprint."""
    measured = frame.loc[frame["source"] == MEASURED, "protocol_fingerprint"]
    found: dict[str, list[int]] = {fingerprint: [] for fingerprint in measured}
    for number, fingerprint in enumerate(frame["protocol_fingerprint"]):
        if fingerprint in found:
            found[fingerprint].append(number)
    return found


MOST_SHOWN = 30
MOST_CARDS = 400
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def gather(store: OutcomeStore, frame: pd.DataFrame, results: Location) -> PageContent:
    """Collect everything that the page shows, with names that lack the stages that all methods share.

    Args:
        store: where the outcomes are.
        frame: the leaderboard of that store, as it is or `labelled`; rows that have no cell in it (published ones) need
            none.
        results: the folder in which sweeps are looked for, RESULTS/sweeps/NAME/sweep.csv, and embedding cards,
            RESULTS/embeddings.

    Raises:
        OutcomeError: a part, a sweep or a card is damaged.
    """
    cells = {(cell.protocol.fingerprint, cell.method.fingerprint): cell for cell in store.cells()}
    embedding_cards, embedding_pairs = stored_cards(results)
    shared_start, whole = without_shared_start(with_embeddings(completed(frame), cells, embedding_cards))
    numbers = rows_by_protocol(whole)
    records = whole.to_dict("records")
    measured_rows = {
        key: [row for row in (records[n] for n in rows) if row["source"] == MEASURED] for key, rows in numbers.items()
    }
    names = task_names({key: rows[0] for key, rows in measured_rows.items()})
    protocols = [_protocol(store, names[key], whole.iloc[rows], cells) for key, rows in numbers.items()]
    cards = _cards(protocols, cells)
    measured = sum(identity in cells for identity in identities(whole))
    return PageContent(
        whole,
        protocols,
        stored_sweeps(results / "sweeps"),
        rankings(whole),
        cards,
        measured - len(cards),
        embedding_cards,
        embedding_pairs,
        shared_start,
    )


def with_embeddings(
    frame: pd.DataFrame, cells: Mapping[Identity, Cell], cards: Sequence[EmbeddingCard]
) -> pd.DataFrame:
    """A completed leaderboard with the isotropy of each row's network and the key of its embedding card.

    Args:
        frame: the leaderboard.
        cells: the measured cells.
        cards: a row whose network, preprocessing or images are those of none has neither.
    """
    of_rows = [card_of_cell(cards, cells[identity]) if identity in cells else None for identity in identities(frame)]
    scores = [None if card is None else card.isotropy for card in of_rows]
    keys = ["" if card is None else card.network.key for card in of_rows]
    return frame.assign(isotropy=pd.Series(scores, frame.index, dtype=float), embedding_card=keys)


def quantiles_of(accuracies: Sequence[float] | np.ndarray) -> Quantiles:
    """Summarise the accuracies of a cell, fractions [E], for a box plot in %."""
    values = 100 * np.asarray(accuracies, dtype=np.float64)
    values = values[~np.isnan(values)]
    low, first, median, third, high = (float(value) for value in np.quantile(values, _QUANTILES))
    return Quantiles(low, first, median, third, high, float(values.mean()))


def _protocol(store: OutcomeStore, name: str, rows: pd.DataFrame, cells: Mapping[Identity, Cell]) -> ProtocolResults:
    methods = _stored_methods(rows, cells)
    if not methods:
        return ProtocolResults(name, rows.reset_index(drop=True))
    names = list(methods)
    every = [cell for trainings in methods.values() for cell in trainings]
    scores = stored_scores(store, every)
    of_methods = over_trainings(scores, list(methods.values()))
    quantiles = {
        names[row]: quantiles_of(_accuracies(of_methods, row)) for row in highest(of_methods.accuracy, MOST_SHOWN)
    }
    pairs = pairs_of(of_methods, names, correction_of(rows))
    baseline = next((text for text in rows["baseline"] if text), "")
    by_class = _by_class(store, methods, baseline)
    return ProtocolResults(
        name, rows.reset_index(drop=True), quantiles, pairs, by_class, _confused(store, methods, scores)
    )


def _confused(store: OutcomeStore, methods: Mapping[str, Sequence[Cell]], scores: TaskScores) -> MethodConfusion | None:
    """What the best method takes for what, where there are both kinds, the best inductive one."""
    best = next(iter(methods))
    found = confusion(store, methods[best], class_names_of(scores))
    return None if found is None else MethodConfusion(best, found)


def _stored_methods(rows: pd.DataFrame, cells: Mapping[Identity, Cell]) -> dict[str, list[Cell]]:
    """The trainings of each method of a protocol that has outcomes, by the name that the leaderboard uses."""
    found: dict[str, list[Cell]] = {}
    of_method: dict[str, list[Cell]] = {}
    for row, identity in zip(rows.to_dict("records"), identities(rows), strict=True):
        if row["source"] == ONE_TRAINING:
            of_method.setdefault(row["training_of"], []).append(cells[identity])
        elif identity in cells:
            found[row["method"]] = [cells[identity]]
        elif row["trainings"] > 1:
            found[row["method"]] = of_method.setdefault(row["method_fingerprint"], [])
    return found


def _accuracies(scores: TaskScores, row: int) -> NDArray[np.float64]:
    """The accuracies of a method's episodes, of several trainings those of each; of a whole split its recalls, [C]."""
    if scores.protocol.is_whole:
        recall = scores.class_recall(row)
        return recall if recall.size else scores.accuracy[row, scores.of(row)]
    several, own = scores.trainings[row] if scores.trainings else None, scores.of(row)
    return scores.accuracy[row, own] if several is None else several.accuracy[:, own].ravel()


def _by_class(store: OutcomeStore, methods: Mapping[str, Sequence[Cell]], baseline: str) -> ClassPair | None:
    """The first method against the baseline, class by class; without one, or if it is the first, the first two.

    Args:
        store: where the outcomes are.
        methods: the trainings of each, by its name, the best inductive ones first.
        baseline: name of a method; empty where there is none.
    """
    if len(methods) < 2:
        return None
    best, *others = methods
    pair = (best, baseline if baseline in others else others[0])
    a, b = pair[::-1] if best == baseline else pair
    scores = stored_scores(store, [*methods[a], *methods[b]], by_class=True)
    differences = class_differences(over_trainings(scores, [methods[a], methods[b]]), 0, 1)
    return None if differences is None else ClassPair(a, b, differences)


def _cards(protocols: Sequence[ProtocolResults], cells: Mapping[Identity, Cell]) -> list[tuple[str, Cell]]:
    """The cells of the best methods of each protocol; all of them unless there are very many."""
    share = max(1, MOST_CARDS // max(1, len(protocols)))
    chosen = []
    for protocol in protocols:
        names = zip(protocol.rows["method"], identities(protocol.rows), strict=True)
        known = [(name, cells[identity]) for name, identity in names if identity in cells]
        chosen += known if len(cells) <= MOST_CARDS else known[:share]
    return chosen
