"""What a command says that is stopped: that work is on disk where it is, and nowhere else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.backbones import embedding
from fewshot_bench.cli.main import exit_code
from fewshot_bench.study import sweep_run
from fewshot_bench.study.workers import MethodWorker
from fewshot_bench.training import fit

pytestmark = pytest.mark.slow

RUN = ["run", "--backbone", "conv4_32", "--base-loss", "none", "--episodes", "40", "--runs", "1", "--shots", "1"]
RUN += ["--chunk", "20"]
TRAIN = ["train", "--name", "net", "--backbone", "conv4_32", "--epochs", "4", "--validate-every", "0"]
TRAIN += ["--batch-size", "512"]
SWEEP = ["sweep", "--backbone", "conv4_32", "--base-loss", "none", "--adapt", "logistic", "--grid", "C=1,10"]
SWEEP += ["--episodes", "20"]


@pytest.fixture(autouse=True)
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stopping(function: Callable[..., Any], after: int) -> Callable[..., Any]:
    """A function that is interrupted after so many calls."""
    calls = []

    def stopped(*arguments: Any, **named: Any) -> Any:
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(None)
        return function(*arguments, **named)

    return stopped


@pytest.mark.parametrize(
    ("command", "where", "name", "after", "is_saved"),
    [
        (TRAIN, fit, "_train_epoch", 0, False),
        (TRAIN, fit, "_train_epoch", 1, True),
        ([*TRAIN, "--save-every", "3"], fit, "_train_epoch", 2, False),
        ([*TRAIN, "--save-every", "3"], fit, "_train_epoch", 3, True),
        (RUN, embedding._Embedding, "compute", 0, False),  # where the time goes
        (RUN, MethodWorker, "__call__", 0, True),  # the embeddings are kept
        (RUN, MethodWorker, "__call__", 1, True),
        (SWEEP, embedding._Embedding, "compute", 0, False),
        (SWEEP, sweep_run, "run_study", 0, False),
        (SWEEP, sweep_run, "run_study", 1, True),
    ],
)
def test_a_stopped_command_says_whether_anything_new_is_on_disk(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    where: Any,
    name: str,
    after: int,
    is_saved: bool,
) -> None:
    monkeypatch.setattr(where, name, stopping(getattr(where, name), after))
    assert exit_code(command) == 130
    words = capsys.readouterr().err
    typed = f"fewshot-bench {' '.join(command)}"
    assert (f"What is finished is on disk; run the same command again to resume: {typed}" in words) == is_saved
    assert (f"stopped before anything new was saved. To start again: {typed}" in words) == (not is_saved)


def test_a_command_that_is_stopped_again_before_it_saves_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for after, is_saved in ((1, True), (0, False)):
        with monkeypatch.context() as patch:
            patch.setattr(fit, "_train_epoch", stopping(fit._train_epoch, after))
            assert exit_code(TRAIN) == 130
        assert ("is on disk" in capsys.readouterr().err) == is_saved


def test_a_command_that_only_looks_does_not_speak_of_the_disk(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewshot_bench import outcomes

    monkeypatch.setattr(outcomes.OutcomeStore, "cells", stopping(outcomes.OutcomeStore.cells, 0))
    for command in (["compare"], ["leaderboard"], ["report"]):
        assert exit_code(command) == 130
        assert capsys.readouterr().err.strip() == "stopped."


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_signalled_in_its_first_epoch_says_that_nothing_was_saved(
    home: Path, folder: Path, number: int
) -> None:
    command = [sys.executable, "-m", "fewshot_bench", *TRAIN, "--backbone", "resnet12"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while not list((home / "checkpoints").glob(".net.lock")) and process.poll() is None:
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(number)
        _, words = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "on disk" not in words
    assert "stopped before anything new was saved. To start again: fewshot-bench train --name net" in words
