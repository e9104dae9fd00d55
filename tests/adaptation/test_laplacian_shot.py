from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from easyfsl import methods as easyfsl
from scipy.special import log_softmax
from sklearn.neighbors import NearestNeighbors

from fewshot_bench.adaptation import BDCSPN, EmbeddedSplit, LaplacianShot, laplacian_assignments, rectified_prototypes
from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query


def double_split(**settings):
    split = clustered_split(**settings)
    return EmbeddedSplit(split.embeddings.double(), split.images).with_features("l2")


class EasyfslInDoublePrecision(easyfsl.LaplacianShot):
    """easyfsl builds its graph in single precision, whatever the features are."""

    def compute_pairwise_affinities(self, features):
        return super().compute_pairwise_affinities(features).double()


def as_in_the_paper(prototypes, query, *, laplacian_weight, knn, steps):
    """Assignments [M, N] of one episode by plain bound updates, without a rule to stop."""
    distances = ((query[:, None] - prototypes[None]) ** 2).sum(-1)
    graph = NearestNeighbors(n_neighbors=knn).fit(query).kneighbors_graph().toarray()
    logits = -distances
    for _ in range(steps):
        logits = -distances + laplacian_weight * graph @ np.exp(log_softmax(logits, axis=1))
    return np.exp(log_softmax(logits, axis=1))


@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("knn", [1, 3, 6])
@pytest.mark.parametrize("laplacian_weight", [0.0, 0.3, 1.0])
def test_assignments_are_those_of_the_paper_computed_episode_by_episode(shot, knn, laplacian_weight):
    split = double_split(spread=3.0)
    support, query = support_and_query(drawn_episodes(12, shot=shot))
    method = LaplacianShot(prototypes="mean", knn=knn, laplacian_weight=laplacian_weight, iterations=7)
    scores = method.scores(split, support, query).numpy()
    for images, queries, found in zip(support, query, scores, strict=True):
        prototypes = split.rows(images).mean(1).numpy()
        options = {"laplacian_weight": laplacian_weight, "knn": knn, "steps": 7}
        expected = as_in_the_paper(prototypes, split.rows(queries).numpy(), **options)
        # Ours stops where the bound changes by less than a millionth.
        assert np.abs(found - expected).max() < 2e-3
        assert (found.argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("laplacian_weight", [0.3, 0.7, 1.5])
def test_with_the_settings_of_easyfsl_no_prediction_differs_from_its_own(shot, laplacian_weight):
    split = double_split(spread=3.0)
    support, query = support_and_query(drawn_episodes(30, shot=shot))
    method = EasyfslInDoublePrecision(torch.nn.Identity(), lambda_regularization=laplacian_weight, knn=3)
    labels = torch.arange(5).repeat_interleave(shot)
    expected = []
    for images, queries in zip(support, query, strict=True):
        method.process_support_set(split.rows(images.flatten()), labels)
        expected.append(method(split.rows(queries)))
    ours = LaplacianShot(
        laplacian_weight=laplacian_weight, knn=2, weighting="images", temperature=1.0, shift="prototypes"
    )
    scores = ours.scores(split, support, query)
    torch.testing.assert_close(scores, torch.stack(expected), rtol=0, atol=1e-12)
    assert torch.equal(scores.argmax(-1), torch.stack(expected).argmax(-1))


def test_without_laplacian_it_is_the_nearest_rectified_prototype():
    split = double_split(spread=3.0)
    support, query = support_and_query(drawn_episodes(20, shot=3))
    images = torch.cat([support.flatten(1), query], dim=1)
    rectified = rectified_prototypes(split.products(images, images), 5, 3, temperature=10.0, weighting="classes")
    scores = LaplacianShot(laplacian_weight=0.0).scores(split, support, query)
    expected = torch.softmax(-rectified.squared_distances, dim=1).transpose(1, 2)
    torch.testing.assert_close(scores, expected)


def test_squared_distances_to_rectified_prototypes_are_those_of_the_vectors():
    split = double_split()
    support, query = support_and_query(drawn_episodes(1, shot=2))
    rows, queries = split.rows(support[0]), split.rows(query[0])
    shifted = queries + rows.mean((0, 1)) - queries.mean(0)
    images = torch.cat([rows.flatten(0, 1), shifted])
    cosines = torch.nn.functional.cosine_similarity(images.unsqueeze(1), rows.mean(1), dim=-1)
    weights = torch.softmax(10 * cosines, dim=1)
    labels = torch.cat([torch.arange(5).repeat_interleave(2), cosines[10:].argmax(1)])
    prototypes = torch.stack([(weights[labels == n, n, None] * images[labels == n]).mean(0) for n in range(5)])
    together = torch.cat([support.flatten(1), query], dim=1)
    rectified = rectified_prototypes(
        split.products(together, together), 5, 2, temperature=10.0, weighting="classes", shift="everywhere"
    )
    expected = torch.cdist(prototypes, shifted).square()
    torch.testing.assert_close(rectified.squared_distances[0], expected)


def test_an_episode_that_has_converged_stays_as_it_is():
    generator = torch.Generator().manual_seed(0)
    easy = torch.tensor([[9.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    hard = torch.rand(2, 3, generator=generator)
    graph = torch.ones(2, 3, 3) - torch.eye(3)
    easy, hard = easy.double(), hard.double()
    together = laplacian_assignments(torch.stack([easy, hard]), graph, laplacian_weight=0.9, iterations=50)
    for number, distances in enumerate((easy, hard)):
        alone = laplacian_assignments(distances.unsqueeze(0), graph[:1], laplacian_weight=0.9, iterations=50)
        torch.testing.assert_close(together[number : number + 1], alone, rtol=0, atol=1e-15)


def test_no_step_raises_the_bound():
    split = double_split(spread=3.0)
    support, query = support_and_query(drawn_episodes(10, shot=1))
    distances = torch.cdist(split.rows(support[:, :, 0]), split.rows(query)).square()
    images = split.rows(query)
    graph = torch.exp(-torch.cdist(images, images))  # symmetric and positive definite, as the proof asks for
    bounds = []
    for steps in range(1, 8):
        y = laplacian_assignments(distances, graph, laplacian_weight=0.2, iterations=steps, tolerance=0.0)
        bounds.append((y * (y.log() + distances) - 0.1 * y * (y @ graph)).sum((1, 2)))
    for before, after in pairwise(bounds):
        assert (after <= before + 1e-12).all()


def test_neighbours_that_agree_carry_a_query_that_is_nearer_to_another_class():
    distances = torch.tensor([[[0.0, 0.0, 0.5], [1.0, 1.0, 0.4]]])
    neighbours = torch.tensor([[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]])
    alone = laplacian_assignments(distances, neighbours, laplacian_weight=0.0)
    together = laplacian_assignments(distances, neighbours, laplacian_weight=1.0)
    assert alone.argmax(1).tolist() == [[0, 0, 1]]
    assert together.argmax(1).tolist() == [[0, 0, 0]]


def test_identical_queries_are_labelled_alike_in_any_order():
    split = double_split(spread=3.0)
    support, query = support_and_query(drawn_episodes(10, shot=1))
    query[:, 1::2] = query[:, ::2]
    order = torch.randperm(query.shape[1], generator=torch.Generator().manual_seed(0))
    scores = LaplacianShot().scores(split, support, query)
    torch.testing.assert_close(scores[:, ::2], scores[:, 1::2])
    torch.testing.assert_close(LaplacianShot().scores(split, support, query[:, order]), scores[:, order])


def test_single_precision_gives_the_predictions_of_double_precision():
    support, query = support_and_query(drawn_episodes(200, shot=1))
    double = double_split(spread=3.0)
    single = EmbeddedSplit(double.embeddings.float(), double.images)
    expected = LaplacianShot().scores(double, support, query).argmax(-1)
    assert torch.equal(LaplacianShot().scores(single.with_gram(), support, query).argmax(-1), expected)


def test_it_is_better_than_its_prototypes_alone_where_neighbours_share_a_class():
    split = double_split()
    support, query = support_and_query(drawn_episodes(200, shot=1, query=15))
    truth = torch.arange(5).repeat_interleave(15)
    accuracies = [
        (LaplacianShot(laplacian_weight=weight).scores(split, support, query).argmax(-1) == truth).double().mean()
        for weight in (0.0, 0.3)
    ]
    assert accuracies[1] > accuracies[0] + 0.005


def test_it_is_transductive_and_fills_up_no_class():
    assert LaplacianShot().is_transductive
    assert not LaplacianShot().assumes_balanced_queries
    # All queries of one class: none is pushed into another class by the number of queries.
    split = double_split(spread=0.3)
    support, query = support_and_query(drawn_episodes(20, shot=1))
    for method in (LaplacianShot(prototypes="mean"), LaplacianShot(shift="nowhere"), BDCSPN(shift="nowhere")):
        assert (method.scores(split, support, query[:, :6]).argmax(-1) == 0).all()


def test_distances_and_neighbours_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="do not fit"):
        laplacian_assignments(torch.zeros(2, 5, 6), torch.zeros(2, 5, 5), laplacian_weight=1.0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"laplacian_weight": -0.1}, "laplacian_weight of laplacian-shot should be 0 or more, not -0.1"),
        ({"laplacian_weight": math.nan}, "laplacian_weight of laplacian-shot should be 0 or more, not nan"),
        ({"knn": 0}, "knn of laplacian-shot should be a whole number of 1 or more, not 0"),
        ({"iterations": 1.5}, "iterations of laplacian-shot should be a whole number of 1 or more, not 1.5"),
        ({"prototypes": "none"}, "prototypes of laplacian-shot should be one of rectified, mean, not none"),
        ({"weighting": "none"}, "weighting of laplacian-shot should be one of images, classes, not none"),
        ({"temperature": -1.0}, "temperature of laplacian-shot should be positive, not -1.0"),
        ({"shift": "yes"}, "shift of laplacian-shot should be one of everywhere, prototypes, nowhere, not yes"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence):
    with pytest.raises(StudyError, match=sentence):
        LaplacianShot(**settings)
