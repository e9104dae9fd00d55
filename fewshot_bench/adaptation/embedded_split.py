"""The embeddings of a split as adaptations see them: rows to gather, or inner products to look up.

The optimum of a penalised linear head is a combination of the support embeddings. So an episode needs one coefficient
per support image and class, 25 x 5 numbers at 5-way 5-shot, and the embeddings themselves are never gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.errors import EmbeddingError, ShapeError

Features = Literal["raw", "l2", "cl2", "power", "signed-power"]

_GATHERED_AT_ONCE = 1 << 20  # numbers, 4 MiB: rows of a few episodes, which stay in a core's cache
_ROWS_AT_ONCE = 4096
_SMALLEST_NORM = 1e-12
_POWER = 0.5
_POWER_OFFSET = 1e-6


@dataclass(frozen=True, eq=False)
class EmbeddedSplit:
    """Embeddings of every image of a split, on one device.

    Attributes:
        embeddings: [(1 + V) * I, D]; rows 0..I-1 are the images as they are, rows v*I..(v+1)*I-1 are their
            v-th augmented view (V is 0 unless the adaptation needs views).
        images: I, the number of images.
        gram: [(1 + V) * I, (1 + V) * I] inner products of all rows, or None to compute products from the rows.
        base_covariance: [D, D] covariance within the base classes, in the same features, if the adaptation needs it.
    """

    embeddings: Tensor
    images: int
    gram: Tensor | None = None
    base_covariance: Tensor | None = None

    @property
    def views(self) -> int:
        """V, the number of augmented views embedded besides the plain images."""
        return len(self.embeddings) // self.images - 1

    @cached_property
    def squared_norms(self) -> Tensor:
        """Squared norm of every row, [(1 + V) * I]."""
        return self.embeddings.square().sum(dim=1)

    def inverse_base_covariance(self, shrinkage: float) -> Tensor:
        """Inverse of the base split's covariance C, shrunk by s, above 0 and at most 1; cached for each s.

        Returns:
            The inverse of (1 - s) C + s (tr C / D) I, of the identity where C is zero, [D, D].

        Raises:
            EmbeddingError: the covariance of the base split is missing.
        """
        if self.base_covariance is None:
            raise EmbeddingError("covariance=base needs the embeddings of the base split.")
        if shrinkage not in self._inverses:
            covariance = self.base_covariance.double()
            mean = covariance.diagonal().mean()
            identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
            shrunk = (1 - shrinkage) * covariance + shrinkage * mean * identity if bool(mean > 0) else identity
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(shrunk))
            self._inverses[shrinkage] = inverse.to(self.embeddings.dtype)
        return self._inverses[shrinkage]

    @cached_property
    def _inverses(self) -> dict[float, Tensor]:
        return {}

    @cached_property
    def order(self) -> Tensor:
        """The place of every row in an order that depends on the embeddings' content alone, int64 [(1 + V) * I].

        Rows are sorted by a fixed projection.
        """
        weights = torch.arange(self.embeddings.shape[1], device=self.embeddings.device).double().add(1).cos()
        parts = [part.double() @ weights for (part,) in in_parts(_ROWS_AT_ONCE, self.embeddings)]
        places = torch.empty(len(self.embeddings), dtype=torch.int64, device=self.embeddings.device)
        places[torch.cat(parts).argsort()] = torch.arange(len(places), device=places.device)
        return places

    def with_features(self, features: Features, center: Tensor | None = None) -> EmbeddedSplit:
        """The same split with transformed embeddings; its Gram matrix and base covariance are dropped.

        Args:
            features: "raw" leaves them alone. "l2" divides by the norm. "cl2" subtracts `center`, then divides by the
                norm (Wang et al., 2019, "SimpleShot": the center is the mean embedding of the base split). "power" is
                the square root of embeddings of 0 or more, divided by its norm (Hu et al., 2021, "Leveraging the
                feature distribution in transfer-based few-shot learning"). "signed-power" takes the root of the
                absolute value and keeps the sign, for networks whose embeddings can be negative.
            center: [D], needed by "cl2".

        Raises:
            EmbeddingError: "cl2" without a center, or "power" of negative embeddings.
        """
        embeddings = self.embeddings
        if features == "cl2":
            if center is None:
                raise EmbeddingError("cl2 features need the mean embedding of the base split.")
            embeddings = embeddings - center
        if features == "power":
            lowest = float(embeddings.min()) if embeddings.numel() else 0.0
            if lowest < 0:
                raise EmbeddingError(
                    f"power features are roots, and these embeddings go down to {lowest:.3g}. "
                    "Use --set features=signed-power, which keeps the sign."
                )
            embeddings = (embeddings + _POWER_OFFSET) ** _POWER
        if features == "signed-power":
            embeddings = embeddings.sign() * embeddings.abs() ** _POWER
        if features != "raw":
            norms = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True).clamp_min(_SMALLEST_NORM)
            embeddings = torch.div(embeddings, norms, out=in_large_pages(embeddings, *embeddings.shape))
        return replace(self, embeddings=embeddings, gram=None, base_covariance=None)

    def with_gram(self) -> EmbeddedSplit:
        """The same split with the Gram matrix of its rows, as many floats as rows squared."""
        rows = len(self.embeddings)
        gram = torch.mm(self.embeddings, self.embeddings.T, out=in_large_pages(self.embeddings, rows, rows))
        return replace(self, gram=gram)

    def covariance_within(self, class_sizes: Sequence[int]) -> Tensor:
        """Covariance of the images around the means of their classes, which follow each other, [D, D]."""
        scatter = self.embeddings.new_zeros(self.embeddings.shape[1], self.embeddings.shape[1], dtype=torch.float64)
        for rows in torch.split(self.embeddings[: self.images], list(class_sizes)):
            centred = rows - rows.mean(dim=0)
            scatter += centred.T @ centred
        return (scatter / self.images).to(self.embeddings.dtype)

    def rows(self, indices: Tensor) -> Tensor:
        """Embeddings by row, [..., D]; copies whole rows, where plain indexing goes number by number."""
        return self.embeddings.index_select(0, indices.reshape(-1)).view(*indices.shape, -1)

    def products(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Inner products [E, A, B] between images of each episode, by their indices [E, A] and [E, B]."""
        if self.gram is not None:
            # One index into the flat matrix: indexing by rows and columns is the same and five times slower.
            places = rows.unsqueeze(2) * len(self.embeddings) + columns.unsqueeze(1)
            return self.gram.view(-1).index_select(0, places.view(-1)).view(places.shape)
        return self._computed_products(rows, columns)

    def _computed_products(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Products of gathered rows, a few episodes at a time; see `products`.

        The rows of one part stay in a core's cache; those of a whole chunk would go through memory twice. Where the
        columns begin with the rows, as for a fit and its queries, one gathering serves both.
        """
        (episodes, many), others, size = rows.shape, columns.shape[1], self.embeddings.shape[1]
        begins_with_rows = many <= others and torch.equal(columns[:, :many], rows)
        gathered = columns if begins_with_rows else torch.cat([rows, columns], dim=1)
        at_once = max(1, _GATHERED_AT_ONCE // max(1, gathered.shape[1] * size))
        products = self.embeddings.new_empty(episodes, many, others)
        space = self.embeddings.new_empty(min(at_once, episodes) * gathered.shape[1], size)
        for images, part in in_parts(at_once, gathered, products):
            found = torch.index_select(self.embeddings, 0, images.reshape(-1), out=space[: images.numel()])
            found = found.view(*images.shape, size)
            torch.bmm(found[:, :many], found[:, -others:].transpose(1, 2), out=part)
        return products


def in_large_pages(like: Tensor, *shape: int) -> Tensor:
    """An empty tensor to gather from, of the type and on the device of another.

    On a CPU numpy allocates it in pages of 2 MiB, torch in those of 4 KiB: gathering takes a fifth less time.
    """
    if like.device.type != "cpu":
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, dtype=like.new_empty(0).numpy().dtype))


def in_parts(episodes: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Consecutive parts of tensors that have one row per episode, at most `episodes` rows each."""
    for start in range(0, len(tensors[0]), episodes):
        yield tuple(tensor[start : start + episodes] for tensor in tensors)


def steps_per_check(device: torch.device) -> int:
    """After how many steps of an iteration to ask whether all episodes have finished, which changes no result.

    The question makes the host wait for a GPU, which costs more than a few steps too many. A CPU is asked every time.
    """
    return 1 if device.type == "cpu" else 8


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
