"""Logits from cosines, for a head whose classes differ in direction and not in length."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from fewshot_bench.losses.contrastive import at_least_float32


def cosine_logits(embeddings: Tensor, weights: Tensor, norms: Tensor | None = None, *, scale: float) -> Tensor:
    """Scaled cosines between embeddings and one weight vector per class (Chen et al., 2019, Baseline++).

        logit of class c = scale * norm_c * <w_c, x> / (|w_c| |x|)

    Args:
        embeddings: x, of any norm, [..., B, D].
        weights: w_c, of any length, [..., C, D].
        norms: a factor for each class, [..., C]; none is 1 for all, the cosine of the paper. Its code learns them.
        scale: of all logits.

    Returns:
        [..., B, C], in float64 for float64 and in float32 otherwise.

    Examples:
        >>> import torch
        >>> weights = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
        >>> cosine_logits(torch.tensor([[10.0, 0.0], [3.0, 4.0]]), weights, scale=2.0).round(decimals=4)
        tensor([[2.0000, 0.0000],
                [1.2000, 1.6000]])
    """
    directions = normalize(at_least_float32(weights), dim=-1)
    if norms is not None:
        directions = directions * norms.unsqueeze(-1)
    logits: Tensor = scale * (normalize(at_least_float32(embeddings), dim=-1) @ directions.transpose(-1, -2))
    return logits
