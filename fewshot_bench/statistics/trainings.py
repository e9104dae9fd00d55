"""Several trainings of a method, which differ in their seed only: how far the next one may lie.

A training is a replicate: its mean accuracy on frozen episodes is one value, however many episodes there are. So an
interval over trainings has as many values as trainings, and with two or three of them it is wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics.intervals import mean_interval
from fewshot_bench.statistics.paired import paired_t_test
from fewshot_bench.statistics.welch import welch_from_summaries


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
        ShapeError: there is no training, or a mean is NaN or infinite.

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
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim == 0 or b.ndim == 0:
        return _against_given(a, b, confidence)
    first, second = _means(a), _means(b)
    if is_paired and len(first) != len(second):
        raise ShapeError(f"paired trainings must be as many of each method, not {len(first)} and {len(second)}.")
    if min(len(first), len(second)) < 2:
        return None
    if is_paired:
        paired = paired_t_test(first, second, confidence=confidence)
        ends = paired.ci_low, paired.ci_high
        return TrainingDifference(paired.mean_difference, *ends, paired.p, len(first), len(second), True)
    summaries = [(float(x.mean()), float(x.std(ddof=1)) if np.ptp(x) else 0.0, len(x)) for x in (first, second)]
    welch = welch_from_summaries(*summaries[0], *summaries[1], confidence)
    return TrainingDifference(welch.difference, welch.ci_low, welch.ci_high, welch.p, len(first), len(second), False)


def _against_given(a: NDArray[np.float64], b: NDArray[np.float64], confidence: float) -> TrainingDifference | None:
    """One method's trainings against a given network: Student's t-test of their mean."""
    count_a, count_b = (x.size if x.ndim else 0 for x in (a, b))
    trainings = max(count_a, count_b)
    if trainings < 2:
        return None
    first, second = (_means(np.broadcast_to(x, (trainings,))) for x in (a, b))
    test = paired_t_test(first, second, confidence)
    return TrainingDifference(test.mean_difference, test.ci_low, test.ci_high, test.p, count_a, count_b, False)


def _means(means: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(means, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ShapeError(f"trainings need one finite mean accuracy each, [k], not {np.asarray(means).tolist()}.")
    return values
