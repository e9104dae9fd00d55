"""Many methods on the same episodes: the paired t-test of every pair, from one covariance matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.statistics.arrays import ROUNDING, SMALLEST_P
from fewshot_bench.statistics.corrections import Correction, corrected
from fewshot_bench.statistics.paired import p_of_equal_differences, paired_t_test

# The covariance matrix gives the variance of a difference as what is left of two larger numbers. Where less than a
# hundred-thousandth is left, or next to nothing of the values themselves, the differences are looked at one by one.
LITTLE_LEFT = 1e-5
NEXT_TO_NOTHING = 1e-10


@dataclass(frozen=True, eq=False)
class PairMatrix:
    """Every pair of methods; entry [i, j] is about method i minus method j.

    Attributes:
        episodes: how many all methods have in common.
        mean_differences: [A, A].
        standard_errors: of the mean differences, [A, A].
        t: [A, A]; infinite where all differences are the same and not 0.
        p: two-sided, not corrected, [A, A]; 1 on the diagonal.
    """

    episodes: int
    mean_differences: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    t: NDArray[np.float64]
    p: NDArray[np.float64]

    def corrected(self, method: Correction = "holm") -> NDArray[np.float64]:
        """Correct p for the A (A - 1) / 2 pairs, [A, A]; 1 on the diagonal."""
        upper = np.triu_indices(len(self.p), 1)
        result = np.ones_like(self.p)
        result[upper] = corrected(self.p[upper], method)
        result.T[upper] = result[upper]
        return result

    def half_widths(self, confidence: float = 0.95) -> NDArray[np.float64]:
        """Half-widths of Student's t intervals of the mean differences, not corrected, [A, A]."""
        quantile = stats.t.ppf((1 + confidence) / 2, self.episodes - 1)
        half_widths: NDArray[np.float64] = quantile * self.standard_errors
        return half_widths


def all_pairs(values: ArrayLike) -> PairMatrix:
    """Paired t-tests of all pairs of methods; each agrees with `paired_t_test`.

    Args:
        values: accuracies of A methods on the same episodes in the same order, [A, E].

    Raises:
        ShapeError: the values are not [A, E], or hold NaN.
        ComparisonError: there are fewer than two episodes.
    """
    accuracies = _checked(values)
    episodes = accuracies.shape[1]
    means = accuracies.mean(axis=1)
    differences = means[:, None] - means[None, :]
    covariance = np.atleast_2d(np.cov(accuracies))
    own = np.diag(covariance)
    variances = own[:, None] + own[None, :] - 2 * covariance
    little = LITTLE_LEFT * (own[:, None] + own[None, :]) + (NEXT_TO_NOTHING * np.abs(accuracies).max()) ** 2
    _look_closer(accuracies, differences, variances, little)
    errors = np.sqrt(variances / episodes)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(differences == 0, 0.0, differences / errors)
    p = np.where(np.isinf(t), p_of_equal_differences(episodes), 2 * stats.t.sf(np.abs(t), episodes - 1))
    return PairMatrix(episodes, differences, errors, t, np.maximum(p, SMALLEST_P))


def pairs_with_gaps(values: ArrayLike) -> NDArray[np.float64]:
    """P of the paired t-test of every pair of methods that do not all have the same episodes.

    Args:
        values: accuracies, NaN where a method lacks an episode, [A, E]. Each pair is tested on the episodes that both
            have, from sums over them that are matrix products too.

    Returns:
        Two-sided p, not corrected, [A, A]; 1 on the diagonal, NaN where two methods share fewer than two episodes.

    Raises:
        ShapeError: the values are not [A, E], or infinite.
    """
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 2 or np.isinf(given).any():
        raise ShapeError(f"a comparison of many methods needs finite accuracies [A, E], not {list(given.shape)}.")
    there = ~np.isnan(given)
    center = given[there].mean() if there.any() else 0.0
    filled, mask = np.where(there, given - center, 0.0), there.astype(np.float64)
    count, sums, squares = mask @ mask.T, filled @ mask.T, filled**2 @ mask.T
    with np.errstate(divide="ignore", invalid="ignore"):
        differences = (sums - sums.T) / count
        spread = squares + squares.T - 2 * filled @ filled.T - count * differences**2
        t = differences / np.sqrt(np.maximum(spread, 0) / (count - 1) / count)
        p = np.maximum(2 * stats.t.sf(np.abs(t), count - 1), SMALLEST_P)
    p[count < 2] = np.nan
    # What is left of larger numbers is looked at itself where little is left, as in `all_pairs`.
    for i, j in zip(*np.nonzero(np.triu(spread <= LITTLE_LEFT * (squares + squares.T), 1)), strict=True):
        both = there[i] & there[j]
        if both.sum() > 1:
            p[i, j] = p[j, i] = paired_t_test(given[i, both], given[j, both]).p
    np.fill_diagonal(p, 1.0)
    return np.asarray(p)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    accuracies = np.asarray(values, dtype=np.float64)
    if accuracies.ndim != 2 or not len(accuracies):
        raise ShapeError(f"a comparison of many methods needs accuracies [A, E], not {list(accuracies.shape)}.")
    if not np.isfinite(accuracies).all():
        raise ShapeError("paired values must be finite numbers; some are NaN or infinite.")
    if accuracies.shape[1] < 2:
        raise ComparisonError(f"a paired t-test needs two episodes or more; there are {accuracies.shape[1]} in common.")
    return accuracies


def _look_closer(
    accuracies: NDArray[np.float64],
    differences: NDArray[np.float64],
    variances: NDArray[np.float64],
    little: NDArray[np.float64],
) -> None:
    """Compute mean and variance of the difference directly where the covariance matrix is not precise enough."""
    scales = np.abs(accuracies).max(axis=1)
    for i, row in enumerate(accuracies):
        close = i + 1 + np.flatnonzero(variances[i, i + 1 :] <= little[i, i + 1 :])
        if len(close):
            pairwise = row - accuracies[close]
            constant = np.ptp(pairwise, axis=1) <= ROUNDING * np.maximum(scales[i], scales[close])
            mean = pairwise.mean(axis=1)
            differences[i, close], differences[close, i] = mean, 0.0 - mean
            variances[i, close] = variances[close, i] = np.where(constant, 0.0, pairwise.var(axis=1, ddof=1))
    np.fill_diagonal(variances, 0.0)
