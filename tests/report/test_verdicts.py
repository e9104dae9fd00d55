"""What a comparison claims, and that no output claims more."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_cells import cell, fill

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import (
    as_latex,
    as_markdown,
    compare_methods,
    compare_tasks,
    comparison_record,
    leaderboard,
    leaderboard_records,
)
from fewshot_bench.report.page import write_page
from fewshot_bench.report.verdicts import NOTHING_SHOWN, corrected_claims, headline, verdict
from fewshot_bench.statistics import DataInterval

pytestmark = pytest.mark.slow

STRENGTH = {NOTHING_SHOWN: 0, " on this split": 1, " for these classes": 2, "": 2}
probabilities = st.floats(0, 1)
families = st.lists(st.tuples(probabilities, probabilities), min_size=1, max_size=12)


def strength(words: str) -> int:
    if words == NOTHING_SHOWN:
        return 0
    return STRENGTH[words.removeprefix("better").removeprefix("worse")]


def ordered(family):
    """P on the split and beyond it, of which the second is never smaller."""
    return np.array([min(pair) for pair in family]), np.array([max(pair) for pair in family])


@given(
    st.floats(-1, 1), probabilities, probabilities, st.sampled_from(["classes and images", "images of these classes"])
)
def test_swapping_the_methods_swaps_better_and_worse_and_nothing_else(difference, split, beyond, covers):
    words = verdict(difference, split, beyond, covers)
    swapped = verdict(-difference, split, beyond, covers)
    assert swapped == words.replace("better", "WORSE").replace("worse", "better").replace("WORSE", "worse")


@given(families, st.data())
def test_unknown_never_beats_known(family, data):
    split, beyond = ordered(family)
    position = data.draw(st.integers(0, len(family) - 1))
    hidden = beyond.copy()
    hidden[position] = math.nan
    known, unknown = corrected_claims(split, beyond), corrected_claims(split, hidden)
    for number in range(len(family)):
        of_known = verdict(1, known[0][number], known[1][number], "classes and images")
        of_unknown = verdict(1, unknown[0][number], unknown[1][number], "classes and images")
        assert strength(of_unknown) <= strength(of_known)
    assert strength(verdict(1, unknown[0][position], unknown[1][position])) <= 1


@given(families, probabilities, probabilities)
def test_under_holm_another_method_never_strengthens_a_verdict_on_the_others(family, first, second):
    split, beyond = ordered(family)
    more_split, more_beyond = np.append(split, min(first, second)), np.append(beyond, max(first, second))
    few, many = corrected_claims(split, beyond), corrected_claims(more_split, more_beyond)
    for number in range(len(family)):
        before = verdict(1, few[0][number], few[1][number], "classes and images")
        after = verdict(1, many[0][number], many[1][number], "classes and images")
        assert strength(after) <= strength(before)


@given(families)
def test_a_claim_beyond_the_split_is_never_made_without_that_on_it(family):
    split, beyond = corrected_claims(*ordered(family))
    assert (beyond >= split).all()


def twelve_classes(folder, way, classes=12, images=30, seed=0):
    """Two methods on tasks of one dataset of one's own; one is a little better on the photos that there are."""
    store, generator = OutcomeStore(folder / "outcomes"), np.random.default_rng(seed)
    for name, gain in (("a", 0.8), ("b", 0)):
        of = cell(name, dataset="products", way=way)
        of = type(of)(of.method, of.protocol, of.versions, class_sizes=(images,) * classes)
        correct = np.clip(generator.binomial(way * 15, 0.6, (1, 400)) + generator.poisson(gain, (1, 400)), 0, way * 15)
        right = np.arange(way * 15) < correct[0][:, None]
        truth = np.repeat(np.arange(way, dtype=np.uint8), 15)
        store.append(of, 0, np.arange(400), np.where(right, truth, (truth + 1) % way).astype(np.uint8), 0.001)
    return store


def test_where_every_episode_has_all_classes_the_claim_is_about_these_classes(tmp_path):
    (pair,) = compare_methods(twelve_classes(tmp_path, way=12), "a", "b")
    assert pair.data.covers == "images of these classes"
    assert not math.isnan(pair.data.p)
    assert "over images of these classes" in pair.headline
    assert pair.verdict in ("better for these classes", "better on this split", NOTHING_SHOWN)
    (pair,) = compare_methods(twelve_classes(tmp_path / "five", way=5), "a", "b")
    assert pair.data.covers == "classes and images"


@pytest.mark.parametrize("sizes", [(), (600,) * 4, (3,) * 20])
def test_without_a_data_interval_the_strongest_word_is_on_this_split_with_its_reason(tmp_path, sizes):
    store = OutcomeStore(tmp_path / "outcomes")
    for name, level in (("a", 60), ("b", 30)):
        of = cell(name)
        of = type(of)(of.method, of.protocol, of.versions, class_sizes=sizes)
        fill(store, of, level + np.random.default_rng(1).integers(-9, 10, (2, 60)))
    (pair,) = compare_methods(store, "a", "b")
    assert pair.verdict == "better on this split"
    assert f"as {pair.data.why_unknown}" in pair.headline
    board = leaderboard(store, "b")
    assert set(board["verdict"].dropna()) == {"better on this split"}
    assert board["group"].isna().all()
    assert set(board["group_split"]) == {"a", "b"}


@settings(deadline=None, max_examples=3)
@given(st.integers(0, 3))
def test_every_output_has_the_same_verdict(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("outputs")
    store, generator = OutcomeStore(folder / "outcomes"), np.random.default_rng(seed)
    difficulty = generator.integers(-8, 9, size=(2, 60))
    for name, level in (("base", 40), ("better", 48), ("alike", 40), ("worse", 33)):
        fill(store, cell(name, dataset="birds"), level + difficulty + generator.integers(-3, 4, size=(2, 60)))
    board = leaderboard(store, "base")
    by_name = dict(zip(board["method"], board["verdict"], strict=True))
    (task,) = compare_tasks(store, baseline="base")
    for comparison in task.comparisons:
        assert comparison.verdict == comparison_record(comparison)["verdict"] == by_name[comparison.a]
        assert comparison.verdict in str(comparison)
    assert {row["method"]: row["verdict"] for row in leaderboard_records(board)} == by_name
    content = write_page(folder, folder / "page.html", baseline="base")
    assert dict(zip(content.frame["method"], content.frame["verdict"], strict=True)) == {**by_name, "base": ""}
    html = (folder / "page.html").read_text()
    assert all(json.dumps(words)[1:-1] in html for words in by_name.values() if words)
    assert "significantly" not in as_markdown(board) + as_latex(board)


def test_letters_agree_with_the_verdicts_of_all_pairs(tmp_path):
    store, generator = OutcomeStore(tmp_path), np.random.default_rng(3)
    difficulty = generator.integers(-8, 9, size=(2, 60))
    for name, level in (("a", 40), ("b", 41), ("c", 43), ("d", 48)):
        fill(store, cell(name), level + difficulty + generator.integers(-3, 4, size=(2, 60)))
    board = leaderboard(store).set_index("method")
    (task,) = compare_tasks(store)
    for comparison in task.comparisons:
        apart = {
            column: not set(board.loc[comparison.a, column]) & set(board.loc[comparison.b, column])
            for column in ("group", "group_split")
        }
        assert apart["group"] == (strength(comparison.verdict) == 2)
        assert apart["group_split"] == (strength(comparison.verdict) >= 1)


def test_simultaneous_intervals_are_those_of_bonferroni(tmp_path):
    store, generator = OutcomeStore(tmp_path), np.random.default_rng(4)
    for name in "abcd":
        fill(store, cell(name), generator.integers(30, 50, size=(1, 60)))
    (each,), (together,) = compare_tasks(store), compare_tasks(store, simultaneous=True)
    for one, wide in itertools.zip_longest(each.comparisons, together.comparisons):
        assert wide.confidence == pytest.approx(1 - 0.05 / 6)
        assert wide.data.low < one.data.low <= one.data.high < wide.data.high
        assert wide.test.ci_low < one.test.ci_low
        assert (wide.verdict, wide.p_beyond_corrected) == (one.verdict, one.p_beyond_corrected)
        assert "simultaneous 95% interval" in wide.headline


def test_the_headline_reads_as_a_sentence():
    interval = DataInterval(0.28, -0.004, 0.56, 0.051)
    assert headline(interval, 0.04, "better on this split") == (
        "+0.28 points, 95% interval -0.00 to +0.56 over classes and images (±0.04 over episodes): better on this split"
    )
