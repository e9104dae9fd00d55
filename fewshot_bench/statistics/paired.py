"""Two methods on the same episodes: the paired t-test, with the mean difference and its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench.errors import ComparisonError, ShapeError


@dataclass(frozen=True)
class PairedTest:
    """Student's t-test of the differences between paired values.

    Attributes:
        n: number of pairs.
        mean_difference: mean of a - b.
        ci_low: lower end of the interval of the mean difference.
        ci_high: upper end.
        t: the statistic; infinite where all differences are the same and not 0.
        p: two-sided probability of a statistic at least as extreme if there were no difference.
        sd_difference: standard deviation of a - b.
        wins: pairs with a > b.
        losses: pairs with a < b.
        ties: pairs with a = b.
    """

    n: int
    mean_difference: float
    ci_low: float
    ci_high: float
    t: float
    p: float
    sd_difference: float
    wins: int
    losses: int
    ties: int


def paired_t_test(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> PairedTest:
    """Test whether a and b differ in the mean.

    Args:
        a: accuracies of one method, [E].
        b: accuracies of the other on the same episodes in the same order, [E].
        confidence: of the interval, between 0 and 1.

    Raises:
        ShapeError: the arrays do not pair up, or hold NaN.
        ComparisonError: there are fewer than two pairs.
    """
    first, second = _paired(a, b)
    difference = first - second
    wins, losses = int((first > second).sum()), int((first < second).sum())
    counts = {"wins": wins, "losses": losses, "ties": len(difference) - wins - losses}
    mean = float(difference.mean())
    if _is_constant(difference, first, second):
        # SciPy answers 0 / 0 with NaN, and rounding errors that differ with an enormous t and a warning.
        mean = 0.0 if wins == losses == 0 else mean
        t, p = (math.copysign(math.inf, mean), 0.0) if mean else (0.0, 1.0)
        return PairedTest(len(difference), mean, mean, mean, t, p, 0.0, **counts)
    test = stats.ttest_rel(first, second)
    interval = test.confidence_interval(confidence)
    return PairedTest(
        n=len(difference),
        mean_difference=mean,
        ci_low=float(interval.low),
        ci_high=float(interval.high),
        t=float(test.statistic),
        p=float(test.pvalue),
        sd_difference=float(difference.std(ddof=1)),
        **counts,
    )


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ShapeError(f"paired values must be two arrays [E], not {list(first.shape)} and {list(second.shape)}.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ShapeError("paired values must be finite numbers; some are NaN or infinite.")
    if len(first) < 2:
        raise ComparisonError(f"a paired t-test needs two episodes or more; there are {len(first)} in common.")
    return first, second


def _is_constant(difference: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether the differences vary by no more than the rounding of the values themselves."""
    scale = max(float(np.abs(first).max()), float(np.abs(second).max()))
    return bool(np.ptp(difference) <= 64 * np.finfo(np.float64).eps * scale)
