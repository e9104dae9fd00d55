"""Perturbed versions of an episode, none of which may change what a method predicts for a query.

A method is given the images of the queries and nothing else about them. Their order, their numbers and the other
queries could still tell: queries are stored class by class, and images are numbered class by class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot_bench.engine.classify import Classifier, EmbeddingClassifier
from fewshot_bench.episodes import Episodes
from fewshot_bench.outcomes.packing import Positions


@dataclass(frozen=True)
class AskedEpisodes(Episodes):
    """Support sets of episodes with other queries than their own.

    Attributes:
        asked: image indices of the queries, [E, m]; m need not be a multiple of N.
    """

    asked: NDArray[np.int32]

    @property
    def queries(self) -> NDArray[np.int32]:
        """Image indices of the queries in the order in which they are asked, [E, m]."""
        return self.asked


def with_queries(episodes: Episodes, order: NDArray[np.int64]) -> AskedEpisodes:
    """The same support sets with some of the queries, in another order; `images` no longer tells their classes.

    Args:
        episodes: of one shape, with M queries each.
        order: positions of the queries, in the order in which a method gets them, [E, m] with m of at most M.
    """
    asked = np.take_along_axis(episodes.queries, order, axis=1)
    rows = np.full((len(episodes), episodes.way * episodes.query.shape[2]), -1, dtype=np.int32)
    rows[:, : asked.shape[1]] = asked
    images = np.concatenate([episodes.support, rows.reshape(len(episodes), episodes.way, -1)], axis=2)
    return AskedEpisodes(episodes.protocol, episodes.dataset_fingerprint, episodes.run, episodes.numbers, images, asked)


def predictions_of(classifier: Classifier, episodes: Episodes, order: NDArray[np.int64]) -> Positions:
    """Predictions for queries that are asked in an order of `with_queries`; returned by position, [E, m]."""
    found = classifier(with_queries(episodes, order), classifier.chunk(episodes.protocol))
    if found.shape != order.shape:
        raise ValueError(f"{found.shape} predictions of {order.shape} queries")
    back = np.argsort(order, axis=1, kind="stable")
    return np.take_along_axis(found, back, axis=1)


def shuffled(episodes: Episodes, seed: int) -> NDArray[np.int64]:
    """Another order of the queries for each episode, classes mixed, [E, M]."""
    generator = np.random.default_rng([seed, episodes.run])
    count = episodes.queries.shape[1]
    return np.stack([generator.permutation(count) for _ in range(len(episodes))])


def relabelled(episodes: Episodes) -> NDArray[np.int64]:
    """The queries in an order in which the blocks of the classes have changed places, [E, M].

    The last class comes first; within a block the order stays. Where classes have equally many queries, a method that
    reads classes from positions is now wrong about every query.
    """
    next_class = (episodes.truth.astype(np.int64) + 1) % episodes.way
    return np.argsort(next_class, axis=1, kind="stable")


def in_parts(classifier: Classifier, episodes: Episodes, parts: list[NDArray[np.int64]]) -> Positions:
    """Predictions for queries that are asked a part at a time, part after part, [E, sum of m].

    Each part has the positions of its queries, increasing, [m].
    """
    predictions = [predictions_of(classifier, episodes, np.tile(part, (len(episodes), 1))) for part in parts]
    return np.concatenate(predictions, axis=1)


def renumbered(classifier: EmbeddingClassifier, seed: int) -> tuple[EmbeddingClassifier, NDArray[np.int32]]:
    """The same method with other numbers for the same images, and the new number of each image, [I]."""
    split = classifier.split
    old = np.random.default_rng(seed).permutation(split.images)
    new = np.empty(split.images, dtype=np.int32)
    new[old] = np.arange(split.images, dtype=np.int32)
    rows = np.concatenate([old + view * split.images for view in range(split.views + 1)])
    moved = split.embeddings[torch.from_numpy(rows).to(split.embeddings.device)]
    other = replace(split, embeddings=moved, gram=None)
    return EmbeddingClassifier(classifier.adaptation, other.with_gram() if split.gram is not None else other), new


def with_numbers(episodes: Episodes, new: NDArray[np.int32]) -> Episodes:
    """The same tasks by other numbers of the images; -1 stays the end of a row."""
    return replace(episodes, images=np.where(episodes.images >= 0, new[episodes.images], -1).astype(np.int32))
