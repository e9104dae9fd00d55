"""The embeddings of a split as adaptations see them: rows to gather, or inner products to look up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fewshot_bench.errors import EmbeddingError

Features = Literal["raw", "l2", "cl2", "power", "signed-power"]

_EPISODES_AT_ONCE = 8
_ROWS_AT_ONCE = 4096
_POWER = 0.5
_POWER_OFFSET = 1e-6


@dataclass(frozen=True)
class EmbeddedSplit:
    """Embeddings of every image of a split, on one device.

    Attributes:
        embeddings: [(1 + V) * I, D]; rows 0..I-1 are the images as they are, rows v*I..(v+1)*I-1 are their
            v-th augmented view (V is 0 unless a contrastive adaptation asked for views).
        images: I, the number of images.
        gram: [(1 + V) * I, (1 + V) * I] inner products of all rows, or None to compute products from the rows.
    """

    embeddings: Tensor
    images: int
    gram: Tensor | None = None

    @property
    def views(self) -> int:
        """V, the number of augmented views that are embedded beside the plain images."""
        return len(self.embeddings) // self.images - 1

    @cached_property
    def squared_norms(self) -> Tensor:
        """Squared norm of every row, [(1 + V) * I]."""
        return self.embeddings.square().sum(dim=1)

    @cached_property
    def order(self) -> Tensor:
        """The place of every row in an order that depends on what the embeddings are, not on their numbers, int64.

        Rows are sorted by a fixed projection. Rows of augmented views have places as well.
        """
        weights = torch.arange(self.embeddings.shape[1], device=self.embeddings.device).double().add(1).cos()
        parts = [part.double() @ weights for (part,) in in_parts(_ROWS_AT_ONCE, self.embeddings)]
        places = torch.empty(len(self.embeddings), dtype=torch.int64, device=self.embeddings.device)
        places[torch.cat(parts).argsort()] = torch.arange(len(places), device=places.device)
        return places

    def with_features(self, features: Features, center: Tensor | None = None) -> EmbeddedSplit:
        """The same split with transformed embeddings; a Gram matrix is dropped.

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
            embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
        return replace(self, embeddings=embeddings, gram=None)

    def with_gram(self) -> EmbeddedSplit:
        """The same split with the Gram matrix of its rows, as many floats as rows squared."""
        return replace(self, gram=self.embeddings @ self.embeddings.T)

    def rows(self, indices: Tensor) -> Tensor:
        """Embeddings by row, [..., D]; copies whole rows, where plain indexing goes number by number."""
        return self.embeddings.index_select(0, indices.reshape(-1)).view(*indices.shape, -1)

    def products(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Inner products between two sets of images of each episode.

        Args:
            rows: image indices, [E, A].
            columns: image indices, [E, B].

        Returns:
            [E, A, B].
        """
        if self.gram is not None:
            # One index into the flat matrix: indexing by rows and columns is the same and five times slower.
            places = rows.unsqueeze(2) * len(self.embeddings) + columns.unsqueeze(1)
            return self.gram.view(-1).index_select(0, places.view(-1)).view(places.shape)
        # Gathered rows stay in a core's cache; for the whole chunk at once they would go through memory twice.
        parts = [
            self.rows(some) @ self.rows(others).transpose(1, 2)
            for some, others in in_parts(_EPISODES_AT_ONCE, rows, columns)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def in_parts(episodes: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Consecutive parts of tensors that have one row per episode, at most `episodes` rows each."""
    for start in range(0, len(tensors[0]), episodes):
        yield tuple(tensor[start : start + episodes] for tensor in tensors)
