"""Whole test splits in reports: an interval over test images decides, and tests by seed stand beside it."""

from __future__ import annotations

import html
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from page_studies import table_rows
from rich.console import Console
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as of_statsmodels
from statsmodels.stats.multitest import multipletests
from stored_cells import cell as drawn_cell
from stored_cells import fill
from whole_cells import CE, LABELS, SCHANE, SIZES, fill_whole, right_or_wrong, store_whole, whole_cell

from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import ComparisonError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import (
    as_latex,
    as_markdown,
    compare_tasks,
    comparison_record,
    leaderboard,
    over_datasets,
    print_comparisons,
    print_leaderboard,
    update_leaderboard,
)
from fewshot_bench.report.leaderboard_rows import OF_WHOLE_SPLITS
from fewshot_bench.report.page import write_page
from fewshot_bench.statistics import calibration


def to_text(write, width=160) -> str:
    console = Console(file=io.StringIO(), width=width)
    write(console)
    return re.sub(r"\s+", " ", console.file.getvalue())


def compared(store, *methods, **options):
    (task,) = compare_tasks(store, methods, **options)
    (comparison,) = task.comparisons
    return comparison


def rows_of(frame, source="measured") -> dict[str, dict]:
    return {row["method"]: row for row in frame[frame["source"] == source].to_dict("records")}


@pytest.mark.parametrize("seeds", [(3, 3), (3, 2), (1, 3)])
def test_the_difference_is_a_paired_t_test_over_images_of_means_over_seeds(seeds, tmp_path):
    store = store_whole(tmp_path, seeds=seeds)
    a, b = (right_or_wrong(level, 7, count).mean(axis=0) for level, count in zip((0.65, 0.5), seeds[::-1], strict=True))
    expected = stats.ttest_rel(a, b)
    comparison = compared(store, SCHANE, CE)
    interval = expected.confidence_interval(0.95)
    for found in (comparison.test.ci_low, comparison.data.low):
        assert found == pytest.approx(interval.low)
    assert (comparison.test.p, comparison.data.p) == pytest.approx((expected.pvalue, expected.pvalue))
    assert comparison.data.covers == "images of these classes"
    assert comparison.verdict.startswith("better for these classes")
    row = rows_of(leaderboard(store, CE))[SCHANE]
    assert row["mean"] == pytest.approx(100 * a.mean())
    assert row["ci95"] == pytest.approx(100 * stats.t.ppf(0.975, len(a) - 1) * stats.sem(a))
    assert (row["diff_ci95_low"], row["verdict"]) == (pytest.approx(100 * interval.low), comparison.verdict)


def test_tests_seed_by_seed_stand_beside_the_verdict(tmp_path):
    store = store_whole(tmp_path)
    a, b = right_or_wrong(0.65, 7, 3), right_or_wrong(0.5, 7, 3)
    found = compared(store, SCHANE, CE).by_seed
    tables = [[[0, (x & ~y).sum()], [(~x & y).sum(), 0]] for x, y in zip(a, b, strict=True)]
    ps = [of_statsmodels(table, exact=True).pvalue for table in tables]
    assert [test.p for test in found.mcnemar] == pytest.approx(ps)
    assert found.p_mcnemar_corrected == pytest.approx(multipletests(ps, method="holm")[1].tolist())
    expected = stats.ttest_rel(a.mean(axis=1), b.mean(axis=1))
    assert (found.paired.n, found.paired.p) == (3, pytest.approx(expected.pvalue))
    assert "2 degrees of freedom" in found.sentence
    frame = leaderboard(store, CE)
    assert rows_of(frame)[SCHANE]["p_by_seed"] == pytest.approx(expected.pvalue)
    record = comparison_record(compared(store, SCHANE, CE))
    assert [test["seed"] for test in record["mcnemar"]] == [0, 1, 2]
    assert record["paired_by_seed"]["p"] == pytest.approx(expected.pvalue)
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_seeds_that_differ_are_not_paired_and_a_given_network_meets_every_seed(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    for name, seeds in ((CE, (0, 1)), (SCHANE, (1, 2)), ("raw/linear/linear-probe", (None,))):
        for seed, is_right in zip(seeds, right_or_wrong(0.6, 3, len(seeds)), strict=True):
            fill_whole(store, whole_cell(name, seed), is_right)
    one_common = compared(store, CE, "schane").by_seed
    assert (one_common.seeds, one_common.paired) == ([1], None)
    given = compared(store, CE, "linear-probe").by_seed
    assert (given.seeds, given.paired) == ([0, 1], None)


def test_single_trainings_say_that_no_interval_covers_a_new_training(tmp_path):
    store = store_whole(tmp_path, seeds=(1, 1))
    comparison = compared(store, SCHANE, CE)
    assert "No interval covers a new training" in str(comparison)
    assert "No interval covers a new training" in to_text(
        lambda console: print_comparisons(compare_tasks(store, [SCHANE, CE]), [], console)
    )


def test_several_trainings_that_differ_more_than_the_methods_limit_the_verdict(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    for name, levels in ((CE, (0.3, 0.5)), (SCHANE, (0.5, 0.9))):
        for seed, level in enumerate(levels):
            fill_whole(store, whole_cell(name, seed), right_or_wrong(level, 7)[0])
    assert compared(store, SCHANE, CE).verdict == "better for these classes, of these trainings"


def test_recall_and_calibration_are_means_over_trainings(tmp_path):
    store = store_whole(tmp_path)
    is_right = right_or_wrong(0.65, 7, 3)
    row = rows_of(leaderboard(store))[SCHANE]
    recalls = [[is_right[seed, label == LABELS].mean() for label in range(3)] for seed in range(3)]
    assert row["class_recall"] == pytest.approx(100 * np.mean(recalls))
    confidence = np.rint((0.6 + 0.3 * is_right) * 65535) / 65535
    errors = [calibration(c, r).error for c, r in zip(confidence, is_right, strict=True)]
    assert row["calibration_error"] == pytest.approx(100 * np.mean(errors))
    classes = compared(store, SCHANE, CE).by_class
    assert list(classes.names) == ["owl", "wren", "rook"]
    assert classes.accuracy_a == pytest.approx(np.mean(recalls, axis=0))
    assert classes.episodes.tolist() == list(SIZES)


def test_a_split_that_is_not_finished_says_so(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    for name, level in ((CE, 0.5), (SCHANE, 0.65)):
        fill_whole(store, whole_cell(name, 0), right_or_wrong(level, 7)[0, :35])
    assert "only 35 of 60 test images" in str(compared(store, SCHANE, CE))
    assert all("only 35 of 60 test images" in row["flags"] for row in rows_of(leaderboard(store)).values())
    with pytest.raises(ComparisonError, match="35 of 60 test images"):
        compare_tasks(store, [SCHANE, CE], strict=True)


def test_a_method_that_is_always_right_has_no_interval_of_no_width(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    fill_whole(store, whole_cell(CE, 0), np.ones(60, dtype=bool))
    row = rows_of(leaderboard(store))[CE]
    assert np.isnan([row["ci95"], row["data_ci95"]]).all()
    assert "no interval" in row["flags"]
    assert "100.00 ±" not in to_text(lambda console: print_leaderboard(leaderboard(store), console))


def test_datasets_of_different_classes_are_tested_together(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    differences = []
    for number, dataset in enumerate(("cifar-100", "flowers-102", "places365")):
        rights = [right_or_wrong(level, number)[0] for level in (0.5, 0.6)]
        differences.append(rights[1].mean() - rights[0].mean())
        for name, is_right in zip((CE, SCHANE), rights, strict=True):
            fill_whole(store, whole_cell(name, 0, dataset), is_right)
    (result,) = over_datasets(compare_tasks(store, [SCHANE, CE]))
    assert result.task == "whole test split"
    assert result.pairs[SCHANE, CE].test.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def page_text(results) -> str:
    write_page(results, results / "report.html", baseline=CE)
    page = (results / "report.html").read_text(encoding="utf-8")
    figures = re.search(r'id="figures"[^>]*>(.*?)</script>', page, re.DOTALL).group(1)
    table = " ".join(" ".join(row) for row in table_rows(page))
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", table + figures)))


OUTPUTS = {
    "leaderboard": lambda store, results: to_text(lambda c: print_leaderboard(leaderboard(store, CE), c)),
    "two methods": lambda store, results: to_text(
        lambda c: print_comparisons(compare_tasks(store, [CE, SCHANE]), [], c, per_class=True)
    ),
    "all methods": lambda store, results: to_text(
        lambda c: print_comparisons(compare_tasks(store, baseline=CE), [], c)
    ),
    "Markdown": lambda store, results: as_markdown(leaderboard(store, CE)),
    "both half-widths": lambda store, results: as_markdown(leaderboard(store, CE), plus_minus="both"),
    "LaTeX": lambda store, results: as_latex(leaderboard(store, CE)),
    "page": lambda store, results: page_text(results),
}


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
def test_words_are_about_test_images_and_not_about_episodes(output, tmp_path):
    store = store_whole(tmp_path)
    text = OUTPUTS[output](store, tmp_path)
    assert "whole test split" in text
    assert re.findall(r"\b\w*-shot|\d-way|episode|on this split", text) == []
    assert "test images" in text


@pytest.mark.slow
def test_table_2_stands_beside_measured_rows_and_beside_the_training_that_should_give_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    store = OutcomeStore(tmp_path / "outcomes")
    beit = "timm:beit3_base_patch16_224.pt/base-ce+schane/classifier"
    for seed, is_right in enumerate(right_or_wrong(0.9, 7, 2)):
        fill_whole(store, whole_cell(beit, seed), is_right)
    fill_whole(store, whole_cell(CE, 0), right_or_wrong(0.5, 7)[0])
    frame = update_leaderboard(store, tmp_path / "leaderboard.csv")
    printed = frame[frame["source"].str.contains("Table 2")]
    assert sorted(printed["mean"]) == [87.13, 87.67, 92.96, 93.56]
    assert rows_of(frame)[beit]["reported"] == 93.56
    assert np.isnan(rows_of(frame)[CE]["reported"])
    assert exit_code(["compare", "--published", "--results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "93.56" in text
    assert "other trainings" in text
    assert "92.96" not in text


def test_leaderboards_without_whole_splits_keep_their_columns(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    fill(store, drawn_cell(), np.full((1, 6), 40))
    assert not set(OF_WHOLE_SPLITS) & set(leaderboard(store).columns)
    fill_whole(store, whole_cell(CE, 0), right_or_wrong(0.5, 7)[0])
    frame = update_leaderboard(store, tmp_path / "leaderboard.csv")
    assert set(OF_WHOLE_SPLITS) <= set(pd.read_csv(tmp_path / "leaderboard.csv").columns)
    text = to_text(lambda console: print_leaderboard(frame, console))
    assert "cifar-fs 5-way 1-shot" in text
    assert "cifar-100 whole test split, 3 classes, 60 test images" in text
