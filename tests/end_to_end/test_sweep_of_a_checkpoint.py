"""Hyper-parameters of fine-tuning are chosen for a network that was trained before."""

from __future__ import annotations

import pandas as pd
import pytest

from fewshot_bench.cli.main import exit_code

pytestmark = pytest.mark.slow

SMALL = ["--dataset", "glyphs", "--shots", "1", "--runs", "1", "--query", "5", "--set", "epochs=2"]


@pytest.fixture
def trained():
    options = ["--epochs", "1", "--validate-every", "0"]
    assert exit_code(["train", "--dataset", "glyphs", "--backbone", "conv4_32", "--name", "mine", *options]) == 0


def sweep(folder, *options):
    grid = ["--grid", "lambda=0,0.9", "--grid", "learning_rate=0.0001,0.01"]
    method = ["--checkpoint", "mine", "--adapt", "finetune", "--episodes", "4"]
    return exit_code(["sweep", *method, *SMALL, *grid, "--results", str(folder), *options])


def test_what_a_sweep_chose_for_a_checkpoint_is_run_with_that_checkpoint(trained, tmp_path, capsys):
    assert sweep(tmp_path) == 0
    folder = tmp_path / "sweeps" / "glyphs-mine-episode-ce+schane-finetune"
    rows = pd.read_csv(folder / "sweep.csv")
    assert len(rows) == 4
    assert set(rows["lambda"]) == {0, 0.9}
    setting = ["--setting", str(folder / "best.toml"), "--episodes", "4", "--shots", "1", "--runs", "1"]
    assert exit_code(["run", *setting, "--query", "5", "--results", str(tmp_path / "run")]) == 0
    (name,) = pd.read_csv(tmp_path / "run" / "leaderboard.csv")["method"]
    assert name.startswith("conv4_32/base-ce@epochs=1/episode-ce+schane/finetune@epochs=2")


def test_a_network_trained_anew_under_the_same_name_is_swept_anew(trained, tmp_path):
    assert sweep(tmp_path) == 0
    points = set((tmp_path / "sweeps").glob("*/points/*"))
    options = ["--epochs", "1", "--validate-every", "0", "--fresh", "--seed", "1"]
    assert exit_code(["train", "--dataset", "glyphs", "--backbone", "conv4_32", "--name", "mine", *options]) == 0
    assert sweep(tmp_path) == 0
    assert len(set((tmp_path / "sweeps").glob("*/points/*"))) == 2 * len(points)


def test_a_checkpoint_that_is_not_there_is_one_line_before_anything_is_run(tmp_path, capsys):
    assert sweep(tmp_path) == 2
    assert "there is no checkpoint called 'mine'" in capsys.readouterr().err
    assert not list(tmp_path.glob("sweeps/*/outcomes/*"))
