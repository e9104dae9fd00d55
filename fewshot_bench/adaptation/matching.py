"""Matching networks: the labels of the support images, weighted by attention (Vinyals et al., 2016).

"Matching Networks for One Shot Learning" classifies a query by

    p(class c) = sum over support images i of class c of  softmax over i of (scale * cosine(query, image i))

with a scale of 1. Here embeddings are frozen, so there is no full context embedding: the paper's LSTMs over the
support set belong to the training of the network.

The code of Chen et al. (2019), "A closer look at few-shot classification", multiplies the cosines by 100 after a ReLU.
`scale` = 100 gives that; the ReLU only matters where cosines are negative. With one shot every scale predicts alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, in_parts
from fewshot_bench.adaptation.knn import support_nearness
from fewshot_bench.errors import ShapeError

_EPISODES_AT_ONCE = 128


@ADAPTATIONS.register(
    "matching",
    "attention over the support images by cosine similarity, without full context embeddings",
    paper="Vinyals et al., 2016, Matching Networks",
    family="nearest neighbour",
)
@dataclass(frozen=True, kw_only=True)
class Matching(EmbeddingAdaptation):
    """Attention over the support images.

    Attributes:
        scale: factor of the cosines before the softmax; 1 in the paper, 100 in the code of Chen et al. (2019).
            A small scale compares with the mean of a class, a large one with its nearest image. With L2 features, 10
            was best on the validation split of CIFAR-FS.
    """

    name: ClassVar[str] = "matching"
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"scale": (1.0, 10.0, 30.0, 100.0)}
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_positive("scale")

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Logarithm of the attention that each class gets; see `EmbeddingAdaptation.scores`."""
        way, shot = support.shape[1:]
        parts = []
        for images, queries in in_parts(_EPISODES_AT_ONCE, support.flatten(1), query):
            cosines = support_nearness(split, images, queries, "cosine")
            parts.append(log_attention(cosines.view(-1, way, shot, query.shape[1]), scale=self.scale))
        return torch.cat(parts)


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
