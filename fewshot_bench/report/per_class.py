"""What each class contributes to a difference, and whether few of them carry it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fewshot_bench.datasets.official_splits import official_class_sizes
from fewshot_bench.report.scores import TaskScores

_FEW = 6
"""Few classes carry a difference where fewer than one in so many would, if all of these contributed alike."""
_OFFICIAL = ("cifar-fs", "fc100", "mini-imagenet", "tiered-imagenet")


@dataclass(frozen=True, eq=False)
class ClassDifferences:
    """Two methods class by class; the mean over the places of classes in episodes is the difference of the methods.

    Attributes:
        names: of the classes that occur, [C].
        accuracy_a: of A on the queries of each class (as a fraction), [C].
        accuracy_b: of B, [C].
        half_widths: of the 95% t intervals of the differences over the episodes that have the class, [C].
        episodes: how many episodes have the class, [C].
    """

    names: Sequence[str]
    accuracy_a: NDArray[np.float64]
    accuracy_b: NDArray[np.float64]
    half_widths: NDArray[np.float64]
    episodes: NDArray[np.int64]

    @property
    def differences(self) -> NDArray[np.float64]:
        """A - B, [C]."""
        return self.accuracy_a - self.accuracy_b

    @property
    def effective_number(self) -> float:
        """As many classes with equal differences would be as uneven: (sum of d^2)^2 / (sum of d^4); NaN without any."""
        squares = self.differences**2
        return float(squares.sum() ** 2 / (squares**2).sum()) if squares.any() else math.nan

    @property
    def order(self) -> NDArray[np.int64]:
        """Positions of the classes, the largest differences first."""
        return np.argsort(-np.abs(self.differences), kind="stable")

    @property
    def carrying(self) -> list[int]:
        """Positions of the few classes that carry the difference, the largest first; empty where many do."""
        count = self.effective_number
        if not count < len(self.names) / _FEW:
            return []
        return [int(position) for position in self.order[: math.ceil(count)]]

    @property
    def warning(self) -> str:
        """Which few classes carry the difference, and what that means; empty where many do."""
        few = self.carrying
        if not few:
            return ""
        named = ", ".join(f"{self.names[one]} {100 * self.differences[one]:+.1f}" for one in few)
        return (
            f"{len(few)} of {len(self.names)} classes carry{'s' if len(few) == 1 else ''} most of this difference "
            f"({named} points); with so few, intervals over classes cover less than they say"
        )


def class_differences(scores: TaskScores, a: int, b: int) -> ClassDifferences | None:
    """Compare two methods class by class, on the episodes that both have.

    Args:
        scores: of the methods, with what they did on each class.
        a: position of one.
        b: position of the other.

    Returns:
        None where the classes or what was done on each of them is unknown.
    """
    both = scores.pair(a, b)
    if scores.classes is None or scores.class_accuracy is None or not both.any():
        return None
    labels = scores.classes[both]
    present = labels >= 0
    numbers, member = np.unique(labels[present], return_inverse=True)
    episodes = np.bincount(member)
    first, second = (scores.class_accuracy[row, both].astype(np.float64)[present] for row in (a, b))
    difference = first - second
    mean = np.bincount(member, difference) / episodes
    squares = np.bincount(member, (difference - mean[member]) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        half_widths = stats.t.ppf(0.975, episodes - 1) * np.sqrt(squares / (episodes - 1) / episodes)
    names = class_names_of(scores)
    return ClassDifferences(
        [names[number] if number < len(names) else f"class {number}" for number in numbers.tolist()],
        np.bincount(member, first) / episodes,
        np.bincount(member, second) / episodes,
        half_widths,
        episodes,
    )


def class_names_of(scores: TaskScores) -> Sequence[str]:
    """Names of the classes by number, [C]: as recorded, or those of the official split; empty where unknown."""
    if scores.protocol.is_claimed:
        return scores.claims.names
    for cell in scores.cells:
        if cell.class_names and len(cell.class_names) == len(cell.class_sizes):
            return cell.class_names
    card = scores.protocol
    if card.dataset not in _OFFICIAL:
        return ()
    official = {str(split): sizes for split, sizes in official_class_sizes(card.dataset).items()}.get(card.split, {})
    recorded = {cell.class_sizes for cell in scores.cells if cell.class_sizes}
    return tuple(official) if recorded == {tuple(official.values())} else ()
