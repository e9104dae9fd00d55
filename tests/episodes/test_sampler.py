from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from conftest import toy_split
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.episodes import Episodes, Protocol, sample_episodes, sample_indices
from fewshot_bench.errors import EpisodeError

GOLDEN_SUPPORT = [6538, 6846, 2419, 3309, 9461]
GOLDEN_QUERIES = [6285, 6592, 6493, 6005, 6256, 6426, 6171, 6331, 6165, 6111, 6055, 6485, 6459, 6141, 6258]
GOLDEN_DIGEST = "33b8dda8c41517e5fef4f7953fde2d34eb276ebe1a72a326849891ac06d5cb7a"
GOLDEN_UNEVEN = "667e4a4f4c7b7d2dbde6d52d8fa6ef1312d56014dc58dbf39a4bdb44ad4d3aba"


def draw(sizes=(600,) * 20, *, numbers=None, way=5, shot=1, query=15, seed=0, run=0, dataset="golden", split="novel"):
    numbers = np.arange(4) if numbers is None else np.asarray(numbers)
    return sample_indices(
        sizes, dataset=dataset, split=split, way=way, shot=shot, query=query, seed=seed, run=run, numbers=numbers
    )


class TestGoldenValues:
    """Made by sampler version 1 when it was published. They must never change again."""

    def test_first_episode_is_what_it_always_was(self):
        episode = draw(numbers=[0])[0]
        assert episode[:, 0].tolist() == GOLDEN_SUPPORT
        assert episode[0, 1:].tolist() == GOLDEN_QUERIES

    def test_three_thousand_episodes_have_the_digest_they_always_had(self):
        images = draw(numbers=np.arange(3000), shot=5, seed=7, run=2)
        assert hashlib.sha256(images.astype("<i4").tobytes()).hexdigest() == GOLDEN_DIGEST

    def test_uneven_classes_have_the_digest_they_always_had(self):
        images = draw(range(20, 60, 3), numbers=np.arange(100), way=10, shot=3, query=5)
        assert hashlib.sha256(images.astype("<i4").tobytes()).hexdigest() == GOLDEN_UNEVEN


def test_an_episode_drawn_alone_is_the_one_of_the_whole_run():
    whole = draw(numbers=np.arange(50))
    alone = np.concatenate([draw(numbers=[number]) for number in (49, 3, 17)])
    assert (alone == whole[[49, 3, 17]]).all()


def test_more_shots_keep_the_classes_the_queries_and_the_support():
    one, five = draw(shot=1), draw(shot=5)
    assert (one[..., 1:] == five[..., 5:]).all()
    assert (one[..., 0] == five[..., 0]).all()


@pytest.mark.parametrize("change", [{"seed": 1}, {"run": 1}, {"dataset": "other"}, {"split": "validation"}])
def test_every_part_of_the_key_changes_the_episodes(change):
    assert not (draw(**change) == draw()).all()


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(8, 40), min_size=3, max_size=12),
    way=st.integers(2, 3),
    shot=st.integers(1, 4),
    query=st.integers(1, 4),
    seed=st.integers(-(2**40), 2**40),
)
def test_episodes_are_distinct_images_of_distinct_classes(sizes, way, shot, query, seed):
    images = draw(sizes, way=way, shot=shot, query=query, seed=seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    classes = np.searchsorted(offsets, images, side="right") - 1
    assert (classes == classes[..., :1]).all()
    for episode, labels in zip(images, classes[..., 0], strict=True):
        assert len(set(labels.tolist())) == way
        assert len(set(episode.ravel().tolist())) == episode.size


def test_classes_and_images_are_drawn_evenly():
    images = draw((30,) * 10, numbers=np.arange(6000), way=2, shot=1, query=2)
    counts = np.bincount(images.ravel(), minlength=300)
    expected = images.size / 300
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert 200 < chi_square < 420  # 299 degrees of freedom: five standard deviations either way
    first = np.bincount(images[:, 0, 0] // 30, minlength=10)
    assert first.min() > 500


def test_way_larger_than_the_split_is_refused_with_the_way_out():
    with pytest.raises(EpisodeError, match=r"has 20 classes; 25-way episodes need 25. Use --way 20 or fewer"):
        draw(way=25)


def test_a_class_too_small_for_the_episode_is_named():
    with pytest.raises(
        EpisodeError, match=r"8 classes .* have 24 images \('novel-0', .*, \.\.\.\); 10 shots and 15 queries"
    ):
        sample_episodes(toy_split(), Protocol("toy", shot=10))
    one_small = dataclasses.replace(toy_split(), class_sizes=(24, 24, 25, 19, 24, 24, 24, 28))
    with pytest.raises(EpisodeError, match=r"class 'novel-3' .* has 19 images; 5 shots .* need 20.*--min-images 20"):
        sample_episodes(one_small, Protocol("toy", shot=5))


@pytest.mark.parametrize(("way", "shot", "query"), [(1, 1, 1), (5, 0, 1), (5, 1, 0)])
def test_empty_tasks_are_refused(way, shot, query):
    with pytest.raises(EpisodeError, match="or more"):
        draw(way=way, shot=shot, query=query)


def test_a_protocol_of_another_dataset_is_refused():
    with pytest.raises(EpisodeError, match="protocol is for the novel split of cifar-fs"):
        sample_episodes(toy_split(), Protocol("cifar-fs"))


def test_support_and_query_are_the_two_parts_of_an_episode():
    episodes = sample_episodes(toy_split(), Protocol("toy", shot=2, query=3, episodes=4))
    assert isinstance(episodes, Episodes)
    assert episodes.support.shape == (4, 5, 2)
    assert episodes.query.shape == (4, 5, 3)
    assert (np.concatenate([episodes.support, episodes.query], axis=2) == episodes.images).all()
