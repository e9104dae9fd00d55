"""Stop training an episode when its own support set has nothing more to teach."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class EarlyStopping:
    """Keeps the weights of each episode from when its training loss last stopped falling.

    The others go on, and nobody waits for the device to say who has stopped.
    """

    def __init__(self, patience: int, weights: Mapping[str, Tensor]) -> None:
        """Watch some episodes.

        Args:
            patience: epochs without a lower loss after which an episode stops.
            weights: stacked, as views that change with training, [E, *shape].
        """
        self._patience, self._weights = patience, weights
        self._kept = {name: weight.detach().clone() for name, weight in weights.items()}
        first = next(iter(weights.values()))
        self._lowest = torch.full((len(first),), torch.inf, device=first.device)
        self._waited = torch.zeros(len(first), dtype=torch.int64, device=first.device)
        self.has_stopped = torch.zeros(len(first), dtype=torch.bool, device=first.device)

    @torch.no_grad()
    def after_epoch(self, losses: Tensor) -> None:
        """Look at the mean training loss of each episode, [E]."""
        self._waited = torch.where(losses < self._lowest, 0, self._waited + 1)
        self._lowest = torch.minimum(self._lowest, losses)
        stops = (self._waited >= self._patience) & ~self.has_stopped
        self._choose(stops, self._weights, into=self._kept)
        self.has_stopped |= stops

    @torch.no_grad()
    def finish(self) -> None:
        """Give the episodes that have stopped the weights they had then."""
        self._choose(self.has_stopped, self._kept, into=self._weights)

    @staticmethod
    def _choose(episodes: Tensor, source: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
        for name, weight in into.items():
            mask = episodes.view(-1, *[1] * (weight.ndim - 1))
            weight.copy_(torch.where(mask, source[name], weight))
