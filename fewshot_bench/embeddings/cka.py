"""How similarly two networks embed the same images: linear centred kernel alignment (Kornblith et al., 2019)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.embeddings.embedded_classes import EmbeddedClasses


class KernelAlignment:
    """Linear CKA of two networks' embeddings of the same images, plain and debiased, in double precision.

    It is computed from cross-moments, [D, D] at most, and never from Gram matrices of images.
    """

    def __init__(self, a: EmbeddedClasses, b: EmbeddedClasses) -> None:
        # Around the mean of all images, so that little cancels when the mean of fewer images is subtracted.
        self._splits = (a, b)
        self._centres = tuple(split.rows.mean(axis=0, dtype=np.float64) for split in self._splits)
        self._total = self._moments(None)

    def values(self, without: int | None = None) -> dict[tuple[str, str], float]:
        """CKA of all images, or of those outside a group of classes."""
        moments = self._total
        if without is not None:
            moments = tuple(whole - part for whole, part in zip(moments, self._moments(without), strict=True))
        count, sums_a, sums_b, aa, bb, ab = moments
        means = (sums_a / count, sums_b / count)
        similarity = _squared_norm(ab - np.outer(sums_a, means[1]))
        own = _squared_norm(aa - np.outer(sums_a, means[0])), _squared_norm(bb - np.outer(sums_b, means[1]))
        found = {("linear_cka", "plain"): _ratio(similarity, *own)}
        n = float(count)
        if n > 3:
            norms = [self._squared_norms(side, means[side], without) for side in (0, 1)]
            found["linear_cka", "debiased"] = _ratio(
                _debiased(similarity, norms[0], norms[1], n),
                _debiased(own[0], norms[0], norms[0], n),
                _debiased(own[1], norms[1], norms[1], n),
            )
        return found

    def _moments(self, group: int | None) -> tuple[NDArray[np.float64], ...]:
        """Count, sums and cross-moments of all images, or of a group."""
        sizes = [split.rows.shape[1] for split in self._splits]
        count, sums = np.zeros(()), [np.zeros(size) for size in sizes]
        crosses = [np.zeros((sizes[i], sizes[j])) for i, j in ((0, 0), (1, 1), (0, 1))]
        for block in self._splits[0].blocks(of=group):
            a, b = (split.rows[block] - centre for split, centre in zip(self._splits, self._centres, strict=True))
            count = count + len(a)
            sums[0] += a.sum(axis=0)
            sums[1] += b.sum(axis=0)
            for cross, left, right in zip(crosses, (a, b, a), (a, b, b), strict=True):
                cross += left.T @ right
        return count, *sums, *crosses

    def _squared_norms(self, side: int, mean: NDArray[np.float64], without: int | None) -> NDArray[np.float64]:
        """Of the rows minus their mean, [I]."""
        split, centre = self._splits[side], self._centres[side] + mean
        return np.concatenate(
            [
                np.einsum("bd,bd->b", rows, rows)
                for rows in (split.rows[block] - centre for block in split.blocks(without=without))
            ]
        )


def _squared_norm(matrix: NDArray[np.float64]) -> float:
    return float(np.einsum("de,de->", matrix, matrix))


def _debiased(similarity: float, a: NDArray[np.float64], b: NDArray[np.float64], n: float) -> float:
    """Unbiased HSIC of linear kernels, up to a factor (Song et al., 2012), from squared norms of centred rows, [I]."""
    return similarity - n / (n - 2) * float(a @ b) + float(a.sum()) * float(b.sum()) / ((n - 1) * (n - 2))


def _ratio(similarity: float, own_a: float, own_b: float) -> float:
    return similarity / math.sqrt(own_a * own_b) if own_a > 0 and own_b > 0 else math.nan
