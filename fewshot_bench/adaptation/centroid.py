"""Nearest class centroid: the classifier of Prototypical Networks (Snell et al., 2017) on frozen embeddings.

With centred and L2-normalised features it is SimpleShot (Wang et al., 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation, LinearIn
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, in_parts
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import ShapeError

Metric = Literal["cosine", "euclidean"]

# Episodes whose gathered rows still fit a core's cache, and whose looked-up products do.
_COMPUTED_AT_ONCE = 16
_LOOKED_UP_AT_ONCE = 128


def nearest_centroid(support: Tensor, query: Tensor, *, metric: Metric = "cosine") -> Tensor:
    """Classify each query by its nearest class centroid (Snell et al., 2017).

    Args:
        support: embeddings of the support sets, [E, N, K, D].
        query: embeddings of the query sets, [E, M, D].
        metric: "cosine" or "euclidean"; cosine expects nothing of the norms.

    Returns:
        Scores, higher is closer, [E, M, N].

    Raises:
        ShapeError: the episodes or the embedding sizes differ.
    """
    if support.ndim != 4 or query.ndim != 3 or support.shape[::3] != query.shape[::2]:
        raise ShapeError(
            f"support [E, N, K, D] and query [E, M, D] do not fit: {list(support.shape)} and {list(query.shape)}."
        )
    return _scores(support.mean(dim=2), query, metric)


def _scores(centroids: Tensor, query: Tensor, metric: Metric) -> Tensor:
    products = query @ centroids.transpose(1, 2)
    return _nearness(products, centroids.square().sum(-1).unsqueeze(1), query.square().sum(-1, keepdim=True), metric)


def _nearness(products: Tensor, centroids: Tensor, queries: Tensor, metric: Metric) -> Tensor:
    """Scores from products [E, M, N] and squared norms of centroids [E, 1, N] and queries [E, M, 1]."""
    if metric == "euclidean":
        return 2 * products - centroids - queries
    return products / (centroids * queries).clamp_min(torch.finfo(products.dtype).tiny).sqrt()


@ADAPTATIONS.register(
    "centroid",
    "nearest class centroid, cosine or Euclidean, on raw, L2 or centred-and-L2 features",
    paper="Snell et al., 2017, Prototypical Networks; Wang et al., 2019, SimpleShot",
    family="nearest neighbour",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class Centroid(EmbeddingAdaptation):
    """Nearest class centroid.

    Attributes:
        metric: "cosine" or "euclidean".

    >>> import fewshot_bench as fb
    >>> fb.Centroid(metric="euclidean").hyper_parameters()
    {'features': 'l2', 'metric': 'euclidean'}
    >>> fb.Centroid(metric="manhattan")
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.StudyError: metric of centroid should be one of cosine, euclidean, not manhattan.
    """

    name: ClassVar[str] = "centroid"
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"metric": ("cosine", "euclidean")}
    metric: Metric = "cosine"

    @property
    def linear_in(self) -> LinearIn:
        """Cosines are linear in the direction of a query."""
        return "direction" if self.metric == "cosine" else ""

    @property
    def score_kind(self) -> str:
        """The nearness to the mean of a class."""
        return "cosine" if self.metric == "cosine" else "minus the squared distance"

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Score every query by its nearness to every centroid; see `EmbeddingAdaptation.scores`."""
        is_computed = split.gram is None
        score = self._computed if is_computed else self._looked_up
        at_once = _COMPUTED_AT_ONCE if is_computed else _LOOKED_UP_AT_ONCE
        return torch.cat([score(split, *part) for part in in_parts(at_once, support, query)])

    def uneven_scores(self, split: EmbeddedSplit, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """The nearness to the mean of each class; see `EmbeddingAdaptation.uneven_scores`."""
        means = [rows.mean(dim=0) for rows in torch.split(split.rows(support), torch.bincount(labels).tolist())]
        return _scores(torch.stack(means).unsqueeze(0), split.rows(query).unsqueeze(0), self.metric)[0]

    def _computed(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        episodes, way, shot = support.shape
        means = embedding_bag(support.reshape(-1, shot), split.embeddings, mode="mean")
        centroids = means.view(episodes, way, -1)
        products = split.rows(query) @ centroids.transpose(1, 2)
        own = split.squared_norms[query].unsqueeze(2)
        return _nearness(products, centroids.square().sum(-1).unsqueeze(1), own, self.metric)

    def _looked_up(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """The same from inner products: <q, c> and |c|^2 are means of looked-up entries."""
        episodes, way, shot = support.shape
        # Rows of the support, read at the columns of the queries, stay within few pages of the large matrix.
        products = split.products(support.flatten(1), query).view(episodes, way, shot, -1).mean(dim=2).transpose(1, 2)
        within = split.products(support.flatten(0, 1), support.flatten(0, 1))
        squares = within.mean(dim=(1, 2)).view(episodes, 1, way)
        return _nearness(products, squares, split.squared_norms[query].unsqueeze(2), self.metric)


ADAPTATIONS.alias(
    "simpleshot",
    "centroid",
    preset={"features": "cl2", "metric": "euclidean"},
    paper="Wang et al., 2019, SimpleShot",
)
