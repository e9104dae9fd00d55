"""`fewshot-bench train` and `run --checkpoint` as a user types them, on a few small images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from samples import class_images, write_folder

from fewshot_bench.cli.main import exit_code
from fewshot_bench.study.checkpoints import checkpoint_file, read_checkpoint, state_file
from fewshot_bench.training import load_checkpoint

pytestmark = pytest.mark.slow

SMALL = ["--dataset", "tiny", "--backbone", "conv4_32", "--batch-size", "40", "--validation-episodes", "20"]


@pytest.fixture(autouse=True)
def tiny_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    classes = [f"class-{number}" for number in range(20)]
    folder = write_folder(tmp_path / "images", class_images(classes, images=12, size=16))
    fractions = ["--split", "0.5,0.25,0.25"]
    assert exit_code(["data", "import", "tiny", "--from", str(folder), "--size", "16", *fractions]) == 0


def test_a_network_is_trained_listed_and_evaluated_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["train", "--name", "mine", *SMALL, "--loss", "ce+schane", "--epochs", "2", "--keep-last"]) == 0
    printed = capsys.readouterr().out
    assert "mine: conv4_32, base split of tiny, ce+schane" in printed
    assert "validation 1-shot" in printed
    (following,) = [line for line in printed.splitlines() if line.startswith("next")]
    assert following.split() == ["next", "fewshot-bench", "run", "--dataset", "tiny", "--checkpoint", "mine"]
    log = pd.read_csv(checkpoint_file("mine").with_suffix(".csv"))
    assert log["epoch"].tolist() == [1, 2]
    assert str(checkpoint_file("mine").with_suffix(".csv")) in printed.replace("\n", "")
    assert exit_code(["ls", "checkpoints", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed] == ["mine", "mine.last"]
    assert listed[0]["validation_5shot"] == pytest.approx(log["validation_5shot"].max(), abs=1)
    assert exit_code([*following.split()[2:], "--query", "5", "--episodes", "20", "--runs", "1"]) == 0
    board = pd.read_csv("results/leaderboard.csv")
    assert set(board["method"]) == {"conv4_32/base-ce+schane@batch_size=40,epochs=2/centroid"}


def test_a_killed_training_goes_on_and_ends_with_the_weights_of_one_that_was_not(home: Path) -> None:
    options = ["train", *SMALL, "--epochs", "20", "--micro-batch", "30", "--threads", "1"]
    environment = {**os.environ, "FEWSHOT_BENCH_HOME": str(home)}
    command = [sys.executable, "-m", "fewshot_bench", *options, "--name", "killed"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not state_file("killed").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not checkpoint_file("killed").exists()
    assert exit_code([*options, "--name", "killed"]) == 0
    assert exit_code([*options, "--name", "whole"]) == 0
    killed, whole = (load_checkpoint(checkpoint_file(name))[0] for name in ("killed", "whole"))
    assert all(torch.equal(value, whole[name]) for name, value in killed.items())


BAD = {
    "no name": (["train"], "--name"),
    "unknown loss": (["train", "--name", "mine", "--loss", "ce+shane"], "Did you mean ce+schane"),
    "bad recipe": (["train", "--name", "mine", "--dropout", "1"], "dropout of a training on the base split should be"),
    "bad name": (["train", "--name", "a/b"], "a checkpoint's name should be of letters"),
    "unknown checkpoint": (["run", "--checkpoint", "mine"], "there is no checkpoint called 'mine'"),
    "checkpoint and backbone": (["run", "--checkpoint", "a", "--backbone", "conv4_32"], "Leave one of the two out"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_code_two(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, sentence = BAD[case]
    assert exit_code(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert sentence in line


def test_an_empty_list_says_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["ls", "checkpoints"]) == 0
    assert "fewshot-bench train --help" in capsys.readouterr().out


def test_a_recipe_of_ones_own_is_trained_with_any_field_changed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text(
        'description = "mine"\nsource = "a test"\nbackbone = "conv4_32"\n[training]\nepochs = 2\nbatch_size = 40\n'
        'optimizer = "sgd"\nlearning_rate = 0.1\nviews = 1\nthreads = 1\n[evaluation]\nadaptation = "ridge"\n',
        encoding="utf-8",
    )
    train = ["train", "--recipe", "./mine.toml", "--dataset", "tiny", "--epochs", "1"]
    assert exit_code([*train, "--set", "momentum=0.5", "--set", "drops=[[0.5, 0.1]]", "--schedule", "steps"]) == 0
    name = "mine-tiny-drops-0.5-0.1--epochs1-momentum0.5-schedulesteps"
    recipe = read_checkpoint(name).recipe
    assert (recipe.momentum, recipe.drops, recipe.learning_rate) == (0.5, ((0.5, 0.1),), 0.1)
    capsys.readouterr()
    assert exit_code([*train, "--set", "momentun=0.5"]) == 2
    assert "a recipe has no field 'momentun'" in " ".join(capsys.readouterr().err.split())
    assert exit_code([*train, "--set", "teacher_weights=0123"]) == 2  # the training fills it in
    assert "a recipe has no field 'teacher_weights'" in " ".join(capsys.readouterr().err.split())
    assert exit_code([*train, "--set", "momentum=a lot"]) == 2
    assert "momentum of a training on the base split should be a number" in capsys.readouterr().err
    for twice in (["--set", "epochs=2"], ["--set", "momentum=0.5", "--set", "momentum=0.6"]):
        assert exit_code([*train, *twice]) == 2
        assert "is given twice" in " ".join(capsys.readouterr().err.split())
    run = ["run", "--recipe", "./mine.toml", "--dataset", "tiny", "--query", "5", "--episodes", "20", "--runs", "1"]
    assert exit_code(run) == 0
    assert set(pd.read_csv("results/leaderboard.csv")["method"]) == {"conv4_32/mine/ridge"}
