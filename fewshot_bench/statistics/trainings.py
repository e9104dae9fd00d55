"""Several trainings of a method, which differ in their seed only: how far the next one may lie.

A training is a replicate: its mean accuracy on frozen episodes is one value, however many episodes there are. So an
interval over trainings has as many values as trainings, and with two or three of them it is wide.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics.intervals import SMALLEST_P, mean_interval
from fewshot_bench.statistics.multiple import all_pairs
from fewshot_bench.statistics.paired import paired_t_test
from fewshot_bench.statistics.welch import welch_from_standard_errors


@dataclass(frozen=True)
class TrainingSpread:
    """The trainings of one method.

    Attributes:
        trainings: how many, k.
        mean: over the trainings.
        sd: standard deviation over the trainings, with k - 1 in the denominator; NaN for a single one.
        half_width: of Student's t interval of the mean over the trainings; NaN for a single one.
    """

    trainings: int
    mean: float
    sd: float
    half_width: float


@dataclass(frozen=True)
class TrainingDifference:
    """The difference of two methods over their trainings, A - B.

    Attributes:
        difference: of the means over the trainings.
        low: lower end of its interval over trainings.
        high: upper end.
        p: two-sided; NaN where no training of either method has any spread and they differ.
        trainings_a: how many A has; 0 of a network that is given.
        trainings_b: how many B has.
        is_paired: whether each training of A is the training of B with the same number.
    """

    difference: float
    low: float
    high: float
    p: float
    trainings_a: int
    trainings_b: int
    is_paired: bool


def training_spread(means: ArrayLike, confidence: float = 0.95) -> TrainingSpread:
    """The spread over the trainings of a method, and the interval that covers the mean over all its trainings.

    Args:
        means: mean accuracy of each training on the same episodes, [k].
        confidence: of the interval.

    Raises:
        ShapeError: no training is given, or a mean is NaN or infinite.

    >>> spread = training_spread([0.60, 0.62, 0.61])
    >>> round(spread.sd, 4), round(spread.half_width, 4)
    (0.01, 0.0248)
    """
    values = _means(means)
    interval = mean_interval(values, confidence)
    sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return TrainingSpread(len(values), interval.mean, sd, interval.half_width if len(values) > 1 else math.nan)


def training_difference(
    a: ArrayLike, b: ArrayLike, *, is_paired: bool = False, confidence: float = 0.95
) -> TrainingDifference | None:
    """Whether two methods differ over their trainings: Welch's test of the means, or a paired t-test.

    The episodes are the same for all trainings and taken as given, so their difficulty cancels, and the trainings of
    one method say nothing of those of the other: equal seeds of two methods give other networks, whatever they share.
    If they are positively correlated all the same, Welch's interval is too wide, never too narrow. Methods that use the
    same trained networks, such as two heads, are paired: there the network is common to each pair. A network that is
    given, such as one with published weights, has no trainings to spread: the others are tested against its mean.

    Args:
        a: mean accuracy of each training of A, [k]; a single number, without an axis, of a network that is given.
        b: the same of B, on the same episodes, [l].
        is_paired: whether a[i] and b[i] are of the same network.
        confidence: of the interval.

    Returns:
        None where a method has a single training, which shows no spread, or both networks are given.

    Raises:
        ShapeError: a method has no training, a mean is NaN or infinite, or pairs do not pair up.

    >>> result = training_difference([0.63, 0.65, 0.64], [0.60, 0.62, 0.61])
    >>> f"{result.difference:.2f}, {result.low:.3f} to {result.high:.3f}"
    '0.03, 0.007 to 0.053'
    >>> training_difference([0.63], [0.60, 0.62, 0.61]) is None
    True
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    count_a, count_b = (values.size if values.ndim else 0 for values in (first, second))
    if is_paired and count_a != count_b:
        raise ShapeError(f"paired trainings must be as many of each method, not {count_a} and {count_b}.")
    if 1 in (count_a, count_b) or not (count_a or count_b):
        return None
    if is_paired:
        paired = paired_t_test(_means(first), _means(second), confidence)
        ends = paired.ci_low, paired.ci_high
        return TrainingDifference(paired.mean_difference, *ends, paired.p, count_a, count_b, is_paired=True)
    welch = welch_from_standard_errors(*_summary(first), *_summary(second), confidence)
    ends = welch.ci_low, welch.ci_high
    return TrainingDifference(welch.difference, *ends, welch.p, count_a, count_b, is_paired=False)


def training_p_of_all_pairs(means: Sequence[ArrayLike], networks: Sequence[Hashable]) -> NDArray[np.float64]:
    """P of every pair of methods over their trainings; each is that of `training_difference`.

    Args:
        means: of each method, mean accuracy of each training, or a single number of a network that is given, [A].
        networks: of each method; those with equal ones use the same networks and are paired, [A].

    Returns:
        Two-sided p, not corrected, [A, A]; NaN where nothing is tested.

    >>> p = training_p_of_all_pairs([[0.63, 0.65, 0.64], [0.60, 0.62, 0.61]], networks=["conv4", "resnet12"])
    >>> p.round(3).tolist()
    [[1.0, 0.021], [0.021, 1.0]]
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in means]
    mean, error, df = (np.array(column) for column in zip(*map(_summary, arrays), strict=True))
    variance = np.where(df < 1, np.nan, error**2)
    difference, together = mean[:, None] - mean, variance[:, None] + variance
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (variance / together) ** 2 / df + ((variance / together) ** 2 / df).T
        t = np.abs(difference) / np.sqrt(together)
        p: NDArray[np.float64] = np.maximum(2 * stats.t.sf(t, 1 / shares), SMALLEST_P)
    p[together == 0] = np.where(difference[together == 0] == 0, 1.0, np.nan)
    is_given = np.isinf(df)
    p[is_given[:, None] & is_given] = np.nan
    rows_of: dict[Hashable, list[int]] = {}
    for row, values in enumerate(arrays):
        if values.size > 1:
            rows_of.setdefault(networks[row], []).append(row)
    for rows in rows_of.values():
        if len(rows) > 1:
            p[np.ix_(rows, rows)] = all_pairs(np.stack([arrays[row] for row in rows])).p
    return p


def _summary(means: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean, its standard error over trainings and the degrees of freedom of that; a given network has no error."""
    if means.ndim == 0:
        return float(means), 0.0, math.inf
    values = _means(means)
    count = len(values)
    spread = float(values.std(ddof=1)) / math.sqrt(count) if np.ptp(values) else 0.0
    return float(values.mean()), spread, count - 1.0


def _means(means: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(means, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ShapeError(f"trainings need one finite mean accuracy each, [k], not {np.asarray(means).tolist()}.")
    return values
