"""`fewshot-bench run` trains base stages in further processes, which end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from fewshot_bench.cli import progress_bars
from fewshot_bench.cli.main import exit_code
from fewshot_bench.study import base_stage, training_ahead
from fewshot_bench.training import load_network

pytestmark = pytest.mark.slow

RUN = ["run", "--device", "cpu", "--base-set", "train_share=0.05", "--base-batch", "64", "--episodes", "20"]
RUN += ["--runs", "1", "--shots", "1"]


@pytest.fixture(autouse=True)
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every training is worth a process, which finds the package where this one does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_ahead, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    return home / "cache" / "checkpoints"


def wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 300
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_takes_the_network_that_its_helper_has_trained_and_the_result_is_that_of_one_process(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, losses = base_stage._train, []

    def after_the_other(backbone, split, recipe, *arguments, **named):
        losses.append(recipe.loss)
        wait_for(folder, "*-ce+schane-*[0-9a-f].safetensors")
        return train(backbone, split, recipe, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(base_stage, "_train", after_the_other)
        patch.setattr(progress_bars, "_EVERY", 0.0)
        assert exit_code([*RUN, "--base-epochs", "2"]) == 0
    assert losses == ["ce"]
    assert "training with ce+schane" in capsys.readouterr().err, "the helper's progress"
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    monkeypatch.setenv("FEWSHOT_BENCH_HOME", str(home / "alone"))
    assert exit_code([*RUN, "--base-epochs", "2", "--results", "alone"]) == 0
    alone = home / "alone" / "cache" / "checkpoints"
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    assert names == sorted(path.name for path in alone.glob("*.safetensors"))
    assert len(names) == 2
    for name in names:
        tensors, same = load_network(folder / name, 32)[0], load_network(alone / name, 32)[0]
        assert all(torch.equal(tensor, same[key]) for key, tensor in tensors.items())
    columns = ["method", "mean", "ci95"]
    frames = [pd.read_csv(Path(results) / "leaderboard.csv")[columns] for results in ("results", "alone")]
    pd.testing.assert_frame_equal(*frames)


def test_an_interrupted_run_stops_its_helper_whose_epochs_are_kept(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_, **__):
        wait_for(folder, "*-ce+schane-*.state.safetensors")
        raise KeyboardInterrupt

    monkeypatch.setattr(base_stage, "_train", interrupted)
    assert exit_code([*RUN, "--base-epochs", "5000"]) == 130
    assert "What is finished is on disk" in capsys.readouterr().err
    state = folder.glob("*-ce+schane-*.state.safetensors")
    before = [path.stat().st_mtime_ns for path in state]
    time.sleep(1)
    assert [path.stat().st_mtime_ns for path in folder.glob("*.state.safetensors")] == before


SLEEPER = """
import time
from fewshot_bench import __main__
from fewshot_bench.cli import processes
def sleep():
    print("ready", flush=True)
    time.sleep(300)
__main__.main = sleep
processes.main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_helper_ends_when_the_process_that_started_it_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdin.close()
    assert process.wait(60) == -signal.SIGTERM
