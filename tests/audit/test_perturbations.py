"""The disturbances do what they say, on tasks of every shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from audited_results import detail, small_result
from hypothesis import given, settings
from hypothesis import strategies as some

from fewshot_bench.audit.method_checks import predictions_of, relabelled, shuffled, with_numbers, with_queries
from fewshot_bench.audit.stored_checks import task_problem
from fewshot_bench.episodes import Protocol, draw

SIZES = (12, 15, 20, 13, 14, 12)
SAMPLERS = [{}, {"sampler": "dirichlet"}, {"sampler": "varied"}]


def groups(**fields):
    protocol = Protocol("toy", way=4, shot=2, query=3, **fields)
    return draw(protocol, SIZES, 0, np.arange(6))


class ByNumber:
    """Says of a query the last digits of its number."""

    def chunk(self, protocol):
        return 2

    def __call__(self, episodes, chunk):
        return (episodes.queries % 251).astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(seed=some.integers(0, 1000), sampler=some.sampled_from(SAMPLERS))
def test_predictions_come_back_to_their_queries(seed, sampler):
    for episodes in groups(**sampler):
        for order in (shuffled(episodes, seed), relabelled(episodes)):
            count = episodes.queries.shape[1]
            assert (np.sort(order, axis=1) == np.arange(count)).all()
            assert np.array_equal(predictions_of(ByNumber(), episodes, order), episodes.queries % 251)


@pytest.mark.parametrize("sampler", [{}, {"sampler": "varied"}])
def test_the_places_of_all_relabelled_queries_are_those_of_other_classes(sampler):
    for episodes in groups(**sampler):
        moved = np.take_along_axis(episodes.truth, relabelled(episodes), axis=1)
        assert (moved != episodes.truth).all()


def test_a_shuffle_mixes_the_classes_and_leaves_the_support_alone():
    (episodes,) = groups()
    other = with_queries(episodes, shuffled(episodes, 0))
    assert np.array_equal(other.support, episodes.support)
    assert (other.shot, other.way) == (2, 4)
    assert not np.array_equal(other.queries, episodes.queries)
    assert np.array_equal(other.query.reshape(6, -1), other.queries), "nor do the rows say the class"


def test_any_number_of_queries_can_be_asked():
    (episodes,) = groups()
    for count in (1, 5, 12):
        order = np.tile(np.arange(count), (6, 1))
        assert np.array_equal(with_queries(episodes, order).queries, episodes.queries[:, :count])


def test_other_numbers_are_the_same_tasks():
    new = np.random.default_rng(0).permutation(sum(SIZES)).astype(np.int32)
    for episodes in groups(sampler="dirichlet"):
        other = with_numbers(episodes, new)
        assert np.array_equal(other.queries, new[episodes.queries])
        assert np.array_equal(other.truth, episodes.truth)


def changed(place, value):
    (episodes,) = groups()
    images = episodes.images.copy()
    images[place] = value(images)
    return replace(episodes, images=images)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (
            (3, 0, 2),
            lambda images: images[3, 0, 0],
            "run 0, episode 3: an image is both in the support set and",
        ),
        ((2, 1, 1), lambda images: images[2, 1, 0], "run 0, episode 2: an image is there twice"),
        ((1, 0, 3), lambda images: images[1, 0, 2], "run 0, episode 1: an image is there twice"),
        ((4, 0, 0), lambda images: -1, "a task has fewer labels"),
        ((4, 0, 0), lambda images: sum(SIZES), "names an image that the split does not have"),
    ],
)
def test_tasks_that_are_none_are_found(place, value, told):
    assert told in task_problem(changed(place, value), SIZES)


def test_classes_that_are_mixed_or_there_twice_are_found():
    (episodes,) = groups()
    images = episodes.images.copy()
    images[0, [0, 1], 0] = images[0, [1, 0], 0]
    assert "episode 0: images of one class are called two" in task_problem(replace(episodes, images=images), SIZES)
    once = replace(episodes.protocol, shot=1, query=1)
    two = np.array([[[0, 1], [2, 3], [12, 13], [27, 28]]], dtype=np.int32)
    twice = replace(episodes, protocol=once, images=two, numbers=np.array([7]))
    assert task_problem(twice, SIZES) == "run 0, episode 7: a class is there twice"


def test_too_many_labels_are_found():
    (episodes,) = groups()
    fewer = replace(episodes.protocol, way=3)
    assert "there are 4 x 2 labels instead of 3 x 2" in task_problem(replace(episodes, protocol=fewer), SIZES)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_tasks_of_every_sampler_are_in_order(sampler):
    assert [task_problem(episodes, SIZES) for episodes in groups(**sampler)] == [""] * len(groups(**sampler))


@pytest.mark.slow
@pytest.mark.parametrize(("query", "alone"), [(4, 20), (15, 75), (20, 75)])
def test_so_many_queries_are_asked_alone_as_a_usual_episode_has(tmp_path, query, alone):
    """Or a cell of hundreds of classes would take hours."""
    cell = small_result(tmp_path, query=query, episodes=4)
    assert f"queries in halves and alone: the same {8 * (5 * query + alone):,} " in detail(cell, "query batching")
