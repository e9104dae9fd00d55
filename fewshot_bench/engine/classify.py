"""Turn episodes into predictions, a chunk at a time, on one device.

The chunk only bounds memory: an episode's scores never depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol as Interface

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fewshot_bench.adaptation.base import EmbeddingAdaptation
from fewshot_bench.adaptation.checked_predictions import checked_scores
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit
from fewshot_bench.adaptation.hyper_parameter_choice import floats_per_episode, products_per_episode
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.recorded import RecordedEpisodes
from fewshot_bench.episodes.sampler import Episodes
from fewshot_bench.errors import EpisodeError
from fewshot_bench.outcomes import ProtocolCard, claimed_frame, claimed_protocol, episode_frame
from fewshot_bench.outcomes.claimed import classes_text
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


def outcome_frame(
    episodes: Episodes,
    predictions: Positions,
    seconds: float = math.nan,
    confidence: NDArray[np.float64] | None = None,
) -> pd.DataFrame:
    """The outcomes of episodes of one shape, as `episode_frame` makes them, or `claimed_frame` of recorded tasks.

    Args:
        episodes: that were classified.
        predictions: in the order of `Episodes.queries`, [E, M].
        seconds: time per episode; NaN if unknown.
        confidence: probabilities of the predicted classes of a whole split, [E].
    """
    if not isinstance(episodes, RecordedEpisodes):
        known = (episodes.run, episodes.numbers, predictions, episodes.way, seconds)
        return episode_frame(*known, truth=episodes.truth, confidence=confidence)
    correct = (predictions == episodes.truth).sum(axis=1)
    queries = np.full(len(episodes), predictions.shape[1])
    names = [[episodes.class_names[number] for number in row] for row in episodes.classes.tolist()]
    classes = np.array([classes_text(row, episodes.way) for row in names], dtype=object)
    runs = np.full(len(episodes), episodes.run)
    return claimed_frame(runs, episodes.numbers, correct / queries, correct=correct, queries=queries, classes=classes)


def together(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The outcomes of episodes of several shapes as one frame, by run and episode."""
    return pd.concat(frames).sort_values(["run", "episode"], kind="stable", ignore_index=True)


def outcome_card(groups: Sequence[Episodes]) -> ProtocolCard:
    """The description of the tasks of episodes; no protocol draws recorded ones, so they are claimed.

    Raises:
        EpisodeError: they are of several protocols, or of several records.
    """
    cards = [_card(group) for group in groups]
    if any(card.fingerprint != cards[0].fingerprint for card in cards):
        raise EpisodeError(
            f"the episodes are of several protocols ({', '.join(dict.fromkeys(card.task for card in cards))}), and "
            "outcomes belong to one. Evaluate each alone."
        )
    return cards[0]


def _card(episodes: Episodes) -> ProtocolCard:
    if not isinstance(episodes, RecordedEpisodes):
        return protocol_card(episodes.protocol, episodes.dataset_fingerprint)
    protocol = episodes.protocol
    return claimed_protocol(protocol.dataset, protocol.split, episodes.way, episodes.shot, episodes.tasks)


def protocol_card(protocol: Protocol, dataset_fingerprint: str) -> ProtocolCard:
    """The description of a protocol that outcomes carry."""
    return ProtocolCard(
        dataset=protocol.dataset,
        dataset_fingerprint=dataset_fingerprint,
        split=protocol.split,
        way=protocol.way,
        shot=protocol.shot,
        query=protocol.query,
        seed=protocol.seed,
        sampler_version=protocol.sampler_version,
        sampler=protocol.sampler,
        sampler_settings=protocol.sampler_settings,
    )
