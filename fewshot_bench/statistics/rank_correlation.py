"""Spearman's rank correlation with a bootstrap interval over the pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

_LEAST = 4
_RESAMPLES = 9999


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of some pairs.

    Attributes:
        rho: the correlation; NaN where x or y does not vary.
        low: lower end of the 95% percentile interval over resampled pairs; NaN for fewer than four pairs.
        high: upper end.
        pairs: how many there are.
    """

    rho: float
    low: float
    high: float
    pairs: int


def rank_correlation(x: ArrayLike, y: ArrayLike, *, seed: int = 0, resamples: int = _RESAMPLES) -> RankCorrelation:
    """Spearman's rank correlation (1904), where equal values share their mean rank, with an interval by bootstrap.

    Resamples in which x or y does not vary are left out.

    Args:
        x: finite, [P].
        y: finite, [P].
        seed: of the resamples.
        resamples: how many.

    Raises:
        ValueError: x and y differ in length.

    >>> rank_correlation([1, 2, 3, 4], [10, 20, 30, 25]).rho
    0.8
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"x and y should be equally many numbers, not {list(a.shape)} and {list(b.shape)}.")
    rho = round(float(_rho(a[None], b[None])[0]), 12) if len(a) > 1 else math.nan
    if len(a) < _LEAST or math.isnan(rho):
        return RankCorrelation(rho, math.nan, math.nan, len(a))
    rows = np.random.default_rng(seed).integers(len(a), size=(resamples, len(a)))
    low, high = np.nanquantile(_rho(a[rows], b[rows]), [0.025, 0.975])
    return RankCorrelation(rho, float(low), float(high), len(a))


def _rho(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation of the ranks of each row, [R]; NaN where a side does not vary."""
    a, b = (rankdata(side, axis=1) - (side.shape[1] + 1) / 2 for side in (x, y))
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (a * b).sum(axis=1) / scale, np.nan)
