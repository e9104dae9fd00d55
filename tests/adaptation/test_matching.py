from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewshot_bench.adaptation import EmbeddedSplit, KNearestNeighbours, Matching, log_attention
from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query

EPISODES = 6


def attention(support, query, scale):
    """Equations 1 and 2 of the paper, one query and one support image at a time, [M, N]."""
    sums = np.zeros((len(query), len(support)))
    for number, image in enumerate(query):
        weights = np.array(
            [[np.exp(scale * image @ x / np.linalg.norm(image) / np.linalg.norm(x)) for x in way] for way in support]
        )
        sums[number] = weights.sum(1) / weights.sum()
    return sums


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("features", ["l2", "raw"])
@pytest.mark.parametrize("shot", [1, 5])
def test_scores_are_the_logarithms_of_the_attention_of_the_paper(shot, features, scale):
    split = clustered_split().with_features(features)
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    scores = Matching(scale=scale, features=features).scores(split, support, query)
    for episode in range(EPISODES):
        images = split.embeddings[support[episode]].double().numpy()
        expected = attention(images, split.embeddings[query[episode]].double().numpy(), scale)
        np.testing.assert_allclose(scores[episode].exp().numpy(), expected, rtol=0, atol=2e-6 * scale)
        assert (scores[episode].argmax(-1).numpy() == expected.argmax(-1)).all()


def test_a_large_scale_is_the_nearest_image():
    split = clustered_split().with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=5))
    nearest = KNearestNeighbours().scores(split, support, query).argmax(-1)
    assert torch.equal(Matching(scale=1e6).scores(split, support, query).argmax(-1), nearest)
    assert not torch.equal(Matching().scores(split, support, query).argmax(-1), nearest)


def test_a_small_scale_is_the_mean_similarity_of_a_class():
    split = EmbeddedSplit(clustered_split().embeddings.double(), 192).with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=5))
    means = split.embeddings[support].mean(2)
    expected = (split.embeddings[query] @ means.transpose(1, 2)).argmax(-1)
    assert torch.equal(Matching(scale=1e-4).scores(split, support, query).argmax(-1), expected)


def test_attention_that_underflows_still_tells_classes_apart():
    similarity = torch.tensor([[0.9], [-0.5], [-0.6]]).view(1, 3, 1, 1)
    scores = log_attention(similarity, scale=1000.0).flatten()
    assert torch.isfinite(scores).all()
    assert scores[0] > scores[1] > scores[2]


def test_attention_sums_to_one():
    split = clustered_split()
    support, query = support_and_query(drawn_episodes(EPISODES, shot=3))
    sums = Matching(features="raw").scores(split, support, query).exp().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_similarity_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"\[E, N, K, M\]"):
        log_attention(torch.zeros(2, 3, 4))


@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(StudyError, match=rf"scale of matching should be (positive|finite), not {scale}"):
        Matching(scale=scale)
