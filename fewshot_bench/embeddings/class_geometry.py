"""Geometry of classes: within- to between-class scatter, and nearest-class-mean accuracy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.embeddings.embedded_classes import EmbeddedClasses
from fewshot_bench.embeddings.spectrum import features


class ClassGeometry:
    """Measures from class means, in double precision."""

    def __init__(self, split: EmbeddedClasses) -> None:
        self._split = split
        self._none = np.zeros(split.rows.shape[1])
        self._means = {variant: self._class_means(variant) for variant in ("raw", "l2")}
        self._own, self._nearest = zip(*(self._distances(variant) for variant in ("raw", "l2")), strict=True)
        self._basis = self._directions_between()
        self._within = sum(self._within_scatter(group) for group in range(split.groups))

    def values(self, without: int | None = None) -> dict[tuple[str, str], float]:
        """The measures of all classes, or of those outside a group."""
        found = {
            ("ncm_accuracy", variant): self._accuracy(own, nearest, without)
            for variant, own, nearest in zip(("raw", "l2"), self._own, self._nearest, strict=True)
        }
        return {**found, ("nc1", "raw"): self._nc1(without)}

    def _class_means(self, variant: str) -> NDArray[np.float64]:
        """[C, D]."""
        split = self._split
        sums = np.zeros((split.classes, split.rows.shape[1]))
        for block in split.blocks():
            labels = split.labels[block]
            first = np.flatnonzero(np.diff(labels, prepend=-1))
            sums[labels[first]] += np.add.reduceat(features(split.rows[block], variant, self._none), first, axis=0)
        return sums / split.class_sizes[:, None]

    # Nearest class mean

    def _distances(self, variant: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Squared distances of each image to its class mean, [I], and to the nearest other one of each group, [I, G].

        Its class mean is that of the other images: leaving an image out of n moves their mean away from it by the
        factor n / (n - 1).
        """
        split, means = self._split, self._means[variant]
        own = np.empty(len(split.rows))
        nearest = np.empty((len(split.rows), split.groups))
        sizes = split.class_sizes.astype(np.float64)
        group_starts = np.searchsorted(split.group_of_class, np.arange(split.groups))
        squares = np.einsum("cd,cd->c", means, means)
        for block in split.blocks():
            rows, labels = features(split.rows[block], variant, self._none), split.labels[block]
            distances = np.einsum("bd,bd->b", rows, rows)[:, None] - 2 * rows @ means.T + squares
            places = np.arange(len(rows))
            with np.errstate(divide="ignore", invalid="ignore"):
                own[block] = distances[places, labels] * (sizes / (sizes - 1))[labels] ** 2
            distances[places, labels] = np.inf
            nearest[block] = np.minimum.reduceat(distances, group_starts, axis=1)
        return own, nearest

    def _accuracy(self, own: NDArray[np.float64], nearest: NDArray[np.float64], without: int | None) -> float:
        split = self._split
        tested = split.class_sizes[split.labels] > 1
        if without is not None:
            tested &= split.group_of_class[split.labels] != without
            nearest = np.delete(nearest, without, axis=1)
        if not tested.any() or not nearest.shape[1]:
            return math.nan
        return float((own[tested] < nearest[tested].min(axis=1)).mean())

    # Scatter

    def _directions_between(self) -> NDArray[np.float64]:
        """A basis of the differences of class means, [R, D], with R below C; NC1 sees no other part of the scatter."""
        means = self._means["raw"]
        _, values, directions = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
        basis: NDArray[np.float64] = directions[values > _rounding(values, means.shape)]
        return basis

    def _within_scatter(self, group: int) -> NDArray[np.float64]:
        """The scatter of a group's images around their class means, in the basis, [R, R]."""
        split, means = self._split, self._means["raw"]
        scatter = np.zeros((len(self._basis), len(self._basis)))
        for block in split.blocks(of=group):
            residuals = (split.rows[block] - means[split.labels[block]]) @ self._basis.T
            scatter += residuals.T @ residuals
        return scatter

    def _nc1(self, without: int | None) -> float:
        """tr(S_W S_B^+) / C: within-class covariance over all images, between-class covariance over class means."""
        split = self._split
        kept = split.kept_classes(without)
        means = self._means["raw"][kept] @ self._basis.T
        within = self._within if without is None else self._within - self._within_scatter(without)
        deviations = means - means.mean(axis=0)
        _, values, directions = np.linalg.svd(deviations, full_matrices=False)
        present = values > _rounding(values, self._means["raw"].shape)
        if not present.any():
            return math.nan
        classes, images = int(kept.sum()), float(split.class_sizes[kept].sum())
        along = np.einsum("rd,de,re->r", directions[present], within / images, directions[present], optimize=True)
        return float((along * classes / values[present] ** 2).sum()) / classes


def _rounding(singular_values: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Below this, singular values are rounding errors, as `numpy.linalg.matrix_rank` has it."""
    return max(shape) * float(np.finfo(np.float64).eps) * float(singular_values.max(initial=0.0))
