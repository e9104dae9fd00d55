"""What turns episodes into predictions, whether it looks at embeddings or at images."""

from __future__ import annotations

from typing import Protocol as Interface

from fewshot_bench.adaptation import EmbeddedSplit, EmbeddingAdaptation
from fewshot_bench.engine.classify import chunk_size, classify
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.sampler import Episodes
from fewshot_bench.outcomes.packing import Positions

_STORED_TOGETHER = 10


class Classifier(Interface):
    """One method on one split."""

    def chunk(self, protocol: Protocol) -> int:
        """How many episodes should be classified, and stored, together."""

    def __call__(self, episodes: Episodes, chunk: int) -> Positions:
        """Predict the class of every query.

        Args:
            episodes: what to classify.
            chunk: at most so many at once; never changes a prediction.

        Returns:
            Position of the predicted class within the episode, of `position_type`, [E, M], in the order of
            `Episodes.queries`.
        """


class EmbeddingClassifier:
    """An adaptation of frozen embeddings.

    Attributes:
        adaptation: what is done with each support set.
        split: embeddings with the adaptation's features.
    """

    def __init__(self, adaptation: EmbeddingAdaptation, split: EmbeddedSplit) -> None:
        self.adaptation, self.split = adaptation, split

    def chunk(self, protocol: Protocol) -> int:
        """See `Classifier`: several times what is in memory at once, since a file takes as long as many episodes."""
        return _STORED_TOGETHER * self._at_once(protocol)

    def __call__(self, episodes: Episodes, chunk: int) -> Positions:
        """See `Classifier`."""
        return classify(self.adaptation, self.split, episodes, chunk=min(chunk, self._at_once(episodes.protocol)))

    def _at_once(self, protocol: Protocol) -> int:
        return chunk_size(self.adaptation, protocol, self.split.embeddings.shape[1])
