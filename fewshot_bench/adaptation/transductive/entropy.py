"""Transductive fine-tuning of a head: supported classes are learned while predictions for queries become certain.

Dhillon et al. (2020), "A Baseline for Few-Shot Image Classification", start from a support-based initialisation: a
linear layer whose weights are the class means of the support embeddings, divided by their norm, and whose biases are
zero. They minimise

    mean cross-entropy of the support set + mean Shannon entropy of the predictions for the queries

for 25 epochs of Adam, each with one update for the cross-entropy and one for the entropy. They train the whole network.
Here the backbone stays frozen and only the head is trained, which changes what to expect: with fixed embeddings the
entropy is lowest where all queries are of one class, and nothing in this loss prevents it. (TIM adds the term that
does.) On the validation split of CIFAR-FS (EfficientNet-Lite0, 120 episodes of 5 ways) no temperature and learning rate
beat the nearest centroid at one shot; the defaults lose least.

easyfsl's TransductiveFinetuning trains prototypes in place of a linear layer. Its logits are negative distances, and it
makes one update per epoch for the sum of both losses: `head="distance"`, `updates="joint"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit
from fewshot_bench.adaptation.transductive.prototype_descent import (
    Coordinates,
    Turn,
    class_means,
    cross_entropy_slope,
    descend,
    entropy_slope,
    logits_of,
    placed_episodes,
)

Head = Literal["linear", "distance"]
Updates = Literal["alternating", "joint"]


@ADAPTATIONS.register(
    "entropy",
    "a linear head trained on the support set's cross-entropy and the entropy of the queries' predictions",
    paper="Dhillon et al., 2020, A Baseline for Few-Shot Image Classification",
    family="fine-tuning",
)
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
    """

    name: ClassVar[str] = "entropy"
    is_transductive = True
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"temperature": (60.0, 15.0, 30.0, 120.0)}
    head: Head = "linear"
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
