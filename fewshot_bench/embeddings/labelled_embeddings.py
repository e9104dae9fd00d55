"""Embeddings of labelled images, read block by block, so that a whole dataset need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.errors import EmbeddingError, ShapeError

ProbeFeatures = Literal["raw", "l2", "standard"]
"""Embeddings as they are, divided by their norm, or standardised by mean and deviation of the training images."""

BLOCK_NUMBERS = 1 << 22
"""Numbers in a block: 32 MiB in float64."""

_SMALLEST_NORM = 1e-12


@dataclass(frozen=True, eq=False)
class LabelledEmbeddings:
    """Some images of a split, by their rows in the split's embeddings, and the class of each.

    Attributes:
        embeddings: of the whole split, [I, D]; a memory map is read where it lies.
        rows: of the images, int64 [n]; ascending rows are read fastest.
        labels: their classes, int64 [n].
    """

    embeddings: NDArray[Any]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2 or len(self.rows) != len(self.labels):
            raise ShapeError(
                f"embeddings should be [I, D] with a class for each of n rows, not {list(self.embeddings.shape)} with "
                f"{len(self.rows)} rows and {len(self.labels)} classes."
            )

    @classmethod
    def of(cls, embeddings: NDArray[Any], labels: NDArray[np.int64]) -> LabelledEmbeddings:
        """All rows, [n, D], with their classes, [n]."""
        return cls(embeddings, np.arange(len(embeddings)), np.asarray(labels, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<LabelledEmbeddings: {len(self):,} images, {self.embeddings.shape[1]:,} dimensions>"


class TrainingImages:
    """What a probe learns from: images of one or several splits, in this order.

    Args:
        parts: with embeddings of the same network.
        classes: C; labels are 0 to C - 1.

    Raises:
        ShapeError: the parts differ in their dimensions, or a label is not one of the classes.
        EmbeddingError: there are no images, images of a single class, or an embedding is not finite.
    """

    def __init__(self, *parts: LabelledEmbeddings, classes: int) -> None:
        self.parts, self.classes = parts, classes
        sizes = {part.embeddings.shape[1] for part in parts}
        if len(sizes) != 1:
            raise ShapeError(f"embeddings of {sorted(sizes)} dimensions cannot be learned from together.")
        (self.embedding_size,) = sizes
        self.labels = np.concatenate([part.labels for part in parts])
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise ShapeError(f"labels go from {self.labels.min()} to {self.labels.max()}; there are {classes} classes.")
        self.present = np.unique(self.labels)
        """The classes with images, ascending."""
        if len(self.present) < 2:
            raise EmbeddingError(
                f"a probe needs training images of two classes or more; these {len(self.labels)} are of "
                f"{len(self.present)} {'class' if len(self.present) == 1 else 'classes'}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<TrainingImages: {len(self):,} images of {len(self.present):,} classes>"

    def blocks(
        self, device: torch.device, dtype: torch.dtype, *, largest: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Embeddings [B, D] and classes [B] of all images; arguments and errors as for `blocks_of`."""
        for part in self.parts:
            for rows, block in blocks_of(part.embeddings, part.rows, device, dtype, largest=largest):
                yield block, torch.from_numpy(part.labels[rows]).to(device)


@dataclass(frozen=True, eq=False)
class FeatureScale:
    """How a probe scales embeddings before it learns.

    Attributes:
        is_normalised: whether they are divided by their norm first.
        mean: subtracted, float64 [D]; zero unless they are standardised.
        deviation: divided by, float64 [D]; one where it would be zero.
        is_shifted: whether mean and deviation are applied.
    """

    is_normalised: bool
    mean: Tensor
    deviation: Tensor
    is_shifted: bool = True

    @classmethod
    def of(
        cls, training: TrainingImages, features: ProbeFeatures, device: torch.device, *, is_centred: bool = False
    ) -> FeatureScale:
        """The scale of features; mean and deviation are those of the training images.

        Args:
            training: the images.
            features: raw, l2 or standard.
            device: of mean and deviation.
            is_centred: whether to subtract the mean also where features are not standardised.
        """
        mean = torch.zeros(training.embedding_size, dtype=torch.float64, device=device)
        plain = cls(features == "l2", mean, torch.ones_like(mean), is_shifted=False)
        if features != "standard" and not is_centred:
            return plain
        for block, _ in training.blocks(device, torch.float64):
            mean = mean + plain(block).sum(dim=0) / len(training)
        centred = cls(plain.is_normalised, mean, plain.deviation)
        if features != "standard":
            return centred
        variance = torch.zeros_like(mean)
        for block, _ in training.blocks(device, torch.float64):
            variance += centred(block).square().sum(dim=0) / len(training)
        return cls(plain.is_normalised, mean, torch.where(variance > 0, variance.sqrt(), 1.0))

    def __call__(self, embeddings: Tensor) -> Tensor:
        """The features [B, D] of embeddings, of their type."""
        if self.is_normalised:
            embeddings = normalised(embeddings)
        if not self.is_shifted:
            return embeddings
        return ((embeddings - self.mean) / self.deviation).to(embeddings.dtype)


def blocks_of(
    embeddings: NDArray[Any],
    rows: NDArray[np.int64],
    device: torch.device,
    dtype: torch.dtype,
    *,
    largest: int | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Chosen rows of embeddings, block by block: the places in `rows`, and the embeddings [B, D].

    Args:
        embeddings: [I, D].
        rows: to read, [n].
        device: of the blocks.
        dtype: of the blocks.
        largest: most rows of a block, where the caller computes much for each; `BLOCK_NUMBERS` bounds it too.

    Raises:
        EmbeddingError: an embedding is not finite.
    """
    at_once = max(1, BLOCK_NUMBERS // max(1, embeddings.shape[1]))
    at_once = at_once if largest is None else min(at_once, largest)
    for start in range(0, len(rows), at_once):
        places = slice(start, start + at_once)
        block = torch.from_numpy(np.asarray(embeddings[rows[places]])).to(device, dtype)
        if not bool(torch.isfinite(block).all()):
            first = int((~torch.isfinite(block).all(dim=1)).int().argmax())
            raise EmbeddingError(
                f"the embedding of image {rows[start + first]} holds NaN or infinite values. Check the network's "
                "weights and its input size."
            )
        yield places, block


def refuse_empty_validation(validation: LabelledEmbeddings, hyper_parameter: str) -> None:
    """Raise EmbeddingError if there are no images to choose a hyper-parameter on."""
    if not len(validation):
        raise EmbeddingError(
            f"the validation part has no images to choose {hyper_parameter} on. Give a larger share of the train split."
        )


def normalised(embeddings: Tensor) -> Tensor:
    """Embeddings divided by their norm; those of zeros stay zero."""
    norms: Tensor = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
    return embeddings / norms.clamp_min(_SMALLEST_NORM)
