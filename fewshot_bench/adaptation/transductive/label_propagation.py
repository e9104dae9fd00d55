"""Label propagation: the labels of the support set spread over a graph of all images of the episode.

Zhou, Bousquet, Lal, Weston and Schoelkopf (2004), "Learning with local and global consistency", brought to few-shot
episodes by Liu et al. (2019), "Learning to propagate labels". Images x_i are joined by

    w_ij = exp(-gamma |x_i - x_j|^2 / s),  w_ii = 0,  S = D^(-1/2) W D^(-1/2),  D the row sums of W

where s is the mean squared distance of two images of the episode, so that one gamma serves features of any norm. Each
image keeps 1 - alpha of its own label and takes alpha from its neighbours, F <- alpha S F + (1 - alpha) Y, and the
iteration ends, up to a factor, in

    F = (I - alpha S)^(-1) Y

which is solved for directly. scikit-learn's LabelSpreading iterates to the same F on the full graph. With `knn`, two
images are joined only where one is among the nearest neighbours of the other; images that tie share the last places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, support_labels
from fewshot_bench.adaptation.transductive.episode_products import episode_grams, nearest_neighbours, squared_distances
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import ShapeError

_EPISODES_AT_ONCE = 32


def propagated_labels(
    products: Tensor, labels: Tensor, *, alpha: float = 0.8, gamma: float = 8.0, knn: int = 10
) -> Tensor:
    """Spread labels over the graph of the images of each episode (Zhou et al., 2004).

    Args:
        products: inner products of all images of each episode, the labelled ones first, [E, T, T].
        labels: classes of the labelled images, 0 to N - 1, the same in all episodes, [n].
        alpha: share of its neighbours in the label of an image, between 0 and 1.
        gamma: how fast an edge weakens with the squared distance, relative to the mean squared distance of two images.
        knn: nearest neighbours that an image is joined with; 0 for all images.

    Returns:
        Shares of the classes in each image that has no label, zero where it is joined with none, float64 [E, T - n, N].

    Raises:
        ShapeError: the products are not square, or leave no image without a label.

    Example: points on a line; the label of the first one wanders along the chain to the fourth.

        >>> line = torch.tensor([[0.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0]]).unsqueeze(2)
        >>> shares = propagated_labels(line @ line.mT, torch.tensor([0, 1]), alpha=0.99, knn=2)
        >>> shares.argmax(dim=2)
        tensor([[0, 0, 0, 0, 0]])
    """
    if products.ndim != 3 or products.shape[1] != products.shape[2] or products.shape[1] <= len(labels):
        raise ShapeError(f"products [E, T, T] and labels [n] do not fit: {list(products.shape)} and {len(labels)}.")
    graph = _graph(products, gamma, knn)
    degrees = graph.sum(2)
    roots = torch.where(degrees > 0, degrees, 1).rsqrt()
    system = graph.mul_(roots.unsqueeze(1)).mul_(-alpha * roots.unsqueeze(2))
    system.diagonal(dim1=1, dim2=2).fill_(1)
    known = one_hot(labels).to(system.dtype)
    right = system.new_zeros(*system.shape[:2], known.shape[1])
    right[:, : len(labels)] = known
    # The eigenvalues of S are at most 1, so that I - alpha S is positive definite.
    spread = torch.cholesky_solve(right, torch.linalg.cholesky(system))[:, len(labels) :]
    total = spread.sum(2, keepdim=True)
    return spread / torch.where(total > 0, total, 1)


def _graph(products: Tensor, gamma: float, knn: int) -> Tensor:
    """Weights of the edges, symmetric, float64 [E, T, T]."""
    count = products.shape[1]
    distances = squared_distances(products.double())
    distances = (distances + distances.transpose(1, 2)) / 2
    mean = distances.sum((1, 2), keepdim=True) / (count * (count - 1))
    graph = (distances * (-gamma / torch.where(mean > 0, mean, 1))).exp_()
    graph.diagonal(dim1=1, dim2=2).zero_()
    if 0 < knn < count - 1:
        neighbours = nearest_neighbours(products, knn)
        graph *= torch.maximum(neighbours, neighbours.transpose(1, 2))
    return graph


@ADAPTATIONS.register(
    "label-propagation",
    "labels spread over a graph of support images and queries, in closed form",
    paper="Zhou et al., 2004, Local and Global Consistency; Liu et al., 2019, Learning to Propagate Labels",
    family="graph",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class LabelPropagation(EmbeddingAdaptation):
    """Labels spread from the support images to the queries.

    Defaults were chosen on the validation split of CIFAR-FS with L2 features of EfficientNet-Lite0.

    Attributes:
        alpha: share of its neighbours in the label of an image, between 0 and 1.
        gamma: how fast an edge weakens with the squared distance, relative to the mean squared distance in the episode.
        knn: nearest neighbours that an image is joined with; 0 joins all images.

    >>> import fewshot_bench as fb
    >>> fb.LabelPropagation(knn=0).hyper_parameters()
    {'features': 'l2', 'alpha': 0.8, 'gamma': 8.0, 'knn': 0}
    >>> fb.LabelPropagation(alpha=1.0)
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.StudyError: alpha of label-propagation should be between 0 and 1, not 1.0.
    """

    name: ClassVar[str] = "label-propagation"
    is_transductive = True
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"alpha": (0.8, 0.5, 0.9, 0.99), "gamma": (8.0, 4.0, 12.0)}
    alpha: float = 0.8
    gamma: float = 8.0
    knn: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect(0 < self.alpha < 1, "alpha", "between 0 and 1")
        self._expect_not_negative("gamma")
        self._expect_whole(0, "knn")

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Share of each class in the label of every query; see `EmbeddingAdaptation.scores`."""
        images, labels = torch.cat([support.flatten(1), query], dim=1), support_labels(support)
        shares = [
            propagated_labels(products, labels, alpha=self.alpha, gamma=self.gamma, knn=self.knn)
            for products in episode_grams(split, images, _EPISODES_AT_ONCE)
        ]
        return torch.cat(shares)

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        """Gathered embeddings, their inner products, the graph and its factor."""
        images = way * shot + queries
        return 2 * images * embedding_size + 10 * images**2 + 10 * way * images
