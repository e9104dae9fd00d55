"""`fewshot-bench sweep` as a user types it, on toy images, and `run --setting` with what it chose."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import toy_split

from fewshot_bench.cli.main import exit_code
from fewshot_bench.cli.sweep import devices
from fewshot_bench.datasets.store import WholeSplit, store_dataset
from fewshot_bench.devices import free_bytes
from fewshot_bench.report import TIMING_COLUMNS
from fewshot_bench.study import sweep_run

pytestmark = pytest.mark.slow

METHOD = ["--dataset", "toy", "--backbone", "conv4_32", "--base-loss", "none", "--adapt", "finetune-head"]
TASK = ["--query", "3", "--episodes", "8", "--device", "cpu"]
GRID = ["--grid", "lambda=0,0.5", "--grid", "tau=0.1,0.5"]
SWEEP = ["sweep", *METHOD, *TASK, "--set", "steps=2", *GRID, "--name", "toys"]


@pytest.fixture(autouse=True)
def folder(tmp_path, home, monkeypatch) -> Path:
    """A working folder, and the toy dataset under its name."""
    monkeypatch.chdir(tmp_path)
    splits = {}
    for seed, name in enumerate(("base", "validation", "novel")):
        split = toy_split(name, classes=5, images=8, seed=seed)
        splits[name] = WholeSplit(split.images, split.class_names, split.class_sizes)
    store_dataset("toy", splits, {"source": "made up"})
    return tmp_path / "results" / "sweeps" / "toys"


def test_a_sweep_ends_in_a_table_a_csv_a_picture_and_a_setting_that_run_reads(folder, capsys):
    pytest.importorskip("matplotlib")
    assert exit_code([*SWEEP, "--shots", "1,2"]) == 0
    out = capsys.readouterr().out
    for word in ("lambda \\ tau", "toy (validation split) 5-way 1-shot", "mean over 1, 2 shots", "run --setting"):
        assert word in out
    frame = pd.read_csv(folder / "sweep.csv")
    assert list(zip(frame["lambda"], frame["tau"], frame["shot"], strict=True)) == [
        (0, 0.1, 1), (0, 0.1, 2), (0, 0.5, 1), (0, 0.5, 2), (0.5, 0.1, 1), (0.5, 0.1, 2), (0.5, 0.5, 1), (0.5, 0.5, 2),
    ]  # fmt: skip
    assert {"median", "mean", "ci95", "episodes", "runs", "difference", "diff_ci95_low", "p"} <= set(frame.columns)
    assert (folder / "sweep.svg").read_text().startswith("<?xml")
    assert (folder / "sweep.png").stat().st_size > 10_000

    chosen = frame[frame["is_best"]].iloc[0]
    protocol = ["--shots", "1", "--runs", "1", *TASK]
    assert exit_code(["run", "--setting", str(folder / "best.toml"), *protocol, "--results", "a"]) == 0
    typed = ["--lambda", str(chosen["lambda"]), "--tau", str(chosen["tau"]), "--set", "steps=2", "--loss", "ce+schane"]
    assert exit_code(["run", *METHOD, *typed, *protocol, "--results", "b"]) == 0
    boards = [pd.read_csv(f"{name}/leaderboard.csv").drop(columns=list(TIMING_COLUMNS)) for name in "ab"]
    pd.testing.assert_frame_equal(*boards)
    assert boards[0]["split"].tolist() == ["novel"]


def test_what_contradicts_a_setting_or_is_none_is_one_line(folder, capsys):
    assert exit_code(SWEEP) == 0
    capsys.readouterr()
    assert exit_code(["run", "--setting", str(folder / "best.toml"), "--lambda", "0.77"]) == 2
    assert "--lambda 0.77 contradicts" in capsys.readouterr().err
    assert exit_code(["run", "--setting", str(folder / "sweep.csv")]) == 2
    assert "sweep.csv is not the best configuration of a sweep" in capsys.readouterr().err


def test_processes_divide_the_points_and_the_result_is_that_of_one(folder, capsys, monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    assert exit_code([*SWEEP, "--results", "one"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(sweep_run, "run_study", lambda *_, **__: pytest.fail("the first process ran a point"))
        assert exit_code([*SWEEP, "--jobs", "2"]) == 0
    for name in ("sweep.csv", "sweep.svg"):
        assert (folder / name).read_bytes() == (Path("one/sweeps/toys") / name).read_bytes()


def test_processes_on_one_device_take_equal_shares_of_its_memory(folder, tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "$@" >> arguments\necho error: no. >&2\nexit 2\n')
    program.chmod(0o755)
    monkeypatch.setattr("fewshot_bench.cli.processes.sys.executable", str(program))
    assert exit_code([*SWEEP, "--jobs", "2"]) == 2
    arguments = (tmp_path / "arguments").read_text()
    assert arguments.count("--worker cpu --memory-share 0.5") == 2


def test_a_process_keeps_to_its_share_of_the_memory(folder, monkeypatch):
    monkeypatch.setattr("fewshot_bench.devices._share_of_cpu_memory", 1.0)
    whole = free_bytes(torch.device("cpu"))
    assert exit_code([*SWEEP, "--worker", "cpu", "--memory-share", "0.01"]) == 0
    assert free_bytes(torch.device("cpu")) < whole / 2
    records = "".join(path.read_text() for path in folder.glob("points/*.json"))
    assert SWEEP[-1] in records
    assert "--memory-share" not in records


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo 'error: the loss is nan.' >&2; exit 2", "error: the loss is nan."),
        ("kill -9 $$", "error: a process of the sweep was ended by signal 9"),
    ],
)
def test_what_a_process_complains_of_is_what_the_user_reads(script, sentence, folder, tmp_path, capsys, monkeypatch):
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("fewshot_bench.cli.processes.sys.executable", str(program))
    assert exit_code([*SWEEP, "--jobs", "2"]) == 2
    assert sentence in capsys.readouterr().err
    assert not (folder / "best.toml").exists()


def test_shards_run_a_part_each_and_the_last_one_reports(folder, capsys):
    assert exit_code([*SWEEP, "--shard", "1/2"]) == 0
    out = capsys.readouterr().out
    assert "shard 1/2: its 2 points are complete, 2 of all 3" in out
    assert not (folder / "sweep.csv").exists()
    assert exit_code([*SWEEP, "--shard", "2/2"]) == 0
    assert "run --setting" in capsys.readouterr().out
    assert len(pd.read_csv(folder / "sweep.csv")) == 4


def test_json_says_what_the_setting_and_the_csv_say(folder, capsys):
    assert exit_code([*SWEEP, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    frame = pd.read_csv(folder / "sweep.csv")
    assert [point["mean"] for point in content["points"]] == pytest.approx(frame["mean"].tolist(), abs=1e-3)
    best = frame[frame["is_best"]].iloc[0]
    assert content["chosen"] == {"lambda": best["lambda"], "tau": best["tau"]}
    assert content["budget"]["points"] == 4
    assert content["setting"] == "results/sweeps/toys/best.toml"


def test_without_matplotlib_everything_but_the_picture_is_there(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert exit_code(SWEEP) == 0
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "Matplotlib" in line]
    assert lines == ["no picture: Matplotlib is missing. Install it with: pip install matplotlib"]
    assert "chosen" in captured.out
    assert (folder / "best.toml").is_file()
    assert not (folder / "sweep.svg").exists()


def test_an_interrupted_sweep_says_how_to_go_on_and_does(folder, capsys, monkeypatch):
    run_study, seen = sweep_run.run_study, []

    def interrupted(study, **options):
        if seen:
            raise KeyboardInterrupt
        seen.append(study)
        return run_study(study, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sweep_run, "run_study", interrupted)
        assert exit_code(SWEEP) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert len(list(folder.glob("points/*.json"))) == 1
    stored = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert exit_code(SWEEP) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in stored.items())


BAD = {
    "an unknown axis": (["--grid", "lamda=0,1"], "Did you mean lambda"),
    "an axis without values": (["--grid", "lambda"], "--grid takes NAME=VALUE,VALUE,..., not 'lambda'"),
    "an axis with no value": (["--grid", "lambda="], "--grid lambda takes different values"),
    "a value out of range": (["--grid", "lambda=0,2"], "lambda of the grid: Input should be less than or equal to 1"),
    "an axis that is fixed": (["--tau", "0.3"], "tau is an axis of the grid, and another option fixes it"),
    "an axis that --set fixes": (["--set", "steps=2", "--grid", "steps=1,2"], "steps is an axis of the grid"),
    "a split": (["--split", "novel"], "--split"),
    "a shard that does not exist": (["--shard", "3/2"], "--shard takes I/N with I from 1 to N"),
    "a name with folders": (["--name", "../a"], "--name takes letters"),
    "nothing to act on": (["--adapt", "centroid"], "lambda acts nowhere in this sweep"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, capsys):
    arguments, sentence = BAD[case]
    assert exit_code(["sweep", *METHOD, *TASK, *arguments]) == 2
    errors = capsys.readouterr().err
    assert sentence in " ".join(errors.split())
    assert len([line for line in errors.splitlines() if line.startswith("error:")]) == 1
    assert not Path("results").exists()


def test_sweep_takes_the_options_of_run_except_those_that_make_no_sense(capsys):
    texts = {}
    for command in ("run", "sweep"):
        assert exit_code([command, "--help"]) == 0
        texts[command] = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    of_engines = {"--engine", "--ray-address", "--workers", "--cpus-per-worker", "--gpus-per-worker", "--ray-wait"}
    of_studies = {"--split", "--baseline", "--recipe", "--setting", "--fresh", "--dry-run", "--memory", "--flops"}
    of_whole_datasets = {"--protocol", "--base-set", "--probe"}
    assert texts["run"] - texts["sweep"] <= of_studies | of_engines | of_whole_datasets
    assert {"--grid", "--name", "--jobs"} <= texts["sweep"] - texts["run"]
    assert "--worker" not in texts["sweep"]


def test_several_gpus_are_used_in_turn_where_the_choice_is_free(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices("auto", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert devices("cuda:1", 2) == ["cuda:1", "cuda:1"]
