from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from stored_cells import cell, fill, predictions, study

from fewshot_bench.errors import ComparisonError, OutcomeError, UnknownNameError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import (
    TIMING_COLUMNS,
    leaderboard,
    leaderboard_records,
    update_leaderboard,
    write_leaderboard,
)
from fewshot_bench.report.published import PublishedResult

pytestmark = pytest.mark.slow

NUMBERS = np.array([[30, 45, 60], [45, 45, 45], [60, 75, 45]])


def written(store, path, **options):
    write_leaderboard(leaderboard(store, **options), path)
    return path.read_bytes()


def row_of(frame, method, shot=1):
    (row,) = [row for row in frame.to_dict("records") if row["method"] == method and row["shot"] == shot]
    return row


def test_the_numbers_of_one_cell_worked_by_hand(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell("m"), NUMBERS, seconds=0.002)
    (row,) = leaderboard(store).to_dict("records")
    assert (row["episodes"], row["runs"], row["queries"], row["seed"]) == (3, 3, 15, 0)
    assert row["mean"] == pytest.approx(100 * 50 / 75)  # 450 of 9 * 75
    assert row["median"] == pytest.approx(60)  # run means 60, 60 and 80
    deviations = NUMBERS.ravel() - 50
    half_width = stats.t.ppf(0.975, 8) * math.sqrt((deviations**2).sum() / 8 / 9)
    assert row["ci95"] == pytest.approx(100 * half_width / 75)
    assert row["episodes_per_second"] == pytest.approx(500)
    assert row["versions"] == "numpy 1.26.4; torch 2.3.0"
    assert row["dataset_fingerprint"] == cell("m").protocol.dataset_fingerprint
    assert row["method_fingerprint"] == cell("m").method.fingerprint
    assert row["protocol_fingerprint"] == cell("m").protocol.fingerprint


def test_the_test_pairs_episodes_with_the_baseline_of_the_same_protocol(tmp_path):
    frame = leaderboard(study(tmp_path), "conv/ce/centroid")
    for shot in (1, 5):
        row, base = (row_of(frame, name, shot) for name in ("conv/ce+schane/centroid", "conv/ce/centroid"))
        assert row["difference"] == pytest.approx(row["mean"] - base["mean"])
        assert row["diff_ci95_low"] < row["difference"] < row["diff_ci95_high"]
        assert row["p"] < 1e-6
        assert row["paired_episodes"] == 120
        assert row["baseline"] == base["baseline"] == "conv/ce/centroid"
        assert math.isnan(base["p"])
        assert math.isnan(base["difference"])
        width = row["diff_ci95_high"] - row["diff_ci95_low"]
        assert width < row["ci95"]  # the shared difficulty of the episodes cancels


def test_a_protocol_without_the_baseline_has_an_empty_test(tmp_path):
    store = study(tmp_path)
    fill(store, cell("lonely", shot=10), NUMBERS)
    row = row_of(leaderboard(store, "conv/ce/centroid"), "lonely", shot=10)
    assert math.isnan(row["p"])
    assert row["baseline"] is None or row["baseline"] != row["baseline"]


def test_rows_come_by_protocol_and_then_from_best_to_worst(tmp_path):
    store = study(tmp_path)
    fill(store, cell("m", dataset="aaa", shot=20), NUMBERS)
    frame = leaderboard(store)
    assert frame[["dataset", "shot"]].drop_duplicates().to_numpy().tolist() == [
        ["aaa", 20],
        ["cifar-fs", 1],
        ["cifar-fs", 5],
    ]
    for _, rows in frame.groupby("protocol_fingerprint"):
        assert rows["mean"].is_monotonic_decreasing


def test_equal_means_are_sorted_by_name(tmp_path):
    store = OutcomeStore(tmp_path)
    for name in ("b", "c", "a"):
        fill(store, cell(name), NUMBERS)
    assert leaderboard(store)["method"].tolist() == ["a", "b", "c"]


@settings(deadline=None, max_examples=6)
@given(chunk=st.integers(1, 45), seconds=st.floats(1e-6, 10))
def test_the_csv_depends_on_the_outcomes_alone(tmp_path_factory, chunk, seconds):
    folder = tmp_path_factory.mktemp("csv")
    plain = written(study(folder / "one", episodes=12), folder / "one.csv", baseline="conv/ce/centroid")
    other = written(
        study(folder / "other", chunk=chunk, seconds=seconds, episodes=12),
        folder / "other.csv",
        baseline="conv/ce/centroid",
    )
    assert untimed(plain) == untimed(other)


def untimed(content):
    rows = list(csv.reader(content.decode().splitlines()))
    timing = [rows[0].index(name) for name in TIMING_COLUMNS]
    return [[value for column, value in enumerate(row) if column not in timing] for row in rows]


def test_the_same_store_gives_the_same_bytes(tmp_path):
    store = study(tmp_path / "store")
    first = written(store, tmp_path / "a.csv", baseline="logistic")
    assert first == written(OutcomeStore(tmp_path / "store"), tmp_path / "b.csv", baseline="logistic")
    assert b"\r" not in first
    assert first.endswith(b"\n")
    assert first.count(b"\n") == 7


def test_a_written_leaderboard_has_fixed_decimals_and_empty_cells(tmp_path):
    store = OutcomeStore(tmp_path / "store")
    fill(store, cell("base"), NUMBERS)
    fill(store, cell("same"), NUMBERS)
    rows = list(csv.DictReader(written(store, tmp_path / "l.csv", baseline="base").decode().splitlines()))
    base, same = sorted(rows, key=lambda row: row["method"])
    assert (base["mean"], base["median"]) == ("66.6667", "60.0000")
    assert (base["difference"], base["p"], base["paired_episodes"]) == ("", "", "")
    assert (same["difference"], same["p"], same["paired_episodes"]) == ("0.0000", "1.0", "9")
    assert base["episodes_per_second"] == "1000.0"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0001, "10000.0"), (0.5, "2.0"), (1.0, "1.0"), (1 / 0.38, "0.38"), (70.0, "0.014")]
)
def test_a_slow_method_is_not_written_as_zero_episodes_per_second(tmp_path, seconds, text):
    store = OutcomeStore(tmp_path / "store")
    fill(store, cell("slow"), NUMBERS, seconds=seconds)
    (row,) = csv.DictReader(written(store, tmp_path / "l.csv").decode().splitlines())
    assert row["episodes_per_second"] == text


def test_the_csv_keeps_every_digit_of_p(tmp_path):
    store = study(tmp_path / "store")
    rows = list(csv.DictReader(written(store, tmp_path / "l.csv", baseline="logistic").decode().splitlines()))
    frame = leaderboard(store, "logistic")
    for name in ("p", "p_corrected"):
        assert [row[name] for row in rows if row[name]] == [repr(p) for p in frame[name].dropna().tolist()]


def test_an_interrupted_write_leaves_the_old_leaderboard(tmp_path, monkeypatch):
    store = study(tmp_path / "store")
    before = written(store, tmp_path / "l.csv")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_leaderboard(leaderboard(store, "logistic"), tmp_path / "l.csv")
    assert (tmp_path / "l.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_one_episode_is_no_obstacle(tmp_path):
    store = OutcomeStore(tmp_path / "store")
    fill(store, cell("a"), np.array([[30]]))
    fill(store, cell("b"), np.array([[45]]))
    rows = list(csv.DictReader(written(store, tmp_path / "l.csv", baseline="a").decode().splitlines()))
    assert [(row["mean"], row["ci95"], row["p"]) for row in rows] == [("60.0000", "", ""), ("40.0000", "", "")]


def test_uneven_runs_all_count(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, cell("m"), np.array([[30, 45]]))
    fill(store, cell("m"), np.array([[30, 45], [75, 75], [60, 60]])[:, :1])
    (row,) = leaderboard(store).to_dict("records")
    assert (row["episodes"], row["runs"]) == (1, 3)
    assert row["mean"] == pytest.approx(100 * (30 + 45 + 75 + 60) / 4 / 75)
    assert row["median"] == pytest.approx(80)  # run means 50, 100, 80


class TestBaseline:
    def test_a_part_of_its_name_is_enough(self, tmp_path):
        frame = leaderboard(study(tmp_path), "logis")
        assert set(frame["baseline"]) == {"conv/ce/logistic"}

    def test_an_unknown_one_is_refused(self, tmp_path):
        with pytest.raises(UnknownNameError, match="no method called 'resnet'"):
            leaderboard(study(tmp_path), "resnet")

    def test_an_ambiguous_one_is_refused(self, tmp_path):
        with pytest.raises(ComparisonError, match="'centroid' fits 2 methods"):
            leaderboard(study(tmp_path), "centroid")

    def test_two_methods_of_its_name_leave_the_test_empty_there_and_are_told_apart(self, tmp_path):
        store = study(tmp_path)
        again = cell("conv/ce/logistic", weights="trained again")
        fill(store, again, NUMBERS)
        frame = leaderboard(store, "logistic")
        one_shot, five_shot = frame[frame["shot"] == 1], frame[frame["shot"] == 5]
        assert one_shot["p"].isna().all()
        assert five_shot["p"].notna().sum() == 2
        assert again.method.label in set(one_shot["method"])
        assert "conv/ce/logistic" not in set(one_shot["method"])
        by_label = leaderboard(store, again.method.label)
        assert set(by_label[by_label["shot"] == 1]["baseline"]) == {again.method.label}
        assert set(by_label[by_label["shot"] == 5]["baseline"]) == {"conv/ce/logistic"}

    def test_a_name_that_is_ambiguous_everywhere_is_refused(self, tmp_path):
        store = OutcomeStore(tmp_path)
        for weights in ("1", "2"):
            fill(store, cell("m", weights=weights), NUMBERS)
        with pytest.raises(ComparisonError, match="m names 2 methods on cifar-fs 5-way 1-shot"):
            leaderboard(store, "m")


def test_only_the_cells_asked_for_are_reported(tmp_path):
    store = study(tmp_path)
    frame = leaderboard(store, cells=[cell("conv/ce/centroid", shot=5)])
    assert frame["method"].tolist() == ["conv/ce/centroid"]


def test_nothing_stored_says_how_to_begin(tmp_path):
    with pytest.raises(OutcomeError, match=r"no outcomes in .*Make some with: fewshot-bench run"):
        leaderboard(OutcomeStore(tmp_path))


def test_records_are_json_and_hold_the_numbers_of_the_frame(tmp_path):
    frame = leaderboard(study(tmp_path), "conv/ce/centroid")
    records = json.loads(json.dumps(leaderboard_records(frame), allow_nan=False))
    assert [record["mean"] for record in records] == frame["mean"].tolist()
    base, other = (
        next(r for r in records if r["method"] == name) for name in ("conv/ce/centroid", "conv/ce+schane/centroid")
    )
    assert base["p"] is None
    assert other["paired_episodes"] == 120
    assert all(isinstance(record["episodes"], int) for record in records)


def test_one_short_method_takes_nobodys_letters(tmp_path):
    store = OutcomeStore(tmp_path)
    generator = np.random.default_rng(0)
    difficulty = generator.integers(-8, 9, size=(1, 200))
    for name, level in (("good", 50), ("bad", 40)):
        fill(store, cell(name), level + difficulty + generator.integers(-2, 3, size=(1, 200)))
    fill(store, cell("short"), 45 + difficulty[:, :2])
    groups = leaderboard(store).set_index("method")["group"]
    assert not set(groups["good"]) & set(groups["bad"])
    assert set(groups["short"]) == {"a", "b"}


def test_a_remembered_baseline_that_became_ambiguous_is_none(tmp_path):
    store, path = OutcomeStore(tmp_path / "outcomes"), tmp_path / "leaderboard.csv"
    fill(store, cell("base"), NUMBERS)
    fill(store, cell("other"), NUMBERS - 3)
    assert update_leaderboard(store, path, "base", with_published=False)["p"].notna().sum() == 1
    again = cell("base", weights="trained again")
    fill(store, again, NUMBERS - 1)
    assert update_leaderboard(store, path, with_published=False)["p"].isna().all()
    own = update_leaderboard(store, path, again.method.label, cells=[again], with_published=False)
    assert set(own["baseline"]) == {again.method.label}
    kept = update_leaderboard(store, path, with_published=False)
    assert set(kept["baseline"]) == {again.method.label}


def test_a_leaderboard_written_elsewhere_keeps_the_baselines(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    fill(store, cell("base"), NUMBERS)
    fill(store, cell("other"), NUMBERS - 3)
    update_leaderboard(store, tmp_path / "leaderboard.csv", "base", with_published=False)
    update_leaderboard(store, tmp_path / "deep" / "leaderboard.csv", with_published=False)
    assert (tmp_path / "deep" / "leaderboard.csv").read_bytes() == (tmp_path / "leaderboard.csv").read_bytes()


@pytest.mark.parametrize(("width", "flag"), [(50, "until ±50"), (0.01, "until ±0.01, not reached")])
def test_a_stopping_rule_says_whether_it_was_met(tmp_path, width, flag):
    store = OutcomeStore(tmp_path)
    told = {"pretraining": "", "stopping": [{"half_width": width}]}
    fill(store, replace(cell("m"), provenance=told), np.arange(20, 50)[None])
    assert leaderboard(store)["flags"].tolist() == [flag]


class TestPublished:
    ROWS = (
        PublishedResult("CE", "net", "cifar-fs", "novel", 5, 1, 15, 62.0, 0.36, 3000, 0.005, "S 2024", "Table 1"),
        PublishedResult("odd", "net", "cifar-fs", "novel", 5, 1, 15, 70.0, 0.80, 3000, 0.005, "S 2024", "Table 1"),
        PublishedResult("bare", "net", "cifar-fs", "novel", 5, 1, None, 65.0, None, None, 0.0, "O 2020", "Table 1"),
        PublishedResult("brief", "net", "cifar-fs", "novel", 5, 1, None, 66.0, 0.7, None, 0.05, "O 2020", "Table 1"),
        PublishedResult("flat", "net", "cifar-fs", "novel", 5, 1, None, 66.0, 0.0, None, 0.5, "O 2020", "Table 1"),
        PublishedResult("far", "net", "fc100", "novel", 5, 1, 15, 65.0, 0.4, 3000, 0.005, "O 2020", "Table 1"),
    )  # fmt: skip

    def board(self, folder):
        store = OutcomeStore(folder)
        fill(store, cell("base"), np.random.default_rng(1).integers(20, 60, size=(3, 50)))
        fill(store, cell("base", seed=1), NUMBERS)
        fill(store, cell("base", split="validation"), NUMBERS)
        fill(store, cell("base", sampler="disjoint"), NUMBERS)
        return store, leaderboard(store, "base", published=self.ROWS)

    def test_they_stand_on_the_protocols_that_they_fit(self, tmp_path):
        _, board = self.board(tmp_path)
        rows = board[board["source"] != "measured"]
        assert sorted(rows["method"]) == sorted(2 * ["net CE", "net odd", "net bare", "net brief", "net flat"])
        assert set(rows["seed"]) == {0, 1}
        assert set(rows["split"]) == {"novel"}
        assert set(rows["sampler"]) == {"standard"}

    def test_they_are_tested_from_their_summary(self, tmp_path):
        store, board = self.board(tmp_path)
        accuracy = 100 * store.read(cell("base"))["accuracy"]
        row = board[(board["method"] == "net CE") & (board["seed"] == 0)].iloc[0]
        sd = 0.36 * math.sqrt(3000) / stats.t.ppf(0.975, 2999)
        expected = stats.ttest_ind_from_stats(62, sd, 3000, accuracy.mean(), accuracy.std(), 150, equal_var=False)
        assert row["test"] == "Welch"
        assert row["p"] == pytest.approx(expected.pvalue)
        assert row["difference"] == pytest.approx(62 - accuracy.mean())
        assert row["p"] <= row["p_corrected"] <= 3 * row["p"]
        bare = board[board["method"] == "net bare"].iloc[0]
        assert math.isnan(bare["p"])

    def test_an_interval_without_a_number_of_episodes_is_enough_for_a_test(self, tmp_path):
        store, board = self.board(tmp_path)
        accuracy = 100 * store.read(cell("base"))["accuracy"]
        row = board[(board["method"] == "net brief") & (board["seed"] == 0)].iloc[0]
        errors = np.array([0.7 / stats.norm.ppf(0.975), accuracy.std() / math.sqrt(150)])
        df = (errors**2).sum() ** 2 / (errors[1] ** 4 / 149)
        t = (66 - accuracy.mean()) / math.sqrt((errors**2).sum())
        assert row["test"] == "Welch"
        assert row["p"] == pytest.approx(2 * stats.t.sf(abs(t), df))
        assert math.isnan(row["diff_data_ci95_low"])

    def test_an_interval_of_no_width_is_flagged_and_not_tested(self, tmp_path):
        _, board = self.board(tmp_path)
        rows = board[board["method"] == "net flat"]
        assert rows["p"].isna().all()
        assert rows["flags"].str.contains("not tested").all()

    def test_an_interval_that_cannot_be_right_is_flagged(self, tmp_path):
        _, board = self.board(tmp_path)
        flags = board.set_index("method")["flags"]
        assert flags["net odd"].str.contains("implies a standard deviation of 22.3 points").all()
        assert flags["net CE"].isna().all()


def test_a_row_says_how_many_episodes_failed_until_they_succeed(tmp_path):
    store, method = OutcomeStore(tmp_path), cell()
    fill(store, method, np.full((1, 20), 40))
    store.record_failure(method, 0, np.arange(20, 23), "the loss is no number")
    assert leaderboard(store)["flags"].tolist() == ["3 failed"]
    store.append(method, 0, np.arange(20, 22), predictions([40, 41]), 0.001)
    assert leaderboard(store)["flags"].tolist() == ["1 failed"]
