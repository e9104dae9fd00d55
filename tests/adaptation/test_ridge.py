from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as TheirRidge
from sklearn.linear_model import RidgeClassifier

from fewshot_bench.adaptation import EmbeddedSplit, Ridge, ridge_in_span
from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query

EPISODES = 6


def labels_of(shot, way=5):
    return torch.arange(way).repeat_interleave(shot)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(
    ("features", "penalty"), [("l2", 0.01), ("l2", 1.0), ("l2", 50.0), ("raw", 1.0), ("raw", 50.0)]
)
@pytest.mark.parametrize("shot", [1, 5])
class TestAgainstScikitLearn:
    def test_scores_are_the_predicted_one_hot_labels(self, shot, features, penalty, intercept):
        split = clustered_split().with_features(features)
        support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
        scores = Ridge(penalty=penalty, features=features, intercept=intercept).scores(split, support, query)
        targets = torch.nn.functional.one_hot(labels_of(shot)).double().numpy()
        for episode in range(EPISODES):
            images = split.embeddings[support[episode].flatten()].double().numpy()
            theirs = TheirRidge(alpha=penalty, fit_intercept=intercept, solver="svd").fit(images, targets)
            queries = split.embeddings[query[episode]].double().numpy()
            np.testing.assert_allclose(scores[episode].numpy(), theirs.predict(queries), rtol=0, atol=1e-4)

    @pytest.mark.slow
    def test_every_prediction_is_the_same(self, shot, features, penalty, intercept):
        """Its targets are -1 and 1, which moves the scores of all classes alike."""
        split = clustered_split().with_features(features)
        support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
        scores = Ridge(penalty=penalty, features=features, intercept=intercept).scores(split, support, query)
        for episode in range(EPISODES):
            images = split.embeddings[support[episode].flatten()].double().numpy()
            theirs = RidgeClassifier(alpha=penalty, fit_intercept=intercept).fit(images, labels_of(shot).numpy())
            queries = split.embeddings[query[episode]].double().numpy()
            assert (scores[episode].argmax(-1).numpy() == theirs.predict(queries)).all()


def test_more_images_than_dimensions_are_solved():
    split = clustered_split(size=3).with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=5))
    scores = Ridge(penalty=0.1).scores(split, support, query)
    images = split.embeddings[support[0].flatten()].double()
    targets = torch.nn.functional.one_hot(labels_of(5)).double()
    # The primal form: (X^T X + penalty I)^-1 X^T Y.
    weights = torch.linalg.solve(images.T @ images + 0.1 * torch.eye(3).double(), images.T @ targets)
    torch.testing.assert_close(scores[0], split.embeddings[query[0]].double() @ weights, rtol=0, atol=1e-5)


def test_a_penalty_below_the_rounding_of_the_products_still_gives_the_least_squares_fit():
    split = clustered_split(size=4, norm=30.0)
    support, _ = support_and_query(drawn_episodes(EPISODES, shot=5))
    images = support.flatten(1)
    products = split.products(images, images)
    products -= 1e-3 * torch.eye(25)  # as if by rounding: not positive definite
    coefficients, _ = ridge_in_span(products, labels_of(5), penalty=1e-6)
    targets = torch.nn.functional.one_hot(labels_of(5)).double()
    for episode in range(EPISODES):
        rows = split.embeddings[images[episode]].double()
        expected = rows @ torch.linalg.lstsq(rows, targets).solution
        torch.testing.assert_close(rows @ rows.T @ coefficients[episode], expected, rtol=0, atol=1e-3)


def test_a_large_penalty_leaves_inner_products_with_class_sums():
    split = clustered_split().with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=5))
    scores = Ridge(penalty=1e6).scores(split, support, query)
    sums = split.embeddings[support].sum(2).double()
    expected = split.embeddings[query].double() @ sums.transpose(1, 2) / 1e6
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-9)


def test_an_intercept_makes_a_shift_of_all_embeddings_harmless():
    split = clustered_split(norm=3.0)
    moved = EmbeddedSplit(split.embeddings + 2.0, split.images)
    support, query = support_and_query(drawn_episodes(EPISODES, shot=3))
    with_one = Ridge(features="raw", intercept=True)
    torch.testing.assert_close(
        with_one.scores(split, support, query), with_one.scores(moved, support, query), rtol=0, atol=1e-4
    )
    without = Ridge(features="raw")
    assert not torch.allclose(without.scores(split, support, query), without.scores(moved, support, query), atol=1e-2)


def test_classes_need_not_have_equally_many_images():
    rows = clustered_split(norm=1.0).embeddings[torch.tensor([0, 1, 2, 24, 48, 49])].double()
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    coefficients, intercepts = ridge_in_span((rows @ rows.T).unsqueeze(0), labels, penalty=0.3, intercept=True)
    theirs = TheirRidge(alpha=0.3).fit(rows.numpy(), torch.nn.functional.one_hot(labels).double().numpy())
    np.testing.assert_allclose((coefficients[0].T @ rows).numpy(), theirs.coef_, rtol=0, atol=1e-8)
    np.testing.assert_allclose(intercepts[0].numpy(), theirs.intercept_, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 4, 4), (5, 5)])
def test_products_that_do_not_fit_the_labels_are_refused(shape):
    with pytest.raises(ShapeError, match="do not fit"):
        ridge_in_span(torch.zeros(shape), labels_of(1))


@pytest.mark.parametrize("penalty", [0, -1.0, math.nan, math.inf])
def test_a_penalty_that_is_not_positive_is_refused(penalty):
    with pytest.raises(StudyError, match=rf"penalty of ridge should be (positive|finite), not {penalty}"):
        Ridge(penalty=penalty)


def test_an_intercept_that_is_a_number_is_refused():
    with pytest.raises(StudyError, match="intercept of ridge should be true or false, not 1"):
        Ridge(intercept=1)
