from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity

from fewshot_bench.adaptation import Centroid, nearest_centroid
from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query

# Two classes of two images, three queries, in the plane.
SUPPORT = torch.tensor([[[[2.0, 0.0], [4.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]])
QUERY = torch.tensor([[[3.0, 0.0], [1.0, 2.0], [0.5, 0.4]]])


def test_euclidean_scores_are_minus_squared_distances_to_the_class_means():
    expected = torch.tensor([[[0.0, -10.0], [-8.0, -2.0], [-6.41, -0.61]]])
    torch.testing.assert_close(nearest_centroid(SUPPORT, QUERY, metric="euclidean"), expected)


def test_cosine_scores_are_cosines_with_the_class_means():
    root = 0.41**0.5
    expected = torch.tensor([[[1.0, 0.0], [0.2**0.5, 0.8**0.5], [0.5 / root, 0.4 / root]]])
    torch.testing.assert_close(nearest_centroid(SUPPORT, QUERY, metric="cosine"), expected)


def test_the_two_metrics_disagree_where_norms_matter():
    near_the_second_by_distance_only = 2
    cosine = nearest_centroid(SUPPORT, QUERY, metric="cosine").argmax(-1)[0]
    euclidean = nearest_centroid(SUPPORT, QUERY, metric="euclidean").argmax(-1)[0]
    assert cosine.tolist() == [0, 1, 0]
    assert euclidean.tolist() == [0, 1, 1]
    assert cosine[near_the_second_by_distance_only] != euclidean[near_the_second_by_distance_only]


def test_the_default_metric_is_cosine():
    assert torch.equal(nearest_centroid(SUPPORT, QUERY), nearest_centroid(SUPPORT, QUERY, metric="cosine"))


@pytest.mark.parametrize(
    ("support", "query"),
    [
        ((2, 5, 1, 8), (3, 4, 8)),
        ((2, 5, 1, 8), (2, 4, 9)),
        ((5, 1, 8), (2, 4, 8)),
        ((2, 5, 1, 8), (2, 5, 4, 8)),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(support, query):
    with pytest.raises(ShapeError, match="do not fit"):
        nearest_centroid(torch.zeros(support), torch.zeros(query))


@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("has_gram", [False, True])
def test_euclidean_predictions_are_those_of_cdist(shot, has_gram):
    split = clustered_split()
    support, query = support_and_query(drawn_episodes(50, shot=shot))
    distances = torch.cdist(split.embeddings[query], split.embeddings[support].mean(dim=2))
    adaptation = Centroid(metric="euclidean", features="raw")
    scores = adaptation.scores(split.with_gram() if has_gram else split, support, query)
    torch.testing.assert_close(scores, -distances.square(), rtol=1e-3, atol=1e-2)
    assert torch.equal(scores.argmax(-1), distances.argmin(-1))


@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("has_gram", [False, True])
def test_cosine_scores_are_those_of_cosine_similarity(shot, has_gram):
    split = clustered_split().with_features("l2")
    support, query = support_and_query(drawn_episodes(50, shot=shot))
    centroids = split.embeddings[support].mean(dim=2)
    expected = cosine_similarity(split.embeddings[query].unsqueeze(2), centroids.unsqueeze(1), dim=-1)
    scores = Centroid().scores(split.with_gram() if has_gram else split, support, query)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_adaptation_gives_the_scores_of_the_function(metric):
    split = clustered_split(norm=1.0)
    support, query = support_and_query(drawn_episodes(40, shot=3))
    expected = nearest_centroid(split.embeddings[support], split.embeddings[query], metric=metric)
    torch.testing.assert_close(Centroid(metric=metric).scores(split, support, query), expected, rtol=1e-5, atol=1e-5)


def test_cosine_pays_no_attention_to_the_norms_of_queries():
    torch.testing.assert_close(nearest_centroid(SUPPORT, 7 * QUERY), nearest_centroid(SUPPORT, QUERY))


def test_an_embedding_of_zero_gives_finite_scores():
    split = clustered_split()
    split.embeddings[:30] = 0
    support, query = support_and_query(drawn_episodes(20))
    for some in (split, split.with_gram()):
        for metric in ("cosine", "euclidean"):
            assert torch.isfinite(Centroid(metric=metric).scores(some, support, query)).all()


def test_an_unknown_metric_is_refused():
    with pytest.raises(StudyError, match="metric of centroid should be one of cosine, euclidean, not manhattan"):
        Centroid(metric="manhattan")


def test_unknown_features_are_refused():
    with pytest.raises(StudyError, match=r"features of centroid should be one of raw, l2, cl2, .*, not l3"):
        Centroid(features="l3")
