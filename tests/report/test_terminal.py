from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from stored_cells import cell, fill, study

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import (
    compare_tasks,
    datasets_record,
    leaderboard,
    over_datasets,
    print_comparisons,
    print_leaderboard,
)
from fewshot_bench.report.content import rankings
from fewshot_bench.report.figures import ranks
from fewshot_bench.report.names import protocol_names
from fewshot_bench.report.verdicts import p_equation, p_text, verdict

LONG = "efficientnet_lite0@image_size=128/base-ce+schane/finetune-head@lambda=0.5,steps=300,tau=0.1"


def shown(write, *, width=100, **options):
    file = options.pop("file", io.StringIO())
    write(Console(file=file, width=width, **options))
    return file.getvalue()


def board(store, baseline=None, **options):
    return shown(lambda console: print_leaderboard(leaderboard(store, baseline), console), **options)


def test_one_table_per_protocol_says_what_was_run(tmp_path):
    text = board(study(tmp_path))
    assert text.count("15 queries per class, 3 runs of 40 episodes") == 2
    assert text.index("cifar-fs 5-way 1-shot") < text.index("cifar-fs 5-way 5-shot")
    assert "paired t-test" not in text


def test_each_method_has_its_numbers_beside_it(tmp_path):
    store = study(tmp_path)
    lines = board(store).splitlines()
    for row in leaderboard(store).to_dict("records"):
        numbers = f"{row['mean']:.2f} ± {row['ci95']:.2f}"
        (line,) = [line for line in lines if numbers in line]
        assert row["method"].removeprefix("conv/") in line
        assert f"{row['median']:.2f}" in line
        assert line.rstrip().endswith("1,000")


def test_the_best_of_each_protocol_is_bold(tmp_path):
    text = board(study(tmp_path), force_terminal=True, color_system="standard")
    bold = [line for line in text.splitlines() if "\x1b[1m" in line and "±" in line and "median" not in line]
    assert len(bold) == 2
    assert all("ce+schane/centroid" in line for line in bold)


def test_paired_tests_say_in_words_what_they_show(tmp_path):
    store = study(tmp_path)
    fill(store, cell("copy of ce", shot=1), np.array([[1, 2, 3]]))
    text = board(store, "conv/ce/centroid")
    assert text.count("against conv/ce/centroid, paired t-test on the same episodes") == 2
    assert "at 5%" in text
    (row, *_) = [line for line in text.splitlines() if line.rstrip().endswith(" better")]
    assert "ce+schane/centroid" in row
    assert "no difference shown" in text
    assert "worse" in text
    assert "(3 common episodes)" not in text  # it has no other episodes
    assert "(1 run of 3 episodes)" in text
    assert "runs of different length" in text


def test_episodes_that_could_not_be_paired_are_mentioned(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell("a"), np.array([[10, 20, 30]]))
    fill(store, cell("b"), np.array([[11, 22, 30, 40]]))
    assert "(3 common episodes)" in board(store, "a")


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 100, 120])
def test_long_names_break_between_their_parts_and_nothing_else_breaks(tmp_path, width):
    store = study(tmp_path)
    fill(store, cell(LONG, shot=1), np.full((3, 40), 41))
    text = board(store, "conv/ce/centroid", width=width)
    assert max(map(len, text.splitlines())) <= width
    pieces = [line.strip().split("  ")[0] for line in text.splitlines()]
    start = next(number for number, piece in enumerate(pieces) if piece.startswith("efficientnet"))
    assert LONG.startswith("".join(pieces[start : start + 2]))
    assert pieces[start][-1] in "/," or pieces[start + 1][0] in "@+"
    assert text.count("median %  mean % ± task ± data  same  episodes/s") == 2


def test_a_slow_method_has_a_rate_above_zero(tmp_path):
    text = board(study(tmp_path, seconds=1 / 0.38))
    assert [line.split()[-1] for line in text.splitlines() if "±" in line and "%" not in line] == 6 * ["0.38"]


def test_what_all_names_begin_with_stands_once_above_them(tmp_path):
    store = OutcomeStore(tmp_path)
    for name, correct in (("lite0/centroid", [10, 20]), ("lite0/logistic", [12, 21])):
        fill(store, cell(name), np.array([correct]))
    lines = [line.split("  ")[0] for line in board(store, "lite0/centroid").splitlines()]
    assert [line for line in lines if line in ("lite0/…", "centroid", "logistic")] == [
        "lite0/…",
        "logistic",
        "centroid",
    ]
    tasks = compare_tasks(store)
    text = shown(lambda console: print_comparisons(tasks, [], console))
    assert "A: lite0/" in text, "two methods keep their whole names"


def test_a_remark_on_several_rows_is_one_footnote(tmp_path):
    frame = leaderboard(study(tmp_path))
    frame["flags"] = "overlap with ImageNet-1k unknown"
    frame.loc[frame.index[0], "flags"] = "overlap with ImageNet-1k unknown; assumes balanced queries"
    text = shown(lambda console: print_leaderboard(frame, console))
    assert text.count("overlap with ImageNet-1k unknown") == 2, "once below the table of each protocol"
    assert text.count("assumes balanced queries") == 1
    assert text.count("¹") == 2 + len(frame)
    plain = shown(lambda console: print_leaderboard(frame, console), file=Ascii())
    assert "[1] overlap with ImageNet-1k unknown" in plain
    assert plain.isascii()


class Ascii(io.StringIO):
    encoding = "ascii"


def test_without_a_terminal_there_are_no_control_characters(tmp_path):
    assert "\x1b" not in board(study(tmp_path), "logistic")


def test_a_terminal_that_knows_only_ascii_is_enough(tmp_path):
    text = board(study(tmp_path), "logistic", file=Ascii())
    assert text.isascii()
    assert "+/-" in text


def test_names_in_brackets_are_no_markup(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell("conv[red]/centroid"), np.array([[1, 2]]))
    assert "conv[red]/centroid" in board(store)


def test_a_comparison_shows_both_names_and_a_row_per_protocol(tmp_path):
    tasks = compare_tasks(study(tmp_path), ["schane", "conv/ce/centroid"])
    comparisons = [comparison for task in tasks for comparison in task.comparisons]
    text = shown(lambda console: print_comparisons(tasks, [], console), width=80)
    assert text.splitlines()[:2] == ["A: conv/ce+schane/centroid", "B: conv/ce/centroid"]
    for comparison in comparisons:
        assert f"{comparison.protocol.task}, 120 common episodes, A - B" in text
        assert comparison.headline in " ".join(text.split())
        assert comparison.verdict == "better"
    assert "dropped" not in text


def test_a_comparison_says_what_was_left_out(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell("a"), np.array([[10, 20, 30]]))
    fill(store, cell("b"), np.array([[11, 22, 30, 40]]))
    text = shown(lambda console: print_comparisons(compare_tasks(store, ["a", "b"]), [], console))
    assert "cifar-fs 5-way 1-shot: unpaired episodes dropped: 1 of b." in text
    fill(store, cell("c"), np.array([[11, 20, 34, 40]]))
    text = shown(lambda console: print_comparisons(compare_tasks(store), [], console))
    dropped = [line.partition(": ")[2] for line in text.splitlines() if "dropped" in line]
    pairs = {line.partition(":")[0] for line in dropped}
    assert {frozenset(pair.split(" - ")) for pair in pairs} == {frozenset("ab"), frozenset("ac")}


def test_letters_are_explained_only_where_there_are_some(tmp_path):
    store = OutcomeStore(tmp_path)
    for name, gain in (("a", 0), ("b", 3), ("c", 9)):
        fill(store, replace(cell(name), class_sizes=()), np.arange(30, 60)[None] + gain)
    tasks = compare_tasks(store)
    for claim, are_there in (("beyond", False), ("split", True)):
        text = shown(lambda console, claim=claim: print_comparisons(tasks, [], console, claim))
        assert ("share a letter" in text) == are_there
        assert (" same" in text.splitlines()[1]) == are_there


@pytest.mark.parametrize(
    ("difference", "p", "words"),
    [
        (1, 0.049, "better"),
        (-1, 0.049, "worse"),
        (1, 0.05, "no difference shown"),
        (-1, 0.9, "no difference shown"),
        (0, 1, "no difference shown"),
    ],
)
def test_a_verdict_is_at_the_5_percent_level(difference, p, words):
    assert verdict(difference, p, p, "classes and images") == words
    on_split = words.replace("better", "better on this split").replace("worse", "worse on this split")
    assert verdict(difference, p) == on_split
    of_classes = words.replace("better", "better for these classes").replace("worse", "worse for these classes")
    assert verdict(difference, p, p, "images of these classes") == of_classes


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "< 0.001"), (3.21e-11, "< 0.001"), (0.00099999, "< 0.001"), (0.001, "0.001"), (0.0123, "0.012"), (1.0, "1")],
)
def test_a_p_value_has_two_digits_or_is_below_a_thousandth(p, text):
    assert p_text(p) == text


@pytest.mark.parametrize(("p", "text"), [(0.0496, "0.0496"), (0.049999, "0.049999"), (0.05, "0.05"), (0.0504, "0.05")])
def test_a_p_value_is_never_rounded_across_the_level_of_the_verdict(p, text):
    assert p_text(p) == text


@pytest.mark.parametrize(("p", "text"), [(1e-200, "p (Holm) < 0.001"), (0.234, "p (Holm) = 0.23")])
def test_a_p_value_in_a_sentence_has_one_sign_before_it(p, text):
    assert p_equation(p, "p (Holm)") == text


def test_numbers_of_thousands_of_episodes_are_not_broken(tmp_path):
    store = OutcomeStore(tmp_path)
    noise = np.random.default_rng(0).integers(-9, 10, size=(2, 3, 3000))
    for name, some in (("a", noise[0]), ("b", noise[1])):
        fill(store, cell(name), 45 + some, chunk=3000)
    tasks = compare_tasks(store, ["a", "b"])
    text = shown(lambda console: print_comparisons(tasks, [], console), width=80)
    test = tasks[0].comparisons[0].test
    assert f" {test.wins}/{test.ties}/{test.losses} " in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.slow
@pytest.mark.parametrize(
    "own",
    [
        {"dataset": "coins"}, {"split": "validation"}, {"seed": 1}, {"dataset_fingerprint": "cd" * 32},
        {"sampler": "disjoint"}, {"sampler_version": 2}, {"shot": 5},
        {"sampler": "varied", "sampler_settings": {"least_way": 5}},
    ],
)  # fmt: skip
def test_no_two_protocols_have_one_title(tmp_path, own):
    store = OutcomeStore(tmp_path)
    for cells in ([cell("a"), cell("b")], [cell("a", **own), cell("b", **own)]):
        for of in cells:
            fill(store, of, np.array([[10, 20, 31]]))
    titles = [line for line in board(store).splitlines() if "queries per class" in line]
    assert len(set(titles)) == 2
    names = protocol_names([task.protocol for task in compare_tasks(store)])
    assert len(set(names.values())) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        (
            2,
            "no mean ranks can differ over so few datasets: that takes 2.34 (Nemenyi, 5%), and 3 methods are at most 2",
        ),
        (3, "mean ranks 1.91 apart differ (Nemenyi, 5%)"),
    ],
)
def test_ranks_over_too_few_datasets_are_said_not_to_differ(tmp_path, datasets, words):
    store = OutcomeStore(tmp_path)
    for number in range(datasets):
        for gain, name in enumerate(("a", "b", "c")):
            fill(store, cell(name, dataset=f"set{number}"), np.array([[10 + gain, 20, 31 + gain]]))
    tasks = compare_tasks(store)
    results = over_datasets(tasks)
    assert words in shown(lambda console: print_comparisons(tasks, results, console), width=200)
    assert datasets_record(results[0])["friedman"]["can_differ"] == (datasets > 2)
    (ranking,) = rankings(leaderboard(store))
    assert words in ranks(ranking).note
