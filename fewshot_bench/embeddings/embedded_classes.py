"""Embeddings of whole classes, in groups of classes that a jackknife leaves out in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot_bench.arrays import as_array
from fewshot_bench.errors import EmbeddingError, ShapeError

GROUPS = 20
"""Groups of classes at most: each costs four eigendecompositions of [D, D], and twenty leave Student's t near the
normal (2.09 against 1.96)."""
BLOCK_ROWS = 1024
"""Images at once. Blocks bound memory and change the last bits at most."""


@dataclass(frozen=True, eq=False)
class EmbeddedClasses:
    """Checked embeddings, sorted by group and class.

    Attributes:
        rows: embeddings, float32 [I, D].
        labels: class of each row, [I], 0 to C - 1; rows of a class lie side by side.
        group_of_class: [C], ascending.
    """

    rows: NDArray[np.float32]
    labels: NDArray[np.int64]
    group_of_class: NDArray[np.int64]

    @property
    def classes(self) -> int:
        """C."""
        return len(self.group_of_class)

    @property
    def groups(self) -> int:
        """G."""
        return int(self.group_of_class[-1]) + 1

    @cached_property
    def class_sizes(self) -> NDArray[np.int64]:
        """Images of each class, [C]."""
        return np.bincount(self.labels, minlength=self.classes)

    @cached_property
    def classes_of_groups(self) -> NDArray[np.int64]:
        """Classes of each group, [G]."""
        return np.bincount(self.group_of_class)

    @cached_property
    def class_starts(self) -> NDArray[np.int64]:
        """First row of each class, [C]."""
        return np.concatenate([[0], np.cumsum(self.class_sizes)[:-1]])

    @cached_property
    def group_ends(self) -> NDArray[np.int64]:
        """Where the rows of each group begin, and the end, [G + 1]."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.group_of_class[self.labels]))])

    def blocks(self, *, without: int | None = None, of: int | None = None) -> Iterator[slice]:
        """Rows at once, never of two groups: of all groups, all `without` one, or `of` one alone."""
        for group in range(self.groups) if of is None else [of]:
            if group != without:
                start, stop = self.group_ends[group], self.group_ends[group + 1]
                for first in range(start, stop, BLOCK_ROWS):
                    yield slice(first, min(first + BLOCK_ROWS, stop))

    def kept_classes(self, without: int | None) -> NDArray[np.bool_]:
        """Which classes are left without a group, [C]."""
        return np.ones(self.classes, dtype=bool) if without is None else self.group_of_class != without


def embedded_classes(
    embeddings: ArrayLike, labels: ArrayLike, *, groups: int = GROUPS, seed: int = 0
) -> EmbeddedClasses:
    """Check embeddings and put their classes into groups.

    Args:
        embeddings: [I, D], in any order.
        labels: the class of each, [I], whole numbers.
        groups: how many at most; with as many classes or fewer, each class is a group. Otherwise classes are assigned
            to groups at random.
        seed: of this assignment.

    Raises:
        ShapeError: the arrays do not belong together, or fewer than two groups are asked for.
        EmbeddingError: a value is not finite, an embedding is zero, all are equal, or the classes allow no pair.
    """
    rows, numbers = as_array(embeddings), as_array(labels)
    if rows.ndim != 2 or numbers.shape != rows.shape[:1] or not rows.size:
        raise ShapeError(f"embeddings [I, D] need labels [I], not {list(rows.shape)} and {list(numbers.shape)}.")
    if not np.issubdtype(numbers.dtype, np.integer) or not np.issubdtype(rows.dtype, np.floating):
        raise ShapeError(
            f"embeddings must be floating point and labels whole numbers, not {rows.dtype} and {numbers.dtype}."
        )
    if groups < 2:
        raise ShapeError(f"leaving out groups of classes needs 2 groups or more, not {groups}.")
    names, dense = np.unique(numbers, return_inverse=True)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        rows = rows.astype(np.float32, copy=False)
    _check(rows, len(names))
    group_of_name = _assigned_groups(len(names), min(groups, len(names)), seed)
    order_of_names = np.argsort(group_of_name, kind="stable")
    rank = np.empty_like(order_of_names)
    rank[order_of_names] = np.arange(len(names))
    ranked = rank[dense]
    is_sorted = bool((np.diff(ranked) >= 0).all())
    order = slice(None) if is_sorted else np.argsort(ranked, kind="stable")
    return EmbeddedClasses(np.ascontiguousarray(rows[order]), ranked[order], group_of_name[order_of_names])


def _check(rows: NDArray[np.float32], classes: int) -> None:
    squares = np.einsum("id,id->i", rows, rows, dtype=np.float64)
    for bad, finding in ((~np.isfinite(squares), "NaN or infinite"), (squares == 0, "zero")):
        if bad.any():
            raise EmbeddingError(
                f"{int(bad.sum())} of {len(rows)} embeddings are {finding}, first that of image {int(np.argmax(bad))}. "
                "Measure a network whose embeddings are finite and not zero."
            )
    if classes < 2:
        raise EmbeddingError(f"all {len(rows)} embeddings are of one class. Give images of two classes or more.")
    if classes == len(rows):
        raise EmbeddingError(f"each of {len(rows)} classes has one image. Give two images or more of some class.")
    if (rows == rows[0]).all():
        raise EmbeddingError(f"all {len(rows)} embeddings are equal: the network has collapsed, measure another one.")


def _assigned_groups(classes: int, groups: int, seed: int) -> NDArray[np.int64]:
    """The group of each class, [C]; sizes differ by one at most."""
    if groups == classes:
        return np.arange(classes)
    return np.random.default_rng(seed).permutation(np.arange(classes) % groups)
