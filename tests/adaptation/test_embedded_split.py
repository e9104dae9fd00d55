from __future__ import annotations

import pytest
import torch

from fewshot_bench.adaptation import EmbeddedSplit
from fewshot_bench.errors import EmbeddingError
from fewshot_bench.testing.clusters import clustered_split

ROWS = torch.tensor([[0, 3, 5], [1, 1, 2]])
COLUMNS = torch.tensor([[4, 0], [2, 7]])


def test_raw_features_are_the_embeddings():
    split = clustered_split()
    assert torch.equal(split.with_features("raw").embeddings, split.embeddings)


def test_l2_features_have_norm_one_and_keep_the_direction():
    split = clustered_split()
    features = split.with_features("l2").embeddings
    expected = split.embeddings / split.embeddings.norm(dim=1, keepdim=True)
    torch.testing.assert_close(features, expected)


def test_cl2_features_subtract_the_center_before_the_norm():
    split = EmbeddedSplit(torch.tensor([[4.0, 5.0], [1.0, 3.0]]), 2)
    features = split.with_features("cl2", torch.tensor([1.0, 1.0])).embeddings
    torch.testing.assert_close(features, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))


def test_cl2_features_without_a_center_are_refused():
    with pytest.raises(EmbeddingError, match="cl2 features need the mean embedding of the base split"):
        clustered_split().with_features("cl2")


def test_l2_features_pay_no_attention_to_a_center():
    split = clustered_split()
    with_center = split.with_features("l2", torch.ones(40)).embeddings
    assert torch.equal(with_center, split.with_features("l2").embeddings)


def test_features_leave_the_split_they_came_from_alone():
    split = clustered_split()
    before = split.embeddings.clone()
    split.with_features("cl2", torch.ones(40))
    assert torch.equal(split.embeddings, before)


@pytest.mark.parametrize("features", ["raw", "l2"])
def test_features_drop_a_gram_matrix_that_may_no_longer_be_true(features):
    assert clustered_split().with_gram().with_features(features).gram is None


def test_products_are_inner_products_of_each_episode():
    split = clustered_split(norm=1.0)
    products = split.products(ROWS, COLUMNS)
    assert products.shape == (2, 3, 2)
    for episode in range(2):
        for a, row in enumerate(ROWS[episode]):
            for b, column in enumerate(COLUMNS[episode]):
                expected = split.embeddings[row] @ split.embeddings[column]
                torch.testing.assert_close(products[episode, a, b], expected)


@pytest.mark.parametrize("size", [3, 40, 9000])
def test_products_of_many_episodes_are_those_of_each_alone(size):
    """Gathered a few at a time: several parts, a part that is not full, and rows that are many or few."""
    split = clustered_split(size=size, norm=1.0)
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.randint(split.images, (70, count), generator=generator) for count in (4, 9))
    for others in (columns, torch.cat([rows, columns], dim=1), rows, columns[:, :2]):
        products = split.products(rows, others)
        for episode in (0, 1, 33, 69):
            expected = split.embeddings[rows[episode]] @ split.embeddings[others[episode]].T
            torch.testing.assert_close(products[episode], expected)


def test_products_of_no_episode_are_empty():
    empty = torch.zeros(0, 3, dtype=torch.int64)
    assert clustered_split().products(empty, empty).shape == (0, 3, 3)


def test_looked_up_products_are_the_computed_ones():
    split = clustered_split(norm=1.0)
    torch.testing.assert_close(split.with_gram().products(ROWS, COLUMNS), split.products(ROWS, COLUMNS))


def test_products_come_from_the_gram_matrix_where_there_is_one():
    split = EmbeddedSplit(torch.zeros(8, 3), 8, gram=torch.arange(64.0).view(8, 8))
    expected = torch.tensor([[[4.0, 0.0], [28.0, 24.0], [44.0, 40.0]], [[10.0, 15.0], [10.0, 15.0], [18.0, 23.0]]])
    assert torch.equal(split.products(ROWS, COLUMNS), expected)


def test_the_gram_matrix_knows_augmented_views():
    split = clustered_split(views=2)
    assert split.views == 2
    rows = torch.tensor([[0, split.images, len(split.embeddings) - 1]])
    torch.testing.assert_close(split.with_gram().products(rows, rows), split.products(rows, rows))


def test_a_split_without_augmented_views_has_none():
    assert clustered_split().views == 0


def test_squared_norms_cover_every_row():
    split = clustered_split(views=1)
    torch.testing.assert_close(split.squared_norms, split.embeddings.norm(dim=1) ** 2)


def test_power_features_are_roots_of_norm_one():
    features = EmbeddedSplit(torch.tensor([[4.0, 9.0], [0.0, 16.0]]), 2).with_features("power").embeddings
    torch.testing.assert_close(features[0], torch.tensor([2.0, 3.0]) / 13**0.5)
    torch.testing.assert_close(features[1], torch.tensor([0.0, 1.0]), atol=1e-3, rtol=0)


def test_power_features_of_negative_embeddings_are_refused():
    split = EmbeddedSplit(torch.tensor([[4.0, -0.25]]), 1)
    with pytest.raises(EmbeddingError, match=r"go down to -0\.25\. Use --set features=signed-power"):
        split.with_features("power")


def test_signed_power_features_keep_the_sign():
    features = EmbeddedSplit(torch.tensor([[4.0, -9.0]]), 1).with_features("signed-power").embeddings
    torch.testing.assert_close(features, torch.tensor([[2.0, -3.0]]) / 13**0.5)
