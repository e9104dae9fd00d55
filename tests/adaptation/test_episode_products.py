from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from fewshot_bench.adaptation import EmbeddedSplit
from fewshot_bench.adaptation.transductive.episode_products import episode_grams, nearest_neighbours, squared_distances
from fewshot_bench.errors import ShapeError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query


def some_images(count=40, size=6, episodes=3, seed=0):
    return torch.randn(episodes, count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", [2, 7, 8, 9, 75])
def test_blocks_of_a_gram_matrix_give_every_product(count):
    split = clustered_split().with_features("l2").with_gram()
    images = torch.randint(0, split.images, (3, count), generator=torch.Generator().manual_seed(count))
    (products,) = episode_grams(split, images, 3)
    assert torch.equal(products, split.products(images, images))


def test_products_are_the_same_with_and_without_a_gram_matrix():
    split = clustered_split().with_features("l2")
    _, query = support_and_query(drawn_episodes(4, shot=1))
    several = zip(episode_grams(split, query, 3), episode_grams(split.with_gram(), query, 3), strict=True)
    sizes = []
    for computed, looked_up in several:
        torch.testing.assert_close(computed, looked_up)
        sizes.append(len(looked_up))
    assert sizes == [3, 1]


def test_squared_distances_are_those_of_cdist_and_never_negative():
    images = some_images()
    images[:, 1] = images[:, 0]
    distances = squared_distances(images @ images.mT)
    torch.testing.assert_close(distances, torch.cdist(images, images).square(), atol=1e-10, rtol=1e-10)
    assert (distances >= 0).all()


@pytest.mark.parametrize("count", [1, 3, 4, 5, 20])
def test_neighbours_are_those_of_scikit_learn(count):
    images = some_images()
    neighbours = nearest_neighbours(images @ images.mT, count)
    for episode, found in zip(images.numpy(), neighbours, strict=True):
        expected = NearestNeighbors(n_neighbors=count).fit(episode).kneighbors_graph().toarray()
        assert (found.numpy() == expected).all()


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_images_that_are_equally_far_share_the_places_whatever_their_order(count):
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).double().unsqueeze(0)
    images = torch.cat([corners, corners[:, :3]], dim=1)
    order = torch.randperm(images.shape[1], generator=torch.Generator().manual_seed(1))
    neighbours = nearest_neighbours(images @ images.mT, count)
    reordered = nearest_neighbours(images[:, order] @ images[:, order].mT, count)
    torch.testing.assert_close(reordered, neighbours[:, order][:, :, order])
    torch.testing.assert_close(neighbours.sum(2), torch.full_like(neighbours[:, 0], count))


def test_identical_images_are_neighbours_in_equal_parts():
    images = torch.ones(1, 6, 3)
    neighbours = nearest_neighbours(images @ images.mT, 2)
    torch.testing.assert_close(neighbours, (2 / 5) * (1 - torch.eye(6)).unsqueeze(0))


@pytest.mark.parametrize("count", [1, 3])
def test_rounding_errors_decide_no_tie(count):
    images = torch.ones(1, 8, 300) / 300**0.5
    products = images @ images.mT
    noise = 1e-7 * torch.rand(products.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(nearest_neighbours(products + noise, count), nearest_neighbours(products, count))


def test_more_neighbours_than_there_are_images_are_all_others():
    images = some_images(5)
    neighbours = nearest_neighbours(images @ images.mT, 9)
    assert torch.equal(neighbours, (1 - torch.eye(5, dtype=torch.float64)).expand(3, -1, -1))
    assert nearest_neighbours(images[:, :1] @ images[:, :1].mT, 3).tolist() == [[[0.0]]] * 3


def test_nearness_is_distance_and_not_the_inner_product():
    images = torch.tensor([[[1.0, 0.0], [1.5, 0.0], [9.0, 0.0]]])
    assert nearest_neighbours(images @ images.mT, 1)[0].argmax(1).tolist() == [1, 0, 1]


def test_products_that_are_not_square_are_refused():
    with pytest.raises(ShapeError, match=r"products should be \[E, T, T\], not \[2, 3, 4\]"):
        nearest_neighbours(torch.zeros(2, 3, 4), 1)


def test_a_split_in_double_precision_stays_so():
    split = clustered_split()
    double = EmbeddedSplit(split.embeddings.double(), split.images).with_gram()
    assert next(episode_grams(double, torch.tensor([[0, 1, 2]]), 1)).dtype == torch.float64
