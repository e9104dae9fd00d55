"""Cosine similarities of all pairs of images, block by block: counts in fine bins, their overlap, uniformity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot_bench.arguments import checked_arguments
from fewshot_bench.arrays import as_array
from fewshot_bench.embeddings.embedded_classes import EmbeddedClasses, embedded_classes
from fewshot_bench.errors import ShapeError

BINS = 10_000
_MOST_BINS = 10_000_000
UNIFORMITY_T = 2.0
"""t of the Gaussian potential exp(-t |u - v|^2), as Wang and Isola (2020) set it."""


@dataclass(frozen=True, eq=False)
class SimilarityHistograms:
    """How many pairs of images have which cosine similarity.

    Attributes:
        edges: of the bins, [B + 1], from -1 to 1.
        same: pairs of one class, [B].
        different: pairs of two classes, [B].
        auc: chance that a pair of one class is more similar than a pair of two, ties halved; 0.5 is full overlap.
        auc_bound: largest distance of `auc` from the exact one, from the pairs that share a bin.
    """

    edges: NDArray[np.float64]
    same: NDArray[np.int64]
    different: NDArray[np.int64]
    auc: float
    auc_bound: float


@checked_arguments
def similarity_histograms(
    embeddings: ArrayLike, labels: ArrayLike, bins: int = BINS, *, classes: ArrayLike | None = None
) -> SimilarityHistograms:
    """Count the cosine similarities of all pairs of different images.

    Args:
        embeddings: [I, D].
        labels: the class of each, [I].
        bins: of equal width between -1 and 1.
        classes: labels of the classes to compare, two in the paper's picture; None for all.

    Raises:
        ShapeError: the arrays do not belong together, a class is not among the labels, or there are no bins.
        EmbeddingError: a value is not finite, an embedding is zero, all are equal, or the classes allow no pair.

    >>> import fewshot_bench as fb
    >>> embeddings = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]]
    >>> histograms = fb.similarity_histograms(embeddings, [0, 0, 1, 1], bins=3)
    >>> histograms.same.tolist(), histograms.different.tolist(), histograms.auc
    ([0, 0, 2], [1, 2, 1], 0.875)
    """
    rows, numbers = as_array(embeddings), as_array(labels)
    if not 1 <= bins <= _MOST_BINS:
        raise ShapeError(f"a histogram needs 1 to {_MOST_BINS:,} bins, not {bins!r:.40}.")
    if classes is not None:
        absent = np.setdiff1d(as_array(classes), numbers)
        if absent.size:
            raise ShapeError(f"no image has the label {absent[0]}. Choose classes among the labels.")
        chosen = np.isin(numbers, classes)
        rows, numbers = rows[chosen], numbers[chosen]
    pairs = Pairs(embedded_classes(rows, numbers, groups=2), bins=bins)
    return pairs.histograms()


class Pairs:
    """Measures over pairs of images.

    Similarities are in single precision, so that one within 1e-7 of an edge may be counted in the next bin; sums are in
    double precision.
    """

    def __init__(self, split: EmbeddedClasses, *, bins: int = BINS) -> None:
        self._split, self._bins = split, bins
        norms = np.sqrt(np.einsum("id,id->i", split.rows, split.rows, dtype=np.float64))
        self._rows = split.rows / norms[:, None].astype(np.float32)
        # Of all pairs, and of those with an image of each group: what is left without a group is the difference.
        self._counts = np.zeros((2, bins), dtype=np.int64)
        self._counts_of = np.zeros((split.groups, 2, bins), dtype=np.int64)
        self._potential, self._potential_of = 0.0, np.zeros(split.groups)
        self._count_all()
        self._sums = np.add.reduceat(self._rows, split.class_starts, axis=0, dtype=np.float64)

    def histograms(self) -> SimilarityHistograms:
        """Of all pairs."""
        different, same = self._counts
        auc, bound = auc_of_counts(same, different)
        return SimilarityHistograms(np.linspace(-1, 1, self._bins + 1), same, different, auc, bound)

    def values(self, without: int | None = None) -> dict[tuple[str, str], float]:
        """The measures of all pairs, or of those outside a group of classes."""
        counts, potential = self._counts, self._potential
        if without is not None:
            counts, potential = counts - self._counts_of[without], potential - self._potential_of[without]
        different, same = counts
        pairs = int(counts.sum())
        same_cosine, different_cosine = self._mean_cosines(without)
        return {
            ("same_class_cosine", "l2"): same_cosine,
            ("different_class_cosine", "l2"): different_cosine,
            ("cosine_auc", "l2"): auc_of_counts(same, different)[0],
            ("alignment", "l2"): 2 - 2 * same_cosine,
            ("uniformity", "l2"): math.log(potential / pairs) if pairs and potential > 0 else math.nan,
        }

    def _mean_cosines(self, without: int | None) -> tuple[float, float]:
        """Mean over pairs of one class and of two: sums of inner products are squared norms of sums."""
        kept = self._split.kept_classes(without)
        sums, sizes = self._sums[kept], self._split.class_sizes[kept].astype(np.float64)
        images, whole = sizes.sum(), sums.sum(axis=0)
        of_classes = float((sums**2).sum())
        same_pairs, pairs = (sizes**2).sum() - images, images**2 - images
        same = (of_classes - images) / same_pairs if same_pairs else math.nan
        different_pairs = pairs - same_pairs
        different = (float(whole @ whole) - of_classes) / different_pairs if different_pairs else math.nan
        return float(same), float(different)

    def _count_all(self) -> None:
        split = self._split
        blocks = [(group, block) for group in range(split.groups) for block in split.blocks(of=group)]
        for index, (group, block) in enumerate(blocks):
            for other_group, other in blocks[index:]:
                counts, potential = self._count(block, other, group == other_group)
                self._counts += counts
                self._potential += potential
                for member in {group, other_group}:
                    self._counts_of[member] += counts
                    self._potential_of[member] += potential

    def _count(self, block: slice, other: slice, may_share_class: bool) -> tuple[NDArray[np.int64], float]:
        """Counts of different-class and same-class pairs, [2, B], and the sum of their Gaussian potentials."""
        cosines = self._rows[block] @ self._rows[other].T
        labels, bins = self._split.labels, self._bins
        keys = np.minimum(((cosines + 1) * np.float32(bins / 2)).astype(np.int64), bins - 1)
        np.maximum(keys, 0, out=keys)
        if may_share_class:
            keys += bins * (labels[block, None] == labels[None, other])
        if block == other:
            above = np.triu_indices(len(cosines), 1)
            keys, cosines = keys[above], cosines[above]
        counts = np.bincount(keys.ravel(), minlength=2 * bins).reshape(2, bins)
        t = np.float32(2 * UNIFORMITY_T)
        return counts, float(np.exp(t * cosines - t).sum(dtype=np.float64))


def auc_of_counts(same: NDArray[np.int64], different: NDArray[np.int64]) -> tuple[float, float]:
    """Area under the curve from counts in ascending bins, [B] each, and its largest distance from the exact one.

    >>> auc_of_counts(np.array([0, 1, 1]), np.array([1, 1, 0]))
    (0.875, 0.125)
    """
    pairs = float(same.sum()) * float(different.sum())
    if not pairs:
        return math.nan, math.nan
    below = np.cumsum(different) - different
    half_tied = float(np.dot(same.astype(np.float64), different)) / 2
    return (float(np.dot(same.astype(np.float64), below)) + half_tied) / pairs, half_tied / pairs
