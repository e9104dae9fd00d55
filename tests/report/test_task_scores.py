"""Episodes matched by identity, and the classes that are in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from stored_cells import PROTOCOL, cell, fill, outcomes

from fewshot_bench.episodes import Protocol, sample_indices
from fewshot_bench.episodes.sampler import draw_groups
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import compare, compare_tasks, leaderboard
from fewshot_bench.report.scores import TaskScores, data_intervals_of, images_of_episodes, stored_scores, task_scores
from fewshot_bench.statistics import data_interval

SIZES = (30, 25, 40, 20, 22, 31, 28)


def known(name, **protocol):
    return replace(cell(name, **protocol), class_sizes=SIZES)


def classes_by_hand(run, numbers):
    images = sample_indices(
        SIZES, dataset="cifar-fs", split="novel", way=5, shot=1, query=15, seed=0, run=run, numbers=np.asarray(numbers)
    )
    ends = np.cumsum(SIZES)
    return np.array([[int((image >= ends).sum()) for image in episode[:, 0]] for episode in images])


def test_episodes_are_matched_by_run_and_number():
    one, other = known("one"), known("other")
    first = pd.concat([outcomes(one, [10, 20], run=1).frame, outcomes(one, [30, 40], run=0, first=5).frame])
    second = outcomes(other, [50, 60, 70], run=0, first=4).frame
    scores = task_scores([first, second], [one, other])
    assert list(zip(scores.run, scores.episode, strict=True)) == [(0, 4), (0, 5), (0, 6), (1, 0), (1, 1)]
    assert np.array_equal(
        75 * scores.accuracy, [[np.nan, 30, 40, 10, 20], [50, 60, 70, np.nan, np.nan]], equal_nan=True
    )
    assert scores.pair(0, 1).tolist() == [False, True, True, False, False]


def test_the_classes_of_the_episodes_come_from_the_sizes_alone():
    one = known("one")
    frame = pd.concat([outcomes(one, [1] * 4, run=2, first=3).frame, outcomes(one, [1] * 3, run=0).frame])
    scores = task_scores([frame], [one])
    assert np.array_equal(
        scores.classes, np.concatenate([classes_by_hand(0, [0, 1, 2]), classes_by_hand(2, [3, 4, 5, 6])])
    )
    assert task_scores([frame], [replace(one, class_sizes=())]).classes is None


def test_a_cell_that_knows_the_sizes_is_enough():
    one, other = replace(cell("one"), class_sizes=()), known("other")
    scores = task_scores([outcomes(one, [1, 2]).frame, outcomes(other, [3, 4]).frame], [one, other])
    assert scores.classes.shape == (2, 5)


def test_data_intervals_are_those_of_the_statistics(tmp_path):
    store = OutcomeStore(tmp_path)
    generator = np.random.default_rng(2)
    counts = generator.integers(20, 60, size=(2, 2, 50))
    fill(store, known("one"), counts[0])
    fill(store, known("other"), counts[1])
    fill(store, known("short"), counts[1][:1, :30])
    classes = np.concatenate([classes_by_hand(0, range(50)), classes_by_hand(1, range(50))])
    board = leaderboard(store, "one").set_index("method")
    values = {"one": counts[0].ravel() / 75, "other": counts[1].ravel() / 75, "short": counts[1][0, :30] / 75}
    for name, value in values.items():
        expected = data_interval(value, classes[: len(value)]).half_width
        assert board.loc[name, "data_ci95"] == pytest.approx(100 * expected)
    for name in ("other", "short"):
        difference = values[name] - values["one"][: len(values[name])]
        expected = data_interval(difference, classes[: len(difference)])
        row = board.loc[name]
        assert row["diff_data_ci95_high"] == pytest.approx(100 * expected.high)
        assert row["diff_data_ci95_low"] == pytest.approx(100 * expected.low)
        assert row["p_beyond"] == pytest.approx(expected.p)
    (pair,) = compare_tasks(store, ["other", "one"])[0].comparisons
    assert 100 * pair.data.high == pytest.approx(board.loc["other", "diff_data_ci95_high"])
    assert pair.data.p == board.loc["other", "p_beyond"]


def test_without_sizes_there_is_no_data_interval(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, replace(cell("one"), class_sizes=()), np.array([[10, 20, 30]]))
    board = leaderboard(store)
    assert board["data_ci95"].isna().all()
    assert set(board["beyond"]) == {"unknown: the class sizes are not recorded"}


def test_a_sentence_names_both_intervals():
    counts = np.random.default_rng(3).integers(20, 60, size=(2, 40))
    sentence = str(compare(outcomes(known("one"), counts[0]), outcomes(known("other"), counts[1])))
    assert " over classes and images (±" in sentence


def test_scores_of_a_store_keep_the_order_of_the_cells(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell("b"), np.array([[30, 30]]))
    fill(store, cell("a"), np.array([[15, 15]]))
    scores = stored_scores(store, [cell("b"), cell("a")])
    assert scores.accuracy.mean(axis=1).tolist() == [0.4, 0.2]
    assert scores.protocol == PROTOCOL
    assert scores.seconds == pytest.approx([0.002, 0.002])


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([(600,) * 20, (600,) * 25], "cells disagree about the class sizes"),
        ([(600,) * 3, (600,) * 3], "classes of the episodes unknown"),
        ([(3,) * 20, (3,) * 20], "classes of the episodes unknown"),
    ],
)
def test_sizes_that_cannot_be_right_cost_the_data_interval_and_nothing_else(tmp_path, sizes, words):
    store = OutcomeStore(tmp_path)
    for name, recorded, level in (("one", sizes[0], 40), ("other", sizes[1], 45)):
        counts = np.random.default_rng(5).integers(level - 9, level + 9, size=(1, 30))
        fill(store, replace(cell(name), class_sizes=recorded), counts)
    board = leaderboard(store, "one")
    assert board["data_ci95"].isna().all()
    assert board["flags"].str.contains(words).all()
    assert board["p"].notna().sum() == 1
    (pair,) = compare_tasks(store)[0].comparisons
    assert np.isnan(pair.data.p)
    assert words in pair.data.why_unknown
    assert pair.verdict.endswith(" on this split")


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [("standard", {}), ("disjoint", {}), ("dirichlet", {"alpha": 1.0}), ("varied", {"least_way": 2, "least_shot": 1})],
)
def test_the_images_of_every_sampler_are_those_that_it_draws(sampler, settings):
    card = replace(PROTOCOL, way=4, shot=3, query=2, sampler=sampler, sampler_settings=settings)
    run, episode = np.zeros(6, int), np.array([4, 0, 2, 3, 1, 5])
    classes, images = images_of_episodes(card, SIZES, run, episode)
    drawn = {
        int(episode[row]): found
        for rows, group in draw_groups(Protocol.of(card), SIZES, 0, episode)
        for row, found in zip(rows, group, strict=True)
    }
    ends = np.cumsum(SIZES)
    for number, mine, of_classes in zip(episode.tolist(), classes, images, strict=True):
        assert set(of_classes[of_classes >= 0].tolist()) == set(drawn[number][drawn[number] >= 0].tolist())
        there = mine[mine >= 0]
        assert there.tolist() == sorted(there)
        for position, label in enumerate(mine.tolist()):
            own = of_classes[position][of_classes[position] >= 0]
            assert (np.searchsorted(ends, own, side="right") == label).all()
            assert (len(own) > 0) == (label >= 0)


def test_fixed_classes_whose_shots_vary_have_a_data_interval():
    settings = {"least_way": 7, "least_shot": 1}
    one = known("one", way=7, shot=5, query=5, sampler="varied", sampler_settings=settings)
    accuracy = np.random.default_rng(0).random((1, 60))
    scores = TaskScores([one], np.zeros(60, int), np.arange(60), accuracy, np.ones(1))
    (interval,) = data_intervals_of(scores, accuracy)
    assert scores.has_fixed_classes
    assert interval.covers == "images of these classes"
    assert interval.half_width > 0
