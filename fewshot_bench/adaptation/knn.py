"""The support images vote on the class of a query: the k nearest, or all of them weighted by attention.

The vote of the k nearest must not depend on the order in which images are stored, so similarity decides ties: images
that tie for the last places among the k nearest share the remaining votes, and of classes with equal votes the one
whose voters are nearer on average wins.

Vinyals et al. (2016), "Matching Networks for One Shot Learning", weight all support images by attention. They
classify a query by

    p(class c) = sum over support images i of class c of  softmax over i of (scale * cosine(query, image i))

with a scale of 1. Here embeddings are frozen, so there is no full context embedding: the paper's LSTMs over the
support set belong to the training of the network.

The code of Chen et al. (2019), "A closer look at few-shot classification", multiplies the cosines by 100 after a
ReLU. `scale` = 100 gives that; the ReLU only matters where cosines are negative. With one shot every scale predicts
alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fewshot_bench.adaptation.base import ADAPTATIONS, LOGITS, EmbeddingAdaptation
from fewshot_bench.adaptation.centroid import Metric
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, in_parts
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import ShapeError

_EPISODES_AT_ONCE = 128


@ADAPTATIONS.register(
    "knn",
    "majority vote of the k nearest support images",
    paper="Cover and Hart, 1967, Nearest Neighbor Pattern Classification",
    family="nearest neighbour",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class KNearestNeighbours(EmbeddingAdaptation):
    """Vote of the nearest support images; equal votes go to the class whose voters are nearer on average.

    Attributes:
        k: how many support images vote; all of them where an episode has fewer.
        metric: "cosine" or "euclidean"; the same on L2 features.

    >>> import fewshot_bench as fb
    >>> fb.KNearestNeighbours(k=3).hyper_parameters()
    {'features': 'l2', 'k': 3, 'metric': 'cosine'}
    >>> fb.KNearestNeighbours(choose="support-cv").hyper_parameters()["grid"]
    {'k': [1, 3, 5]}
    """

    name: ClassVar[str] = "knn"
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"k": (1, 3, 5)}
    k: int = 1
    metric: Metric = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_whole(1, "k")

    @property
    def score_kind(self) -> str:
        """Shares of the votes."""
        return "share of the votes"

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Share of the votes for every class; see `EmbeddingAdaptation.scores`."""
        way, shot = support.shape[1:]
        parts = []
        for images, queries in in_parts(_EPISODES_AT_ONCE, support.flatten(1), query):
            nearness = support_nearness(split, images, queries, self.metric)
            parts.append(votes_of_nearest(nearness.view(-1, way, shot, query.shape[1]), k=self.k))
        return torch.cat(parts)

    def uneven_scores(self, split: EmbeddedSplit, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Shares of the votes, an image a vote; see `EmbeddingAdaptation.uneven_scores`."""
        nearness = support_nearness(split, support.unsqueeze(0), query.unsqueeze(0), self.metric)[0]
        padded = _class_by_class(nearness, labels, float(nearness.min()) - 1)  # farther than any image
        return votes_of_nearest(padded, k=min(self.k, len(support)))[0]


def _class_by_class(nearness: Tensor, labels: Tensor, padding: float) -> Tensor:
    """Nearness [n, M] of support images with labels [n] as [1, N, K, M], K of the largest class, others padded."""
    groups = list(torch.split(nearness, torch.bincount(labels).tolist()))
    return pad_sequence(groups, batch_first=True, padding_value=padding).unsqueeze(0)


def support_nearness(split: EmbeddedSplit, images: Tensor, queries: Tensor, metric: Metric) -> Tensor:
    """Cosine, or minus the squared distance, of each support image [E, n] and query [E, M] of a split, [E, n, M]."""
    products = split.products(images, queries)
    own, others = split.squared_norms[images].unsqueeze(2), split.squared_norms[queries].unsqueeze(1)
    if metric == "euclidean":
        return 2 * products - own - others
    lowest = torch.finfo(products.dtype).tiny
    return products * own.clamp_min(lowest).rsqrt() * others.clamp_min(lowest).rsqrt()


def votes_of_nearest(nearness: Tensor, *, k: int = 1) -> Tensor:
    """Let the nearest support images of each query vote.

    Args:
        nearness: of each support image and query, higher is closer, [E, N, K, M].
        k: how many vote; all N * K where these are fewer.

    Returns:
        Share of the votes for each class, plus a part of it that is too small to outweigh a vote and grows with the
        nearness of the voters, float64 [E, M, N].

    Raises:
        ShapeError: `nearness` has another number of dimensions.

    Of three neighbours, two belong to the second class:

    >>> nearness = torch.tensor([[0.9, 0.1], [0.8, 0.7]]).view(1, 2, 2, 1)
    >>> votes_of_nearest(nearness, k=3).argmax(-1).tolist()
    [[1]]
    """
    if nearness.ndim != 4:
        raise ShapeError(f"nearness should be [E, N, K, M], not {list(nearness.shape)}.")
    images = nearness.shape[1] * nearness.shape[2]
    k = min(k, images)
    farthest = _kth_nearest(nearness.flatten(1, 2), k).unsqueeze(1)
    last = (nearness == farthest).to(nearness.dtype).sum(2).double()
    if k == 1:  # a single vote, which images that are equally near share: classes with equal shares are equally near
        return (last / last.sum(1, keepdim=True)).transpose(1, 2)
    is_nearer = (nearness > farthest).to(nearness.dtype)
    nearer = is_nearer.sum(2).double()
    # Images as near as the k-th share the votes that are left.
    shared = last * (k - nearer.sum(1, keepdim=True)) / last.sum(1, keepdim=True)
    of_voters = (is_nearer * nearness).sum(2) + shared * farthest.squeeze(2)
    largest = nearness.abs().flatten(1, 2).amax(1, keepdim=True).clamp_min(torch.finfo(nearness.dtype).tiny)
    # Votes differ by 1 / (N * K) or more, if at all; the nearness of all voters adds up to less than half of that.
    votes = nearer + shared + of_voters / largest / (4 * images * k)
    return (votes / k).transpose(1, 2)


def _kth_nearest(nearness: Tensor, k: int) -> Tensor:
    """The k-th largest of each query, [E, 1, M]."""
    if k == 1:
        return nearness.amax(1, keepdim=True)
    # The queries of one rank lie apart in memory; side by side, what follows is four times faster.
    return nearness.topk(k, dim=1).values[:, -1:].contiguous()


@ADAPTATIONS.register(
    "matching",
    "attention over the support images by cosine similarity, without full context embeddings",
    paper="Vinyals et al., 2016, Matching Networks",
    family="nearest neighbour",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class Matching(EmbeddingAdaptation):
    """Attention over the support images.

    Attributes:
        scale: factor of the cosines before the softmax; 1 in the paper, 100 in the code of Chen et al. (2019).
            A small scale compares with the mean of a class, a large one with its nearest image. With L2 features, 10
            was best on the validation split of CIFAR-FS.

    >>> import fewshot_bench as fb
    >>> fb.Matching(scale=10.0).hyper_parameters()
    {'features': 'l2', 'scale': 10.0}
    """

    name: ClassVar[str] = "matching"
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"scale": (1.0, 10.0, 30.0, 100.0)}
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_positive("scale")

    @property
    def score_kind(self) -> str:
        """Logarithms of shares of the attention."""
        return LOGITS

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Logarithm of the attention that each class gets; see `EmbeddingAdaptation.scores`."""
        way, shot = support.shape[1:]
        parts = []
        for images, queries in in_parts(_EPISODES_AT_ONCE, support.flatten(1), query):
            cosines = support_nearness(split, images, queries, "cosine")
            parts.append(log_attention(cosines.view(-1, way, shot, query.shape[1]), scale=self.scale))
        return torch.cat(parts)

    def uneven_scores(self, split: EmbeddedSplit, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Logarithm of the attention, where every image counts alike; see `EmbeddingAdaptation.uneven_scores`."""
        cosines = support_nearness(split, support.unsqueeze(0), query.unsqueeze(0), "cosine")[0]
        return log_attention(_class_by_class(cosines, labels, -torch.inf), scale=self.scale)[0]


def log_attention(similarity: Tensor, *, scale: float = 1.0) -> Tensor:
    """Logarithm of the sum of attention over the support images of each class.

    A sum of attention underflows to 0 for several classes at large scales; its logarithm still tells them apart.

    Args:
        similarity: of each support image and query, [E, N, K, M].
        scale: its factor before the softmax.

    Returns:
        Log-probabilities, [E, M, N].

    Raises:
        ShapeError: `similarity` has another number of dimensions.

    >>> similarity = torch.tensor([[0.8], [0.2]]).view(1, 2, 1, 1)
    >>> log_attention(similarity).exp().sum(-1).tolist()
    [[1.0]]
    """
    if similarity.ndim != 4:
        raise ShapeError(f"similarity should be [E, N, K, M], not {list(similarity.shape)}.")
    of_classes = torch.logsumexp(scale * similarity, dim=2)
    return torch.log_softmax(of_classes, dim=1).transpose(1, 2)
