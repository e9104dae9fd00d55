"""Linear heads in the span of an episode's support images: fitted and applied with inner products alone.

The optimum of a penalised linear head is a combination of the support embeddings. So an episode needs one coefficient
per support image and class, 25 x 5 numbers at 5-way 5-shot, and the embeddings themselves are never gathered.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, in_parts
from fewshot_bench.errors import ShapeError

Fit = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Inner products of the support images, float64 [E, n, n] -> coefficients [E, n, N] and intercepts [E, N] or None."""

_ROUNDING = 1e-6  # share of the largest eigenvalue below which a direction holds nothing but rounding errors


def scores_in_span(split: EmbeddedSplit, support: Tensor, query: Tensor, fit: Fit, episodes_at_once: int) -> Tensor:
    """Fit the heads of all episodes, a part of them at a time, and score their queries.

    Args:
        split: embeddings of the split.
        support: rows of the support images, [E, n].
        query: image indices of the queries, [E, M].
        fit: fits the heads of a part of the episodes.
        episodes_at_once: the size of a part, whose matrices should stay near the cache.

    Returns:
        float64 [E, M, N].
    """
    images, parts = support.shape[1], []
    for rows, queries in in_parts(episodes_at_once, support, query):
        products = split.products(rows, torch.cat([rows, queries], dim=1)).double()
        coefficients, intercepts = fit(products[:, :, :images])
        scores = products[:, :, images:].transpose(1, 2) @ coefficients
        parts.append(scores if intercepts is None else scores + intercepts.unsqueeze(1))
    return torch.cat(parts)


def support_labels(support: Tensor) -> Tensor:
    """The class of each support image of an episode, class by class, [N * K] for a support set [E, N, K]."""
    return torch.arange(support.shape[1], device=support.device).repeat_interleave(support.shape[2])


def symmetric_products(products: Tensor, labels: Tensor) -> Tensor:
    """Inner products of labelled images in float64, symmetric in spite of rounding, [E, n, n].

    Raises:
        ShapeError: the products are not square, or the number of labels differs.
    """
    if products.ndim != 3 or products.shape[1:] != (len(labels), len(labels)):
        raise ShapeError(f"products [E, n, n] and labels [n] do not fit: {list(products.shape)} and {len(labels)}.")
    products = products.double()
    return (products + products.transpose(1, 2)) / 2


def square_roots(products: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of vectors in their own span, and their inverse: G^(1/2) and G^(-1/2) of the inner products G.

    Unlike a Cholesky factor they do not depend on the order of the vectors. Directions that hold rounding errors alone
    are left out.

    Args:
        products: G, float64 [E, m, m].
    """
    values, vectors = torch.linalg.eigh((products + products.transpose(1, 2)) / 2)
    kept = values > _ROUNDING * values[:, -1:].clamp_min(1e-300)
    roots = torch.where(kept, values, 0).sqrt().unsqueeze(1)
    inverse_roots = torch.where(kept, values.clamp_min(1e-300).rsqrt(), 0).unsqueeze(1)
    return (vectors * roots) @ vectors.transpose(1, 2), (vectors * inverse_roots) @ vectors.transpose(1, 2)
