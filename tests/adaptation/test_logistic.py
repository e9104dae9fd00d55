from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fewshot_bench.adaptation import EmbeddedSplit, Logistic, logistic_in_span
from fewshot_bench.errors import EmbeddingError, ShapeError, StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query

EPISODES = 4


def labels_of(shot, way=5):
    return torch.arange(way).repeat_interleave(shot)


def fitted(embeddings, shot, C):
    """scikit-learn's fit, to convergence."""
    return LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(embeddings, labels_of(shot).numpy())


def centered(intercepts):
    return intercepts - intercepts.mean(-1, keepdims=True)


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("features", ["raw", "l2"])
@pytest.mark.parametrize("shot", [1, 5])
class TestAgainstScikitLearn:
    @pytest.mark.slow
    def test_coefficients_and_intercepts_are_the_same(self, shot, features, C):
        split = clustered_split().with_features(features)
        support, _ = support_and_query(drawn_episodes(EPISODES, shot=shot))
        images = split.embeddings[support.flatten(1)].double()
        coefficients, intercepts = logistic_in_span(images @ images.transpose(1, 2), labels_of(shot), C=C)
        weights = (coefficients.transpose(1, 2) @ images).numpy()
        for episode in range(EPISODES):
            theirs = fitted(images[episode].numpy(), shot, C)
            size = np.abs(theirs.coef_).max()
            # Both are free to add one vector to all classes; the penalty makes both choose the mean of zero.
            np.testing.assert_allclose(weights[episode], theirs.coef_, rtol=0, atol=1e-4 * size)
            # scikit-learn stops where its intercepts at C = 100 are right to three digits; ours are exact, see below.
            np.testing.assert_allclose(
                centered(intercepts[episode].numpy()), centered(theirs.intercept_), rtol=0, atol=1e-3
            )

    def test_probabilities_and_predictions_are_the_same(self, shot, features, C):
        split = clustered_split().with_features(features)
        support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
        scores = Logistic(C=C, features=features).scores(split, support, query)
        for episode in range(EPISODES):
            theirs = fitted(split.embeddings[support[episode].flatten()].double().numpy(), shot, C)
            queries = split.embeddings[query[episode]].double().numpy()
            ours = torch.softmax(scores[episode], dim=-1).numpy()
            np.testing.assert_allclose(ours, theirs.predict_proba(queries), rtol=0, atol=1e-4)
            assert (scores[episode].argmax(-1).numpy() == theirs.predict(queries)).all()


@pytest.mark.parametrize("shot", [1, 3])
@pytest.mark.parametrize("has_gram", [False, True])
def test_with_views_it_is_fitted_to_all_of_them_and_not_to_the_images(has_gram, shot):
    split = clustered_split(views=3).with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    scores = Logistic(views=2, C=2.0).scores(split.with_gram() if has_gram else split, support, query)
    for episode in range(EPISODES):
        first, second = (split.embeddings[support[episode].flatten() + view * split.images] for view in (1, 2))
        labels = labels_of(shot).repeat(2).numpy()
        theirs = LogisticRegression(C=2.0, tol=1e-10, max_iter=10_000)
        theirs.fit(torch.cat([first, second]).double().numpy(), labels)
        queries = split.embeddings[query[episode]].double().numpy()
        ours = torch.softmax(scores[episode], dim=-1).numpy()
        np.testing.assert_allclose(ours, theirs.predict_proba(queries), rtol=0, atol=1e-4)
        assert (scores[episode].argmax(-1).numpy() == theirs.predict(queries)).all()


def test_views_that_are_not_embedded_are_asked_for():
    support, query = support_and_query(drawn_episodes(EPISODES))
    assert Logistic(views=5).augmented_views == 5
    with pytest.raises(EmbeddingError, match="logistic needs 5 augmented views; there are 2"):
        Logistic(views=5).scores(clustered_split(views=2).with_features("l2"), support, query)


def test_without_views_it_is_recorded_as_before_there_were_any():
    assert set(Logistic().hyper_parameters()) == {"features", "C", "tolerance", "max_iterations"}
    with_views = {**Logistic().hyper_parameters(), "views": 5, "augmentation": "jitter"}
    assert Logistic(views=5).hyper_parameters() == with_views


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"views": -1}, "views of logistic should be a whole number of 0 or more, not -1"),
        ({"views": 2.5}, "views of logistic should be a whole number of 0 or more, not 2.5"),
        ({"augmentation": "crop"}, "augmentation of logistic should be one of auto, autoaugment, .* not crop"),
    ],
)
def test_views_that_cannot_be_made_are_refused(settings, told):
    with pytest.raises(StudyError, match=told):
        Logistic(**settings)


@pytest.mark.parametrize("has_gram", [False, True])
def test_images_that_occur_twice_in_a_support_set_change_nothing_against_scikit_learn(has_gram):
    split = clustered_split().with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=4))
    support[:, :, 1] = support[:, :, 0]
    support[:, 2] = support[:, 2, :1]
    scores = Logistic().scores(split.with_gram() if has_gram else split, support, query)
    for episode in range(EPISODES):
        theirs = fitted(split.embeddings[support[episode].flatten()].double().numpy(), 4, 1.0)
        queries = split.embeddings[query[episode]].double().numpy()
        ours = torch.softmax(scores[episode], dim=-1).numpy()
        np.testing.assert_allclose(ours, theirs.predict_proba(queries), rtol=0, atol=1e-4)


def test_more_images_than_dimensions_are_solved():
    split = clustered_split(size=3).with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=5))
    scores = Logistic(C=10.0).scores(split, support, query)
    for episode in range(EPISODES):
        theirs = fitted(split.embeddings[support[episode].flatten()].double().numpy(), 5, 10.0)
        queries = split.embeddings[query[episode]].double().numpy()
        ours = torch.softmax(scores[episode], dim=-1).numpy()
        np.testing.assert_allclose(ours, theirs.predict_proba(queries), rtol=0, atol=1e-3)


def test_the_intercept_is_not_penalised():
    split = clustered_split(norm=3.0)
    moved = EmbeddedSplit(split.embeddings + 2.0, split.images)
    support, query = support_and_query(drawn_episodes(20, shot=3))
    here, there = (
        torch.softmax(Logistic(C=0.1, features="raw").scores(some, support, query), dim=-1) for some in (split, moved)
    )
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)


def test_the_coefficients_of_each_class_sum_to_zero_at_the_optimum():
    split = clustered_split()
    support, _ = support_and_query(drawn_episodes(20, shot=3))
    images = support.flatten(1)
    coefficients, _ = logistic_in_span(split.products(images, images), labels_of(3), C=1.0)
    assert coefficients.abs().max() > 1e-3
    torch.testing.assert_close(coefficients.sum(dim=1), torch.zeros(20, 5, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("norm", [1.0, 30.0])
def test_the_gradient_of_the_objective_is_zero_at_the_optimum(norm, C):
    split = clustered_split(norm=norm)
    support, _ = support_and_query(drawn_episodes(10, shot=3))
    images = split.embeddings[support.flatten(1)].double()
    coefficients, intercepts = logistic_in_span(images @ images.transpose(1, 2), labels_of(3), C=C)
    weights = (coefficients.transpose(1, 2) @ images).requires_grad_()
    intercepts.requires_grad_()
    logits = images @ weights.transpose(1, 2) + intercepts.unsqueeze(1)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels_of(3).repeat(10), reduction="sum")
    (weights.square().sum() / 2 + C * losses).backward()
    assert intercepts.grad.abs().max() <= 1e-7 * C
    assert weights.grad.abs().max() <= 1e-6 * C * norm


def test_intercepts_have_a_mean_of_zero_over_the_classes():
    """One number for all classes changes no probability; nothing may let it wander."""
    split = clustered_split()
    support, _ = support_and_query(drawn_episodes(30, shot=2))
    images = support.flatten(1)
    for C in (0.01, 0.1, 1.0, 100.0):
        _, intercepts = logistic_in_span(split.products(images, images), labels_of(2), C=C)
        torch.testing.assert_close(intercepts.mean(1), torch.zeros(30, dtype=torch.float64), rtol=0, atol=1e-6)


def test_classes_need_not_have_equally_many_images():
    split = clustered_split(norm=1.0)
    images = split.embeddings[torch.tensor([0, 1, 2, 24, 48, 49])].double()
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    coefficients, intercepts = logistic_in_span((images @ images.T).unsqueeze(0), labels, C=5.0)
    theirs = LogisticRegression(C=5.0, tol=1e-10, max_iter=10_000).fit(images.numpy(), labels.numpy())
    np.testing.assert_allclose((coefficients[0].T @ images).numpy(), theirs.coef_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(centered(intercepts[0].numpy()), centered(theirs.intercept_), rtol=0, atol=1e-4)


def test_an_episode_is_fitted_the_same_alone_and_among_others():
    split = clustered_split()
    support, _ = support_and_query(drawn_episodes(20, shot=5))
    images = support.flatten(1)
    products = split.products(images, images)
    together, _ = logistic_in_span(products, labels_of(5))
    alone, _ = logistic_in_span(products[7:8], labels_of(5))
    torch.testing.assert_close(together[7:8], alone, rtol=0, atol=1e-6)


def test_a_support_set_of_zeros_gives_equal_scores():
    split = EmbeddedSplit(torch.zeros(192, 4), 192)
    support, query = support_and_query(drawn_episodes(3, shot=2))
    probabilities = torch.softmax(Logistic().scores(split, support, query), dim=-1)
    torch.testing.assert_close(probabilities, torch.full_like(probabilities, 0.2))


def test_an_iteration_that_stops_early_is_an_error():
    split = clustered_split()
    support, query = support_and_query(drawn_episodes(4, shot=5))
    with pytest.raises(EmbeddingError, match="did not converge in 1 steps"):
        Logistic(C=100.0, features="raw", max_iterations=1).scores(split, support, query)


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 4, 4), (5, 5)])
def test_products_that_do_not_fit_the_labels_are_refused(shape):
    with pytest.raises(ShapeError, match="do not fit"):
        logistic_in_span(torch.zeros(shape), labels_of(1))


@pytest.mark.parametrize("C", [0, -1.0, math.nan])
def test_a_strength_that_is_not_positive_is_refused(C):
    with pytest.raises(StudyError, match="C of logistic should be positive"):
        Logistic(C=C)


@pytest.mark.parametrize("field", ["tolerance", "max_iterations"])
def test_settings_of_the_solver_that_are_not_positive_are_refused(field):
    with pytest.raises(StudyError, match=f"{field} of logistic should be positive, not 0"):
        Logistic(**{field: 0})
