"""kNN probe: the nearest training images of a whole dataset vote, on frozen embeddings.

The protocol is that of DINOv2 (Oquab et al., 2024; `dinov2/eval/knn.py`): embeddings are divided by their norm, and a
neighbour's vote counts softmax(cosine / T) with T = 0.07. DINOv2 reports k = 10, 20, 100 and 200 side by side; here k
and T are chosen by the accuracy on a validation part, whose images then join the neighbours. Equal weights give the
plain majority vote of scikit-learn and torchgeo-bench.

Nearness is minus half the squared distance, which for normalised embeddings is the cosine less one. Of images that are
equally near, those that come first in canonical order are the neighbours; of classes with equal votes, the first one
wins, as in scikit-learn. With softmax weights, equal votes hardly occur.

Training images are read in blocks, and each block of test images keeps its k nearest so far.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.embeddings.labelled_embeddings import (
    FeatureScale,
    LabelledEmbeddings,
    ProbeFeatures,
    TrainingImages,
    blocks_of,
    refuse_empty_validation,
)
from fewshot_bench.errors import EmbeddingError

NEIGHBOURS: tuple[int, ...] = (20, 10, 5, 1, 50, 100, 200)
"""Values of k to choose between: those of DINOv2 and smaller ones; of equally good ones the first is taken."""

TEMPERATURES: tuple[float, ...] = (0.07, 0.02, 0.2)
"""Temperatures to choose between, that of DINOv2 first."""

_IMAGES_AT_ONCE = 2048


@dataclass(frozen=True, eq=False)
class KNNProbe:
    """The training images and how their nearest vote.

    Attributes:
        training: the images that vote.
        k: how many vote.
        temperature: of the softmax over their nearness; None for equal votes.
        features: what is done with the embeddings.
    """

    training: TrainingImages
    k: int
    temperature: float | None
    features: ProbeFeatures = "l2"

    def __post_init__(self) -> None:
        if not 1 <= self.k <= len(self.training):
            raise EmbeddingError(
                f"k = {self.k} neighbours need as many training images; there are {len(self.training)}."
            )

    def log_probabilities(
        self, embeddings: NDArray[Any], *, rows: NDArray[np.int64] | None = None, device: str = "cpu"
    ) -> NDArray[np.float64]:
        """Logarithm of the share of the votes of each class; arguments and result as for `LinearProbe`."""
        rows = np.arange(len(embeddings)) if rows is None else rows
        found = np.empty((len(rows), self.training.classes))
        for places, nearness, labels in _nearest(self.training, embeddings, rows, self.k, self.features, device):
            found[places] = _votes(nearness, labels, self.training.classes, self.temperature).log().cpu().numpy()
        return found


@dataclass(frozen=True)
class KNNChoice:
    """How k and the temperature were chosen.

    Attributes:
        k: with the highest accuracy on the validation part.
        temperature: that goes with it; None for equal votes.
        tried: each k, temperature and its validation accuracy, in order of preference.
    """

    k: int
    temperature: float | None
    tried: tuple[tuple[int, float | None, float], ...]


def chosen_knn_probe(
    training: LabelledEmbeddings,
    validation: LabelledEmbeddings,
    *,
    classes: int,
    neighbours: Sequence[int] = NEIGHBOURS,
    temperatures: Sequence[float | None] = TEMPERATURES,
    features: ProbeFeatures = "l2",
    device: str = "cpu",
) -> tuple[KNNProbe, KNNChoice]:
    """Choose k and the temperature on a validation part, then let the images of both parts vote.

    Args:
        training: images that vote while k and the temperature are chosen.
        validation: images whose accuracy decides.
        classes: C, the number of classes.
        neighbours: values of k; those beyond the number of training images are left out.
        temperatures: of the softmax; None for equal votes.
        features: what is done with the embeddings.
        device: a torch device.

    Raises:
        EmbeddingError: an embedding is not finite, or there are too few images or classes.
        ShapeError: embeddings or labels do not fit together.

    >>> images = LabelledEmbeddings.of(np.array([[1, 0.1], [1, 0.2], [0.1, 1], [0.2, 1]]), np.array([0, 0, 1, 1]))
    >>> probe, choice = chosen_knn_probe(images, images, classes=2, neighbours=(1,), temperatures=(None,))
    >>> choice.k, probe.log_probabilities(np.array([[0.9, 0.3]])).argmax(axis=1).tolist()
    (1, [0])
    """
    refuse_empty_validation(validation, "k")
    images = TrainingImages(training, classes=classes)
    possible = [k for k in neighbours if k <= len(images)]
    if not possible:
        raise EmbeddingError(f"k = {min(neighbours)} neighbours need as many training images; there are {len(images)}.")
    settings = list(itertools.product(possible, temperatures))
    correct = np.zeros(len(settings), dtype=np.int64)
    embeddings, rows = validation.embeddings, validation.rows
    for places, nearness, labels in _nearest(images, embeddings, rows, max(possible), features, device):
        truth = torch.from_numpy(validation.labels[places]).to(labels.device)
        for number, (k, temperature) in enumerate(settings):
            votes = _votes(nearness[:, :k], labels[:, :k], classes, temperature)
            correct[number] += int((votes.argmax(dim=1) == truth).sum())
    accuracies = (correct / len(validation)).tolist()
    k, temperature = settings[int(np.argmax(correct))]
    everything = TrainingImages(training, validation, classes=classes)
    tried = tuple((*setting, accuracy) for setting, accuracy in zip(settings, accuracies, strict=True))
    return KNNProbe(everything, k, temperature, features), KNNChoice(k, temperature, tried)


def _nearest(
    training: TrainingImages,
    embeddings: NDArray[Any],
    rows: NDArray[np.int64],
    k: int,
    features: ProbeFeatures,
    device: str,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The k nearest training images of chosen rows: the places in `rows`, nearness [B, k] and classes [B, k]."""
    at = torch.device(device)
    dtype = torch.float64 if embeddings.dtype == np.float64 else torch.float32
    scale = FeatureScale.of(training, features, at)
    all_labels = torch.from_numpy(training.labels).to(at)
    for places, block in blocks_of(embeddings, rows, at, dtype, largest=_IMAGES_AT_ONCE):
        queries = scale(block)
        nearness = queries.new_empty(len(queries), 0)
        images = torch.empty(len(queries), 0, dtype=torch.int64, device=at)
        start = 0
        for others, _ in training.blocks(at, dtype, largest=_IMAGES_AT_ONCE):
            neighbours = scale(others)
            found = torch.addmm(neighbours.square().sum(dim=1), queries, neighbours.T, beta=-0.5)
            values, positions = _largest(found, min(k, len(neighbours)))
            merged, order = torch.cat([nearness, values], dim=1).sort(dim=1, descending=True, stable=True)
            nearness, order = merged[:, :k], order[:, :k]
            images = torch.cat([images, positions + start], dim=1).gather(1, order)
            start += len(neighbours)
        yield places, nearness - queries.square().sum(dim=1, keepdim=True) / 2, all_labels[images]


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row and their columns, [B, k]; of equal ones those of the first columns."""
    largest, columns = values.topk(k, dim=1)
    # topk takes any of several values that are equal to the k-th, and a full sort is ten times slower.
    is_tied = (values >= largest[:, -1:]).sum(dim=1) > k
    if bool(is_tied.any()):
        columns[is_tied] = values[is_tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    columns = columns.sort(dim=1).values
    largest, order = values.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return largest, columns.gather(1, order)


def _votes(nearness: Tensor, labels: Tensor, classes: int, temperature: float | None) -> Tensor:
    """The share of the votes that each class gets, float64 [B, C]."""
    nearness = nearness.double()
    votes = nearness.new_zeros(len(nearness), classes)
    if temperature is None:  # whole numbers, so that equal votes are equal
        return votes.scatter_add_(1, labels, torch.ones_like(nearness)) / labels.shape[1]
    return votes.scatter_add_(1, labels, torch.softmax(nearness / temperature, dim=1))
