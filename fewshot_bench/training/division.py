"""Dividing the images of a split: those that are learned from, and those held out for validation, class by class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.training.recipe import Recipe

_KEY = hashlib.sha256(b"fewshot-bench division of a train split, version 1").digest()[:16]


@dataclass(frozen=True, eq=False)
class Division:
    """Which images of a split a training learns from, and which are held out, in canonical order.

    Attributes:
        learned: int64 [L].
        held_out: for validation, int64 [V].
    """

    learned: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @property
    def digest(self) -> str:
        """Digest of both, 16 hexadecimal digits."""
        parts = (np.ascontiguousarray(rows, "<i8") for rows in (self.learned, self.held_out))
        digest = hashlib.sha256()
        for rows in parts:
            digest.update(f"{len(rows)}\n".encode() + rows.tobytes())
        return digest.hexdigest()[:16]


def divided(class_sizes: Sequence[int], recipe: Recipe) -> Division:
    """Divide the images of a split as a recipe says, the same way for every seed of the training.

    Of each class, the validation part takes its share of the images, rounded, at random, and at least one where the
    class has two; what is learned from takes its share of the others, at least one.

    Args:
        class_sizes: images per class, [C].
        recipe: with `validation_share` and `train_share`.
    """
    sizes = np.asarray(class_sizes, np.int64)
    images = int(sizes.sum())
    labels = np.repeat(np.arange(len(sizes)), sizes)
    words = np.random.Philox(key=np.frombuffer(_KEY, "<u8")).random_raw(images)  # raw words never change
    order = np.lexsort((words, labels))  # within each class at random
    rank = np.arange(images) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held_out = np.zeros_like(sizes)
    if recipe.validation_share:
        least = np.where(sizes > 1, 1, 0)
        held_out = np.clip(np.rint(recipe.validation_share * sizes), least, np.maximum(sizes - 1, 0)).astype(np.int64)
    left = sizes - held_out
    learned = np.clip(np.rint(recipe.train_share * left), 1, left).astype(np.int64)
    is_held_out = rank < np.repeat(held_out, sizes)
    is_learned = ~is_held_out & (rank < np.repeat(held_out + learned, sizes))
    return Division(np.sort(order[is_learned]), np.sort(order[is_held_out]))
