"""The whole sampler: every image of a split is an episode of one query, among all classes."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import toy_split

from fewshot_bench.episodes import Protocol, WholeEpisodes, draw, episode_classes, sample_episodes, whole_protocol
from fewshot_bench.errors import EpisodeError
from fewshot_bench.limits import MOST_EPISODES
from fewshot_bench.outcomes import ProtocolCard

SIZES = (3, 1, 4)


def test_episode_i_is_image_i_with_its_class_among_all():
    protocol = whole_protocol("toy", "test", SIZES)
    assert (protocol.way, protocol.shot, protocol.query, protocol.runs, protocol.episodes) == (3, 0, 1, 1, 8)
    (episodes,) = draw(protocol, SIZES, 0, np.arange(8))
    assert isinstance(episodes, WholeEpisodes)
    assert episodes.queries.tolist() == [[image] for image in range(8)]
    assert episodes.truth[:, 0].tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    assert (episodes.way, episodes.shot, episodes.support.size, len(episodes)) == (3, 0, 0, 8)
    assert episode_classes(protocol, SIZES, 0, np.arange(8))[:, 0].tolist() == [0, 0, 0, 1, 2, 2, 2, 2]


def test_images_drawn_alone_are_those_of_the_whole_split():
    split = toy_split("test", classes=5, images=7)
    protocol = whole_protocol("toy", "test", split.class_sizes)
    everything = sample_episodes(split, protocol)
    some = sample_episodes(split, protocol, numbers=[30, 2])
    assert len(everything) == 35
    assert some.queries[:, 0].tolist() == [30, 2]
    assert some.truth[:, 0].tolist() == [split.labels[30], split.labels[2]]


@pytest.mark.parametrize(("images", "classes"), [(50_000, 1_000), (95_986, 5_089)])
def test_a_split_as_large_as_those_of_imagenet_and_inaturalist_takes_little_memory(images, classes):
    sizes = tuple(images // classes + (label < images % classes) for label in range(classes))
    (episodes,) = draw(whole_protocol("large", "test", sizes), sizes, 0, np.arange(images))
    held = episodes.images.nbytes + episodes.labels.nbytes + episodes.truth.nbytes + episodes.queries.nbytes
    assert held < 24 * images
    assert episodes.truth[-1, 0] == classes - 1


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"shot": 1}, "shot"), ({"query": 2}, "query"), ({"runs": 2}, "runs"), ({"seed": 1}, "seed")],
)
def test_other_numbers_are_refused(settings, name):
    values = {"way": 3, "shot": 0, "query": 1, **settings}
    with pytest.raises(EpisodeError, match=f"its {name} is "):
        Protocol("toy", "test", sampler="whole", **values)


def test_settings_of_other_samplers_are_refused():
    with pytest.raises(EpisodeError, match="--alpha is for the dirichlet sampler, not for whole"):
        Protocol("toy", "test", 3, 0, 1, sampler="whole", alpha=2)


def test_only_the_whole_sampler_has_episodes_without_support_sets():
    with pytest.raises(EpisodeError, match="an episode needs a shot of 1 or more, not 0"):
        draw(Protocol("toy", shot=0, query=1, way=3), SIZES, 0, np.arange(1))


def test_the_way_is_the_number_of_classes_and_there_are_two_or_more():
    with pytest.raises(EpisodeError, match=r"has 3 classes.*its way is 3, not 2"):
        draw(Protocol("toy", "test", 2, 0, 1, sampler="whole"), SIZES, 0, np.arange(1))
    with pytest.raises(EpisodeError, match="has one class; classification needs two or more"):
        whole_protocol("toy", "test", (7,))


def test_images_and_runs_that_there_are_not_are_refused():
    protocol = whole_protocol("toy", "test", SIZES)
    with pytest.raises(EpisodeError, match="has 8 images; there is no image 8"):
        draw(protocol, SIZES, 0, np.array([8]))
    with pytest.raises(EpisodeError, match="there is no run 1"):
        draw(protocol, SIZES, 1, np.array([0]))
    with pytest.raises(EpisodeError, match=f"at most {MOST_EPISODES:,}"):
        whole_protocol("toy", "test", (MOST_EPISODES, 1))


def test_a_card_says_enough_to_draw_them_again():
    protocol = whole_protocol("toy", "test", SIZES)
    card = ProtocolCard("toy", "ab", "test", 3, 0, 1, 0, 1, "whole", {})
    assert card.task == "toy whole test split"
    again = Protocol.of(card)
    assert (again.name, again.way, again.shot) == (protocol.name, 3, 0) == ("toy-whole-test", 3, 0)
