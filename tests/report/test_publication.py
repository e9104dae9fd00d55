"""The tables of a paper, in Markdown and LaTeX."""

from __future__ import annotations

import re

import numpy as np
import pytest
from stored_cells import cell, fill

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import as_latex, as_markdown, leaderboard
from fewshot_bench.report.publication import publication_table

NASTY = r"a_b|c<script>&%$#{x}~^\*"


@pytest.fixture
def board(tmp_path):
    """Two tasks; good and similar do not differ at 1 shot, poor is worse; at 5 shots there is no similar."""
    store = OutcomeStore(tmp_path)
    generator = np.random.default_rng(0)
    for shot in (1, 5):
        difficulty = generator.integers(-6, 7, size=(3, 50))
        for name, level in (("good", 50), ("similar", 50), ("poor", 30)):
            if (name, shot) != ("similar", 5):
                noise = generator.integers(-5, 6, size=(3, 50))
                fill(store, cell(name, shot=shot), level + difficulty + noise)
    return leaderboard(store)


def test_the_best_and_those_not_shown_to_be_worse_are_marked(board):
    tasks, methods = publication_table(board)
    assert tasks == ["cifar-fs 5-way 1-shot", "cifar-fs 5-way 5-shot"]
    assert list(methods) == ["good", "poor", "similar"]  # which has one task only
    best = {task: [name for name in methods if task in methods[name] and methods[name][task].is_best] for task in tasks}
    assert best[tasks[1]] == ["good"]
    (winner,) = best[tasks[0]]
    (other,) = {"good", "similar"} - {winner}
    assert methods[other][tasks[0]].is_not_worse
    assert not any(entry.is_best or entry.is_not_worse for entry in methods["poor"].values())
    assert tasks[1] not in methods["similar"]


def test_markdown_has_the_medians_with_their_intervals(board):
    text = as_markdown(board)
    for row in board.to_dict("records"):
        number = rf"(\*\*|<u>)?{row['median']:.2f}(\*\*|</u>)? ± {row['median_ci95']:.2f}"
        assert re.search(number, text)
    assert text.count("**") == 4
    assert text.splitlines()[1] == "| --- | ---: | ---: |"


def test_latex_is_a_booktabs_table(board):
    text = as_latex(board)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrr}"):
        assert rule in text
    assert text.count(r"\textbf{") == 2
    assert text.count(r"\underline{") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(row.count("&") == 2 for row in rows)


def test_names_mean_nothing_to_markdown_or_latex(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell(NASTY), np.array([[10, 20, 30]]))
    board = leaderboard(store)
    row = as_markdown(board).splitlines()[2]
    assert re.sub(r"\\(.)", "", row).count("|") == 3
    assert "<script>" not in row
    name = as_latex(board).splitlines()[-3].split(" & ")[0]
    assert not re.search(r"(?<!\\)[_%#&]", name)
    assert r"\&" in name
    assert r"\textasciitilde" in name


def test_one_episode_has_no_interval(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell("m"), np.array([[30]]))
    assert "| m | **40.00** |" in as_markdown(leaderboard(store))


def test_a_better_mean_is_not_called_worse_for_its_median(tmp_path):
    """The bold one has the higher median of runs; the other is significantly better in the mean."""
    store = OutcomeStore(tmp_path)
    noise = np.random.default_rng(0).integers(-3, 4, size=(3, 60))
    fill(store, cell("median"), 46 + noise)
    fill(store, cell("mean"), np.array([[45], [45], [62]]) + noise)
    board = leaderboard(store)
    _, methods = publication_table(board)
    (entry,) = methods["median"].values()
    (other,) = methods["mean"].values()
    assert entry.is_best
    assert other.is_not_worse
    assert set(board["group"]) == {"a", "b"}


def test_the_note_names_the_correction(tmp_path):
    store = OutcomeStore(tmp_path)
    for name in ("a", "b"):
        fill(store, cell(name), np.array([[10, 20, 30]]))
    assert "same episodes, BH, 5%" in as_markdown(leaderboard(store, correct="bh"))


def test_a_name_is_one_line(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell("two\nlines", dataset="<img src=x>|\n# h"), np.array([[10, 20, 30]]))
    board = leaderboard(store)
    text = as_markdown(board)
    assert len(text.splitlines()) == 5
    assert "<" not in re.sub(r"\\.", "", text)
    assert "\n# h" not in text
    assert len([line for line in as_latex(board).splitlines() if "two" in line]) == 1
