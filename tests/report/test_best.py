"""Which method for this data: what the sentences say, and that they never claim more than the tests of all pairs."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from stored_cells import PROTOCOL, cell, fill, predictions

from fewshot_bench.cli.main import exit_code
from fewshot_bench.outcomes import Cell, OutcomeStore, claimed_frame, claimed_method, claimed_protocol
from fewshot_bench.report import answer_lines, answers, as_markdown, leaderboard, leaderboard_records, print_answers
from fewshot_bench.report.page import write_page
from fewshot_bench.report.scores import TaskScores
from fewshot_bench.report.verdicts import (
    BEST,
    HIGHEST,
    NOT_TESTED,
    NOTHING_SHOWN,
    against_the_best,
    claims_of_all_pairs,
)
from fewshot_bench.statistics import read_letters

pytestmark = pytest.mark.slow

EPISODES = 60


def of(name, is_transductive=False, **protocol) -> Cell:
    made = cell(name, **{"dataset": "birds", **protocol})
    return replace(made, method=replace(made.method, is_transductive=is_transductive))


def store_of(folder, gains, *, noise=3, transductive=(), seconds=0.001, **protocol) -> OutcomeStore:
    """Methods by name: how many queries of 75 they are better than the first, on common episodes."""
    store, generator = OutcomeStore(folder / "outcomes"), np.random.default_rng(11)
    hard = generator.integers(-6, 7, size=(2, EPISODES))
    for number, (name, gain) in enumerate(gains.items()):
        counts = 35 + gain + hard + generator.integers(-noise, noise + 1, size=hard.shape)
        fill(store, of(name, name in transductive, **protocol), counts, seconds=seconds * (number + 1) ** 2)
    return store


def sentences(store, **options) -> list[str]:
    return [one.sentence for one in answers(leaderboard(store, **options))]


def test_the_best_is_named_and_how_far_that_is_shown(tmp_path):
    store = store_of(tmp_path, {"a": 0, "b": 9, "c": 1})
    (found,) = sentences(store)
    assert found.startswith("b is the best (")
    assert found.endswith("%), also for other classes and images (all pairs, Holm, 5%).")
    (answer,) = answers(leaderboard(store))
    assert (answer.best, answer.is_shown, answer.equals, answer.equals_beyond) == ("b", True, (), ())


def test_what_cannot_be_told_from_the_best_is_named_and_nothing_is_called_best(tmp_path):
    store = store_of(tmp_path, {"a": 0, "b": 9, "c": 9})
    (answer,) = answers(leaderboard(store))
    assert not answer.is_shown
    top, other = sorted("bc", key=lambda name: name != answer.best)
    assert answer.equals == (other,)
    assert answer.sentence.startswith(f"{top} has the highest mean (")
    assert f", but {other} cannot be told from it on this split (all pairs, Holm, 5%)" in answer.sentence
    assert " best" not in answer.sentence


def test_where_the_classes_are_unknown_no_word_reaches_beyond_the_split(tmp_path):
    store, generator = OutcomeStore(tmp_path / "outcomes"), np.random.default_rng(1)
    hard = generator.integers(20, 40, size=(1, 50))
    for number, name in enumerate("ab"):
        fill(store, replace(of(name), class_sizes=()), hard + 9 * number + generator.integers(0, 3, size=hard.shape))
    (found,) = sentences(store)
    assert found.startswith("b is the best on this split (")
    assert "whether it is the best for other classes and images is unknown" in found


def test_a_difference_that_classes_may_carry_is_said_for_this_split_alone(tmp_path):
    """One class of 20 makes the difference: over episodes it is plain, over classes it is not."""
    from fewshot_bench.report.scores import classes_of_episodes

    store, generator = OutcomeStore(tmp_path / "outcomes"), np.random.default_rng(2)
    run, numbers = np.zeros(400, np.int64), np.arange(400)
    has_it = (classes_of_episodes(of("a").protocol, (600,) * 20, run, numbers) == 3).any(axis=1)
    base = generator.integers(30, 40, size=400)
    for name, gain in (("a", 0), ("b", 8)):
        store.append(of(name), 0, numbers, predictions(base + gain * has_it), 0.1)
    (answer,) = answers(leaderboard(store))
    assert answer.is_shown
    assert answer.equals_beyond == ("a",)
    assert answer.sentence.startswith("b is the best on this split (")
    assert "; for other classes and images, a cannot be told from it" in answer.sentence


def test_inductive_and_transductive_methods_are_answered_apart(tmp_path):
    kinds = {"a": 0, "b": 9, "tim": 15, "pt-map": 24}
    store = store_of(tmp_path, kinds, transductive=("tim", "pt-map"))
    inductive, transductive = answers(leaderboard(store))
    assert (inductive.best, transductive.best) == ("b", "pt-map")
    assert inductive.sentence.startswith("Among inductive methods, b is the best (")
    assert transductive.sentence.startswith("Among transductive methods, pt-map is the best (")


def test_a_kind_with_one_method_is_said_to_have_one(tmp_path):
    store = store_of(tmp_path, {"a": 0, "b": 9, "tim": 15}, transductive=("tim",))
    assert sentences(store)[1].startswith("Among transductive methods, tim is the only one (")


@pytest.mark.parametrize("names", [{"a": 0}, {"a": 0, "tim": 9}])
def test_where_no_two_of_a_kind_were_run_there_is_no_sentence(names, tmp_path):
    store = store_of(tmp_path, names, transductive=("tim",))
    assert answers(leaderboard(store)) == []
    console = Console(file=io.StringIO())
    print_answers([], console)
    assert console.file.getvalue() == ""


def test_one_kind_alone_needs_no_word_for_it_but_keeps_its_mark(tmp_path):
    store = store_of(tmp_path, {"tim": 0, "pt-map": 9}, transductive=("tim", "pt-map"))
    (found,) = sentences(store)
    assert found.startswith("pt-map (transductive) is the best")


def test_at_most_five_are_named(tmp_path):
    store = store_of(tmp_path, {"worst": -20, **{f"m{number:02d}": 0 for number in range(13)}}, noise=5)
    (answer,) = answers(leaderboard(store))
    assert len(answer.equals) == 12
    assert f"{', '.join(answer.equals[:5])} and 7 more cannot be told from it" in answer.sentence
    assert answer.equals[5] not in answer.sentence
    equal = store_of(tmp_path / "equal", {f"m{number:02d}": 0 for number in range(13)}, noise=5)
    (answer,) = answers(leaderboard(equal))
    assert "none of the 12 others can be told from it" in answer.sentence


def test_the_cost_is_that_of_the_best_and_of_what_is_as_good_and_faster(tmp_path):
    store = store_of(tmp_path, {"a": 8, "b": 8, "c": 0}, noise=2)
    (answer,) = answers(leaderboard(store))
    assert answer.cost.startswith(f"{answer.best} takes ")
    assert ("a is 4 times as fast" in answer.cost) == (answer.best == "b")
    assert answer_lines([answer], with_cost=False) == ["Which method for birds 5-way 1-shot?", answer.sentence]
    assert answer_lines([answer])[1] == f"{answer.sentence} {answer.cost}"


def test_the_cost_of_a_method_that_is_the_best_is_said_of_it(tmp_path):
    (answer,) = answers(leaderboard(store_of(tmp_path, {"a": 0, "b": 9})))
    assert answer.cost == "It takes 4 ms per episode."


def test_imported_methods_say_that_their_episodes_are_claimed_and_have_no_cost(tmp_path):
    store, card = OutcomeStore(tmp_path / "outcomes"), claimed_protocol("birds", "novel", 5, 1, "mine")
    base = np.random.default_rng(0).integers(30, 50, 40)
    for number, name in enumerate("ab"):
        accuracy = (base + 9 * number + np.arange(40) % 2) / 75
        store.append_frame(Cell(claimed_method(name), card), claimed_frame(np.zeros(40, int), np.arange(40), accuracy))
    (answer,) = answers(leaderboard(store))
    assert answer.sentence.endswith(" Episodes claimed, not verified.")
    assert answer.sentence.startswith("b is the best on this split")
    assert answer.cost == ""


def test_failed_episodes_of_the_best_are_told(tmp_path):
    store = store_of(tmp_path, {"a": 0, "b": 9})
    frame = leaderboard(store).assign(flags="12 failed")
    assert " 12 of its episodes failed." in answers(frame)[0].sentence


def test_methods_without_common_episodes_are_not_called_worse(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    generator = np.random.default_rng(4)
    for name, level, first in (("a", 30, 0), ("b", 60, 100)):
        counts = level + generator.integers(-3, 4, 50)
        store.append(of(name), 0, np.arange(first, first + 50), predictions(counts), 0.1)
    (found,) = sentences(store)
    assert found.startswith("b has the highest mean (")
    assert "; a shares too few episodes with it" in found


def test_a_higher_mean_over_easier_episodes_is_not_the_better_method(tmp_path):
    """B is better wherever both were run, and has hard episodes besides."""
    store, generator = OutcomeStore(tmp_path / "outcomes"), np.random.default_rng(5)
    easy = generator.integers(55, 60, 50)
    store.append(of("a"), 0, np.arange(50), predictions(easy), 0.1)
    store.append(of("b"), 0, np.arange(50), predictions(easy + 5 + np.arange(50) % 2), 0.1)
    store.append(of("b"), 0, np.arange(50, 150), predictions(generator.integers(10, 20, 100)), 0.1)
    (answer,) = answers(leaderboard(store))
    assert not answer.is_shown
    assert answer.sentence.startswith("a has the highest mean (")
    assert "; b is better on the episodes that both have" in answer.sentence


def test_published_rows_are_no_part_of_it(tmp_path):
    frame = leaderboard(store_of(tmp_path, {"a": 0, "b": 9}))
    row = {**frame.iloc[0].to_dict(), "method": "paper", "source": "a paper; Table 1", "mean": 99.0}
    row["against_best"] = None
    with_paper = pd.concat([frame, pd.DataFrame([row])], ignore_index=True)
    assert [one.sentence for one in answers(with_paper)] == [one.sentence for one in answers(frame)]


@pytest.mark.parametrize(("correct", "word"), [("holm", "Holm"), ("bh", "BH"), ("none", "uncorrected")])
def test_the_correction_is_that_of_the_table(correct, word, tmp_path):
    assert f"(all pairs, {word}, 5%)" in sentences(store_of(tmp_path, {"a": 0, "b": 9}), correct=correct)[0]


def test_the_baseline_changes_nothing(tmp_path):
    store = store_of(tmp_path, {"a": 0, "b": 9, "c": 8})
    assert sentences(store) == sentences(store, baseline="a") == sentences(store, baseline="b")


def scores_of(accuracy, kinds) -> TaskScores:
    cells = [of(f"m{row}", kind) for row, kind in enumerate(kinds)]
    cells = [replace(one, protocol=PROTOCOL) for one in cells]
    episodes = accuracy.shape[1]
    run, numbers = np.zeros(episodes, np.int64), np.arange(episodes)
    return TaskScores(cells, run, numbers, accuracy, np.ones(len(cells)))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 9),
    st.sampled_from([0.0, 0.01, 0.05]),
    st.integers(0, 10**6),
    st.sampled_from(["holm", "bh", "none"]),
)
def test_it_says_of_each_method_what_its_letters_say(methods, gain, seed, correct):
    """Whoever shares a letter with the best of its kind cannot be told from it, and nobody else."""
    from fewshot_bench.report.verdicts import letters_of

    generator = np.random.default_rng(seed)
    accuracy = generator.normal(0.6, 0.1, 80) + generator.normal(0, 0.05, (methods, 80))
    accuracy += gain * np.arange(methods)[:, None]
    kinds = [bool(generator.integers(2)) for _ in range(methods)]
    scores = scores_of(np.clip(accuracy, 0, 1), kinds)
    words = against_the_best(scores, {one.key: one.method.name for one in scores.cells}, correct)
    letters = {
        claim: read_letters([one or "" for one in letters_of(scores, correct, claim)]) for claim in ("split", "beyond")
    }
    for kind in (False, True):
        rows = [row for row in range(methods) if kinds[row] == kind]
        if len(rows) < 2:
            assert [words[row] for row in rows] == [None] * len(rows)
            continue
        (best,) = [row for row in rows if words[row] in (BEST, HIGHEST)]
        assert scores.accuracy[best].mean() == max(scores.accuracy[row].mean() for row in rows)
        others = [row for row in rows if row != best]
        for row in others:
            assert (words[row] == NOTHING_SHOWN) == bool(letters["split"][row] & letters["split"][best])
            assert (words[row] in (NOTHING_SHOWN, "worse on this split")) == bool(
                letters["beyond"][row] & letters["beyond"][best]
            )
        assert (words[best] == BEST) == all(words[row].startswith("worse") for row in others)


def test_equal_methods_are_seldom_told_apart_however_many_there_are():
    """15 equal methods make 105 pairs; the best is picked by its own result, and all pairs are corrected."""
    wrong, studies = 0, 60
    for seed in range(studies):
        generator = np.random.default_rng(seed)
        accuracy = generator.normal(0.6, 0.1, 100) + generator.normal(0, 0.05, (15, 100))
        scores = scores_of(np.clip(accuracy, 0, 1), [False] * 15)
        words = against_the_best(scores, {one.key: one.method.name for one in scores.cells})
        wrong += any(word.startswith("worse") for word in words)
        assert BEST not in words
    assert wrong <= 8  # 5% of 60 are 3; more than 8 come in 1 of 200 such tests where it is exactly 5%


def test_methods_without_any_common_episode_have_no_claims():
    accuracy = np.full((2, 4), np.nan)
    accuracy[0, :2], accuracy[1, 2:] = 0.5, 0.6
    scores = scores_of(accuracy, [False, False])
    assert claims_of_all_pairs(scores) is None
    assert against_the_best(scores, {one.key: one.method.name for one in scores.cells}) == [NOT_TESTED, HIGHEST]


def test_the_answer_is_wherever_the_leaderboard_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    store = store_of(tmp_path, {"a": 0, "b": 9, "tim": 15, "pt-map": 24}, transductive=("tim", "pt-map"))
    frame = leaderboard(store)
    said = sentences(store)
    command = ["leaderboard", "--results", str(tmp_path)]
    assert exit_code(command) == 0
    printed = capsys.readouterr().out
    assert exit_code([*command, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    write_page(tmp_path, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    markdown = as_markdown(frame).replace("\\", "")
    for sentence in said:
        assert sentence in printed
        assert sentence in page
        assert sentence in markdown
    assert "ms per episode" in printed
    assert "per episode" not in markdown
    by_kind = {record["is_transductive"]: record["best"] for record in records}
    assert [by_kind[False]["sentence"], by_kind[True]["sentence"]] == said
    assert by_kind[True]["method"] == "pt-map"
    assert {record["method"]: record["against_best"] for record in records} == {
        **{"a": "worse", "b": BEST, "tim": "worse", "pt-map": BEST}
    }


def test_of_a_single_method_nothing_is_said_anywhere(tmp_path, capsys):
    store = store_of(tmp_path, {"a": 0})
    assert exit_code(["leaderboard", "--results", str(tmp_path)]) == 0
    assert "Which method" not in capsys.readouterr().out
    write_page(tmp_path, tmp_path / "report.html")
    assert "Which method" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Which method" not in as_markdown(leaderboard(store))
    assert [record["best"] for record in leaderboard_records(leaderboard(store))] == [None]
