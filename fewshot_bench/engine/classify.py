"""Turn episodes into predictions, a chunk at a time, on one device.

The chunk only bounds memory: an episode's scores never depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot_bench.adaptation.base import EmbeddingAdaptation
from fewshot_bench.adaptation.checked_predictions import checked_scores
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit
from fewshot_bench.adaptation.hyper_parameter_choice import floats_per_episode, products_per_episode
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.sampler import Episodes
from fewshot_bench.outcomes.packing import Positions, position_type
from fewshot_bench.plugins import plugin_errors

MEMORY_PER_CHUNK = 256 << 20
LARGEST_GRAM = 1 << 30
_LARGEST_CHUNK = 1000


def chunk_size(adaptation: EmbeddingAdaptation, protocol: Protocol, embedding_size: int) -> int:
    """How many episodes of a protocol fit into the memory of a chunk."""
    queries = protocol.way * protocol.query
    with plugin_errors(adaptation, "floats_per_episode"):
        floats = floats_per_episode(adaptation, protocol.way, protocol.shot, queries, embedding_size)
        return int(np.clip(MEMORY_PER_CHUNK // (4 * floats), 1, _LARGEST_CHUNK))


def gram_pays(adaptation: EmbeddingAdaptation, rows: int, work: Iterable[tuple[int, int, int, int]]) -> bool:
    """Whether a Gram matrix pays for all episodes that a method will classify.

    Args:
        adaptation: of the method.
        rows: of the Gram matrix: the images and their augmented views.
        work: number of episodes, way, shot and queries per class, for each shape of episode.
    """
    products = sum(count * products_per_episode(adaptation, *shape) for count, *shape in work)
    return gram_is_worth_building(rows, products, 1)


def gram_is_worth_building(rows: int, products_per_episode: int, episodes: int) -> bool:
    """Whether looking up inner products beats computing them.

    The Gram matrix costs rows^2 products once, at the speed of one large matrix product; without it every
    episode gathers its rows and multiplies small matrices, which measured about four times slower per product.

    Args:
        rows: of the Gram matrix: the images and their augmented views.
        products_per_episode: inner products that one episode needs.
        episodes: how many use the matrix.
    """
    return 4 * rows**2 <= LARGEST_GRAM and 4 * episodes * products_per_episode >= rows**2


@torch.no_grad()
def classify(
    adaptation: EmbeddingAdaptation, split: EmbeddedSplit, episodes: Episodes, *, chunk: int | None = None
) -> Positions:
    """Predict the class of every query.

    Args:
        adaptation: of each support set.
        split: embeddings with the adaptation's features.
        episodes: to classify.
        chunk: episodes at once; by default as many as fit `MEMORY_PER_CHUNK`.

    Returns:
        Position of the predicted class within the episode, of `position_type`, [E, M], in the order of
        `Episodes.queries`.

    Raises:
        EmbeddingError: the scores of the adaptation are not finite.
    """
    chunk = chunk or chunk_size(adaptation, episodes.protocol, split.embeddings.shape[1])
    queries = episodes.queries
    predictions = np.empty(queries.shape, dtype=position_type(episodes.protocol.way))
    for start in range(0, len(episodes), chunk):
        support = _on_device(episodes.support[start : start + chunk], split)
        query = _on_device(queries[start : start + chunk], split)
        scores = checked_scores(adaptation, split, support, query)
        predictions[start : start + chunk] = scores.argmax(dim=-1).cpu().numpy()
    return predictions


def _on_device(indices: NDArray[np.int32], split: EmbeddedSplit) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(indices)).to(split.embeddings.device, torch.int64)


def accuracy(predictions: Positions, way: int) -> NDArray[np.float64]:
    """Fraction of the queries of each episode that are classified correctly, [E].

    Args:
        predictions: as `classify` returns them, [E, N * Q].
        way: N.
    """
    truth = np.repeat(np.arange(way), predictions.shape[1] // way)
    fraction: NDArray[np.float64] = (predictions == truth).mean(axis=1)
    return fraction


_STORED_TOGETHER = 10


class Classifier(Interface):
    """A method on a split, whether it works on embeddings or on images."""

    def chunk(self, protocol: Protocol) -> int:
        """How many episodes to classify, and store, together."""

    def __call__(self, episodes: Episodes, chunk: int) -> Positions:
        """Predict the class of every query.

        Args:
            episodes: to classify.
            chunk: the most episodes at once; never changes a prediction.

        Returns:
            Position of the predicted class within the episode, of `position_type`, [E, M], in the order of
            `Episodes.queries`.
        """


class EmbeddingClassifier:
    """An adaptation of frozen embeddings.

    Attributes:
        adaptation: of each support set.
        split: embeddings with the adaptation's features.
    """

    def __init__(self, adaptation: EmbeddingAdaptation, split: EmbeddedSplit) -> None:
        self.adaptation, self.split = adaptation, split

    def chunk(self, protocol: Protocol) -> int:
        """See `Classifier`: several times the episodes in memory, since a file costs as much as many episodes."""
        return _STORED_TOGETHER * self._at_once(protocol)

    def __call__(self, episodes: Episodes, chunk: int) -> Positions:
        """See `Classifier`."""
        return classify(self.adaptation, self.split, episodes, chunk=min(chunk, self._at_once(episodes.protocol)))

    def _at_once(self, protocol: Protocol) -> int:
        return chunk_size(self.adaptation, protocol, self.split.embeddings.shape[1])
