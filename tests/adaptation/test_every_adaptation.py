"""What holds for every adaptation: the order and the grouping of things never matter."""

from __future__ import annotations

import pytest
import torch
from adaptations_to_test import ADAPTATIONS, INDUCTIVE, TRANSDUCTIVE
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fewshot_bench.adaptation import EmbeddedSplit
from fewshot_bench.engine.classify import classify
from fewshot_bench.testing.clusters import as_wanted, clustered_split, drawn_episodes, support_and_query

SPLIT = clustered_split(views=2)


def one_of(adaptations):
    return pytest.mark.parametrize("adaptation", adaptations.values(), ids=adaptations.keys())


every_adaptation, inductive, transductive = (one_of(some) for some in (ADAPTATIONS, INDUCTIVE, TRANSDUCTIVE))


def embedded(adaptation):
    return as_wanted(SPLIT, adaptation)


def scores_differ_by_rounding_only(some, others):
    assert some.shape == others.shape
    torch.testing.assert_close(some.double(), others.double(), rtol=2e-3, atol=2e-3 * float(others.abs().max()))
    assert torch.equal(some.argmax(-1), others.argmax(-1))


@every_adaptation
@pytest.mark.parametrize("shot", [1, 5])
def test_a_gram_matrix_never_changes_an_outcome(adaptation, shot):
    split = embedded(adaptation)
    support, query = support_and_query(drawn_episodes(8, shot=shot))
    looked_up = adaptation.scores(split.with_gram(), support, query)
    scores_differ_by_rounding_only(looked_up, adaptation.scores(split, support, query))


@pytest.mark.slow
@every_adaptation
@pytest.mark.parametrize("shot", [1, 3])
def test_the_chunk_never_changes_a_prediction(adaptation, shot):
    episodes = drawn_episodes(8, shot=shot)
    split = embedded(adaptation)
    whole = classify(adaptation, split, episodes, chunk=8)
    for chunk in (1, 7):
        assert (classify(adaptation, split, episodes, chunk=chunk) == whole).all()


@every_adaptation
def test_an_episode_scores_the_same_whatever_else_is_in_the_chunk(adaptation):
    support, query = support_and_query(drawn_episodes(8, shot=2))
    split = embedded(adaptation)
    alone = adaptation.scores(split, support[7:8], query[7:8])
    torch.testing.assert_close(adaptation.scores(split, support, query)[7:8], alone, rtol=1e-3, atol=1e-4)


@every_adaptation
def test_the_order_of_episodes_never_changes_an_outcome(adaptation):
    support, query = support_and_query(drawn_episodes(8, shot=2))
    split = embedded(adaptation)
    backwards = adaptation.scores(split, support.flip(0), query.flip(0)).flip(0)
    scores_differ_by_rounding_only(backwards, adaptation.scores(split, support, query))


@pytest.mark.slow
@every_adaptation
def test_the_order_of_a_support_set_never_changes_an_outcome(adaptation):
    support, query = support_and_query(drawn_episodes(8, shot=5))
    split = embedded(adaptation)
    reordered = adaptation.scores(split, support[:, :, [3, 0, 4, 1, 2]], query)
    scores_differ_by_rounding_only(reordered, adaptation.scores(split, support, query))


@every_adaptation
def test_query_order_never_changes_an_outcome(adaptation):
    support, query = support_and_query(drawn_episodes(8, shot=2))
    split = embedded(adaptation)
    order = torch.randperm(query.shape[1], generator=torch.Generator().manual_seed(0))
    reordered = adaptation.scores(split, support, query[:, order])
    scores_differ_by_rounding_only(reordered, adaptation.scores(split, support, query)[:, order])


@inductive
def test_a_query_scores_the_same_whatever_else_is_asked(adaptation):
    support, query = support_and_query(drawn_episodes(8, shot=2))
    split = embedded(adaptation)
    few = adaptation.scores(split, support, query[:, :3])
    scores_differ_by_rounding_only(few, adaptation.scores(split, support, query)[:, :3])


@pytest.mark.slow
@every_adaptation
@given(data=st.data(), way=st.integers(2, 5), shot=st.integers(1, 3), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=4, derandomize=True, phases=[Phase.generate])
def test_names_of_the_ways_never_change_an_outcome(adaptation, data, way, shot, seed):
    order = data.draw(st.permutations(range(way)))
    support, query = support_and_query(drawn_episodes(3, way=way, shot=shot, query=3, seed=seed))
    split = embedded(adaptation)
    relabelled = adaptation.scores(split, support[:, order], query)
    expected = adaptation.scores(split, support, query)[:, :, order]
    torch.testing.assert_close(
        relabelled.double(), expected.double(), rtol=2e-3, atol=2e-3 * float(expected.abs().max())
    )


@every_adaptation
def test_scores_are_one_number_per_query_and_class_and_tell_classes_apart(adaptation):
    support, query = support_and_query(drawn_episodes(40, shot=5))
    scores = adaptation.scores(embedded(adaptation), support, query)
    assert scores.shape == (40, 30, 5)
    truth = torch.arange(5).repeat_interleave(6)
    assert (scores.argmax(-1) == truth).float().mean() > 0.6


@every_adaptation
def test_adapting_leaves_the_embeddings_alone(adaptation):
    split = embedded(adaptation)
    before = split.embeddings.clone()
    support, query = support_and_query(drawn_episodes(5, shot=2))
    adaptation.scores(split, support, query)
    assert torch.equal(split.embeddings, before)


@every_adaptation
def test_an_episode_of_more_queries_is_never_thought_smaller(adaptation):
    few, many = (adaptation.floats_per_episode(5, 1, queries, 64) for queries in (10, 1000))
    assert 0 < few < many


@pytest.mark.slow
@every_adaptation
@pytest.mark.parametrize(
    ("way", "shot", "query", "size"), [(2, 1, 1, 2), (5, 1, 1, 40), (2, 20, 3, 2), (3, 2, 4, 2000)]
)
def test_any_size_of_an_episode_gives_finite_scores(adaptation, way, shot, query, size):
    support, query_images = support_and_query(drawn_episodes(3, way=way, shot=shot, query=query))
    split = as_wanted(clustered_split(size=size, views=2), adaptation)
    scores = adaptation.scores(split, support, query_images)
    assert scores.shape == (3, way * query, way)
    assert torch.isfinite(scores).all()


@every_adaptation
@pytest.mark.parametrize("shot", [1, 3])
def test_identical_images_give_finite_scores(adaptation, shot):
    support, query = support_and_query(drawn_episodes(3, shot=shot))
    same = clustered_split(views=2).embeddings[:1].expand(3 * SPLIT.images, -1).clone()
    split = as_wanted(EmbeddedSplit(same, SPLIT.images), adaptation)
    assert torch.isfinite(adaptation.scores(split, support, query)).all()


@every_adaptation
@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("shot", [1, 3])
def test_images_whose_embedding_is_zero_give_finite_scores(adaptation, shot, share):
    support, query = support_and_query(drawn_episodes(3, shot=shot))
    is_zero = torch.rand(SPLIT.images, generator=torch.Generator().manual_seed(0)).repeat(3) < share
    split = as_wanted(EmbeddedSplit(SPLIT.embeddings.masked_fill(is_zero.unsqueeze(1), 0), SPLIT.images), adaptation)
    assert torch.isfinite(adaptation.scores(split, support, query)).all()


@every_adaptation
def test_a_support_image_twice_gives_finite_scores(adaptation):
    support, query = support_and_query(drawn_episodes(3, shot=3))
    support[:, :, 1] = support[:, :, 0]
    assert torch.isfinite(adaptation.scores(embedded(adaptation), support, query)).all()


@transductive
def test_a_transductive_adaptation_looks_at_the_other_queries(adaptation):
    support, query = support_and_query(drawn_episodes(8, shot=1))
    alone = adaptation.scores(embedded(adaptation), support, query[:, :1])
    together = adaptation.scores(embedded(adaptation), support, query)[:, :1]
    assert not torch.allclose(alone.double(), together.double(), rtol=1e-3, atol=1e-5)
