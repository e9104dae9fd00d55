from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from fewshot_bench.adaptation import EmbeddedSplit, SupportVectorMachine, svm_in_span
from fewshot_bench.errors import EmbeddingError, ShapeError, StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query

EPISODES = 6


def labels_of(shot, way=5):
    return torch.arange(way).repeat_interleave(shot)


def fitted(embeddings, labels, C):
    """scikit-learn's fit, close to convergence."""
    machine = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=C, tol=1e-8, max_iter=1_000_000)
    return machine.fit(embeddings, labels)


def objective(weights, embeddings, labels, C):
    """Crammer and Singer's, written out."""
    total = 0.5 * (weights**2).sum()
    for image, label in zip(embeddings, labels, strict=True):
        scores = weights @ image
        total += C * max(scores[c] + (c != label) - scores[label] for c in range(len(weights)))
    return total


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("features", "C"), [("l2", 0.03), ("l2", 1.0), ("l2", 30.0), ("raw", 1e-4), ("raw", 0.1)])
@pytest.mark.parametrize("shot", [1, 5])
class TestAgainstScikitLearn:
    def test_the_objective_is_as_low(self, shot, features, C):
        split = clustered_split().with_features(features)
        support, _ = support_and_query(drawn_episodes(EPISODES, shot=shot))
        images = split.embeddings[support.flatten(1)].double()
        coefficients = svm_in_span(images @ images.transpose(1, 2), labels_of(shot), C=C, gap=1e-6)
        labels = labels_of(shot).numpy()
        for episode in range(EPISODES):
            rows = images[episode].numpy()
            ours = objective(coefficients[episode].T.numpy() @ rows, rows, labels, C)
            theirs = objective(fitted(rows, labels, C).coef_, rows, labels, C)
            assert ours <= theirs * (1 + 1.1e-6)
            assert ours == pytest.approx(theirs, rel=1e-4)

    def test_every_prediction_is_the_same(self, shot, features, C):
        split = clustered_split().with_features(features)
        support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
        scores = SupportVectorMachine(C=C, features=features).scores(split, support, query)
        for episode in range(EPISODES):
            rows = split.embeddings[support[episode].flatten()].double().numpy()
            queries = split.embeddings[query[episode]].double().numpy()
            predicted = fitted(rows, labels_of(shot).numpy(), C).predict(queries)
            assert (scores[episode].argmax(-1).numpy() == predicted).all()


@pytest.mark.slow
@pytest.mark.parametrize("C", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_the_stated_gap_bounds_the_distance_from_the_optimum(gap, C):
    split = clustered_split(norm=1.0)
    support, _ = support_and_query(drawn_episodes(20, shot=5))
    images = split.embeddings[support.flatten(1)].double()
    products = images @ images.transpose(1, 2)
    labels = labels_of(5).numpy()
    stated, best = (svm_in_span(products, labels_of(5), C=C, gap=some) for some in (gap, 1e-9))
    for episode in range(20):
        rows = images[episode].numpy()
        here, there = (some[episode].T.numpy() @ rows for some in (stated, best))
        highest = gap * objective(here, rows, labels, C)
        assert objective(here, rows, labels, C) - objective(there, rows, labels, C) <= 1.01 * highest
        assert np.linalg.norm(here - there) <= 1.1 * (2 * highest) ** 0.5


def test_coefficients_satisfy_the_constraints_of_the_dual_problem():
    split = clustered_split(norm=1.0)
    support, _ = support_and_query(drawn_episodes(20, shot=3))
    images = support.flatten(1)
    coefficients = svm_in_span(split.products(images, images), labels_of(3), C=0.7)
    own = torch.nn.functional.one_hot(labels_of(3)).double()
    assert coefficients.sum(-1).abs().max() < 1e-12
    assert (coefficients <= 0.7 * own + 1e-15).all()
    assert coefficients.abs().max() > 0.1


def test_a_small_weight_of_the_losses_puts_every_image_at_its_bound():
    split = clustered_split(norm=1.0)
    support, _ = support_and_query(drawn_episodes(EPISODES, shot=5))
    images = support.flatten(1)
    coefficients = svm_in_span(split.products(images, images), labels_of(5), C=1e-5)
    own = coefficients[:, torch.arange(25), labels_of(5)]
    torch.testing.assert_close(own, torch.full_like(own, 1e-5), rtol=1e-9, atol=0)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_diagonal_fits_as_if_every_image_had_a_dimension_of_its_own():
    split = clustered_split().with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=3))
    scores = SupportVectorMachine(diagonal=1.0, C=0.5).scores(split, support, query)
    assert not torch.allclose(scores, SupportVectorMachine(C=0.5).scores(split, support, query), atol=1e-2)
    for episode in range(EPISODES):
        rows = split.embeddings[support[episode].flatten()].double().numpy()
        theirs = fitted(np.hstack([rows, np.eye(15)]), labels_of(3).numpy(), 0.5)
        queries = split.embeddings[query[episode]].double().numpy()
        np.testing.assert_allclose(scores[episode].numpy(), queries @ theirs.coef_[:, :40].T, rtol=0, atol=5e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("size", "shot"), [(2, 5), (3, 8)])
def test_more_images_than_dimensions_are_solved(size, shot):
    split = clustered_split(size=size).with_features("l2")
    support, _ = support_and_query(drawn_episodes(EPISODES, shot=shot))
    images = split.embeddings[support.flatten(1)].double()
    coefficients = svm_in_span(split.products(support.flatten(1), support.flatten(1)), labels_of(shot))
    labels = labels_of(shot).numpy()
    for episode in range(EPISODES):
        rows = images[episode].numpy()
        ours = objective(coefficients[episode].T.numpy() @ rows, rows, labels, 1.0)
        assert ours == pytest.approx(objective(fitted(rows, labels, 1.0).coef_, rows, labels, 1.0), rel=1e-4)


def test_an_episode_is_fitted_the_same_alone_and_among_others():
    split = clustered_split(norm=1.0)
    support, _ = support_and_query(drawn_episodes(20, shot=5))
    images = support.flatten(1)
    products = split.products(images, images)
    together, alone = svm_in_span(products, labels_of(5)), svm_in_span(products[7:8], labels_of(5))
    torch.testing.assert_close(together[7:8], alone, rtol=0, atol=1e-9)


def test_a_support_set_of_zeros_gives_equal_scores():
    split = EmbeddedSplit(torch.zeros(192, 4), 192)
    support, query = support_and_query(drawn_episodes(3, shot=2))
    assert (SupportVectorMachine().scores(split, support, query) == 0).all()


def test_a_solver_that_does_not_reach_the_gap_is_an_error():
    split = clustered_split()
    support, query = support_and_query(drawn_episodes(4, shot=5))
    with pytest.raises(EmbeddingError, match=r"did not reach a gap of 1e-06 in 7 steps for 4 episodes"):
        SupportVectorMachine(C=100.0, max_iterations=7).scores(split.with_features("l2"), support, query)


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 4, 4), (5, 5)])
def test_products_that_do_not_fit_the_labels_are_refused(shape):
    with pytest.raises(ShapeError, match="do not fit"):
        svm_in_span(torch.zeros(shape), labels_of(1))


@pytest.mark.parametrize("field", ["C", "gap", "max_iterations"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_settings_that_are_not_positive_are_refused(field, value):
    with pytest.raises(StudyError, match=rf"{field} of svm should be (positive|finite), not {value}"):
        SupportVectorMachine(**{field: value})


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_negative_diagonal_is_refused(value):
    with pytest.raises(StudyError, match=rf"diagonal of svm should be (0 or more|finite), not {value}"):
        SupportVectorMachine(diagonal=value)
