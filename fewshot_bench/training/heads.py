"""Heads that tell the base classes apart, and how a checkpoint keeps them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot_bench.backbones.weights_file import BaseHead
from fewshot_bench.losses.cosine import cosine_logits


class CosineHead(nn.Module):
    """Scaled cosines with one direction per class, each times a norm that is learned too (Baseline++'s code).

    Args:
        embedding_size: D.
        classes: C.
        scale: of the cosines.

    Attributes:
        weight: of any length, [C, D]; begins as that of a linear layer.
        norms: begin as the lengths of the weights, [C].
    """

    def __init__(self, embedding_size: int, classes: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(embedding_size, classes, bias=False).weight.detach())
        self.norms = nn.Parameter(self.weight.detach().norm(dim=1))
        self.scale = scale

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits [B, C] of embeddings [B, D]."""
        return cosine_logits(embeddings, self.weight, self.norms, scale=self.scale)

    @torch.no_grad()
    def as_base_head(self, classes: tuple[str, ...]) -> BaseHead:
        """The head on the CPU, its scale and norms in the lengths of its weights."""
        weight = (self.scale * self.norms.unsqueeze(1) * normalize(self.weight, dim=1)).cpu()
        return BaseHead(weight, torch.zeros(len(weight)), classes, "cosine")


def base_head_of(head: nn.Module, classes: tuple[str, ...]) -> BaseHead | None:
    """What a checkpoint keeps of the head of an objective; None where it tells no classes apart."""
    cosine = next((module for module in head.modules() if isinstance(module, CosineHead)), None)
    return BaseHead.of(head, classes) if cosine is None else cosine.as_base_head(classes)
