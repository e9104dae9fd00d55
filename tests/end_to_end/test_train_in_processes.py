"""`torchrun -m fewshot_bench train` as a user types it, on two processes without a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from fewshot_bench._io import ranks
from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import StudyError
from fewshot_bench.study import read_checkpoint
from fewshot_bench.study.checkpoints import checkpoint_file, state_file
from fewshot_bench.study.train import _own_device, _Training
from fewshot_bench.training import load_checkpoint
from fewshot_bench.training.data_parallel import Processes

NETWORK = """
import os
import torch
from fewshot_bench.backbones import Backbone, Preprocessing


class Network(torch.nn.Module):
    steps = 0

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(28 * 28, 16)

    def forward(self, images):
        if self.training:
            self.steps += 1
        if self.steps > 12 and os.environ.get("RANK") == os.environ.get("FAILS", "none"):
            raise ValueError("this GPU burns")
        return self.layer(images.flatten(1)).tanh()


def network(request):
    return Backbone(request.name, Network(), Preprocessing(28, (0.5,), (0.5,)), 16, is_pretrained=False)
"""
OPTIONS = ["train", "--backbone", "shared_network:network", "--batch-size", "480", "--epochs", "2", "--threads", "1"]
OPTIONS += ["--loss", "ce+schane", "--validation-episodes", "5", "--learning-rate", "0.001"]


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder has the user's own network."""
    (tmp_path / "shared_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def torchrun(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = {**os.environ, "FEWSHOT_BENCH_HOME": str(home), "OMP_NUM_THREADS": "1", **variables}
    command = [*launcher, "-m", "fewshot_bench", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.usefixtures("in_a_folder")
def test_two_processes_train_what_one_trains_and_say_so_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([*OPTIONS, "--name", "one"]) == 0
    printed = capsys.readouterr().out.replace("one", "two").splitlines()
    done = torchrun(home, *OPTIONS, "--name", "two")
    assert done.returncode == 0, done.stderr
    assert [line[:60] for line in done.stdout.splitlines()] == [line[:60] for line in printed]
    one, two = read_checkpoint("one"), read_checkpoint("two")
    assert two.card == one.card, "the number of processes is no part of what was trained"
    assert (one.computing.get("processes"), two.computing["processes"]) == (None, 2)
    assert [row["accuracy"] for row in two.history] == [row["accuracy"] for row in one.history]
    assert two.accuracies == pytest.approx(one.accuracies, abs=1e-3)
    weights = load_checkpoint(one.path)[0]
    for name, value in load_checkpoint(two.path)[0].items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-4)
    assert not state_file("two").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("in_a_folder")
def test_an_error_of_one_process_ends_all_and_is_said_once_and_any_number_of_processes_resumes(home: Path) -> None:
    failed = torchrun(home, *OPTIONS, "--name", "two", FAILS="1")
    assert failed.returncode != 0
    assert failed.stdout == ""
    errors = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, failed.stderr
    assert "this GPU burns" in errors[0]
    assert "exitcode  : 2 " in failed.stderr
    assert state_file("two").exists()
    assert not checkpoint_file("two").exists()
    shutil.copy(state_file("two"), state_file("alone"))
    done = torchrun(home, *OPTIONS, "--name", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained ") == 1
    for name in ("alone", "one"):
        assert exit_code([*OPTIONS, "--name", name]) == 0
    weights = load_checkpoint(checkpoint_file("one"))[0]
    for resumed in ("alone", "two"):
        for name, value in load_checkpoint(checkpoint_file(resumed))[0].items():
            torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-4)


class OneOfFour(Processes):
    """The second process of four whose GPUs have room for different numbers of images."""

    def __init__(self) -> None:
        super().__init__(1, 4)

    def gather_values(self, value: Any) -> list[Any]:
        return [30, value, 40, 50]


@pytest.mark.parametrize(
    ("device", "batch", "own", "expected"), [("cuda:1", 512, 20, 80), ("cuda:1", 64, 16, 64), ("cpu", 512, 20, 20)]
)
def test_a_micro_batch_fits_on_the_fullest_gpu_and_counts_the_images_of_all(
    device: str, batch: int, own: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fitting(memory: None, most: int, least: int) -> int:
        asked.append(most)
        return own

    monkeypatch.setattr("fewshot_bench.study.train.four_inputs", lambda *_: None)
    monkeypatch.setattr("fewshot_bench.study.train.StepMemory", MagicMock())
    monkeypatch.setattr("fewshot_bench.study.train.fitting_micro_batch", fitting)
    training: Any = MagicMock(processes=OneOfFour(), device=device)
    assert _Training._fitting(training, batch) == expected
    assert asked == [batch if device == "cpu" else batch // 4]


def test_several_processes_that_run_out_of_memory_are_told_what_to_type(tmp_path: Path) -> None:
    plan = SimpleNamespace(micro_batch=None)
    training: Any = MagicMock(processes=OneOfFour(), plan=plan, state=tmp_path / "none", base=range(64))
    training.recipe.images_per_step, training._fitting = lambda images: 64, lambda most: most
    micro_batches = _Training._micro_batches(training)
    assert (micro_batches.sizes, micro_batches.is_fixed) == ([64], True)
    assert "--micro-batch {half}" in micro_batches.way_out


def as_rank(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is one of four, without a store to ask."""
    for name, value in {"RANK": number, "WORLD_SIZE": 4, "LOCAL_RANK": number}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "none")
    ranks._is_first.cache_clear()


def test_numbers_that_something_else_has_left_do_not_silence_a_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_rank(1, monkeypatch)
    monkeypatch.delenv("MASTER_ADDR")
    assert ranks.own_rank() is None
    assert exit_code(["ls", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("command", ["run", "ls"])
def test_other_commands_refuse_several_processes_once(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for number in range(2):
        as_rank(number, monkeypatch)
        assert exit_code([command]) == 2
        printed.append(capsys.readouterr().err)
    assert printed[0].startswith(f"error: {command} was started in 4 processes; only train ")
    assert "--checkpoint NAME" in printed[0]
    assert printed[1] == ""


def test_a_crash_after_that_of_another_process_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fewshot_bench.cli.main.app", len)  # which is no command line
    as_rank(1, monkeypatch)
    assert exit_code(["train"]) == 2
    assert capsys.readouterr().err == ""
    as_rank(0, monkeypatch)
    with pytest.raises(TypeError, match="len"):
        exit_code(["train"])


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("fewshot_bench.study.train.chosen_device", lambda name: name)
    assert _own_device("auto") == "auto"
    as_rank(1, monkeypatch)
    assert [_own_device(name) for name in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    with pytest.raises(StudyError, match="--device cuda:0 is one device for 4 processes"):
        _own_device("cuda:0")
    as_rank(2, monkeypatch)
    with pytest.raises(StudyError, match="2 GPUs has 3 processes or more"):
        _own_device("auto")
