from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fewshot_bench.adaptation import LDA, Centroid, EmbeddedSplit, lda_in_span
from fewshot_bench.errors import EmbeddingError, ShapeError, StudyError
from fewshot_bench.evaluation.evaluate import evaluate
from fewshot_bench.testing.clusters import (
    CLASSES,
    IMAGES,
    as_wanted,
    clustered_split,
    drawn_episodes,
    support_and_query,
)

EPISODES = 6


def without_what_classes_share(scores):
    return scores - scores.mean(-1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("shrinkage", [0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize(("size", "shot"), [(3, 5), (40, 5), (300, 2), (300, 5)])
@pytest.mark.parametrize("features", ["raw", "l2"])
def test_it_is_that_of_scikit_learn_but_for_a_common_factor(features, size, shot, shrinkage):
    split = clustered_split(size=size).with_features(features)
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    scores = LDA(shrinkage=shrinkage, features=features).scores(split, support, query)
    for episode in range(EPISODES):
        images, queries = (split.embeddings[some[episode].flatten()].double().numpy() for some in (support, query))
        labels = np.arange(5).repeat(shot)
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(images, labels)
        decisions = without_what_classes_share(theirs.decision_function(queries))
        ours = without_what_classes_share(scores[episode].numpy())
        factor = shrinkage * np.trace(within(images, labels)) / size
        np.testing.assert_allclose(ours / factor, decisions, rtol=0, atol=1e-4 * np.abs(decisions).max())
        assert (scores[episode].argmax(-1).numpy() == theirs.predict(queries)).all()


def within(images, labels):
    """Covariance within classes, written as the definition has it."""
    total = np.zeros((images.shape[1],) * 2)
    for image, label in zip(images, labels, strict=True):
        away = image - images[labels == label].mean(0)
        total += np.outer(away, away)
    return total / len(images)


def test_weights_solve_the_shrunk_covariance():
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 6, 9)))
    coefficients, intercepts = lda_in_span(images @ images.transpose(1, 2), way=2, size=9, shrinkage=0.3)
    for episode in range(2):
        rows = images[episode].numpy()
        spread = within(rows, np.array([0, 0, 0, 1, 1, 1]))
        mean_variance = np.trace(spread) / 9
        shrunk = 0.7 * spread + 0.3 * mean_variance * np.eye(9)
        means = rows.reshape(2, 3, 9).mean(1)
        weights = np.linalg.solve(shrunk, means.T).T * 0.3 * mean_variance
        np.testing.assert_allclose(coefficients[episode].T.numpy() @ rows, weights, rtol=1e-9)
        np.testing.assert_allclose(intercepts[episode].numpy(), -(weights * means).sum(1) / 2, rtol=1e-9)


@pytest.mark.parametrize(("shot", "shrinkage"), [(1, 0.2), (1, 0.99), (5, 1.0)])
def test_at_one_shot_and_wholly_shrunk_it_is_the_nearest_centroid(shot, shrinkage):
    split = clustered_split().with_features("raw")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    scores = LDA(shrinkage=shrinkage, features="raw").scores(split, support, query).float()
    expected = Centroid(metric="euclidean", features="raw").scores(split, support, query) / 2
    torch.testing.assert_close(
        without_what_classes_share(scores.numpy()), without_what_classes_share(expected.numpy()), rtol=1e-4, atol=1e-2
    )
    assert torch.equal(scores.argmax(-1), expected.argmax(-1))


def test_scikit_learn_has_no_answer_at_one_shot():
    with pytest.raises(ValueError, match="number of samples"):
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5).fit(np.eye(5), np.arange(5))


def test_copies_of_one_image_count_as_one_shot():
    split = clustered_split(size=1000).with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=1))
    once = LDA(shrinkage=0.1).scores(split, support, query)
    copied = LDA(shrinkage=0.1).scores(split, support.expand(-1, -1, 5), query)
    torch.testing.assert_close(copied, once, rtol=1e-4, atol=1e-5)


def test_the_norm_of_the_features_cancels_out():
    split = clustered_split().with_features("raw")
    larger = EmbeddedSplit(1000 * split.embeddings, split.images)
    support, query = support_and_query(drawn_episodes(EPISODES, shot=5))
    adaptation = LDA(shrinkage=0.1, features="raw")
    scores, of_larger = (adaptation.scores(some, support, query) for some in (split, larger))
    torch.testing.assert_close(of_larger / 1e6, scores, rtol=1e-4, atol=1e-3)


class TestWithTheCovarianceOfTheBaseSplit:
    @pytest.mark.parametrize("shot", [1, 5])
    @pytest.mark.parametrize("shrinkage", [0.05, 0.9])
    def test_it_is_the_formula_with_that_covariance(self, shot, shrinkage):
        adaptation = LDA(covariance="base", shrinkage=shrinkage)
        split = as_wanted(clustered_split(), adaptation)
        support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
        scores = adaptation.scores(split, support, query)
        rows = split.embeddings.double().numpy()
        spread = within(rows, np.arange(CLASSES).repeat(IMAGES))
        shrunk = (1 - shrinkage) * spread + shrinkage * np.trace(spread) / len(spread) * np.eye(len(spread))
        for episode in range(EPISODES):
            means = rows[support[episode].numpy()].mean(1)
            weights = np.linalg.solve(shrunk, means.T).T
            expected = rows[query[episode].numpy()] @ weights.T - (weights * means).sum(1) / 2
            np.testing.assert_allclose(scores[episode].numpy(), expected, rtol=1e-3, atol=1e-3 * abs(expected).max())
            assert (scores[episode].argmax(-1).numpy() == expected.argmax(-1)).all()

    def test_the_covariance_is_that_around_the_means_of_the_classes(self):
        split = clustered_split(views=1)
        spread = within(split.embeddings[: split.images].double().numpy(), np.arange(CLASSES).repeat(IMAGES))
        np.testing.assert_allclose(split.covariance_within([IMAGES] * CLASSES).numpy(), spread, rtol=1e-3, atol=1e-3)

    def test_the_inverse_is_made_once_for_each_shrinkage(self):
        split = as_wanted(clustered_split(), LDA(covariance="base"))
        assert split.inverse_base_covariance(0.5) is split.inverse_base_covariance(0.5)
        assert not torch.equal(split.inverse_base_covariance(0.5), split.inverse_base_covariance(0.6))

    def test_a_base_split_without_spread_gives_centroids(self):
        split = EmbeddedSplit(clustered_split().embeddings, CLASSES * IMAGES, base_covariance=torch.zeros(40, 40))
        support, query = support_and_query(drawn_episodes(EPISODES, shot=2))
        scores = LDA(covariance="base", features="raw").scores(split, support, query)
        nearest = Centroid(metric="euclidean", features="raw").scores(split, support, query)
        assert torch.equal(scores.argmax(-1), nearest.argmax(-1))

    def test_without_it_one_line_says_what_is_needed(self):
        support, query = support_and_query(drawn_episodes(2))
        with pytest.raises(EmbeddingError, match="covariance=base needs the embeddings of the base split"):
            LDA(covariance="base").scores(clustered_split().with_features("l2"), support, query)
        with pytest.raises(
            EmbeddingError, match="lda with these hyper-parameters needs more than the plain embeddings"
        ):
            evaluate(LDA(covariance="base"), clustered_split().embeddings, drawn_episodes(2))

    def test_other_features_drop_the_covariance(self):
        split = as_wanted(clustered_split(), LDA(covariance="base"))
        assert split.base_covariance is not None
        assert split.with_features("raw").base_covariance is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"shrinkage": 0}, "shrinkage of lda should be above 0 and at most 1, not 0"),
        ({"shrinkage": 1.5}, "shrinkage of lda should be above 0 and at most 1, not 1.5"),
        ({"shrinkage": float("nan")}, "shrinkage of lda should be above 0 and at most 1, not nan"),
        ({"covariance": "both"}, "covariance of lda should be one of support, base, not both"),
        ({"features": "l3"}, "features of lda should be one of"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(settings, told):
    with pytest.raises(StudyError, match=told):
        LDA(**settings)


def test_products_of_another_number_of_images_are_refused():
    with pytest.raises(ShapeError, match=r"products \[E, N \* K, N \* K\] of N = 5 classes do not fit"):
        lda_in_span(torch.eye(6).unsqueeze(0), way=5, size=10)
