"""Adaptations that take their time, or fail, for tests of what a study does about it: --adapt toy_adaptations:Slow."""

from __future__ import annotations

import time
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
        time.sleep(self.nap)
        return nearest_centroid(split.embeddings[support], split.embeddings[query])
