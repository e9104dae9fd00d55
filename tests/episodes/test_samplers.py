"""The samplers beside the standard one: what each of them promises."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import toy_split
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, chi2, dirichlet_multinomial

from fewshot_bench.episodes import (
    SAMPLERS,
    Protocol,
    draw,
    episode_classes,
    resolved_protocol,
    sample_by_shape,
    sample_episodes,
)
from fewshot_bench.episodes.locks import episode_digests
from fewshot_bench.episodes.samplers import EXTRAS, random_key, raw_words, shapes, urn_counts
from fewshot_bench.errors import EpisodeError
from fewshot_bench.outcomes import ProtocolCard

SIZES = (600,) * 20
UNEVEN = tuple(range(20, 60, 3))
GOLDEN = {
    "standard": "e06e4b20f34882c9b2d0b6f5590c24e25e5f9bfd156fc082816ef6ab5e6213ba",
    "disjoint": "7d27f0443525868a9281264ebbd78a6547b4d9c2d1a88512f447f76d7ea177cf",
    "dirichlet": "5607f614b4665f349b9c0bb03291d86a1607dc9a04fbea68929a385bae83d291",
    "varied": "13d4e3f9f26a5e4473e927e84fcdca6ef52bbcd44b416612db715df3b0fe5d1f",
}
"""Made by sampler version 1 when these samplers were published. They must never change again."""

OF_EPISODES = [name for name in SAMPLERS if name != "whole"]
OTHERS = [name for name in OF_EPISODES if name != "standard"]


def whole_run(protocol, sizes=SIZES, run=0):
    protocol = resolved_protocol(protocol, sizes)
    return draw(protocol, sizes, run, np.arange(protocol.episodes))


def is_random(counts, expected):
    """Chi-square: neither too far from what is expected nor suspiciously close, once in a thousand each."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    found = ((counts - expected) ** 2 / expected).sum()
    low, high = chi2.ppf([0.001, 0.999], len(counts) - 1)
    return low < found < high


def by_number(groups):
    """Support, queries and truth of every episode by its number, as lists that can be compared."""
    return {
        int(number): (group.support[row].tolist(), group.queries[row].tolist(), group.truth[row].tolist())
        for group in groups
        for row, number in enumerate(group.numbers)
    }


class TestEverySampler:
    @pytest.mark.parametrize("sampler", OF_EPISODES)
    def test_its_episodes_have_the_digest_they_always_had(self, sampler):
        protocol = Protocol("golden", way=4, shot=3, query=5, episodes=12, runs=1, seed=7, sampler=sampler)
        assert episode_digests(UNEVEN, protocol) == (GOLDEN[sampler],)

    @pytest.mark.parametrize("sampler", OF_EPISODES)
    def test_episodes_drawn_alone_are_those_of_the_whole_run(self, sampler):
        protocol = resolved_protocol(Protocol("toy", shot=3, query=4, sampler=sampler), UNEVEN)
        count = min(60, protocol.episodes)
        whole = by_number(draw(protocol, UNEVEN, 0, np.arange(count)))
        some = [count - 1, 3, 11, 4]
        assert by_number(draw(protocol, UNEVEN, 0, np.array(some))) == {number: whole[number] for number in some}
        assert by_number(draw(protocol, UNEVEN, 0, np.array([5]))) == {5: whole[5]}

    @pytest.mark.parametrize("sampler", OF_EPISODES)
    def test_the_classes_alone_are_those_of_the_images(self, sampler):
        protocol = resolved_protocol(Protocol("toy", shot=3, query=4, sampler=sampler), UNEVEN)
        numbers = np.arange(min(50, protocol.episodes))
        classes = episode_classes(protocol, UNEVEN, 0, numbers)
        assert classes.shape == (len(numbers), 5)
        ends = np.cumsum(UNEVEN)
        for group in draw(protocol, UNEVEN, 0, numbers):
            found = np.searchsorted(ends, group.support[:, :, 0], side="right")
            assert (classes[group.numbers, : group.way] == found).all()
            assert (classes[group.numbers, group.way :] == -1).all()
            of_queries = np.searchsorted(ends, group.queries, side="right")
            assert (of_queries == np.take_along_axis(found, group.truth.astype(int), axis=1)).all()

    @pytest.mark.parametrize("sampler", OF_EPISODES)
    def test_stored_outcomes_say_enough_to_find_the_classes_again(self, sampler):
        protocol = Protocol("toy", shot=3, query=4, sampler=sampler, seed=5)
        card = ProtocolCard(
            "toy", "ab", "novel", 5, 3, 4, 5, 1, sampler=sampler, sampler_settings=protocol.sampler_settings
        )
        numbers = np.arange(12)
        expected = episode_classes(protocol, UNEVEN, 0, numbers)
        assert (episode_classes(card, UNEVEN, 0, numbers) == expected).all()
        assert Protocol.of(card) == protocol

    @settings(deadline=None, max_examples=60)
    @given(
        sampler=st.sampled_from(OF_EPISODES),
        sizes=st.lists(st.integers(8, 40), min_size=3, max_size=12),
        way=st.integers(2, 3),
        shot=st.integers(1, 4),
        query=st.integers(1, 4),
        seed=st.integers(-(2**40), 2**40),
    )
    def test_a_task_has_distinct_images_of_distinct_classes(self, sampler, sizes, way, shot, query, seed):
        protocol = Protocol("toy", way=way, shot=shot, query=query, seed=seed, sampler=sampler, episodes=1)
        for episodes in draw(protocol, sizes, 0, np.arange(1)):
            for support, queries, truth in zip(episodes.support, episodes.queries, episodes.truth, strict=True):
                everything = np.concatenate([support.ravel(), queries])
                assert len(set(everything.tolist())) == len(everything)
                assert 0 <= everything.min() <= everything.max() < sum(sizes)
                labels = np.searchsorted(np.cumsum(sizes), support, side="right")
                assert (labels == labels[:, :1]).all()
                assert len(set(labels[:, 0].tolist())) == episodes.way
                assert (labels[truth, 0] == np.searchsorted(np.cumsum(sizes), queries, side="right")).all()
                assert len(queries) == episodes.way * query

    @pytest.mark.parametrize("sampler", OTHERS)
    def test_a_split_that_is_too_small_is_refused_with_the_names(self, sampler):
        with pytest.raises(EpisodeError, match=r"'novel-0'.*10 shots and 15 queries need 25"):
            sample_by_shape(toy_split(), Protocol("toy", shot=10, sampler=sampler))

    @pytest.mark.parametrize("sampler", OTHERS)
    def test_another_seed_gives_other_tasks(self, sampler):
        protocol = Protocol("toy", query=5, sampler=sampler, episodes=5)
        one, other = (draw(replace(protocol, seed=seed), SIZES, 0, np.arange(5)) for seed in (0, 1))
        assert by_number(one) != by_number(other)


class TestDisjoint:
    PROTOCOL = Protocol("toy", way=3, shot=1, query=2, sampler="disjoint")

    @settings(deadline=None, max_examples=60)
    @given(
        sizes=st.lists(st.integers(6, 30), min_size=3, max_size=10),
        way=st.integers(2, 3),
        shot=st.integers(1, 3),
        query=st.integers(1, 3),
    )
    def test_no_image_is_used_twice_and_the_split_is_used_up(self, sizes, way, shot, query):
        (run,) = whole_run(replace(self.PROTOCOL, way=way, shot=shot, query=query), tuple(sizes))
        assert len(np.unique(run.images)) == run.images.size
        used = np.bincount(np.searchsorted(np.cumsum(sizes), run.images.ravel(), side="right"), minlength=len(sizes))
        left = np.array(sizes) - used
        assert np.count_nonzero(left >= shot + query) < way, "another task could have been made"

    def test_a_run_of_the_benchmarks_is_nearly_all_of_their_images(self):
        (run,) = whole_run(Protocol("cifar-fs", sampler="disjoint"))
        assert len(run) == 145
        assert run.images.shape == (145, 5, 16)

    def test_until_a_class_is_used_up_the_classes_are_those_of_the_standard_sampler(self):
        protocol = Protocol("cifar-fs", sampler="disjoint")
        standard = replace(protocol, sampler="standard", episodes=3000)
        numbers = np.arange(80)
        assert (episode_classes(protocol, SIZES, 0, numbers) == episode_classes(standard, SIZES, 0, numbers)).all()

    @pytest.mark.slow
    def test_classes_and_images_are_drawn_evenly(self):
        drawn = [draw(replace(self.PROTOCOL, seed=seed), (12,) * 8, 0, np.arange(4))[0].images for seed in range(2000)]
        for place in ((0, 0, 0), (0, 2, 2), (3, 1, 1)):
            assert is_random(np.bincount([images[place] for images in drawn], minlength=96), [2000 / 96] * 96)

    def test_more_episodes_than_there_are_are_refused_with_their_number(self):
        sizes = (30,) * 6
        there = resolved_protocol(self.PROTOCOL, sizes).episodes
        for ask in (
            lambda: resolved_protocol(replace(self.PROTOCOL, episodes=there + 1), sizes),
            lambda: draw(self.PROTOCOL, sizes, 0, np.array([there])),
        ):
            with pytest.raises(EpisodeError, match=rf"has images for {there} disjoint .* Use --episodes {there} or"):
                ask()
        fewer = resolved_protocol(replace(self.PROTOCOL, episodes=there - 1), sizes)
        assert fewer.episodes == there - 1
        assert (whole_run(fewer, sizes)[0].images == whole_run(self.PROTOCOL, sizes)[0].images[:-1]).all()

    def test_a_second_run_would_use_the_images_again_and_is_refused(self):
        with pytest.raises(EpisodeError, match=r"one run of them, not 3; .* Leave --runs out"):
            replace(self.PROTOCOL, runs=3)
        with pytest.raises(EpisodeError, match="there is run 0 of them, and no run 1"):
            draw(self.PROTOCOL, SIZES, 1, np.arange(2))

    def test_without_a_number_all_of_them_are_drawn(self):
        split = toy_split()
        episodes = sample_episodes(split, self.PROTOCOL)
        assert len(episodes) == resolved_protocol(self.PROTOCOL, split.class_sizes).episodes == 20


class TestDirichlet:
    def counts(self, alpha, *, episodes=6000, way=5, query=15):
        protocol = Protocol("toy", way=way, query=query, sampler="dirichlet", alpha=alpha)
        (group,) = draw(protocol, SIZES, 0, np.arange(episodes))
        assert group.queries.shape == (episodes, way * query)
        return (group.query >= 0).sum(axis=2)

    @pytest.mark.slow
    @pytest.mark.parametrize("alpha", [0.5, 2, 20])
    def test_the_numbers_of_queries_have_the_moments_of_a_dirichlet_multinomial(self, alpha):
        counts = self.counts(alpha)
        assert (counts.sum(axis=1) == 75).all()
        law = dirichlet_multinomial([alpha] * 5, 75)
        error = np.sqrt(np.diag(law.cov()) / len(counts))
        np.testing.assert_array_less(abs(counts.mean(axis=0) - law.mean()), 4 * error)
        np.testing.assert_allclose(np.cov(counts.T), law.cov(), atol=0.1 * law.cov().max())

    @pytest.mark.slow
    @pytest.mark.parametrize("alpha", [0.5, 2])
    def test_the_number_of_one_class_is_beta_binomial(self, alpha):
        counts = self.counts(alpha)[:, 3]
        expected = len(counts) * betabinom.pmf(np.arange(76), 75, alpha, 4 * alpha)
        edges = [*range(0, 40, 2), 76]
        found = np.histogram(counts, edges)[0]
        assert is_random(found, [expected[a:b].sum() for a, b in pairwise(edges)])

    def test_with_one_ball_of_each_of_two_classes_every_division_is_equally_likely(self):
        """Pólya's urn of two balls: the number of draws of one colour is uniform."""
        counts = self.counts(1, way=2, query=5)[:, 0]
        assert is_random(np.bincount(counts, minlength=11), [6000 / 11] * 11)

    def test_the_urn_is_the_one_that_whole_numbers_describe(self):
        protocol = Protocol("toy", sampler="dirichlet", alpha=0.125)
        words = raw_words(random_key("toy", "novel", 0), 0, np.arange(30), 75, EXTRAS)
        slow = []
        for tickets in words.tolist():
            balls, drawn = [125] * 5, [0] * 5
            for word in tickets:
                ticket, colour = word % sum(balls), 0
                while ticket >= balls[colour]:
                    ticket -= balls[colour]
                    colour += 1
                balls[colour] += 1000
                drawn[colour] += 1
            slow.append(drawn)
        (group,) = draw(protocol, SIZES, 0, np.arange(30))
        assert (group.query >= 0).sum(axis=2).tolist() == slow

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.integers(0, 9), min_size=2, max_size=6), st.sampled_from([0.001, 0.5, 2, 1000]), st.data())
    def test_a_class_never_gives_more_than_it_has(self, capacity, alpha, data):
        draws = data.draw(st.integers(0, sum(capacity)))
        words = np.array([data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=draws, max_size=draws))], np.uint64)
        counts = urn_counts(words.reshape(1, draws), alpha, np.array([capacity]))
        assert counts.sum() == draws
        assert (counts <= capacity).all()

    def test_the_classes_and_the_first_queries_are_those_of_the_standard_sampler(self):
        protocol = Protocol("toy", sampler="dirichlet")
        (uneven,) = draw(protocol, SIZES, 1, np.arange(40))
        (standard,) = draw(replace(protocol, sampler="standard", alpha=None), SIZES, 1, np.arange(40))
        assert (uneven.support[..., 0] // 600 == standard.support[..., 0] // 600).all()
        both = uneven.query[..., :15] >= 0
        assert (uneven.query[..., :15] == standard.query)[both].all()

    def test_more_shots_keep_the_queries_and_the_support(self):
        one, five = (
            draw(Protocol("toy", shot=shot, sampler="dirichlet"), SIZES, 0, np.arange(20))[0] for shot in (1, 5)
        )
        assert (one.queries == five.queries).all()
        assert (one.support == five.support[..., :1]).all()


class TestVaried:
    PROTOCOL = Protocol("toy", way=7, shot=4, query=3, sampler="varied", least_way=3, least_shot=2)

    def test_every_way_and_shot_is_equally_likely_and_one_says_nothing_of_the_other(self):
        way, shot = shapes(self.PROTOCOL, 0, np.arange(6000)).T
        together = np.bincount((way - 3) * 3 + shot - 2, minlength=15)
        assert len(together) == 15
        assert is_random(together, [400] * 15)

    def test_an_episode_is_the_standard_one_cut_to_its_first_classes_and_shots(self):
        standard = draw(Protocol("toy", way=7, shot=4, query=3), SIZES, 2, np.arange(60))[0]
        groups = draw(self.PROTOCOL, SIZES, 2, np.arange(60))
        assert sum(len(group) for group in groups) == 60
        for group in groups:
            assert (group.support == standard.support[group.numbers, : group.way, : group.shot]).all()
            assert (group.query == standard.query[group.numbers, : group.way]).all()

    def test_groups_come_by_way_and_shot_each_in_the_order_that_was_asked_for(self):
        numbers = np.arange(99, -1, -1)
        groups = draw(self.PROTOCOL, SIZES, 0, numbers)
        assert [(group.way, group.shot) for group in groups] == sorted({(group.way, group.shot) for group in groups})
        assert all((np.diff(group.numbers) < 0).all() for group in groups)

    def test_tasks_of_several_shapes_are_no_single_array(self):
        split = toy_split()
        with pytest.raises(EpisodeError, match=r"differ in way and shot.*Use sample_by_shape"):
            sample_episodes(split, self.PROTOCOL, numbers=[0, 1, 2, 3])
        assert sample_episodes(split, self.PROTOCOL, numbers=[3]).numbers.tolist() == [3]


def test_the_digest_of_varied_tasks_is_over_their_shapes_and_images_in_order():
    protocol = Protocol("toy", shot=3, query=4, episodes=20, runs=1, sampler="varied")
    found = by_number(draw(protocol, UNEVEN, 0, np.arange(20)))
    digest = hashlib.sha256()
    for number in range(20):
        support, queries, _ = found[number]
        rows = np.concatenate([support, np.reshape(queries, (len(support), 4))], axis=1)
        digest.update(np.array([*np.shape(support), *rows.ravel()], dtype="<i4").tobytes())
    assert episode_digests(UNEVEN, protocol) == (digest.hexdigest(),)
