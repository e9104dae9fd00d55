"""How evenly embeddings fill their space: isotropy score, IsoScore, participation ratio, RankMe."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.embeddings.embedded_classes import EmbeddedClasses

VARIANTS = ("raw", "centred", "l2", "cl2")
"""Embeddings as they are, minus their mean, L2-normalised, and minus their mean and then L2-normalised."""

NO_VARIANCE = 1e-13
"""Share of the second moment that rounding to single precision leaves of a variance that is not there."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, sum [D] and second moment [D, D] of rows, in double precision."""

    count: int
    total: NDArray[np.float64]
    second: NDArray[np.float64]

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.count - other.count, self.total - other.total, self.second - other.second)

    @property
    def mean(self) -> NDArray[np.float64]:
        """[D]."""
        return self.total / self.count

    @property
    def scatter(self) -> NDArray[np.float64]:
        """Second moment around the mean, [D, D]."""
        return self.second - np.outer(self.total, self.mean)


def features(rows: NDArray[np.float32], variant: str, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """A block of rows in one of the variants, [B, D]; a row that equals the mean stays zero."""
    values = rows.astype(np.float64)
    if variant in ("centred", "cl2"):
        values -= mean
    if variant in ("l2", "cl2"):
        norms = np.sqrt(np.einsum("bd,bd->b", values, values))[:, None]
        values /= np.where(norms > 0, norms, 1)
    return values


def moments(split: EmbeddedClasses, blocks: Iterable[slice], variant: str, mean: NDArray[np.float64]) -> Moments:
    """Moments of the rows in some blocks."""
    size = split.rows.shape[1]
    count, total, second = 0, np.zeros(size), np.zeros((size, size))
    for block in blocks:
        values = features(split.rows[block], variant, mean)
        count += len(values)
        total += values.sum(axis=0)
        second += values.T @ values
    return Moments(count, total, second)


class Spectrum:
    """Measures from eigenvalues and eigenvectors of second moments.

    Second moments and eigendecompositions are in double precision. Projections on eigenvectors, which take the most
    time, are in single precision: they move the logarithm of the isotropy score by 1e-7 of the longest embedding.
    """

    def __init__(self, split: EmbeddedClasses) -> None:
        self._split = split
        self._none = np.zeros(split.rows.shape[1])
        self._totals = {kind: moments(split, split.blocks(), kind, self._none) for kind in ("raw", "l2")}

    def values(self, without: int | None = None) -> dict[tuple[str, str], float]:
        """The measures of all images, or of those outside a group of classes."""
        kept = {kind: self._without(kind, without) for kind in self._totals}
        mean = kept["raw"].mean
        kept["cl2"] = moments(self._split, self._split.blocks(without=without), "cl2", mean)
        found: dict[tuple[str, str], float] = {}
        for variant in VARIANTS:
            second = kept["raw"].scatter if variant == "centred" else kept[variant].second
            eigenvalues, eigenvectors = np.linalg.eigh(second)
            score = self._isotropy_score(eigenvectors, variant, mean, without)
            found["isotropy_score", variant] = score
            found["rankme", variant] = rankme(eigenvalues)
            if variant != "centred":  # covariance is the same with and without the mean
                ratio = participation_ratio(kept[variant])
                found["participation_ratio", variant] = ratio
                found["isoscore", variant] = (ratio - 1) / (len(mean) - 1) if len(mean) > 1 else math.nan
        return found

    def _without(self, kind: str, group: int | None) -> Moments:
        if group is None:
            return self._totals[kind]
        return self._totals[kind] - moments(self._split, self._split.blocks(of=group), kind, self._none)

    def _isotropy_score(
        self, eigenvectors: NDArray[np.float64], variant: str, mean: NDArray[np.float64], without: int | None
    ) -> float:
        directions = eigenvectors.astype(np.float32)
        log_z: NDArray[np.float64] | None = None
        for block in self._split.blocks(without=without):
            values = features(self._split.rows[block], variant, mean).astype(np.float32) @ directions
            of_block = np.stack([_log_sum_exp(values), _log_sum_exp(-values)])
            log_z = of_block if log_z is None else np.logaddexp(log_z, of_block)
        assert log_z is not None
        return math.exp(float(log_z.min() - log_z.max()))


def _log_sum_exp(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Over rows, [D]."""
    highest = values.max(axis=0)
    log_sums: NDArray[np.float64] = np.log(np.exp(values - highest).sum(axis=0, dtype=np.float64)) + highest
    return log_sums


def rankme(eigenvalues: NDArray[np.float64]) -> float:
    """Effective rank: exponential entropy of the singular values (Roy & Vetterli, 2007; Garrido et al., 2023).

    Args:
        eigenvalues: of the second moment, [D]; those that are rounding errors count as 0, and so no epsilon is added.
    """
    floor = len(eigenvalues) * np.finfo(np.float64).eps * float(eigenvalues.max())
    singular_values = np.sqrt(eigenvalues[eigenvalues > floor])
    shares = singular_values / singular_values.sum()
    return math.exp(-float((shares * np.log(shares)).sum()))


def participation_ratio(moments: Moments) -> float:
    """(Sum of eigenvalues)^2 / sum of squared eigenvalues of the covariance: 1 to D, NaN without any variance.

    IsoScore (Rudman et al., 2022) is this number on a scale from 0 to 1: its definition, from the distance of the
    normalised eigenvalues to (1, ..., 1), simplifies to (participation ratio - 1) / (D - 1).
    """
    scatter = moments.scatter
    variance = float(np.trace(scatter))
    if variance <= NO_VARIANCE * float(np.trace(moments.second)):
        return math.nan
    return variance**2 / float(np.einsum("de,de->", scatter, scatter))
