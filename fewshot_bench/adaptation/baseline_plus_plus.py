"""Baseline++: a cosine head trained on each support set by mini-batch SGD, all episodes of a part in one optimisation.

Chen et al. (2019), "A closer look at few-shot classification", replace the linear head by cosines between an embedding
and one weight vector per class, so that training on the support set reduces the variation within classes:

    p(c | x) = softmax over c of (scale * <w_c, x> / (|w_c| |x|)),    scale = 2

The weights start at random. They are trained with cross-entropy for 100 epochs of mini-batches of four images, by SGD
with learning rate 0.01, momentum 0.9, dampening 0.9 and weight decay 0.001.

The paper's public code also multiplies each cosine by a learned norm of the class (`class_norms="learned"`): weight
normalisation, whose norms start at the norms of the first weights.

The gradient of w_c is a combination of support embeddings and w_c itself, and SGD with momentum does not depend on the
choice of orthonormal coordinates. So training happens in the span of the support set and the first weights, which is
exact: 30 numbers per class at 5-way 5-shot instead of 1,280.

Random numbers depend on `seed` only. Images and classes of an episode are put in the order of their cosines with one
random direction, so neither the order of a support set nor the other episodes matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewshot_bench.adaptation.base import ADAPTATIONS, LOGITS, EmbeddingAdaptation, LinearIn
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, in_parts, square_roots
from fewshot_bench.arguments import checked_names
from fewshot_bench.training import image_keys, keyed_uniform

ClassNorms = Literal["fixed", "learned"]

_EPISODES_AT_ONCE = 256
_DIRECTION, _WEIGHTS, _BATCHES = range(3)
_SMALLEST = 1e-30


@dataclass(frozen=True, eq=False)
class CosineHeads:
    """One cosine head per episode.

    Attributes:
        weights: w_c, of any length, [E, N, m].
        norms: factors of the cosines besides the scale, [E, N].
    """

    weights: Tensor
    norms: Tensor


@ADAPTATIONS.register(
    "baseline++",
    "a cosine head trained on each support set by mini-batch SGD from random weights",
    paper="Chen et al., 2019, A Closer Look at Few-shot Classification",
    family="fine-tuning",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class BaselinePlusPlus(EmbeddingAdaptation):
    """A cosine head trained by SGD; the norms of features do not matter to it.

    Attributes:
        scale: factor of the cosines; the paper's 2 is for few classes.
        class_norms: "fixed" is the cosine of the paper; "learned" multiplies it by a learned norm for each class, as in
            the paper's code.
        epochs: passes over the support set; each is in an order of its own.
        batch_size: images per step; the last step of an epoch takes the rest.
        learning_rate: of SGD.
        momentum: of SGD.
        dampening: the share by which a gradient is reduced when momentum takes it in.
        weight_decay: added to the gradient of all parameters.
        seed: of the first weights and of the order of the images.

    >>> import fewshot_bench as fb
    >>> fb.BaselinePlusPlus(scale=10.0, class_norms="learned").class_norms
    'learned'
    >>> fb.BaselinePlusPlus(class_norms="free")
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.StudyError: class_norms of baseline++ should be one of fixed, learned, not free.
    """

    name: ClassVar[str] = "baseline++"
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"scale": (2.0, 5.0, 10.0)}
    scale: float = 2.0
    class_norms: ClassNorms = "fixed"
    epochs: int = 100
    batch_size: int = 4
    learning_rate: float = 0.01
    momentum: float = 0.9
    dampening: float = 0.9
    weight_decay: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_whole(1, "epochs", "batch_size")
        self._expect_positive("scale", "learning_rate")
        self._expect(0 <= self.momentum < 1, "momentum", "at least 0 and less than 1")
        self._expect(0 <= self.dampening <= 1, "dampening", "between 0 and 1")
        self._expect_not_negative("weight_decay")

    @property
    def linear_in(self) -> LinearIn:
        """A scaled cosine, linear in the direction of a query."""
        return "direction"

    @property
    def score_kind(self) -> str:
        """Logits."""
        return LOGITS

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Logits of every query; see `EmbeddingAdaptation.scores`."""
        way = support.shape[1]
        first = self.first_weights(way, split.embeddings.shape[1]).to(split.embeddings)
        lengths = split.squared_norms.sqrt().clamp_min(_SMALLEST)
        with_first = (split.embeddings @ first.T / lengths.unsqueeze(1)).double()
        place = split.embeddings @ self._direction(split.embeddings.shape[1]).to(split.embeddings) / lengths
        parts = []
        for part, queries in in_parts(_EPISODES_AT_ONCE, support, query):
            ordered, images, labels = _in_order(part, place)
            logits = self._trained_on(split, images, labels, queries, lengths, first, with_first)
            parts.append(logits.gather(2, ordered.unsqueeze(1).expand(-1, logits.shape[1], -1)))
        return torch.cat(parts)

    def _trained_on(
        self,
        split: EmbeddedSplit,
        images: Tensor,
        labels: Tensor,
        queries: Tensor,
        lengths: Tensor,
        first: Tensor,
        with_first: Tensor,
    ) -> Tensor:
        """Logits of queries [E, M] by heads that are trained on images [E, n] with labels [E, n], [E, M, N]."""
        episodes, count = images.shape
        products = split.products(images, torch.cat([images, queries], dim=1)).double()
        # One after the other: the product of two tiny lengths is 0.
        products /= lengths[images].unsqueeze(2)
        products /= lengths[torch.cat([images, queries], dim=1)].unsqueeze(1)
        # Inner products of support images and first weights, all n + N of them.
        gram = products.new_empty(episodes, count + len(first), count + len(first))
        gram[:, :count, :count] = products[:, :, :count]
        gram[:, :count, count:] = with_first[images]
        gram[:, count:, :count] = with_first[images].transpose(1, 2)
        gram[:, count:, count:] = first.double() @ first.double().T
        coordinates, inverse = square_roots(gram)
        heads = self.train(
            coordinates[:, :count], one_hot(labels, len(first)).to(coordinates), coordinates[:, count:].clone()
        )
        factors = self.scale * heads.norms / heads.weights.norm(dim=2).clamp_min(_SMALLEST)
        coefficients = (heads.weights @ inverse) * factors.unsqueeze(2)
        others = torch.cat([products[:, :, count:].transpose(1, 2), with_first[queries]], dim=2)
        logits: Tensor = others @ coefficients.transpose(1, 2)
        return logits

    def train(self, features: Tensor, targets: Tensor, weights: Tensor) -> CosineHeads:
        """Train heads, whose weights start at [E, N, m], on unit features [E, n, m] and targets 0 or 1, [E, n, N]."""
        is_learned = self.class_norms == "learned"
        norms = weights.norm(dim=2) if is_learned else torch.ones_like(weights[:, :, 0])
        velocity: tuple[Tensor, Tensor] | None = None
        batches = self.batches(features.shape[1])
        # One copy to the device for all steps, which would wait for it one by one.
        images = torch.cat(batches).to(features.device)
        for now in torch.split(images, [len(batch) for batch in batches]):
            slopes = _slopes(features[:, now], targets[:, now], weights, norms, self.scale)
            slopes = slopes[0] + self.weight_decay * weights, slopes[1] + self.weight_decay * norms
            if velocity is None:  # as SGD of PyTorch begins
                velocity = slopes
            else:
                velocity = (
                    self.momentum * velocity[0] + (1 - self.dampening) * slopes[0],
                    self.momentum * velocity[1] + (1 - self.dampening) * slopes[1],
                )
            weights = weights - self.learning_rate * velocity[0]
            if is_learned:
                norms = norms - self.learning_rate * velocity[1]
        return CosineHeads(weights, norms)

    def first_weights(self, way: int, size: int) -> Tensor:
        """Where the weights start, as those of a linear layer do: uniform within 1 / sqrt(D) of 0, [N, D]."""
        uniform = keyed_uniform(image_keys(self.seed, np.arange(way)), [_WEIGHTS], size)
        weights: Tensor = (2 * uniform - 1) / size**0.5
        return weights

    def batches(self, images: int) -> list[Tensor]:
        """Which images each step takes, by their place in the order of an episode: all epochs, one after the other."""
        uniform = keyed_uniform(image_keys(self.seed, np.arange(self.epochs)), [_BATCHES], images)
        return [batch for order in uniform.argsort(dim=1, stable=True) for batch in order.split(self.batch_size)]

    def _direction(self, size: int) -> Tensor:
        """The direction along which images are put in order, [D]."""
        return 2 * keyed_uniform(image_keys(self.seed, np.arange(1)), [_DIRECTION], size)[0] - 1

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        """Gathered embeddings, and inner products and the state of the optimisation in float64."""
        size = way * shot + way
        return 2 * (way * shot + queries) * embedding_size + 8 * size * (size + queries)


def _in_order(support: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A support set [E, N, K] in an order that its content decides, by a place for every image of the split, [I].

    Returns:
        The rank of each class, [E, N]; the images in order, [E, N * K]; the ranks of their classes, [E, N * K].
    """
    places = place[support]
    ranks = places.sort(dim=2).values.mean(dim=2).argsort(dim=1, stable=True).argsort(dim=1)
    order = places.flatten(1).argsort(dim=1, stable=True)
    images = support.flatten(1).gather(1, order)
    return ranks, images, ranks.repeat_interleave(support.shape[2], dim=1).gather(1, order)


def _slopes(features: Tensor, targets: Tensor, weights: Tensor, norms: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Gradient of the mean cross-entropy of a batch with respect to weights [E, N, m] and norms [E, N]."""
    lengths = weights.norm(dim=2, keepdim=True).clamp_min(_SMALLEST)
    directions = weights / lengths
    cosines = directions @ features.transpose(1, 2)  # [E, N, b]
    logits = scale * norms.unsqueeze(2) * cosines
    errors = (torch.softmax(logits, dim=1) - targets.transpose(1, 2)) * (scale / features.shape[1])
    of_norms = (errors * cosines).sum(dim=2)
    pulled = errors @ features - of_norms.unsqueeze(2) * directions
    return pulled * (norms.unsqueeze(2) / lengths), of_norms
