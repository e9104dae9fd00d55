"""Episodes are indexed and looped over like a list, and each gives its images, labels and picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import toy_split

import fewshot_bench as fb
from fewshot_bench.episodes import draw, recorded_episodes, sample_by_shape, sample_episodes, whole_protocol
from fewshot_bench.errors import EpisodeError, PositionError, ShapeError

SPLIT = toy_split()
PROTOCOL = fb.Protocol("toy", shot=2, query=3, episodes=6, runs=1)
EPISODES = sample_episodes(SPLIT, PROTOCOL)
WHOLE = sample_episodes(toy_split("test"), whole_protocol("toy", "test", SPLIT.class_sizes))
KINDS = {
    "standard": EPISODES,
    "dirichlet": sample_episodes(SPLIT, fb.Protocol("toy", query=3, episodes=6, runs=1, sampler="dirichlet")),
    "varied": sample_by_shape(SPLIT, fb.Protocol("toy", shot=3, query=3, episodes=6, runs=1, sampler="varied"))[0],
    "recorded": recorded_episodes(SPLIT, EPISODES.images, 2, "x"),
    "whole": WHOLE,
}


@pytest.mark.parametrize("kind", KINDS)
def test_positions_slices_lists_and_masks_choose_the_same_episodes(kind):
    episodes = KINDS[kind]
    count = len(episodes)
    assert [episode.number for episode in episodes] == episodes.numbers.tolist()
    assert episodes[-1] == episodes[count - 1]
    assert episodes[np.int64(0)] == episodes[0]
    middle = episodes[1:count]
    assert type(middle) is type(episodes)
    assert middle == episodes[list(range(1, count))] == episodes[np.arange(count) > 0]
    assert middle == episodes[torch.arange(1, count)]
    assert np.array_equal(middle.queries, episodes.queries[1:])
    assert np.array_equal(middle.truth, episodes.truth[1:])
    assert len(episodes[count:]) == len(episodes[[]]) == 0


@pytest.mark.parametrize("owner", [EPISODES, SPLIT, WHOLE])
@pytest.mark.parametrize("outside", [10**6, -(10**6), [0, 10**6]])
def test_what_lies_outside_is_an_index_error(owner, outside):
    with pytest.raises(PositionError) as error:
        owner[outside]
    assert isinstance(error.value, IndexError)
    assert isinstance(error.value, fb.FewshotBenchError)


@pytest.mark.parametrize("owner", [EPISODES, SPLIT])
@pytest.mark.parametrize("key", ["novel", None, 1.5, True, np.True_, [[0]], ["a"], {"a": 1}])
def test_what_is_no_position_is_refused(owner, key):
    with pytest.raises(ShapeError, match="position"):
        owner[key]


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_gives_its_images_and_their_labels(kind):
    episodes = KINDS[kind]
    for row, episode in enumerate(episodes):
        known = episode.way * episode.shot
        support = SPLIT.images[episodes.support[row].ravel()].reshape(known, 16, 16, 3)
        assert np.array_equal(episode.images[:known], support)
        assert np.array_equal(episode.images[known:], episode.split.images[episodes.queries[row]])
        assert np.array_equal(episode.labels[known:], episodes.truth[row])
        names = [episode.class_names[label] for label in episode.labels]
        indices = [*episodes.support[row].ravel(), *episodes.queries[row]]
        assert names == [episode.split.class_of(int(index)) for index in indices]


def test_a_contact_sheet_is_a_picture_of_the_episode():
    sheet = EPISODES[4].contact_sheet()
    first = SPLIT.images[int(EPISODES.support[4, 0, 0])]
    assert sheet.getpixel((190, 20)) == tuple(int(value) for value in first[0, 0])


def test_episodes_without_images_say_how_to_get_them():
    (episodes,) = draw(PROTOCOL, SPLIT.class_sizes, 0, np.arange(2))
    assert episodes[0].labels.tolist() == EPISODES[0].labels.tolist()
    for use in (lambda: episodes[0].images, lambda: episodes[0].contact_sheet(), lambda: episodes[0].class_names):
        with pytest.raises(EpisodeError, match="sample_episodes"):
            use()


def test_a_split_gives_images_with_their_labels():
    image, label = SPLIT[30]
    assert np.array_equal(image, SPLIT.images[30])
    assert SPLIT.class_names[label] == SPLIT.class_of(30)
    images, labels = SPLIT[[30, 0]]
    assert np.array_equal(images, SPLIT.images[[30, 0]])
    assert labels.tolist() == [1, 0]
    assert [label for _, label in SPLIT] == SPLIT.labels.tolist()
    assert len(SPLIT[-3:][0]) == 3


@pytest.mark.parametrize("owner", [EPISODES, SPLIT, WHOLE])
@pytest.mark.parametrize("other", [None, "toy", np.zeros(3), np.int64(3), torch.zeros(2), math.nan])
def test_what_is_something_else_is_not_equal(owner, other):
    assert (owner == other) is (other == owner) is False
    assert (owner != other) is True
