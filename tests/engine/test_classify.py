from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import toy_split

from fewshot_bench import Centroid, Protocol, sample_episodes
from fewshot_bench.adaptation import EmbeddedSplit, EmbeddingAdaptation
from fewshot_bench.engine.classify import accuracy, chunk_size, classify, gram_is_worth_building
from fewshot_bench.errors import EmbeddingError

SPLIT = toy_split(images=30)
EPISODES = sample_episodes(SPLIT, Protocol("toy", shot=2, episodes=40))


def embeddings(size=6, seed=0):
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(len(SPLIT.class_names), size))
    return (centers[SPLIT.labels] + generator.normal(size=(len(SPLIT), size))).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class First(EmbeddingAdaptation):
    """Says class 0 with certainty, or nonsense."""

    name: ClassVar[str] = "first"
    value: float = 1.0

    def scores(self, split, support, query):
        scores = torch.zeros(*query.shape, support.shape[1])
        scores[..., 0] = self.value
        return scores


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
def test_the_chunk_never_changes_a_prediction(chunk):
    split = EmbeddedSplit(torch.from_numpy(embeddings()), len(SPLIT)).with_features("l2")
    assert (classify(Centroid(), split, EPISODES, chunk=chunk) == classify(Centroid(), split, EPISODES)).all()


def test_an_adaptation_that_always_says_the_first_class_is_right_one_time_in_n():
    split = EmbeddedSplit(torch.from_numpy(embeddings()), len(SPLIT))
    predictions = classify(First(), split, EPISODES)
    assert (predictions == 0).all()
    assert accuracy(predictions, 5).tolist() == [0.2] * 40


def test_scores_that_are_not_finite_are_refused():
    split = EmbeddedSplit(torch.from_numpy(embeddings()), len(SPLIT))
    with pytest.raises(EmbeddingError, match="first gave scores that are not finite"):
        classify(First(value=float("nan")), split, EPISODES)


def test_chunks_shrink_with_the_memory_an_episode_needs():
    small = chunk_size(Centroid(), Protocol("toy"), 64)
    large = chunk_size(Centroid(), Protocol("toy", shot=5, query=100), 1 << 16)
    assert 1 <= large < small


def test_the_gram_matrix_is_built_only_for_many_episodes_and_when_it_fits():
    assert gram_is_worth_building(1200, 400, 9000)
    assert not gram_is_worth_building(12_000, 400, 3000)
    assert gram_is_worth_building(12_000, 2500, 90_000)
    assert not gram_is_worth_building(200_000, 2500, 10**9)
