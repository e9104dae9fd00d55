"""Which classes a method takes for which, from stored predictions: the images are not needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.sampler import draw_groups, episode_classes
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.limits import MOST_DRAWN
from fewshot_bench.outcomes import Cell, OutcomeStore, ProtocolCard
from fewshot_bench.outcomes.frame import padded_positions

Counts = NDArray[np.int64]

MOST_PAIRS, LARGEST_MATRIX = 15, 60
FEWEST_MEETINGS = 10
"""Pairs that met in fewer episodes are not listed: their share would be chance."""
_DENSE = 1 << 22
_CHUNK = 1 << 22  # queries, or pairs of classes, at a time


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes and how often one is taken for the other.

    Attributes:
        a: name of the class that is more often taken for the other one.
        b: name of the other.
        share: of the queries of both, in episodes that hold both, those of one that are taken for the other.
        a_as_b: the share of a's queries that are taken for b.
        b_as_a: the share of b's queries that are taken for a.
        meetings: episodes that hold both, or test images of either.
    """

    a: str
    b: str
    share: float
    a_as_b: float
    b_as_a: float
    meetings: int


@dataclass(frozen=True, eq=False)
class Confusion:
    """What a method takes for what.

    Attributes:
        names: of the classes, [C].
        pairs: the most confused ones, the largest share first.
        matrix: of the queries of the row's class, in episodes that hold the column's class too, the share that is taken
            for it; NaN on the diagonal and where two never meet, [C, C]. None for more than LARGEST_MATRIX classes.
    """

    names: Sequence[str]
    pairs: Sequence[ConfusedPair]
    matrix: NDArray[np.float64] | None

    @property
    def order(self) -> list[int]:
        """The classes in an order in which those that are confused with each other stand together (average linkage)."""
        if self.matrix is None or len(self.matrix) < 3:
            return list(range(len(self.names)))
        shares = np.nan_to_num(self.matrix)
        apart = 1 - (shares + shares.T) / 2
        np.fill_diagonal(apart, 0)
        found: list[int] = leaves_list(linkage(squareform(apart), "average", optimal_ordering=True)).tolist()
        return found


def confusion(store: OutcomeStore, cells: Sequence[Cell], names: Sequence[str]) -> Confusion | None:
    """Count what a method takes for what, over all stored episodes of all of its trainings.

    Args:
        store: where the outcomes are.
        cells: the trainings of a method on one protocol.
        names: of the classes, by number; classes without one are called by it.

    Returns:
        None where it is unknown: predictions or class sizes are not stored, or other episodes were drawn.

    Raises:
        OutcomeError: a part is damaged.
    """
    protocol, sizes = cells[0].protocol, next((cell.class_sizes for cell in cells if cell.class_sizes), ())
    if protocol.is_claimed or not sizes:
        return None
    frames = [store.read(cell) for cell in cells]
    if not all("predictions" in frame for frame in frames):
        return None
    try:
        return confusion_of(frames, protocol, sizes, names)
    except FewshotBenchError:
        return None


def confusion_of(
    frames: Sequence[pd.DataFrame], protocol: ProtocolCard, sizes: Sequence[int], names: Sequence[str]
) -> Confusion:
    """As `confusion`, from frames with the columns run, episode and predictions.

    Args:
        frames: of each training.
        protocol: that they share.
        sizes: images per class of the split, [C].
        names: of the classes.

    Raises:
        EpisodeError: the sizes are not those of a split that has such episodes.
    """
    count = len(sizes)
    confused, queries, meetings = (_Tally() for _ in range(3))
    for run, numbers, predictions in (chunk for frame in frames for chunk in _chunks(frame, protocol)):
        classes = episode_classes(protocol, sizes, run, numbers)
        if protocol.is_whole:
            true, predicted = classes[:, 0], predictions[:, 0].astype(np.int64)
            queries.add(true)
        else:
            truth, of_class = _truth(protocol, sizes, run, numbers, classes, predictions.shape[1])
            rows = np.arange(len(numbers))[:, None]
            is_there = truth < protocol.way
            true = classes[rows, np.where(is_there, truth, 0)][is_there]
            predicted = classes[rows, np.where(is_there, predictions, 0)][is_there]
            both = (classes[:, :, None] >= 0) & (classes[:, None, :] >= 0) & ~np.eye(classes.shape[1], dtype=bool)
            keys = (classes[:, :, None] * count + classes[:, None, :])[both]
            queries.add(keys, np.broadcast_to(of_class[:, :, None], both.shape)[both])
            meetings.add(keys)
        confused.add((true * count + predicted)[true != predicted])
    called = [names[number] if number < len(names) else f"class {number}" for number in range(count)]
    keys, wrong = confused.total()
    if protocol.is_whole:
        found, images = queries.total()
        of_class = np.zeros(count, dtype=np.int64)
        of_class[found] = images
        pairs = _whole_pairs(keys, wrong, of_class)
    else:
        pairs = _met_pairs((keys, wrong), queries.total(), meetings.total(), count)
    listed = pairs[(pairs["meetings"] >= FEWEST_MEETINGS) & (pairs["of_a"] + pairs["of_b"] > 0)]
    order = np.lexsort((listed["b"], listed["a"], -_share(listed)))[:MOST_PAIRS]
    matrix = _matrix(pairs, count) if count <= LARGEST_MATRIX else None
    return Confusion(called, [_named(row, called) for row in listed.iloc[order].to_dict("records")], matrix)


class _Tally:
    """Sums by key, kept small chunk by chunk."""

    def __init__(self) -> None:
        self.keys = self.sums = np.empty(0, dtype=np.int64)

    def add(self, keys: Counts, weights: Counts | None = None) -> None:
        """Add so many to each key, by default one."""
        if keys.max(initial=0) < _DENSE:  # ten times as fast as sorting
            found = np.flatnonzero(np.bincount(keys))  # also where all weights are 0
            sums = np.bincount(keys, weights).astype(np.int64)[found]
        else:
            found, place = np.unique(keys, return_inverse=True)
            sums = np.bincount(place.ravel(), weights, len(found)).astype(np.int64)
        every, place = np.unique(np.concatenate([self.keys, found]), return_inverse=True)
        both = np.concatenate([self.sums, sums])
        self.keys, self.sums = every, np.bincount(place.ravel(), both, len(every)).astype(np.int64)

    def total(self) -> tuple[Counts, Counts]:
        """The keys, ascending, and their sums."""
        return self.keys, self.sums


def _chunks(frame: pd.DataFrame, protocol: ProtocolCard) -> Iterator[tuple[int, Counts, NDArray[Any]]]:
    """Run, episode numbers [e] and predicted positions [e, M] of some episodes at a time."""
    queries = 1 if protocol.is_whole else protocol.way * protocol.query
    columns = queries if protocol.has_even_queries or protocol.is_whole else protocol.way * queries
    size = max(1, min(_CHUNK, MOST_DRAWN // 2) // max(columns + protocol.shot, protocol.way**2, 1))
    if protocol.is_whole:
        size = _CHUNK
    for run, rows in frame.groupby("run", sort=True):
        for start in range(0, len(rows), size):
            chunk = rows.iloc[start : start + size]
            positions = padded_positions(chunk["predictions"], protocol.way, queries)
            yield int(str(run)), chunk["episode"].to_numpy(np.int64), positions


def _truth(
    protocol: ProtocolCard, sizes: Sequence[int], run: int, numbers: Counts, classes: Counts, queries: int
) -> tuple[Counts, Counts]:
    """Position of the true class of each query, [e, M], N where an episode has fewer; queries per class, [e, N]."""
    if protocol.has_even_queries:
        of_class = np.where(classes >= 0, protocol.query, 0)
    else:
        ((_, images),) = draw_groups(Protocol.of(protocol), sizes, run, numbers)
        of_class = (images >= 0).sum(axis=2) - protocol.shot
    if protocol.has_even_queries and (classes >= 0).all():
        return np.broadcast_to(np.arange(queries) // protocol.query, (len(numbers), queries)), of_class
    ends = np.cumsum(of_class, axis=1)
    truth = (np.arange(queries)[None, :, None] >= ends[:, None, :]).sum(axis=2)
    return truth, of_class


def _met_pairs(
    confused: tuple[Counts, Counts], queries: tuple[Counts, Counts], meetings: tuple[Counts, Counts], count: int
) -> pd.DataFrame:
    """A row for each two classes that met, a < b: queries of either and those that are taken for the other."""
    met, of_pair = queries
    wrong = np.zeros(len(met), dtype=np.int64)
    wrong[np.searchsorted(met, confused[0])] = confused[1]
    first, second = np.divmod(met, count)
    is_ascending = first < second
    back = np.searchsorted(met, (second * count + first)[is_ascending])  # whoever meets is met
    return pd.DataFrame(
        {
            "a": first[is_ascending],
            "b": second[is_ascending],
            "a_as_b": wrong[is_ascending],
            "b_as_a": wrong[back],
            "of_a": of_pair[is_ascending],
            "of_b": of_pair[back],
            "meetings": meetings[1][is_ascending],
        }
    )


def _whole_pairs(keys: Counts, wrong: Counts, images: Counts) -> pd.DataFrame:
    """As `_met_pairs` for a whole split, where all classes meet: the pairs of which one is ever taken for the other."""
    count = len(images)
    first, second = np.divmod(keys, count)
    low, high = np.minimum(first, second), np.maximum(first, second)
    pairs, place = np.unique(low * count + high, return_inverse=True)
    a, b = np.divmod(pairs, count)
    sums = [np.bincount(place[is_so], wrong[is_so], len(pairs)) for is_so in (first < second, first > second)]
    a_as_b, b_as_a = (found.astype(np.int64) for found in sums)
    of = {"of_a": images[a], "of_b": images[b], "meetings": images[a] + images[b]}
    return pd.DataFrame({"a": a, "b": b, "a_as_b": a_as_b, "b_as_a": b_as_a, **of})


def _share(pairs: pd.DataFrame) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = ((pairs["a_as_b"] + pairs["b_as_a"]) / (pairs["of_a"] + pairs["of_b"])).to_numpy()
    return shares


def _named(row: dict[Any, Any], names: Sequence[str]) -> ConfusedPair:
    """The pair of a row, the class that is more often taken for the other one first."""
    shares = row["a_as_b"] / max(row["of_a"], 1), row["b_as_a"] / max(row["of_b"], 1)
    share = (row["a_as_b"] + row["b_as_a"]) / (row["of_a"] + row["of_b"])
    a, b = names[row["a"]], names[row["b"]]
    if shares[1] > shares[0]:
        a, b, shares = b, a, shares[::-1]
    return ConfusedPair(a, b, share, *shares, int(row["meetings"]))


def _matrix(pairs: pd.DataFrame, count: int) -> NDArray[np.float64]:
    matrix = np.full((count, count), np.nan)
    a, b = pairs["a"].to_numpy(), pairs["b"].to_numpy()
    with np.errstate(invalid="ignore"):
        matrix[a, b] = pairs["a_as_b"] / pairs["of_a"]
        matrix[b, a] = pairs["b_as_a"] / pairs["of_b"]
    return matrix
