from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from fewshot_bench.adaptation import Centroid, KNearestNeighbours, votes_of_nearest
from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query

EPISODES = 10


def nearness(*classes):
    """Of one query and the images of some classes, [1, N, K, 1]."""
    return torch.tensor(classes).view(1, len(classes), -1, 1)


def votes(*classes, k):
    return votes_of_nearest(nearness(*classes), k=k).flatten()


@pytest.mark.parametrize(("metric", "features"), [("cosine", "l2"), ("cosine", "raw"), ("euclidean", "raw")])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_predictions_differ_from_scikit_learn_only_where_its_votes_are_equal(k, metric, features):
    """There it takes the first class; here the voters' nearness decides."""
    split = clustered_split().with_features(features)
    support, query = support_and_query(drawn_episodes(EPISODES, shot=4))
    scores = KNearestNeighbours(k=k, metric=metric, features=features).scores(split, support, query)
    labels = np.arange(5).repeat(4)
    decided = 0
    for episode in range(EPISODES):
        theirs = KNeighborsClassifier(k, metric=metric, algorithm="brute")
        theirs.fit(split.embeddings[support[episode].flatten()].double().numpy(), labels)
        shares = theirs.predict_proba(split.embeddings[query[episode]].double().numpy())
        np.testing.assert_allclose(scores[episode].numpy(), shares, rtol=0, atol=0.5 / (20 * k))
        predicted = scores[episode].argmax(-1).numpy()
        has_winner = (shares == shares.max(1, keepdims=True)).sum(1) == 1
        assert (predicted == shares.argmax(1))[has_winner].all()
        assert (shares[np.arange(len(predicted)), predicted] == shares.max(1)).all()
        decided += has_winner.sum()
    assert decided > 100


def test_one_shot_is_the_nearest_centroid():
    split = clustered_split().with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=1))
    ours = KNearestNeighbours().scores(split, support, query).argmax(-1)
    assert torch.equal(ours, Centroid().scores(split, support, query).argmax(-1))


def test_the_majority_outweighs_a_single_nearer_image():
    assert votes([0.9, 0.1], [0.8, 0.7], k=3).argmax() == 1
    assert votes([0.9, 0.1], [0.8, 0.7], k=1).argmax() == 0


def test_equal_votes_go_to_the_class_whose_voters_are_nearer_on_average():
    assert votes([0.9, 0.2], [0.8, 0.7], k=4).argmax() == 1
    assert votes([0.8, 0.7], [0.9, 0.2], k=4).argmax() == 0
    assert votes([-1.0, -9.0], [-2.0, -3.0], k=4).argmax() == 1  # minus squared distances


def test_images_as_near_as_the_last_share_its_vote():
    shares = votes([0.9, 0.5], [0.5, 0.1], [0.5, 0.2], k=2)
    torch.testing.assert_close(shares, torch.tensor([4 / 6, 1 / 6, 1 / 6]).double(), rtol=0, atol=0.5 / 12)
    shares = votes([0.5, 0.5], [0.5, 0.1], [0.2, 0.1], k=1)
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 1 / 3, 0.0]).double(), rtol=0, atol=1e-6)


def test_no_vote_is_ever_outweighed_by_nearness():
    """One vote of 2 * 20 images against nearness as uneven as it can be."""
    values = torch.full((1, 2, 20, 1), -1.0)
    values[0, 0, :11] = 1e-6
    values[0, 1, :10] = 1.0
    shares = votes_of_nearest(values, k=21).flatten()
    assert shares.argmax() == 0


def test_a_k_beyond_the_support_set_lets_all_of_it_vote():
    split = clustered_split().with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=2))
    many, all_of_them = (KNearestNeighbours(k=k).scores(split, support, query) for k in (1000, 10))
    assert torch.equal(many, all_of_them)


def test_an_order_of_equally_near_images_never_decides():
    one = votes([0.5, 0.3], [0.5, 0.1], k=1)
    assert one[0] == one[1]
    other = votes([0.5, 0.3], [0.1, 0.5], k=1)
    assert other[0] == other[1]


def test_nearness_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"\[E, N, K, M\]"):
        votes_of_nearest(torch.zeros(2, 3, 4))


@pytest.mark.parametrize("k", [0, -1, 1.5, math.nan, True])
def test_a_k_that_is_not_a_count_is_refused(k):
    with pytest.raises(StudyError, match="k of knn should be a whole number of 1 or more"):
        KNearestNeighbours(k=k)


def test_an_unknown_metric_is_refused():
    with pytest.raises(StudyError, match="metric of knn should be one of cosine, euclidean, not manhattan"):
        KNearestNeighbours(metric="manhattan")
