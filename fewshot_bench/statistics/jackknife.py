"""The interval of a number from the same number without each group in turn.

It is for numbers that are not means over groups: a spectrum, the area under a curve, the distance between classes. A
bootstrap over classes would draw a class twice, and two copies are neither one class nor two different ones: every
image then has a twin in "another" class, ranks fall, and nearest neighbours are at distance 0. Leaving groups out never
does that.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics.intervals import require_probability

FEWEST_GROUPS = 3


def jackknife_interval(
    value: float,
    replicates: ArrayLike,
    group_sizes: ArrayLike,
    *,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """Interval of a number from its delete-a-group jackknife (Busing, Meijer & van der Leeden, 1999).

    Groups may differ in size; with equal sizes the variance is the usual (G - 1) / G * sum of squared deviations. The
    quantile is Student's with G - 1 degrees of freedom. The interval of a bounded number is computed on a scale
    without bounds (logarithm for one bound, logit for two), so that its ends stay inside.

    Args:
        value: the number of all groups.
        replicates: the number without each group, [G].
        group_sizes: how many units (classes) each group has, [G].
        confidence: between 0 and 1.
        bounds: the range of the number.

    Returns:
        Lower and upper end; NaN with fewer than three groups or where a replicate does not exist.

    Raises:
        ShapeError: replicates and group sizes differ in number.

    >>> low, high = jackknife_interval(2.0, [2.5, 2.0, 1.5], [1, 1, 1])  # the mean of 1, 2 and 3
    >>> f"{low:.3f} to {high:.3f}"
    '-0.484 to 4.484'
    """
    require_probability(confidence=confidence)
    left_out, sizes = np.asarray(replicates, dtype=np.float64), np.asarray(group_sizes, dtype=np.float64)
    if left_out.ndim != 1 or left_out.shape != sizes.shape:
        raise ShapeError(f"a jackknife needs one replicate per group; there are {left_out.size} for {sizes.size}.")
    if len(sizes) < FEWEST_GROUPS or not (np.isfinite(left_out).all() and math.isfinite(value)):
        return math.nan, math.nan
    inner = np.append(left_out, value)
    is_inside = bool(((inner > bounds[0]) & (inner < bounds[1])).all())
    scaled = _without_bounds(inner, bounds) if is_inside else inner
    error = _standard_error(float(scaled[-1]), scaled[:-1], sizes / sizes.sum())
    reach = float(stats.t.ppf((1 + confidence) / 2, len(sizes) - 1)) * error
    ends = np.array([scaled[-1] - reach, scaled[-1] + reach])
    low, high = _with_bounds(ends, bounds) if is_inside else np.clip(ends, *bounds)
    return float(low), float(high)


def _standard_error(value: float, left_out: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    """Root of the jackknife's variance; shares of the units in each group, [G].

    Written in differences from the value, so that equal replicates give exactly 0.
    """
    differences = value - left_out
    deviations = (1 / shares - 1) * differences - float(((1 - shares) * differences).sum())
    return math.sqrt(float((shares / (1 - shares) * deviations**2).mean()))


def _without_bounds(values: NDArray[np.float64], bounds: tuple[float, float]) -> NDArray[np.float64]:
    low, high = bounds
    above: NDArray[np.float64] = np.log(values - low) if math.isfinite(low) else np.zeros_like(values)
    if not math.isfinite(high):
        return above if math.isfinite(low) else values
    return above - np.log(high - values)


def _with_bounds(values: NDArray[np.float64], bounds: tuple[float, float]) -> NDArray[np.float64]:
    low, high = bounds
    if math.isfinite(low) and math.isfinite(high):
        return low + (high - low) / (1 + np.exp(-values))
    if math.isfinite(low):
        return low + np.exp(values)
    return high - np.exp(-values) if math.isfinite(high) else values
