"""The tables of a paper, in Markdown and LaTeX."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from stored_cells import cell, fill

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import as_latex, as_markdown, leaderboard
from fewshot_bench.report.paper_table import publication_table

NASTY = r"a_b|c<script>&%$#{x}~^\*"
ONE_SHOT, FIVE_SHOT = "cifar-fs 5-way 1-shot", "cifar-fs 5-way 5-shot"


@pytest.fixture
def board(tmp_path):
    """Two tasks; on this split good and similar do not differ at 1 shot, and poor is worse; beyond it poor is not shown
    to be worse at 5 shots. There is no similar at 5 shots."""
    store = OutcomeStore(tmp_path)
    generator = np.random.default_rng(0)
    for shot in (1, 5):
        difficulty = generator.integers(-6, 7, size=(3, 50))
        for name, level in (("good", 51), ("similar", 50), ("poor", 30)):
            if (name, shot) != ("similar", 5):
                noise = generator.integers(-5, 6, size=(3, 50))
                fill(store, cell(name, shot=shot), level + difficulty + noise)
    return as_tested(leaderboard(store), group="aab aa", group_split="aab ab")


def as_tested(frame, *, group, group_split=None, beyond="classes and images"):
    """The leaderboard with letters for its rows, best first, and the half-width of a data interval."""
    letters = list(group.replace(" ", ""))
    split = list((group_split or group).replace(" ", ""))
    return frame.assign(group=letters, group_split=split, beyond=beyond, data_ci95=4.25)


def marked(table, task):
    return {
        name: "best" if entries[task].is_best else "not worse" if entries[task].is_not_worse else "worse"
        for name, entries in table.methods.items()
        if task in entries
    }


def test_an_underline_claims_what_holds_beyond_the_split(board):
    table = publication_table(board)
    assert table.tasks == [ONE_SHOT, FIVE_SHOT]
    assert list(table.methods) == ["good", "poor", "similar"]  # which has one task only
    assert marked(table, ONE_SHOT) == {"good": "best", "similar": "not worse", "poor": "worse"}
    assert marked(table, FIVE_SHOT) == {"good": "best", "poor": "not worse"}
    assert (
        "Underlined: not shown to be worse than the best beyond this split (other classes and images). Each pair is "
        "tested on the episodes that both have, at 5%, corrected by Holm."
    ) in table.caption


def test_an_underline_may_claim_what_holds_on_the_split(board):
    table = publication_table(board, claim="split")
    assert marked(table, FIVE_SHOT) == {"good": "best", "poor": "worse"}
    assert "worse than the best on this split (these classes and images)." in table.caption


def test_where_nothing_is_known_beyond_the_split_nothing_is_underlined_and_the_caption_says_so(board):
    known = board["shot"] == 1
    table = publication_table(board.assign(beyond=board["beyond"].where(known, None)))
    assert marked(table, ONE_SHOT)["similar"] == "not worse"
    assert marked(table, FIVE_SHOT) == {"good": "best", "poor": "worse"}
    assert f"Nothing is underlined for {FIVE_SHOT}: no test reaches beyond this split." in table.caption
    nowhere = publication_table(board.assign(beyond=None)).caption
    assert "Nothing is underlined: no test reaches beyond this split." in nowhere
    assert "shown to be worse" not in nowhere


@pytest.mark.slow
def test_the_caption_names_the_tasks_on_which_the_classes_are_fixed(board):
    kinds = np.where(board["shot"] == 1, "classes and images", "images of these classes")
    caption = publication_table(board.assign(beyond=kinds), plus_minus="data").caption
    assert (
        "±: half-width of the 95% interval over episodes, classes and images; "
        f"on {FIVE_SHOT}, episodes and images of these classes."
    ) in caption
    assert (
        "beyond this split (other classes and images); "
        f"on {FIVE_SHOT}, beyond this split (other images of these classes)."
    ) in caption


def test_a_caption_without_underlines_says_that_all_others_are_worse(board):
    table = publication_table(board.assign(group=list("abcab")))
    assert not any(entry.is_not_worse for entries in table.methods.values() for entry in entries.values())
    assert "All others: shown to be worse beyond this split (other classes and images)." in table.caption
    assert "Underlined" not in table.caption


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plus_minus", "columns", "words"),
    [
        (
            "task",
            ["median", "median_ci95"],
            "Median over the runs of their mean accuracy in %. ±: half-width of the 95% interval over the episodes of "
            "the median run, for these classes and images.",
        ),
        (
            "data",
            ["mean", "data_ci95"],
            "Mean accuracy in %. ±: half-width of the 95% interval over episodes, classes and images.",
        ),
        (
            "both",
            ["mean", "ci95", "data_ci95"],
            "Mean accuracy in %. First ±: half-width of the 95% interval over episodes, for these classes and images. "
            "Second ±, where it is known: over episodes, classes and images.",
        ),
        ("none", ["median"], "Median over the runs of their mean accuracy in %. Bold"),
    ],
)
def test_plus_minus_shows_the_intervals_of_the_number_beside_them_and_the_caption_says_which(
    board, plus_minus, columns, words
):
    markdown, latex = as_markdown(board, plus_minus=plus_minus), as_latex(board, plus_minus=plus_minus)
    for row in board.to_dict("records"):
        number, *widths = (f"{row[column]:.2f}" for column in columns)
        assert re.search(" ± ".join([rf"{number}(\*\*|</u>)?", *widths]) + r" \|", markdown)
        assert re.search(r" \$\\pm\$ ".join([rf"{number}\}}?", *widths]) + r" (&|\\\\)", latex)
    assert words in markdown
    assert words.replace("%", r"\%").replace("±", r"$\pm$") in latex


def test_a_single_run_has_a_mean_and_no_median(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell("m"), np.array([[30, 40, 50]]))
    caption = publication_table(leaderboard(store)).caption
    assert caption.startswith("Mean accuracy in %. ±: half-width of the 95% interval over episodes, for these classes")


def test_markdown_marks_the_best_and_has_a_dash_for_what_is_absent(board):
    text = as_markdown(board)
    assert text.count("**") == 4
    assert text.count("<u>") == 2
    assert text.splitlines()[1] == "| --- | ---: | ---: |"
    (row,) = [line for line in text.splitlines() if line.startswith("| similar")]
    assert row.endswith(" | – |")
    assert "–: no result." in text


def test_latex_is_a_floating_booktabs_table_with_a_caption(board):
    text = as_latex(board)
    parts = [r"\begin{table}", r"\centering", r"\caption{", r"\begin{tabular}{lrr}", r"\toprule", r"\midrule"]
    parts += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert text.count(r"\textbf{") == 2
    assert text.count(r"\underline{") == 2
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(row.count("&") == 2 for row in rows)
    (row,) = [row for row in rows if row.startswith("similar")]
    assert row.endswith(r"& -- \\")
    assert not re.search(r"(?<!\\)%", text.partition("\n")[2]), "a caption that a comment cuts off"
    assert text.isascii()


def test_published_rows_have_a_dagger_and_no_rank(board):
    published = board.iloc[[0]].assign(
        method="paper", source="S 2024; Table 1", median=99.0, mean=99.0, median_ci95=0.5, data_ci95=np.nan, group=None
    )
    text = as_markdown(pd.concat([board, published], ignore_index=True))
    (row,) = [line for line in text.splitlines() if line.startswith("| paper")]
    assert row == "| paper | 99.00 ± 0.50†<sup>a</sup> | – |"
    assert text.endswith("\n<sup>a</sup> S 2024\n"), "who measured it"
    assert "†: as published, on other episodes; not ranked." in text
    assert "†" not in as_markdown(board)


def test_tasks_of_one_size_have_what_tells_them_apart_above_their_columns(tmp_path):
    store = OutcomeStore(tmp_path)
    for own in ({}, {"query": 5}, {"seed": 1}, {"dataset_fingerprint": "cd" * 32}, {"split": "validation"}):
        fill_any(store, cell("m", **own))
    tasks = publication_table(leaderboard(store)).tasks
    assert len(set(tasks)) == 5
    assert "cifar-fs 5-way 1-shot, 5 queries per class" in tasks
    assert "cifar-fs 5-way 1-shot, 15 queries per class, seed 1" in tasks
    assert "cifar-fs (validation split) 5-way 1-shot" in tasks
    assert sum(task.startswith("cifar-fs 5-way 1-shot, 15 queries per class, seed 0 (") for task in tasks) == 2


def fill_any(store, of):
    """Store two episodes of a protocol of 5 ways and any number of queries."""
    queries = 5 * of.protocol.query
    guesses = np.zeros((2, queries), dtype=np.uint8)
    store.append(of, 0, np.arange(2), guesses, 0.001)


def test_names_mean_nothing_to_markdown_or_latex(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell(NASTY), np.array([[10, 20, 30]]))
    board = leaderboard(store)
    row = as_markdown(board).splitlines()[2]
    assert re.sub(r"\\(.)", "", row).count("|") == 3
    assert "<script>" not in row
    (row,) = [line for line in as_latex(board).splitlines() if line.endswith(r"\\") and "script" in line]
    name = row.split(" & ")[0]
    assert name == (
        r"a\_b\textbar{}c\textless{}script\textgreater{}\&\%\$\#\{x\}\textasciitilde{}\textasciicircum{}"
        r"\textbackslash{}*"
    )


def test_one_episode_has_no_interval(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell("m"), np.array([[30]]))
    text = as_markdown(leaderboard(store))
    assert "| m | **40.00** |" in text
    assert "Mean accuracy in %. No interval is known." in text


def test_a_better_mean_is_not_called_worse_for_its_median(tmp_path):
    """The bold one has the higher median of runs; the other is significantly better in the mean."""
    store = OutcomeStore(tmp_path)
    noise = np.random.default_rng(0).integers(-3, 4, size=(3, 60))
    fill(store, cell("median"), 46 + noise)
    fill(store, cell("mean"), np.array([[45], [45], [62]]) + noise)
    board = as_tested(leaderboard(store), group="ab")
    assert marked(publication_table(board), ONE_SHOT) == {"median": "best", "mean": "not worse"}
    assert marked(publication_table(board, plus_minus="both"), ONE_SHOT) == {"mean": "best", "median": "worse"}


@pytest.mark.parametrize(("correct", "words"), [("bh", "at 5%, corrected by BH."), ("none", "at 5%, uncorrected.")])
def test_the_caption_names_the_correction(tmp_path, correct, words):
    store = OutcomeStore(tmp_path)
    for name in ("a", "b"):
        fill(store, cell(name), np.array([[10, 20, 30]]))
    assert words in as_markdown(as_tested(leaderboard(store, correct=correct), group="aa"))


def test_a_name_is_one_line(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell("two\nlines", dataset="<img src=x>|\n# h"), np.array([[10, 20, 30]]))
    board = leaderboard(store)
    text = as_markdown(board)
    assert len(text.splitlines()) == 5
    assert "<" not in re.sub(r"\\.", "", text)
    assert "\n# h" not in text
    assert len([line for line in as_latex(board).splitlines() if "two" in line]) == 1
