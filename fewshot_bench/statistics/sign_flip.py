"""The sign-flip permutation test, exactly: if two methods are alike, any difference could have had the other sign.

Accuracies are whole numbers of correct queries, so the differences are whole numbers of some unit, and under the
hypothesis their sum has a distribution on whole numbers. Its characteristic function is a product of cosines, one
for each distinct size of difference; a Fourier transform turns it into probabilities (Pagano & Tritchler, 1983).

The distribution is first tilted so that its mean is the observed sum (Esscher, 1932), and tilted back afterwards: the
tail is then right in its leading digits even at p = 1e-200, where a plain transform gives rounding errors of 1e-16.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, optimize

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics.intervals import ROUNDING, SMALLEST_P

# How far the grid reaches to either side of the observed sum, in standard deviations of the sum. What lies further out
# falls on a wrong point of the grid; by Hoeffding's inequality that is less than 2 exp(-12^2 / 2) = 1e-31.
STANDARD_DEVIATIONS = 12
# A point where the characteristic function is below exp(-50) = 2e-22 is left out of the remaining products.
NEGLIGIBLE = -50.0
# The largest difference in units that still counts as a unit of its own.
MOST_UNITS = 1 << 16
# Differences without a unit are rounded to one that makes the grid this long: the sum of 9,000 of them moves by some
# 0.1% of its standard deviation, where 9,999 random sign flips leave p = 0.05 uncertain by 4%.
POINTS_WITHOUT_UNIT = 1 << 18
# A unit so fine that the grid would be longer than this, a minute and a gigabyte, counts as none.
MOST_POINTS = 1 << 23
# So few pairs need no rounding: all 2^n signs are 4,096 sums.
ENUMERATED_PAIRS = 12


def sign_flip_p(differences: ArrayLike, unit: float | None = None) -> float:
    """Two-sided p of a sum of differences, over all 2^E ways to choose their signs.

    Args:
        differences: of two methods on the same episodes, [E].
        unit: what all of them are multiples of; None: find out. Without a unit (`common_unit`), 12 differences or fewer
            are enumerated, and more are rounded to a unit of a small part of their size.

    Returns:
        The probability, never 0; 1 where all differences are 0.

    Raises:
        ShapeError: the differences are not [E] finite numbers.

    >>> sign_flip_p([1, 2, 3]), sign_flip_p([1, -1])
    (0.25, 1.0)
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ShapeError(f"a sign-flip test needs finite differences [E], not {list(values.shape)}.")
    if not values.any():
        return 1.0
    unit = unit or common_unit(values)
    reach = STANDARD_DEVIATIONS * float(np.linalg.norm(values))
    if unit is None and np.count_nonzero(values) <= ENUMERATED_PAIRS:
        return _enumerated_p(values[values != 0])
    if unit is None or reach > MOST_POINTS * unit:
        unit = reach / POINTS_WITHOUT_UNIT
    return whole_sign_flip_p(np.rint(values / unit).astype(np.int64))


def common_unit(differences: ArrayLike, rounding: float = 0.0) -> float | None:
    """The largest number that all differences are multiples of, by Euclid's algorithm.

    Args:
        differences: [E].
        rounding: how far the values may be from exact multiples, beside a billionth of the largest.

    Returns:
        The unit; None if the largest difference exceeds 65,536 units for every unit, or all differences are 0.
    """
    sizes = np.unique(np.abs(np.asarray(differences, dtype=np.float64)))
    largest = float(sizes[-1]) if len(sizes) else 0.0
    tolerance = 1e-9 * largest + rounding
    unit = 0.0
    for size in sizes[sizes > tolerance].tolist():
        unit = _greatest_common_divisor(size, unit, tolerance)
        if largest > MOST_UNITS * unit:
            return None
    return unit or None


def _greatest_common_divisor(a: float, b: float, tolerance: float) -> float:
    while b > tolerance:
        a, b = b, abs(a - round(a / b) * b)
    return a


def _enumerated_p(differences: NDArray[np.float64]) -> float:
    """Every sign of a handful of differences."""
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(differences))))
    sums = np.abs(signs @ differences)
    return float((sums >= sums[0] * (1 - ROUNDING)).mean())


def whole_sign_flip_p(differences: NDArray[np.int64]) -> float:
    """Two-sided p of a sum of whole differences, [E], over all 2^E ways to choose their signs; never 0."""
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if not len(sizes) or not differences.sum():
        return 1.0
    divisor = int(np.gcd.reduce(sizes))
    sizes = sizes // divisor
    observed, total = abs(int(differences.sum())) // divisor, int(sizes @ counts)
    if observed == total:
        return max(2.0 ** (1 - int(counts.sum())), SMALLEST_P)
    return min(max(2 * math.exp(_log_upper_tail(sizes, counts, observed)), SMALLEST_P), 1.0)


def _log_upper_tail(sizes: NDArray[np.int64], counts: NDArray[np.int64], observed: int) -> float:
    """Logarithm of the probability that the sum of all sizes with random signs is at least the observed one."""
    tilt = _tilt(sizes, counts, observed)
    log_moment = float(counts @ _log_cosh(tilt * sizes.astype(np.float64)))
    steps = _tilted_probabilities(sizes, counts, observed, tilt)  # of a sum of observed + 2 j, for j = 0, 1, ...
    return log_moment - tilt * observed + math.log(steps @ np.exp(-2 * tilt * np.arange(len(steps))))


def _tilt(sizes: NDArray[np.int64], counts: NDArray[np.int64], observed: int) -> float:
    """The tilt under which the mean of the sum is the observed one: the root of a function that rises from below 0."""

    def excess(tilt: float) -> float:
        return float((counts * sizes) @ np.tanh(tilt * sizes)) - observed

    upper = 1.0 / float(sizes.max())
    while excess(upper) < 0:
        upper *= 2
    return float(optimize.brentq(excess, 0.0, upper))


def _tilted_probabilities(
    sizes: NDArray[np.int64], counts: NDArray[np.int64], observed: int, tilt: float
) -> NDArray[np.float64]:
    """Probabilities of the tilted sum being the observed one, two more, four more, ..."""
    total = int(sizes @ counts)
    deviation = math.sqrt(float(counts @ np.square(sizes, dtype=np.float64)))
    # Sums differ by 2, so that as many points as standard deviations reach as far to either side.
    points = fft.next_fast_len(min(total + 1, math.ceil(STANDARD_DEVIATIONS * deviation) + 1), real=True)
    frequencies = 2 * np.pi * np.arange(points // 2 + 1) / points
    # The characteristic function of (sum - observed) / 2, factor by factor; the frequent sizes first, since they
    # soon leave few frequencies.
    log_size, angle = np.zeros(len(frequencies)), -frequencies * (observed / 2)
    alive = np.arange(len(frequencies))
    for index in np.argsort(-counts, kind="stable"):
        half, slope = frequencies[alive] * (sizes[index] / 2), math.tanh(tilt * sizes[index])
        sine, cosine = np.sin(half), np.cos(half)
        with np.errstate(divide="ignore"):
            log_size[alive] += counts[index] / 2 * np.log(cosine**2 + (slope * sine) ** 2)
        angle[alive] += counts[index] * np.arctan2(slope * sine, cosine)
        alive = alive[log_size[alive] > NEGLIGIBLE]
    transform = np.zeros(len(frequencies), dtype=np.complex128)
    transform[alive] = np.exp(log_size[alive] - 1j * angle[alive])
    probabilities: NDArray[np.float64] = fft.irfft(transform, points)
    return probabilities[: min((points - 1) // 2, (total - observed) // 2) + 1].clip(min=0)


def _log_cosh(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x + np.log1p(np.exp(-2 * x)) - math.log(2)
