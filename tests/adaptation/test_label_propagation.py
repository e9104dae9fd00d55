from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from sklearn.semi_supervised import LabelSpreading

from fewshot_bench.adaptation import EmbeddedSplit, LabelPropagation, propagated_labels
from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query


def double_split(features="l2", **settings):
    split = clustered_split(**settings)
    return EmbeddedSplit(split.embeddings.double(), split.images).with_features(features)


def mean_squared_distance(rows):
    distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    return distances.sum() / (len(rows) * (len(rows) - 1))


def spread_by_scikit_learn(rows, shot, *, alpha, kernel=None, gamma=None):
    """Shares of the classes in the queries, [M, N], iterated to the fixed point."""
    labels = np.full(len(rows), -1)
    labels[: 5 * shot] = np.repeat(np.arange(5), shot)
    spreading = LabelSpreading(kernel=kernel or "rbf", gamma=gamma or 20, alpha=alpha, max_iter=100_000, tol=1e-13)
    return spreading.fit(rows, labels).label_distributions_[5 * shot :]


@pytest.mark.slow
@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("alpha", [0.2, 0.8, 0.99])
@pytest.mark.parametrize("features", ["l2", "raw"])
def test_on_the_full_graph_no_prediction_differs_from_scikit_learn(shot, alpha, features):
    split = double_split(features, spread=3.0)
    support, query = support_and_query(drawn_episodes(12, shot=shot))
    scores = LabelPropagation(alpha=alpha, knn=0, features=features).scores(split, support, query).numpy()
    for images, queries, found in zip(support, query, scores, strict=True):
        rows = torch.cat([split.rows(images.flatten()), split.rows(queries)]).numpy()
        expected = spread_by_scikit_learn(rows, shot, alpha=alpha, gamma=8.0 / mean_squared_distance(rows))
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert (found.argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize("knn", [3, 10])
def test_on_a_graph_of_neighbours_no_prediction_differs_from_scikit_learn(knn):
    split = double_split(spread=3.0)
    support, query = support_and_query(drawn_episodes(20, shot=2))
    scores = LabelPropagation(knn=knn).scores(split, support, query).numpy()

    def kernel(rows, _):
        near = NearestNeighbors(n_neighbors=knn).fit(rows).kneighbors_graph().toarray()
        distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
        return np.maximum(near, near.T) * np.exp(-8.0 * distances / mean_squared_distance(rows))

    for images, queries, found in zip(support, query, scores, strict=True):
        rows = torch.cat([split.rows(images.flatten()), split.rows(queries)]).numpy()
        expected = spread_by_scikit_learn(rows, 2, alpha=0.8, kernel=kernel)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert (found.argmax(1) == expected.argmax(1)).all()


def test_three_images_give_the_shares_worked_out_by_hand():
    # Labelled at 0 and 3, the query at 1: squared distances 9, 1 and 4, their mean 14 / 3, weights 2^-9, 2^-1 and 2^-4.
    images = torch.tensor([[[0.0], [3.0], [1.0]]], dtype=torch.float64)
    gamma, alpha = 14 / 3 * math.log(2), 0.5
    shares = propagated_labels(images @ images.mT, torch.tensor([0, 1]), alpha=alpha, gamma=gamma, knn=0)
    degrees = 2**-9 + 2**-1, 2**-9 + 2**-4, 2**-1 + 2**-4
    between, to_first, to_second = (
        weight / (degrees[one] * degrees[other]) ** 0.5
        for weight, one, other in ((2**-9, 0, 1), (2**-1, 0, 2), (2**-4, 1, 2))
    )
    # The last row of the inverse of I - alpha S, up to the determinant.
    first = alpha * to_first + alpha**2 * to_second * between
    second = alpha * to_second + alpha**2 * to_first * between
    assert shares[0, 0].tolist() == pytest.approx([first / (first + second), second / (first + second)])


def test_a_label_follows_a_chain_past_a_nearer_image_of_another_class():
    line = torch.tensor([[0.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0]]).unsqueeze(2)
    far_end = 4  # at 5, nearer to the image at 9 than to the one at 0
    shares = propagated_labels(line @ line.mT, torch.tensor([0, 1]), alpha=0.99, knn=2)
    assert shares[0, far_end].argmax() == 0


def test_the_size_of_the_embeddings_makes_no_difference():
    split = double_split("raw")
    larger = EmbeddedSplit(1000 * split.embeddings, split.images)
    support, query = support_and_query(drawn_episodes(10, shot=2))
    method = LabelPropagation(features="raw")
    torch.testing.assert_close(method.scores(larger, support, query), method.scores(split, support, query))


def test_shares_of_the_classes_add_up_to_one():
    support, query = support_and_query(drawn_episodes(10, shot=2))
    total = LabelPropagation().scores(double_split(), support, query).sum(2)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_an_image_that_is_joined_with_none_gets_zero_of_every_class():
    images = torch.tensor([[[1.0], [2.0], [1.1], [1e4]]], dtype=torch.float64)
    shares = propagated_labels(images @ images.mT, torch.tensor([0, 1]), gamma=1e6, knn=0)
    assert torch.isfinite(shares).all()
    assert shares[0, 1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("knn", [0, 3])
def test_identical_queries_are_labelled_alike_in_any_order(knn):
    split = double_split(spread=3.0)
    support, query = support_and_query(drawn_episodes(10, shot=1))
    query[:, 1::2] = query[:, ::2]
    order = torch.randperm(query.shape[1], generator=torch.Generator().manual_seed(0))
    scores = LabelPropagation(knn=knn).scores(split, support, query)
    torch.testing.assert_close(scores[:, ::2], scores[:, 1::2])
    torch.testing.assert_close(LabelPropagation(knn=knn).scores(split, support, query[:, order]), scores[:, order])


def test_it_is_transductive_and_fills_up_no_class():
    assert LabelPropagation().is_transductive
    assert not LabelPropagation().assumes_balanced_queries
    # All queries of one class: none is pushed into another class by the number of queries.
    support, query = support_and_query(drawn_episodes(20, shot=1))
    scores = LabelPropagation(knn=3).scores(double_split(spread=0.3), support, query[:, :6])
    assert (scores.argmax(-1) == 0).all()


def test_products_that_do_not_fit_are_refused():
    for shape in ((2, 5, 6), (5, 5), (2, 3, 3)):
        with pytest.raises(ShapeError, match="do not fit"):
            propagated_labels(torch.zeros(shape), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"alpha": 0.0}, "alpha of label-propagation should be between 0 and 1, not 0.0"),
        ({"alpha": 1.0}, "alpha of label-propagation should be between 0 and 1, not 1.0"),
        ({"gamma": -1.0}, "gamma of label-propagation should be 0 or more, not -1.0"),
        ({"gamma": math.nan}, "gamma of label-propagation should be 0 or more, not nan"),
        ({"knn": -1}, "knn of label-propagation should be a whole number of 0 or more, not -1"),
        ({"knn": 2.0}, "knn of label-propagation should be a whole number of 0 or more, not 2.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence):
    with pytest.raises(StudyError, match=sentence):
        LabelPropagation(**settings)
