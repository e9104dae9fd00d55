"""Transductive fine-tuning of a head, by Adam on the class weights of many episodes at once with gradients by hand.

Every step is two batched matrix products and Adam; autograd would keep a graph of about thirty small operations.
Losses are given by their slope: the derivative with respect to the logits.

Supported classes are learned while predictions for queries become certain. Dhillon et al. (2020), "A Baseline for
Few-Shot Image Classification", start from a support-based initialisation: a linear layer whose weights are the class
means of the support embeddings, divided by their norm, and whose biases are zero. They minimise

    mean cross-entropy of the support set + mean Shannon entropy of the predictions for the queries

for 25 epochs of Adam, each with one update for the cross-entropy and one for the entropy. They train the whole
network. Here the backbone stays frozen and only the head is trained, which changes what to expect: with fixed
embeddings the entropy is lowest where all queries are of one class, and nothing in this loss prevents it. (TIM adds
the term that does.) On the validation split of CIFAR-FS (EfficientNet-Lite0, 120 episodes of 5 ways) no temperature
and learning rate beat the nearest centroid at one shot; the defaults lose least.

easyfsl's TransductiveFinetuning trains prototypes in place of a linear layer. Its logits are negative distances, and
it makes one update per epoch for the sum of both losses: `head="distance"`, `updates="joint"`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, in_parts
from fewshot_bench.arguments import checked_names

Head = Literal["linear", "cosine", "euclidean", "distance"]
Coordinates = Literal["full", "span"]
Slope = Callable[[Tensor], Tensor]

# Embeddings of an episode are read twice per step; more episodes than this no longer stay near the cache.
_FLOATS_AT_ONCE = 1 << 20
_SPAN_FLOATS_AT_ONCE = 1 << 19
_TINY = 1e-30


@dataclass(frozen=True)
class Turn:
    """One update: a loss on some of an episode's images.

    Attributes:
        images: which of the images, support first and then queries.
        slope: from log-probabilities [E, N, I] of these images to the derivative of the loss of each episode with
            respect to their logits, [E, N, I].
    """

    images: slice
    slope: Slope


def descend(
    features: Tensor,
    weights: Tensor,
    turns: Sequence[Turn],
    *,
    head: Head,
    temperature: float,
    steps: int,
    learning_rate: float,
) -> Tensor:
    """Class weights [E, N, D] after some steps of Adam.

    Args:
        features: embeddings of each episode's images, support first, [E, I, D].
        weights: where Adam starts, [E, N, D].
        turns: updates that take turns, in order.
        head: see `logits_of`.
        temperature: factor of the logits.
        steps: updates in all.
        learning_rate: of Adam, which works element by element, so each episode goes where it would go alone.
    """
    if head == "cosine":
        features = torch.nn.functional.normalize(features, dim=2)
    seen = [features[:, turn.images] for turn in turns]
    weights = weights.contiguous().clone()
    adam = torch.optim.Adam([weights], lr=learning_rate, fused=True)
    with torch.no_grad():
        for step in range(steps):
            turn, images = turns[step % len(turns)], seen[step % len(turns)]
            logits = _relative_logits(images, weights, head, temperature)
            slope = turn.slope(torch.log_softmax(logits, dim=1))
            weights.grad = _gradient(images, weights, slope, logits, head, temperature)
            adam.step()
    weights.grad = None
    return weights


def logits_of(features: Tensor, weights: Tensor, head: Head, temperature: float) -> Tensor:
    """Logits of images.

    Args:
        features: [E, I, D], of unit norm for "cosine".
        weights: [E, N, D].
        head: "linear" (w x), "cosine", "euclidean" (half the negative squared distance) or "distance" (the negative
            distance).
        temperature: factor of the logits.

    Returns:
        [E, N, I].
    """
    norms = weights.square().sum(dim=2, keepdim=True)
    products = weights @ features.transpose(1, 2)
    if head == "linear":
        return temperature * products
    if head == "cosine":
        return products * (temperature / norms.clamp_min(_TINY).sqrt())
    squared = features.square().sum(dim=2).unsqueeze(1) + norms - 2 * products
    return -temperature * (squared / 2 if head == "euclidean" else squared.clamp_min(0).sqrt())


def _relative_logits(features: Tensor, weights: Tensor, head: Head, temperature: float) -> Tensor:
    """The same up to what all classes share, [E, N, I].

    Relative to the last class there is one row less to multiply, which saves a quarter of the time at 5 ways.
    """
    if head == "distance":
        return logits_of(features, weights, head, temperature)
    norms = weights.square().sum(dim=2, keepdim=True)
    if head == "cosine":
        weights = weights / norms.clamp_min(_TINY).sqrt()
    others = (weights[:, :-1] - weights[:, -1:]) @ features.transpose(1, 2)
    if head == "euclidean":
        others = others - (norms[:, :-1] - norms[:, -1:]) / 2
    return temperature * torch.nn.functional.pad(others, (0, 0, 0, 1))


def _gradient(
    features: Tensor, weights: Tensor, slope: Tensor, logits: Tensor, head: Head, temperature: float
) -> Tensor:
    """Derivative with respect to the weights, [E, N, D]; `logits` as they were with these weights."""
    if head == "distance":
        # A distance has no slope at zero, where every class of one image starts.
        distances = -logits / temperature
        nearest = 4 * torch.finfo(distances.dtype).eps ** 0.5 * features.norm(dim=2).unsqueeze(1)
        slope = torch.where(distances > nearest, slope / distances.clamp_min(_TINY), 0)
        return temperature * (slope @ features - slope.sum(dim=2, keepdim=True) * weights)
    # The slopes of all classes sum to zero, so the last row follows from the others.
    others = slope[:, :-1] @ features
    along = torch.cat([others, -others.sum(dim=1, keepdim=True)], dim=1)
    if head == "cosine":
        norms = weights.square().sum(dim=2, keepdim=True).clamp_min(_TINY)
        inward = (weights * along).sum(dim=2, keepdim=True) / norms
        return torch.addcmul(along, inward, weights, value=-1).mul_(temperature / norms.sqrt())
    if head == "euclidean":
        along.addcmul_(slope.sum(dim=2, keepdim=True), weights, value=-1)
    return along.mul_(temperature)


def placed_episodes(split: EmbeddedSplit, support: Tensor, query: Tensor, coordinates: Coordinates) -> Iterator[Tensor]:
    """Embeddings of the images of some episodes at a time, support first, as many as fit a core's cache.

    Yields:
        The embeddings themselves, [E', I, D], or for "span" orthonormal coordinates in the span of an episode's
        I = N * K + M images, [E', I, I].
    """
    images = torch.cat([support.flatten(1), query], dim=1)
    count = images.shape[1]
    if coordinates == "full":
        for (part,) in in_parts(max(1, _FLOATS_AT_ONCE // (count * split.embeddings.shape[1])), images):
            yield split.rows(part)
        return
    for (part,) in in_parts(max(1, _SPAN_FLOATS_AT_ONCE // count**2), images):
        yield _root(split.products(part, part)).to(split.embeddings.dtype)


def _root(products: Tensor) -> Tensor:
    """The symmetric square root of inner products [E, I, I], in float64.

    Unlike a Cholesky factor it does not depend on the order of the images, but for the order of its columns.
    """
    products = products.double()
    values, vectors = torch.linalg.eigh((products + products.transpose(1, 2)) / 2)
    root: Tensor = (vectors * values.clamp_min(0).sqrt().unsqueeze(1)) @ vectors.transpose(1, 2)
    return root


def class_means(features: Tensor, way: int, shot: int) -> Tensor:
    """Mean of each class's support images, which come first and class by class, [E, N, D]."""
    return features[:, : way * shot].reshape(len(features), way, shot, -1).mean(dim=2)


def cross_entropy_slope(log_probabilities: Tensor) -> Tensor:
    """Slope of the mean cross-entropy of a support set in the order of its classes, [E, N, N * K]."""
    way, count = log_probabilities.shape[1:]
    targets = torch.eye(way, dtype=log_probabilities.dtype, device=log_probabilities.device)
    return (log_probabilities.exp() - targets.repeat_interleave(count // way, dim=1)) / count


def entropy_slope(log_probabilities: Tensor) -> Tensor:
    """Slope of the mean Shannon entropy of predictions, [E, N, M]."""
    count = log_probabilities.shape[2]
    probabilities = log_probabilities.exp()
    weighted = probabilities * log_probabilities
    return (probabilities * weighted.sum(dim=1, keepdim=True) - weighted) / count


EntropyHead = Literal["linear", "distance"]
Updates = Literal["alternating", "joint"]


@ADAPTATIONS.register(
    "entropy",
    "a linear head trained on the support set's cross-entropy and the entropy of the queries' predictions",
    paper="Dhillon et al., 2020, A Baseline for Few-Shot Image Classification",
    family="fine-tuning",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class Entropy(EmbeddingAdaptation):
    """Transductive fine-tuning of a head on frozen embeddings.

    Attributes:
        head: "linear" for weights and biases, or "distance" for prototypes whose logits are negative distances.
        temperature: factor of the logits. 60 belongs to embeddings of unit norm and was chosen on the validation split
            of CIFAR-FS among 1, 5, 15, 30 and 60 (58.7, 57.2, 57.2, 58.4 and 59.5% at one shot). The paper has none.
        epochs: rounds over both losses.
        updates: "alternating" makes two updates per epoch, one for each loss; "joint" makes one for their sum.
        learning_rate: of Adam. 5e-5 is published for a whole network; for a head, larger ones were worse on the
            validation split of CIFAR-FS.
        coordinates: "full" runs Adam on the embedding's own D numbers; "span" on orthonormal coordinates of the
            span of the episode's images, which are fewer. Adam is not invariant to rotation, and a step in fewer
            coordinates is shorter, so "span" arrives elsewhere.

    >>> import fewshot_bench as fb
    >>> fb.Entropy(updates="joint").is_transductive
    True
    >>> fb.Entropy(epochs=0)
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.StudyError: epochs of entropy should be a whole number of 1 or more, not 0.
    """

    name: ClassVar[str] = "entropy"
    is_transductive = True
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"temperature": (60.0, 15.0, 30.0, 120.0)}
    head: EntropyHead = "linear"
    temperature: float = 60.0
    epochs: int = 25
    updates: Updates = "alternating"
    learning_rate: float = 5e-5
    coordinates: Coordinates = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_positive("temperature", "learning_rate")
        self._expect_whole(1, "epochs")

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Logits of every query after the last update; see `EmbeddingAdaptation.scores`."""
        way, shot = support.shape[1:]
        count = way * shot
        turns = [Turn(slice(None), _JointLoss(count))]
        if self.updates == "alternating":
            turns = [Turn(slice(0, count), cross_entropy_slope), Turn(slice(count, None), entropy_slope)]
        parts = []
        for features in placed_episodes(split, support, query, self.coordinates):
            weights = class_means(features, way, shot)
            if self.head == "linear":
                weights = torch.nn.functional.pad(torch.nn.functional.normalize(weights, dim=2), (0, 1))
                features = torch.nn.functional.pad(features, (0, 1), value=1)  # a constant feature carries the bias
            weights = descend(
                features,
                weights,
                turns,
                head=self.head,
                temperature=self.temperature,
                steps=len(turns) * self.epochs,
                learning_rate=self.learning_rate,
            )
            parts.append(logits_of(features[:, count:], weights, self.head, self.temperature).transpose(1, 2))
        return torch.cat(parts)

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        """Gathered embeddings, the head and what a step makes of it."""
        images = way * shot + queries
        return 2 * images * embedding_size + 8 * way * embedding_size + 16 * way * images + 4 * images * images


@dataclass(frozen=True)
class _JointLoss:
    """The slope of cross-entropy and entropy together, for `Turn`."""

    support: int

    def __call__(self, log_probabilities: Tensor) -> Tensor:
        of_support, of_queries = log_probabilities[:, :, : self.support], log_probabilities[:, :, self.support :]
        return torch.cat([cross_entropy_slope(of_support), entropy_slope(of_queries)], dim=2)
