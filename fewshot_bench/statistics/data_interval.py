"""The interval of a mean over episodes that also covers which classes and images the split happened to hold.

Episodes that share a class share its images, so they are not independent draws of the population that the split came
from. How much of their variation they have in common is seen in pairs of episodes: the more classes two of them share,
the more alike they are. A line through the products of centred values against the share in common gives the variance
of the mean (docs/data-interval.md derives it).

The mean over all episodes that a split allows is a U-statistic in its classes (Hoeffding, 1948), and the slope of the
line is what Efron and Stein's (1981) jackknife estimates by leaving one class out, without the noise of drawing only
some of the episodes. Wang and Lindsay (2014) take the pairs without a common class alone, which needs 2 N <= C. That
estimate is unbiased where the line's is slightly too wide; in the simulation its intervals cover less than they should.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, stats

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics.intervals import Interval

ABSENT = -1
"""What fills the places of a class that an episode does not have."""

LEAST_FREEDOM = 4.0
"""Degrees of freedom that subtracting the episodes' noise leaves at least."""


@dataclass(frozen=True)
class _Overlap:
    """What pairs of different episodes have in common, by their classes.

    The share u of two episodes is the number of their common classes over the product of their ways.

    Attributes:
        membership: 1 / way where the episode has the class, else 0, [E, C] of the classes seen.
        squares: sum over the classes of a membership squared, [E].
        mean: mean of u over pairs of episodes.
        spread: sum of the squared deviations of u; 0 where every pair shares alike.
        pairs: ordered pairs of different episodes.
    """

    membership: sparse.csr_matrix
    squares: NDArray[np.float64]
    mean: float
    spread: float
    pairs: float


def data_interval(
    values: ArrayLike, classes: ArrayLike, confidence: float = 0.95, class_count: int | None = None
) -> Interval:
    """Interval of a mean over episodes, as an estimate for other classes and images of the same kind.

    It is never narrower than Student's t interval over the episodes, which covers their drawing alone.

    Args:
        values: one per episode, accuracies or paired differences, [E].
        classes: class numbers of each episode, [E, N]; -1 fills up where the way varies.
        confidence: between 0 and 1.
        class_count: classes of the split; only checks that no number is beyond it.

    Returns:
        The mean and its interval. The half-width is NaN where the episodes cannot tell how much classes differ: there
        is one episode, or all pairs of episodes have the same share of classes in common, as where N = C.

    Raises:
        ShapeError: there is no episode, the arrays do not fit each other, values are NaN or infinite, an episode has no
            class or one of them twice.
    """
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1:
        raise ShapeError(f"a mean over episodes needs values [E], not {list(row.shape)}.")
    (half_width,) = data_half_widths(row[None], classes, confidence, class_count)
    return Interval(float(row.mean()), float(half_width))


def data_half_widths(
    values: ArrayLike, classes: ArrayLike, confidence: float = 0.95, class_count: int | None = None
) -> NDArray[np.float64]:
    """Half-widths of `data_interval` for several rows of values on the same episodes.

    Args:
        values: one per row and episode, [A, E].
        classes: class numbers of each episode, [E, N]; -1 fills up where the way varies.
        confidence: between 0 and 1.
        class_count: classes of the split; only checks that no number is beyond it.

    Returns:
        Half-widths, [A]; all NaN where the episodes cannot tell how much classes differ.

    Raises:
        ShapeError: as `data_interval`.
    """
    rows, labels = _checked(values, classes, class_count)
    episodes = rows.shape[1]
    overlap = _overlap(labels)
    if overlap is None:
        return np.full(len(rows), math.nan)
    centred = np.ascontiguousarray((rows - rows[:, :1]).T)  # equal values become exact zeros
    centred -= centred.mean(axis=0)
    task = np.einsum("ea,ea->a", centred, centred) / (episodes - 1) / episodes
    class_sums = np.asarray(overlap.membership.T @ centred)
    shared = (class_sums**2).sum(axis=0) - overlap.squares @ centred**2
    # Centred values add up to nothing, so the mean product of a pair is -task.
    slope = (shared + overlap.pairs * overlap.mean * task) / overlap.spread
    unit = np.maximum(slope * overlap.mean, 0)
    total = unit + task
    effects = class_sums / np.asarray(overlap.membership.sum(axis=0)).reshape(-1, 1)
    freedom = _freedom(effects, total, (class_sums**2).sum(axis=0) * overlap.mean / overlap.spread)
    quantile = stats.t.ppf((1 + confidence) / 2, np.minimum(freedom, episodes - 1))
    return np.asarray(quantile * np.sqrt(total), dtype=np.float64)


def _overlap(labels: NDArray[np.int64]) -> _Overlap | None:
    """What the pairs have in common; None where all of them share alike."""
    episodes = len(labels)
    present = labels != ABSENT
    ways = present.sum(axis=1)
    numbers = labels[present]
    seen = np.bincount(numbers) > 0
    columns = (np.cumsum(seen) - 1)[numbers]  # numpy.unique would sort them all
    starts = np.concatenate([[0], np.cumsum(ways)])
    membership = sparse.csr_matrix((np.repeat(1 / ways, ways), columns, starts), shape=(episodes, int(seen.sum())))
    pairs = float(episodes) * (episodes - 1)
    if not pairs:
        return None
    squares = 1 / ways
    together = membership.T @ membership
    mean = (float((np.asarray(membership.sum(axis=0)) ** 2).sum()) - float(squares.sum())) / pairs
    square_sum = float((together.data**2).sum()) - float((squares**2).sum())
    spread = square_sum - pairs * mean**2
    if spread <= 1e-9 * square_sum:
        return None
    return _Overlap(membership, squares, mean, spread, pairs)


def _freedom(
    effects: NDArray[np.float64], total: NDArray[np.float64], between: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Degrees of freedom of the total variance, [A].

    The total is what lies between classes, less what the drawing of episodes adds to that. The difference has the
    error of its minuend, so freedom shrinks with the share that is left, down to a floor. Satterthwaite (1946) would
    take the share squared; where little is left that gives quantiles beyond use.

    Args:
        effects: of C classes, [C, A].
        total: variance of the mean, [A].
        between: the same before subtraction, [A].
    """
    of_classes = _variance_freedom(effects)
    left = np.divide(total, between, out=np.ones_like(total), where=between > total)
    return np.maximum(of_classes * left, np.minimum(of_classes, LEAST_FREEDOM))


def _variance_freedom(effects: NDArray[np.float64]) -> NDArray[np.float64]:
    """Degrees of freedom of the variance of C effects, [C, A] -> [A].

    C - 1 for normal ones, and fewer where the tails are heavier, since the variance then depends on a few classes
    (O'Neill, 2014): 2 / (excess / C + 2 / (C - 1)). Lighter tails count as normal.
    """
    count = len(effects)
    if count < 4:
        return np.full(effects.shape[1], float(max(count - 1, 1)))
    squares = (effects - effects.mean(axis=0)) ** 2
    second, fourth = squares.mean(axis=0), (squares**2).mean(axis=0)
    biased = np.divide(fourth, second**2, out=np.full_like(second, 3.0), where=second**2 > 0) - 3
    excess = (count - 1) / ((count - 2) * (count - 3)) * ((count + 1) * biased + 6)
    return np.asarray(2 / (np.maximum(excess, 0) / count + 2 / (count - 1)))


def _checked(
    values: ArrayLike, classes: ArrayLike, class_count: int | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rows, given = np.asarray(values, dtype=np.float64), np.asarray(classes)
    if rows.ndim != 2 or not rows.shape[1]:
        raise ShapeError(f"means over episodes need values [A, E] of at least one episode, not {list(rows.shape)}.")
    if given.ndim != 2 or len(given) != rows.shape[1] or not np.issubdtype(given.dtype, np.integer):
        raise ShapeError(
            f"{rows.shape[1]} values need class numbers [{rows.shape[1]}, N], not {given.dtype} {list(given.shape)}."
        )
    if not np.isfinite(rows).all():
        raise ShapeError("values of episodes must be finite numbers; some are NaN or infinite.")
    labels = given.astype(np.int64)
    ordered = np.sort(labels, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != ABSENT)).any():
        raise ShapeError("the classes of an episode must differ; some episode has one of them twice.")
    if given.shape[1] == 0 or (ordered[:, -1] == ABSENT).any():
        raise ShapeError("every episode needs a class; some episode has none.")
    if ordered.min() < ABSENT or (class_count is not None and ordered.max() >= class_count):
        limit = "" if class_count is None else f" to {class_count - 1}"
        raise ShapeError(
            f"class numbers go from 0{limit}, with -1 where there is none, not {ordered.min()} to {ordered.max()}."
        )
    return rows, labels
