"""`fewshot-bench train --recipe` and `run --recipe` with a recipe that learns from tasks, as a user would type them."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from fewshot_bench.cli.main import exit_code

RECIPE = """
description = "a few tasks"
source = "a test"
backbone = "conv4_32"
[training]
objective = "episodic"
episodic_head = "{head}"
way = 8
shot = 2
query = 3
tasks = 2
steps_per_epoch = 6
epochs = 2
learning_rate = 3e-3
views = 1
augmentation = "affine"
threads = 1
[validation]
episodes = 20
[evaluation]
adaptation = "{head}"
hyper_parameters = {{ features = "raw" }}
"""
EPISODES = ["--dataset", "glyphs", "--episodes", "30", "--runs", "1"]


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE.format(head="svm"), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_a_recipe_of_tasks_is_trained_once_and_evaluated_with_its_head(tmp_path: Path, recipe: str, capsys) -> None:
    results = ["--results", str(tmp_path / "results")]
    assert exit_code(["run", "--recipe", recipe, *EPISODES, *results]) == 0
    frame = pd.read_csv(tmp_path / "results" / "leaderboard.csv")
    assert set(frame["method"]) == {"conv4_32/mine/svm@features=raw"}
    capsys.readouterr()
    assert exit_code(["train", "--recipe", recipe, "--dataset", "glyphs"]) == 0
    assert "trained      mine-glyphs" in capsys.readouterr().out
    assert exit_code(["run", "--recipe", recipe, *EPISODES, *results, "--adapt", "ridge"]) == 0
    again = pd.read_csv(tmp_path / "results" / "leaderboard.csv")
    assert "conv4_32/mine/ridge" in set(again["method"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--way", "65"], "base split of glyphs has 64 classes; 65-way episodes need 65. Use --way 64 or fewer."),
        (["--shot", "40", "--query", "40"], "60 images"),
        (["--micro-batch", "39"], "a task of 40 images is embedded at once, and a micro-batch has 39."),
        (["--views", "2"], "training on tasks takes one view of each image, not 2. Use --views 1."),
        (["--loss", "ce+schane"], r"training on tasks minimises their cross-entropy, not ce\+schane. Use --loss ce."),
        (
            ["--episodic-head", "matching", "--head-penalty", "1"],
            "head_penalty .* should be None with the head matching",
        ),
        (["--batch-size", "64"], "batch_size has no effect on this training: it belongs to the objectives class"),
        (
            ["--set", "inner_steps=3"],
            "inner_steps has no effect .* the objectives maml, anil and meta-sgd. Leave it out.",
        ),
        (["--set", "momentum=0.8"], "momentum has no effect on this training: it belongs to the optimizer sgd."),
        (["--episodic-head", "svn"], "episodic_head .* one of centroid, matching, ridge, svm, not svn"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_trained_is_one_line_with_a_way_out(
    recipe: str, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert exit_code(["train", "--recipe", recipe, "--dataset", "glyphs", *options]) == 2
    captured = capsys.readouterr().err.strip().splitlines()
    assert len(captured) == 1
    assert re.search(message, captured[0])
