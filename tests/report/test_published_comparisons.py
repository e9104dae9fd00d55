"""What is reported stands beside what was measured: on the leaderboard, in tables, and by `compare --published`."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from stored_cells import PROTOCOL, cell, fill

from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import ComparisonError, OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import (
    as_latex,
    as_markdown,
    compare_with_published,
    leaderboard,
    leaderboard_records,
    print_leaderboard,
    published_comparison_record,
    write_leaderboard,
)
from fewshot_bench.report.page import write_page
from fewshot_bench.report.published import ACCURACY_COLUMNS, PublishedResult, published_results
from fewshot_bench.report.published.rows import NO_INTERVAL, published_comparisons_of
from fewshot_bench.report.scores import stored_scores
from fewshot_bench.training.named_recipes import named_recipe, recipe_names

OURS = "conv4_64/protonet-conv4@epochs=60/centroid"
REPORTED = PublishedResult(
    "ProtoNet", "64-64-64-64", "cifar-fs", "novel", 5, 1, 15, 50.0, 0.7, None, 0.05, "Bertinetto et al. 2019",
    "Lee et al. 2019, Table 2", False, True, "", "protonet-conv4", "centroid", "Cited as another's",
)  # fmt: skip
AGAIN = replace(REPORTED, accuracy=50.2, half_width=0.2, source="a re-run", is_quoted=False, note="")


def recipe_cell(name=OURS, *, pretraining="base split of cifar-fs", is_transductive=False, **protocol):
    trained = cell(name, **protocol)
    adaptation = name.split("/")[-1].partition("@")[0]
    method = replace(trained.method, adaptation=adaptation, is_transductive=is_transductive)
    return replace(trained, method=method, provenance={"pretraining": pretraining})


def counts(mean=38, seed=1):
    return np.clip(np.random.default_rng(seed).normal(mean, 6, size=(3, 60)).round().astype(int), 0, 75)


def compared(folder, *cells, published=(REPORTED,), correct="holm"):
    store = OutcomeStore(folder)
    for number, of in enumerate(cells):
        fill(store, of, counts(seed=number))
    names = {of.key: of.method.name for of in cells}
    return published_comparisons_of(stored_scores(store, list(cells)), names, published, correct)


class TestWhichNumberBelongsToAMethod:
    @pytest.mark.parametrize(
        ("name", "is_its"),
        [
            (OURS, True),
            ("conv4_64/protonet-conv4/centroid", True),
            ("conv4_64/protonet-conv4/centroid@metric=cosine", True),
            ("conv4_64@image_size=84/protonet-conv4@epochs=60,seed=1/centroid", True),
            ("conv4_64/protonet-conv4/tim", False),
            ("conv4_64/protonet-conv4x/centroid", False),
            ("protonet-conv4/base-ce/centroid", False),
            ("conv4_64/base-ce/protonet-conv4", False),
        ],
    )
    def test_it_is_that_of_the_recipe_in_the_methods_name_with_its_adaptation(self, tmp_path, name, is_its):
        assert len(compared(tmp_path, recipe_cell(name))) == is_its

    @pytest.mark.parametrize(
        "task", [{"shot": 5}, {"split": "validation"}, {"sampler": "disjoint"}, {"dataset": "glyphs"}]
    )
    def test_it_is_of_the_same_task(self, tmp_path, task):
        assert compared(tmp_path, recipe_cell(**task)) == []

    @pytest.mark.parametrize(("pretraining", "count"), [("base split of fc100", 0), ("", 1)])
    def test_a_network_trained_on_another_dataset_has_none(self, tmp_path, pretraining, count):
        assert len(compared(tmp_path, recipe_cell(pretraining=pretraining))) == count

    @pytest.mark.parametrize(("is_transductive", "count"), [(False, 1), (True, 0), (None, 1)])
    @pytest.mark.parametrize("adaptation", ["", "centroid"])
    def test_it_is_of_the_same_kind(self, tmp_path, adaptation, is_transductive, count):
        reported = replace(REPORTED, adaptation=adaptation, is_transductive=is_transductive)
        assert len(compared(tmp_path, recipe_cell(), published=(reported,))) == count


class TestTheComparison:
    def test_it_is_welchs_test_from_the_printed_interval(self, tmp_path):
        (pair,) = compared(tmp_path, recipe_cell())
        accuracy = 100 * counts(seed=0).ravel() / 75
        own, reported = accuracy.std(ddof=1) / math.sqrt(180), 0.7 / stats.norm.ppf(0.975)
        error = math.hypot(own, reported)
        df = error**4 / (own**4 / 179)
        assert pair.mean == pytest.approx(accuracy.mean())
        assert pair.half_width == pytest.approx(stats.t.ppf(0.975, 179) * own)
        assert pair.difference == pair.test.difference == pytest.approx(accuracy.mean() - 50)
        assert pair.test.ci_high - pair.difference == pytest.approx(stats.t.ppf(0.975, df) * error)
        assert pair.test.p == pytest.approx(2 * stats.t.sf(abs(pair.difference) / error, df))

    @pytest.mark.parametrize(
        ("half_width", "shift", "words"),
        [
            (0.7, 0.69, "within the reported interval"),
            (0.7, -0.7, "within the reported interval"),
            (0.7, 0.71, "above the reported interval"),
            (0.7, -0.71, "below the reported interval"),
            (0.0, 0.1, "above the reported interval"),
            (None, 5.0, NO_INTERVAL),
        ],
    )
    def test_the_verdict_says_where_the_measured_mean_lies(self, tmp_path, half_width, shift, words):
        store = OutcomeStore(tmp_path)
        fill(store, recipe_cell(), counts())
        mean = 100 * counts().mean() / 75
        reported = replace(REPORTED, accuracy=mean - shift, half_width=half_width)
        names = {recipe_cell().key: OURS}
        (pair,) = published_comparisons_of(stored_scores(store, [recipe_cell()]), names, [reported])
        assert pair.verdict == words
        assert (pair.test is None) == (not half_width)

    def test_p_is_corrected_for_all_numbers_of_the_protocol(self, tmp_path):
        cells = recipe_cell(), recipe_cell("conv4_64/protonet-conv4@seed=1/centroid")
        pairs = compared(tmp_path, *cells, published=(REPORTED, AGAIN))
        assert [(pair.name, pair.result.accuracy) for pair in pairs] == [
            (of.method.name, accuracy) for of in cells for accuracy in (50.0, 50.2)
        ]
        smallest = min(pairs, key=lambda pair: pair.test.p)
        assert smallest.p_corrected == pytest.approx(min(4 * smallest.test.p, 1))
        plain = compared(tmp_path / "plain", *cells, published=(REPORTED, AGAIN), correct="none")
        assert [pair.p_corrected for pair in plain] == [pair.test.p for pair in plain]

    def test_trainings_of_a_recipe_are_one_method_with_their_spread(self, tmp_path, capsys):
        store = OutcomeStore(tmp_path / "outcomes")
        for seed in (0, 1, 2):
            seeded = recipe_cell(f"conv4_64/protonet-conv4{f'@seed={seed}' if seed else ''}/centroid")
            base = {"base": {"seed": seed}}
            method = replace(seeded.method, weights=f"weights {seed}", hyper_parameters=base)
            fill(store, replace(seeded, method=method), counts(38 + seed, seed))
        pairs = compare_with_published(store)
        assert [(pair.name, pair.result.accuracy) for pair in pairs] == [
            ("conv4_64/protonet-conv4/centroid", accuracy) for accuracy in (55.5, 55.49)
        ]
        means = [100 * counts(38 + seed, seed).mean() / 75 for seed in (0, 1, 2)]
        assert pairs[0].mean == pytest.approx(np.mean(means))
        record = published_comparison_record(pairs[0])
        assert record["trainings"] == 3
        assert record["training_sd"] == pytest.approx(np.std(means, ddof=1))
        assert command(tmp_path) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert f"3 trainings: SD {record['training_sd']:.2f}" in text
        board = leaderboard(store, published=published_results())
        beside = board[board["reported"].notna()]
        assert beside[["method", "reported"]].to_numpy().tolist() == [["conv4_64/protonet-conv4/centroid", 55.5]]

    def test_one_episode_has_a_difference_and_no_test(self, tmp_path):
        store = OutcomeStore(tmp_path)
        fill(store, recipe_cell(), np.array([[30]]))
        names = {recipe_cell().key: OURS}
        (pair,) = published_comparisons_of(stored_scores(store, [recipe_cell()]), names, [REPORTED])
        assert pair.difference == pytest.approx(-10)
        assert pair.test is None
        assert math.isnan(pair.p_corrected)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    store = OutcomeStore(tmp_path_factory.mktemp("board") / "outcomes")
    fill(store, recipe_cell(), counts())
    fill(store, cell("base"), counts(seed=2))
    sees_all = replace(REPORTED, method="T", accuracy=70.0, is_transductive=True, recipe="", note="", source="C 2021")
    unknown = replace(REPORTED, method="U", accuracy=71.0, is_transductive=None, recipe="", note="", source="D 2021")
    return leaderboard(store, "base", published=[REPORTED, AGAIN, sees_all, unknown])


class TestTheLeaderboard:
    def test_a_recipes_row_has_its_first_number_with_the_difference_and_welchs_interval(self, board):
        row = board[board["method"] == OURS].iloc[0]
        assert (row["reported"], row["reported_ci95"]) == (50.0, 0.7)
        assert row["reported_by"] == "Bertinetto et al. 2019, quoted; Lee et al. 2019, Table 2"
        assert row["reported_difference"] == pytest.approx(row["mean"] - 50)
        assert row["reported_diff_ci95_low"] < row["reported_difference"] < row["reported_diff_ci95_high"]
        assert 0 < row["reported_p"] <= row["reported_p_corrected"] <= 1
        assert row["reported_verdict"].endswith("the reported interval")
        others = board[board["method"] != OURS]
        assert others["reported"].isna().all()
        assert others["reported_verdict"].isna().all()

    def test_published_rows_have_kind_note_and_who_measured_them(self, board):
        rows = board[board["source"] != "measured"].set_index("method")
        assert rows.loc["64-64-64-64 T", "is_transductive"]
        assert rows.loc["64-64-64-64 T", "flags"] == "baseline is inductive; transductive"
        assert rows.loc["64-64-64-64 U", "is_transductive"] is None
        noted = rows[rows["note"].notna()]
        assert noted["note"].tolist() == ["Cited as another's"]
        assert noted["source"].tolist() == ["Bertinetto et al. 2019, quoted; Lee et al. 2019, Table 2"]
        assert noted.index.tolist() == ["64-64-64-64 ProtoNet (Bertinetto et al. 2019)"]

    def test_without_measured_transductive_methods_published_ones_stand_below_the_others(self, board):
        assert board["method"].tolist()[-1] == "64-64-64-64 T"
        assert board["mean"].tolist()[:-1] == sorted(board["mean"].tolist()[:-1], reverse=True)

    def test_beside_measured_transductive_methods_all_published_ones_come_last(self, tmp_path):
        store = OutcomeStore(tmp_path / "outcomes")
        fill(store, recipe_cell("conv/ce/tim", is_transductive=True), counts())
        fill(store, cell("base"), counts(seed=2))
        published = [replace(REPORTED, is_transductive=True, method="T"), replace(REPORTED, method="I", accuracy=10.0)]
        methods = leaderboard(store, published=published)["method"].tolist()
        assert methods == ["base", "conv/ce/tim", "64-64-64-64 I", "64-64-64-64 T"]

    def test_the_new_columns_of_the_csv_come_last(self, board, tmp_path):
        write_leaderboard(board, tmp_path / "l.csv")
        header, *lines = (tmp_path / "l.csv").read_text(encoding="utf-8").splitlines()
        assert header.split(",")[-10:] == [
            "reported", "reported_ci95", "reported_by", "reported_difference", "reported_diff_ci95_low",
            "reported_diff_ci95_high", "reported_p", "reported_p_corrected", "reported_verdict", "note",
        ]  # fmt: skip
        (line,) = [line for line in lines if line.startswith(OURS)]
        assert ',50.0000,0.7000,"Bertinetto et al. 2019, quoted; Lee et al. 2019, Table 2",' in line
        record = next(record for record in leaderboard_records(board) if record["method"] == OURS)
        assert record["reported"] == 50.0

    def test_without_published_numbers_the_new_columns_are_empty(self, tmp_path):
        store = OutcomeStore(tmp_path)
        fill(store, recipe_cell(), counts())
        row = leaderboard(store).iloc[0]
        assert row[[name for name in row.index if name.startswith("reported")]].isna().all()

    def test_the_terminal_shows_measured_reported_and_notes(self, board):
        console = Console(width=120, record=True)
        print_leaderboard(board, console)
        text = " ".join(console.export_text().split())
        assert "reported beside measured" in text
        assert "50.00 ± 0.70" in text
        assert "(Bertinetto et al. 2019, quoted)" in text
        assert "64-64-64-64 T (transductive) *" in text
        assert "64-64-64-64 ProtoNet (Bertinetto et al. 2019): Cited as another's" in text
        assert "?:" not in text, "no interval is odd"

    def test_markdown_and_latex_have_a_note_for_each_published_cell_and_for_measured_ones(self, board):
        row = board[board["method"] == OURS].iloc[0]
        points = f"{row['reported_difference']:+.2f} (Welch's 95% interval {row['reported_diff_ci95_low']:+.2f} to"
        for text, raised in ((as_markdown(board), "<sup>{}</sup>"), (as_latex(board).replace("\\%", "%"), "$^{{{}}}$")):
            (line,) = [line for line in text.splitlines() if line.startswith(raised.format("a"))]
            assert "Reported by Bertinetto et al. 2019, quoted: 50.00" in line
            assert points in line
            assert row["reported_verdict"] in line
            assert raised.format("b") in text
            assert "Bertinetto et al. 2019, quoted. Cited as another's" in text
            assert "64-64-64-64 T (transductive)" in text
        assert as_latex(board).index("\\end{tabular}") < as_latex(board).index("Reported by")

    @pytest.mark.slow
    def test_the_page_has_the_difference_the_note_and_the_kind(self, tmp_path, board):
        store = OutcomeStore(tmp_path / "outcomes")
        fill(store, recipe_cell(), counts())
        write_page(tmp_path, tmp_path / "page.html", frame=board, store=store)
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        row = board[board["method"] == OURS].iloc[0]
        assert f"{row['reported_difference']:+.2f}" in page
        assert "Measured - reported" in page
        assert "Cited as another&#39;s" in page
        transductive = '64-64-64-64 T</i> <span class="tag">published</span> <span class="tag transductive">'
        assert transductive in page.replace("\\", "")


def command(results, *options):
    return exit_code(["compare", "--published", "--results", str(results), *options])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command") / "results"
    store = OutcomeStore(folder / "outcomes")
    for shot in (5, 1):
        fill(store, recipe_cell(shot=shot), counts(38 + 2 * shot))
    fill(store, recipe_cell("conv4_64/rfs-conv4/logistic"), counts(47))
    fill(store, cell("conv/base-ce/centroid"), counts())
    return folder


class TestTheCommand:
    def test_every_method_with_a_published_number_is_compared(self, results, capsys):
        assert command(results, "--json") == 0
        records = json.loads(capsys.readouterr().out)["published"]
        assert [(record["method"], record["shot"], record["reported"]) for record in records] == [
            (OURS, 1, 55.5),
            (OURS, 1, 55.49),
            ("conv4_64/rfs-conv4/logistic", 1, 62.7),
            (OURS, 5, 72.0),
            (OURS, 5, 72.1),
        ]
        first = records[0]
        assert first["measured_by"] == "Bertinetto et al. 2019"
        assert first["reported_in"] == "Lee et al. 2019, Table 2; Long et al. 2023, Table 1"
        assert first["is_quoted"]
        assert first["reported_difference"] == pytest.approx(first["mean"] - 55.5)
        assert first["reported_diff_ci95_low"] < first["reported_difference"] < first["reported_diff_ci95_high"]
        assert first["reported_p_corrected"] >= first["reported_p"]
        assert first["correction"] == "holm"
        assert first["reported_verdict"] == "below the reported interval"

    def test_it_prints_a_table_per_task(self, results, capsys):
        assert command(results) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "cifar-fs 5-way 1-shot: reported beside measured" in text
        assert "cifar-fs 5-way 5-shot: reported beside measured" in text
        assert "55.50 ± 0.70" in text
        assert "below" in text
        assert "neither another training" in text

    def test_a_named_method_is_compared_alone(self, results, capsys):
        assert command(results, "rfs", "--json") == 0
        (record,) = json.loads(capsys.readouterr().out)["published"]
        assert record["recipe"] == "rfs-conv4"
        assert record["reported_p_corrected"] == record["reported_p"]

    def test_a_users_own_table_is_read_too(self, results, tmp_path, capsys):
        results = Path(shutil.copytree(results, tmp_path / "results"))
        (results / "published").mkdir()
        header = ",".join((*ACCURACY_COLUMNS, "recipe"))
        row = "1,net,mine,cifar-fs,novel,5,1,15,51.0,0.4,600,Somebody 2024,Somebody 2024,base-ce"
        (results / "published" / "own.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")
        assert command(results, "base-ce", "--json") == 0
        (record,) = json.loads(capsys.readouterr().out)["published"]
        assert (record["method"], record["reported"]) == ("conv/base-ce/centroid", 51.0)

    def test_a_method_without_a_number_is_told_which_recipes_have_one(self, results):
        with pytest.raises(ComparisonError, match=r"no published number for base-ce .*protonet-conv4.* run --recipe"):
            compare_with_published(OutcomeStore(results / "outcomes"), ["base-ce"])

    def test_an_empty_folder_says_how_to_fill_it(self, tmp_path):
        with pytest.raises(OutcomeError, match="fewshot-bench run"):
            compare_with_published(OutcomeStore(tmp_path / "outcomes"))

    @pytest.mark.parametrize("option", [["--baseline", OURS], ["--strict"], ["--simultaneous"], ["--per-class"]])
    def test_options_of_paired_tests_are_refused(self, results, option):
        assert command(results, *option) == 2

    def test_a_record_says_none_for_what_is_unknown(self, tmp_path):
        bare = replace(REPORTED, half_width=None, note="")
        (pair,) = compared(tmp_path, recipe_cell(), published=(bare,))
        record = published_comparison_record(pair)
        assert record["reported_p"] is record["reported_ci95"] is record["note"] is None
        assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_published_numbers_name_the_adaptation_of_their_recipes():
    """Or a recipe's own evaluation would not stand beside its published number."""
    recipes = {name: named_recipe(name) for name in recipe_names()}
    published = [(recipe, row) for row in published_results() for recipe in row.recipes if recipe in recipes]
    assert {recipe for recipe, _ in published} >= {"protonet-conv4", "rfs-conv4"}
    for recipe, row in published:
        assert row.adaptation == recipes[recipe].evaluation.adaptation, (recipe, row)


def test_ls_recipes_shows_what_is_reported(capsys):
    assert exit_code(["ls", "recipes", "protonet-conv4", "--json"]) == 0
    (recipe,) = json.loads(capsys.readouterr().out)
    (row,) = [row for row in recipe["reported"] if (row["dataset"], row["shot"]) == ("fc100", 1)]
    assert (row["accuracy"], row["ci95"]) == (35.3, 0.6)
    assert row["source"].startswith("Oreshkin et al. 2018, quoted; ")
    assert exit_code(["ls", "recipes", "rfs-conv4"]) == 0
    assert "reported: cifar-fs 62.70 ± 0.80 / 78.70 ± 0.50, fc100 39.60" in capsys.readouterr().out


def test_several_recipes_may_share_a_number(tmp_path):
    both = replace(REPORTED, recipe="other protonet-conv4")
    assert len(compared(tmp_path, recipe_cell(), published=(both,))) == 1


def test_the_protocol_of_these_tests_is_one_with_published_numbers():
    assert [row for row in published_results() if (row.dataset, row.shot) == (PROTOCOL.dataset, PROTOCOL.shot)]
