"""Adaptations that take their time, or fail, for tests of what a study does about it: --adapt toy_adaptations:Slow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewshot_bench.adaptation import EmbeddedSplit, EmbeddingAdaptation, nearest_centroid


@dataclass(frozen=True, kw_only=True)
class Slow(EmbeddingAdaptation):
    """Nearest centroid after a nap.

    Attributes:
        nap: seconds per chunk.
    """

    name: ClassVar[str] = "slow"
    nap: float = 0.02

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """See `EmbeddingAdaptation`."""
        time.sleep(self.nap)
        return nearest_centroid(split.embeddings[support], split.embeddings[query])


@dataclass(frozen=True, kw_only=True)
class Fails(EmbeddingAdaptation):
    """Nearest centroid, but for what a test says."""

    name: ClassVar[str] = "fails"
    behaviour: ClassVar[Callable[[Tensor, Tensor], Tensor]] = staticmethod(lambda scores, query: scores)
    """From the scores and the images of the queries, [E, M], to other scores, or to an exception."""

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """See `EmbeddingAdaptation`."""
        return self.behaviour(nearest_centroid(split.embeddings[support], split.embeddings[query]), query)
