"""What is left of an adaptation once its support set is known: a head that scores any query.

Scores that are linear in a query need one vector of weights per class. The weights are read off the scores of the unit
vectors, so they are those of the very function that an evaluation calls. Other methods keep their support set and are
called again for each query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import EmbeddingAdaptation
from fewshot_bench.adaptation.checked_predictions import checked_scores
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit
from fewshot_bench.adaptation.hyper_parameter_choice import chosen_for
from fewshot_bench.errors import EmbeddingError, StudyError

_LARGEST_LINEAR = 4096  # D: reading the weights off takes a D x D matrix
_COMPARED = 64  # support images whose scores are compared
_ROUNDING = 1e-3  # of the largest score
_SMALLEST_NORM = 1e-12


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Scores that are linear in the features of a query, or in their direction.

    Attributes:
        weights: float64 [N, D].
        bias: float64 [N].
        linear_in: "embedding", or "direction" where features are divided by their norm first.
    """

    weights: Tensor
    bias: Tensor
    linear_in: Literal["embedding", "direction"]

    def scores(self, queries: Tensor) -> Tensor:
        """Score queries by their features [M, D], float64 [M, N].

        >>> LinearHead(torch.eye(2).double(), torch.zeros(2).double(), "direction").scores(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]], dtype=torch.float64)
        """
        features = queries.double()
        if self.linear_in == "direction":
            features = features / torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_min(_SMALLEST_NORM)
        return features @ self.weights.T + self.bias


@dataclass(frozen=True, eq=False)
class SupportHead:
    """A support set, and the adaptation that is called for each query.

    Attributes:
        adaptation: inductive.
        support: features of the support images, then of their augmented views, [1 + V, n, D], class by class.
        class_sizes: support images of each class.
        base_covariance: [D, D], if the adaptation needs it.
    """

    adaptation: EmbeddingAdaptation
    support: Tensor
    class_sizes: tuple[int, ...]
    base_covariance: Tensor | None = None

    def scores(self, queries: Tensor) -> Tensor:
        """Score queries by their features [M, D], [M, N]."""
        images, others = self.support.shape[1], len(queries)
        padding = queries.new_zeros(queries.shape)  # views of queries, which no adaptation looks at
        rows = [torch.cat([view, queries if number == 0 else padding]) for number, view in enumerate(self.support)]
        split = EmbeddedSplit(torch.cat(rows), images + others, base_covariance=self.base_covariance)
        places = torch.arange(images + others, device=queries.device)
        support, query = places[:images], places[images:]
        way = len(self.class_sizes)
        if len(set(self.class_sizes)) == 1:
            return checked_scores(self.adaptation, split, support.view(1, way, -1), query.unsqueeze(0))[0]
        labels = torch.arange(way).repeat_interleave(torch.tensor(self.class_sizes)).to(queries.device)
        scores = self.adaptation.uneven_scores(split, support, labels, query)
        if scores is None:
            raise StudyError(f"{self.adaptation.name} learns from classes of one size. Take --shot images of each.")
        if scores.shape != (others, way) or not bool(scores.isfinite().all()):
            raise EmbeddingError(f"{self.adaptation.name} gave scores that are not finite, or not [M, N].")
        return scores


FittedHead: TypeAlias = LinearHead | SupportHead


def takes_uneven_classes(adaptation: EmbeddingAdaptation) -> bool:
    """Whether an adaptation learns from classes that differ in size; not where it cross-validates or averages.

    >>> from fewshot_bench.adaptation import BaselinePlusPlus, Logistic
    >>> takes_uneven_classes(Logistic()), takes_uneven_classes(BaselinePlusPlus())
    (True, False)
    """
    return adaptation.choose == "none" and _is_about_own_scores(adaptation, "uneven_scores")


@torch.no_grad()
def fit_head(adaptation: EmbeddingAdaptation, split: EmbeddedSplit, support: Sequence[Tensor]) -> FittedHead:
    """Learn from one support set.

    Args:
        adaptation: inductive; hyper-parameters that it chooses by cross-validation are chosen once, now.
        split: embeddings with the adaptation's features and augmented views.
        support: image indices of each class, int64 [n] each; of one size unless `takes_uneven_classes`.

    Raises:
        StudyError: the adaptation is transductive, or cannot take these classes.
        EmbeddingError: the scores are not finite.
    """
    if adaptation.is_transductive:
        raise StudyError(
            f"{adaptation.name} is transductive: its class for an image depends on the images beside it, so "
            "there is no classifier to keep. Use an inductive method, such as --adapt logistic."
        )
    sizes = tuple(len(images) for images in support)
    if adaptation.choose == "support-cv":
        adaptation = chosen_for(adaptation, split, torch.stack(list(support)).unsqueeze(0))
    rows = torch.cat(list(support))
    views = torch.stack([split.rows(rows + view * split.images) for view in range(adaptation.augmented_views + 1)])
    covariance = split.base_covariance if adaptation.needs_base_covariance else None
    head = SupportHead(adaptation, views, sizes, covariance)
    size = split.embeddings.shape[1]
    if adaptation.choose != "none" or size > _LARGEST_LINEAR or not _is_about_own_scores(adaptation, "linear_in"):
        return head
    linear_in = adaptation.linear_in
    return head if linear_in == "" else _read_off(head, linear_in)


def _read_off(head: SupportHead, linear_in: Literal["embedding", "direction"]) -> FittedHead:
    """The weights of linear scores; the head itself where they do not give its scores."""
    size = head.support.shape[2]
    some = head.support[0, :: max(1, head.support.shape[1] // _COMPARED)]
    unit = torch.eye(size, dtype=some.dtype, device=some.device)
    scores = head.scores(torch.cat([some.new_zeros(1, size), unit, some])).double()
    bias, of_units, expected = scores[0], scores[1 : size + 1], scores[size + 1 :]
    linear = LinearHead((of_units - bias).T.contiguous(), bias, linear_in)
    error = (linear.scores(some) - expected).abs().max()
    return linear if float(error) <= _ROUNDING * max(1.0, float(expected.abs().max())) else head


def _is_about_own_scores(adaptation: EmbeddingAdaptation, attribute: str) -> bool:
    """Whether an attribute is declared with or below the class's scores; a plug-in may replace the scores alone."""
    for kind in type(adaptation).__mro__:
        if attribute in vars(kind):
            return kind is not EmbeddingAdaptation
        if "scores" in vars(kind):
            return False
    return False
