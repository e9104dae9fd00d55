"""The command as a user types it, on the built-in dataset scaled down."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fewshot_bench.cli.main import exit_code
from fewshot_bench.report import TIMING_COLUMNS

pytestmark = pytest.mark.slow

SMALL = ["--episodes", "60", "--runs", "2", "--base-epochs", "1"]


@pytest.fixture(scope="module")
def trained_home(tmp_path_factory) -> Path:
    """A home in which the scaled-down default study has been run once."""
    home = tmp_path_factory.mktemp("trained")
    environment = {**os.environ, "FEWSHOT_BENCH_HOME": str(home)}
    command = [sys.executable, "-m", "fewshot_bench", "run", *SMALL, "--results", str(home / "results")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return home


@pytest.fixture
def folder(trained_home, home, tmp_path, monkeypatch) -> Path:
    """A fresh working folder; the checkpoints of the scaled-down study are there already."""
    shutil.copytree(trained_home / "cache", home / "cache")
    shutil.copytree(trained_home / "datasets", home / "datasets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_timing(path: Path) -> str:
    return pd.read_csv(path, dtype=str).drop(columns=list(TIMING_COLUMNS)).to_csv(index=False)


def test_several_backbones_are_compared_with_the_first(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["run", "--backbone", "conv4_64, conv4_32", "--base-loss", "none", "--episodes", "20", "--shots", "1"]
    assert exit_code([*command, "--dry-run"]) == 0
    looked_ahead = capsys.readouterr().out
    assert "conv4_64/centroid" in looked_ahead
    assert "conv4_32/centroid" in looked_ahead
    assert exit_code(command) == 0
    frame = pd.read_csv("results/leaderboard.csv")
    assert sorted(frame["method"]) == ["conv4_32/centroid", "conv4_64/centroid"]
    assert set(frame["baseline"].dropna()) == {"conv4_64/centroid"}


def test_it_ends_with_which_method_is_best(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    command = ["run", "--base-loss", "none", "--episodes", "20", "--shots", "1", "--adapt", "centroid,logistic"]
    assert exit_code(command) == 0
    question, answer = capsys.readouterr().out.splitlines()[-2:]
    assert question == "Which method for glyphs 5-way 1-shot?"
    assert exit_code([*command, "--json"]) == 0
    best = json.loads(capsys.readouterr().out)[0]["best"]
    assert answer == f"{best['sentence']} {best['cost']}"
    assert best["method"] in ("conv4_32/centroid", "conv4_32/logistic")
    assert exit_code([*command[:-1], "centroid", "--results", "alone"]) == 0
    assert "Which method" not in capsys.readouterr().out


def test_the_comparison_it_offers_is_the_best_of_the_others_with_the_baseline(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["run", "--base-loss", "none", "--episodes", "20", "--shots", "5"]
    for heads in ("centroid,knn,ridge", "centroid,ridge,knn"):
        assert exit_code([*command, "--adapt", heads]) == 0
        assert "next         fewshot-bench compare 'conv4_32/ridge' 'conv4_32/centroid'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["run", "--backbone", "conv4_32,conv4_46"], "there is no backbone called 'conv4_46'. Did you mean conv4_64"),
        (["run", "--backbone", ","], "--backbone takes one value or more; none was given."),
        (["run", "--backbone", "conv4_32,conv4_64", "--until-ci", "1"], "--backbone names 2."),
        (["sweep", "--backbone", "conv4_32,conv4_64"], "--backbone takes one name, not 2."),
        (
            ["train", "--name", "net", "--backbone", "conv4_32,conv4_64"],
            "--backbone takes one name, not conv4_32,conv4",
        ),
    ],
)
def test_backbones_that_cannot_be_are_named(home, tmp_path, monkeypatch, capsys, command, sentence):
    monkeypatch.chdir(tmp_path)
    assert exit_code(command) == 2
    assert sentence in capsys.readouterr().err


def test_run_without_arguments_ends_with_a_tested_leaderboard(folder, capsys):
    assert exit_code(["run", *SMALL]) == 0
    printed = capsys.readouterr().out
    frame = pd.read_csv(folder / "results" / "leaderboard.csv")
    assert frame["method"].nunique() == 2
    assert sorted(frame["shot"].unique()) == [1, 5]
    tested = frame[frame["p"].notna()]
    assert set(tested["method"]) == {"conv4_32/base-ce+schane@epochs=1/centroid"}
    assert (tested["paired_episodes"] == 120).all()
    assert (frame["mean"] > 25).all(), "one epoch is already better than the chance of 20%"
    for word in ("paired t-test", "episodes/s", "outcomes", "leaderboard.csv", "report.html", "next"):
        assert word in printed
    page = (folder / "results" / "report.html").read_text(encoding="utf-8")
    assert all(method in page for method in frame["method"])


def test_the_same_command_twice_and_another_chunk_give_the_same_bytes(folder):
    for name, options in (("a", []), ("b", []), ("c", ["--chunk", "7"])):
        adapt = ["--adapt", "centroid,logistic", "--results", name]
        assert exit_code(["run", *SMALL, *adapt, *options]) == 0
    first = without_timing(folder / "a" / "leaderboard.csv")
    assert without_timing(folder / "b" / "leaderboard.csv") == first
    assert without_timing(folder / "c" / "leaderboard.csv") == first


def test_training_again_gives_the_same_leaderboard(trained_home, folder, home):
    shutil.rmtree(home / "cache")
    assert exit_code(["run", *SMALL]) == 0
    assert without_timing(folder / "results" / "leaderboard.csv") == without_timing(
        trained_home / "results" / "leaderboard.csv"
    )


def test_a_longer_study_keeps_what_is_stored(folder, capsys):
    assert exit_code(["run", *SMALL]) == 0
    parts = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*.parquet")}
    assert exit_code(["run", *SMALL, "--episodes", "80"]) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in parts.items())
    frame = pd.read_csv(folder / "results" / "leaderboard.csv")
    assert (frame["episodes"] == 80).all()


def test_compare_and_leaderboard_read_what_run_stored(folder, capsys):
    assert exit_code(["run", *SMALL]) == 0
    capsys.readouterr()
    assert exit_code(["compare", "schane", "base-ce@", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)["comparisons"]
    frame = pd.read_csv(folder / "results" / "leaderboard.csv")
    tested = frame[frame["p"].notna()].sort_values("shot")
    np.testing.assert_allclose([record["difference"] for record in records], tested["difference"], atol=1e-3)
    assert exit_code(["leaderboard", "--json", "--svg", "board.svg"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4
    assert exit_code(["leaderboard", "--svg", "board.svg"]) == 0
    assert "<svg" in (folder / "board.svg").read_text()
    assert "conv4_32/base-ce@epochs=1/centroid" in capsys.readouterr().out


def test_statistics_need_the_results_folder_alone(folder, capsys):
    """A folder copied from elsewhere: no datasets, no weights, and torch is never imported."""
    assert exit_code(["run", *SMALL]) == 0
    program = """
import sys
from fewshot_bench.cli.main import exit_code
for command in (
    ["compare"], ["compare", "schane", "base-ce@"], ["compare", "--baseline", "schane"],
    ["leaderboard", "--baseline", "schane", "--markdown", "t.md", "--latex", "t.tex"],
    ["power", "schane", "base-ce@", "--difference", "0.5"], ["report"],
):
    assert exit_code(command) == 0, command
assert "torch" not in sys.modules
"""
    environment = {**os.environ, "FEWSHOT_BENCH_HOME": str(folder / "nowhere"), "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    for word in (
        "Wilcoxon p",
        "pairing",
        "beyond it",
        "over classes and images",
        "episodes to find a difference",
        "report.html",
    ):
        assert word in done.stdout
    assert "\\toprule" in Path("t.tex").read_text()
    assert Path("t.md").read_text().startswith("| method |")


def test_a_study_until_the_interval_is_narrow_says_so(folder, capsys):
    options = ["--base-loss", "ce,ce+schane", "--base-epochs", "1", "--shots", "1", "--runs", "1"]
    assert exit_code(["run", *options, "--until-ci", "1.2", "--max-episodes", "700"]) == 0
    frame = pd.read_csv(folder / "results" / "leaderboard.csv")
    (episodes,) = set(frame["episodes"])
    assert episodes in (250, 500)
    assert (frame["ci95"] <= 1.2).all()
    assert (frame["flags"] == "until ±1.2").all()
    (description, _) = sorted((folder / "results" / "outcomes").glob("*/cell.json"))
    (rule,) = json.loads(description.read_text())["provenance"]["stopping"]
    assert (rule["half_width"], rule["max_episodes"]) == (1.2, 700)


def test_a_head_is_fine_tuned_with_both_losses_on_the_same_episodes(folder):
    options = ["--base-loss", "ce", "--shots", "1", "--episodes", "40", "--runs", "1", "--base-epochs", "1"]
    head = ["--adapt", "finetune-head", "--loss", "ce,ce+schane", "--set", "steps=5", "--set", "head=projection"]
    assert exit_code(["run", *options, *head]) == 0
    frame = pd.read_csv(folder / "results" / "leaderboard.csv")
    stages = {name.split("/")[2] for name in frame["method"]}
    assert stages == {"episode-ce", "episode-ce+schane"}
    assert (frame["mean"] > 20).all()


def test_every_adaptation_and_loss_runs_in_one_study_and_a_gram_matrix_changes_nothing(folder, monkeypatch):
    grid = ["--base-loss", "ce", "--adapt", "centroid,logistic,finetune-head", "--set", "steps=5"]
    losses = ["--loss", "ce,ce+schane,ce+supcon,ce+simclr"]
    for name, is_built in (("with", True), ("without", False)):
        monkeypatch.setattr("fewshot_bench.study.workers.gram_pays", lambda *_, built=is_built: built)
        assert exit_code(["run", *SMALL, *grid, *losses, "--results", name]) == 0
    frames = [pd.read_csv(folder / name / "leaderboard.csv") for name in ("with", "without")]
    assert frames[0]["method"].nunique() == 6
    assert frames[0]["method"].tolist() == frames[1]["method"].tolist()
    # A tie may fall the other way: two of the 9,000 predictions of a row.
    np.testing.assert_allclose(frames[0]["mean"], frames[1]["mean"], atol=100 * 2 / 9000 + 1e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_where_it_stopped(trained_home, folder, home, number):
    environment = {**os.environ, "FEWSHOT_BENCH_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    options = ["--base-epochs", "1", "--base-loss", "ce", "--runs", "1", "--episodes", "3000", "--chunk", "20"]
    command = [sys.executable, "-m", "fewshot_bench", "run", *options, "--shots", "5", "--adapt", "logistic"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    results = folder / "results"
    deadline = time.monotonic() + 120
    while len(list(results.rglob("*.parquet"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "run the same command again to resume" in errors
    assert "Traceback" not in errors
    stored = {path: path.stat().st_mtime_ns for path in results.rglob("*.parquet")}
    assert 0 < len(stored) < 150
    assert not list(results.rglob("*.lease"))
    assert not (results / "leaderboard.csv").exists()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == when for path, when in stored.items())
    assert pd.read_csv(results / "leaderboard.csv")["episodes"].tolist() == [3000]
