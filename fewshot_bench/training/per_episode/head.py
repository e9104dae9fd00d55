"""The linear heads of many episodes, on the encoder's output."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

# As in torch's `normalize`: embeddings of nothing but zeros give a head of zeros.
_SMALLEST_NORM = 1e-12


class StackedHead:
    """A linear layer with a bias for each episode.

    Attributes:
        weight: [E, N, D].
        bias: [E, N].
    """

    def __init__(self, episodes: int, way: int, embedding_size: int, *, like: Tensor) -> None:
        """Make room for weights of the device and type of a tensor."""
        self.weight = like.new_zeros(episodes, way, embedding_size).requires_grad_()
        self.bias = like.new_zeros(episodes, way).requires_grad_()

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Logits [E, B, N] of embeddings [E, B, D]."""
        return torch.baddbmm(self.bias.unsqueeze(1), embeddings, self.weight.transpose(1, 2))

    @torch.no_grad()
    def start(self, how: Literal["centroid", "zero"], support: Tensor, scale: float) -> None:
        """Set the first weights.

        Args:
            how: "centroid" points each class at the mean of its normalised embeddings, so that the nearest centroid
                by cosine wins (the first weights of Dhillon et al., 2020); "zero" prefers no class.
            support: embeddings of the plain support images, [E, N, K, D].
            scale: of the logits at the beginning: a cosine of one becomes about that much.
        """
        self.bias.zero_()
        if how == "zero":
            self.weight.zero_()
            return
        directions = normalize(normalize(support, dim=-1).mean(dim=2), dim=-1)
        norms = support.norm(dim=-1).mean(dim=(1, 2)).clamp_min(_SMALLEST_NORM)
        self.weight.copy_(directions * (scale / norms).view(-1, 1, 1))


def dropped(embeddings: Tensor, uniform: Tensor, rate: float) -> Tensor:
    """Dropout with the random numbers given.

    Args:
        embeddings: [E, B, D].
        uniform: in [0, 1), [E, B * D].
        rate: share that is dropped.
    """
    kept = (uniform >= rate).view_as(embeddings)
    return embeddings * kept / (1 - rate)
