"""`fewshot-bench run --adapt finetune`, as a user would type it."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from fewshot_bench.cli.main import app, exit_code
from fewshot_bench.outcomes import OutcomeStore

pytestmark = pytest.mark.slow

SMALL = [
    *("--dataset", "glyphs", "--base-loss", "ce", "--base-epochs", "1", "--shots", "1", "--episodes", "8"),
    *("--runs", "1", "--query", "5", "--set", "epochs=2"),
]


def run(folder, *options):
    return exit_code(["run", *SMALL, "--results", str(folder), *options])


def methods(folder):
    return set(pd.read_csv(folder / "leaderboard.csv")["method"])


def test_a_study_of_losses_and_of_what_is_tuned(tmp_path):
    assert run(tmp_path, "--adapt", "centroid,finetune", "--loss", "ce,ce+schane,ce+supcon,ce+simclr") == 0
    for tune in ("last:1", "norm", "bias", "lora:2", "head"):
        assert run(tmp_path, "--adapt", "finetune", "--tune", tune) == 0
    base = "conv4_32/base-ce@epochs=1"
    assert methods(tmp_path) == {
        f"{base}/centroid",
        *(f"{base}/episode-{loss}/finetune@epochs=2" for loss in ("ce", "ce+schane", "ce+supcon", "ce+simclr")),
        *(f"{base}/episode-ce/finetune@epochs=2,tune={tune}" for tune in ("last:1", "norm", "bias", "lora:2", "head")),
    }


def test_every_hyper_parameter_is_recorded_and_a_transductive_method_says_so(tmp_path):
    assert run(tmp_path, "--adapt", "finetune", "--bn", "transductive", "--precision", "bf16") == 0
    (cell,) = (json.loads(path.read_text()) for path in tmp_path.glob("outcomes/*/cell.json"))
    assert cell["method"]["is_transductive"] is True
    recorded = cell["method"]["hyper_parameters"]["adaptation"]
    expected = {
        "epochs": 2, "learning_rate": 1e-4, "weight_decay": 0.05, "dropout": 0.1, "optimizer": "adamw",
        "bn": "transductive", "precision": "bf16", "tune": "all", "batch_size": 1024, "augmentation": "auto",
        "start": "centroid",
    }  # fmt: skip
    assert expected.items() <= recorded.items()
    assert "lambda_" not in recorded
    assert "transductive" in next(iter(methods(tmp_path)))


def test_a_stopped_study_goes_on_and_the_chunk_changes_nothing(tmp_path):
    options = ("--adapt", "finetune", "--loss", "ce+schane")
    assert run(tmp_path / "whole", *options) == 0
    assert exit_code(["run", *SMALL, "--results", str(tmp_path / "parts"), *options, "--episodes", "3"]) == 0
    assert run(tmp_path / "parts", *options, "--chunk", "2") == 0
    stores = [OutcomeStore(tmp_path / name / "outcomes") for name in ("whole", "parts")]
    whole, parts = ([store.read(cell).drop(columns="seconds") for cell in store.cells()] for store in stores)
    assert len(whole) == len(parts) > 0
    for one, other in zip(whole, parts, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_views_are_made_once_where_asked(tmp_path):
    assert run(tmp_path, "--adapt", "finetune,finetune-head", "--views", "4", "--set", "steps=3") == 0
    assert {name.split("/")[-1] for name in methods(tmp_path)} == {
        "finetune@epochs=2,views=4",
        "finetune-head@steps=3,views=4",
    }


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--tune", "most"), "tune of finetune should be all, last:N"),
        (("--tune", "last:9"), "has 4 blocks; last:9 asks for 9"),
        (("--bn", "running"), "bn of finetune should be one of frozen, support, transductive, not running"),
        (("--views", "1"), "views of finetune should be 0 for new ones in every step, or 2 or more, not 1"),
        (("--precision", "int8"), "precision of finetune should be one of"),
        (("--loss", "ce+schane", "--tune", "head"), "has nothing to move"),
        (("--loss", "triplet"), "there is no loss called 'triplet'"),
        (("--set", "tau=0.2"), "--set tau is not taken; use --tau"),
        (("--set", "loss=ce+schane"), "--set loss is not taken; use --loss"),
        (("--set", "tune=5"), "tune of finetune should be all, last:N"),
        (("--set", "views=4", "--views", "2"), "--views and --set views say the same"),
        (("--tune", "head", "--precision", "bf16"), "cannot use --precision bf16"),
        (("--set", "seed=99999999999999999999"), "seed of finetune should be a whole number of 64 bits"),
        (("--training-seed", "99999999999999999999"), "--training-seed"),
        (("--device", "meta"), "there is no device 'meta' here"),
        (("--set", "learning_rate=0"), "learning_rate of finetune should be positive"),
    ],
)
def test_bad_values_are_one_line_before_anything_is_trained(tmp_path, capsys, options, sentence):
    assert run(tmp_path, "--adapt", "finetune", *options) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.splitlines()[-1].startswith("error: ")


def test_the_adaptation_is_listed_with_its_papers():
    listed = CliRunner().invoke(app, ["ls", "adaptations"]).output
    assert "finetune " in listed
    assert "Dhillon et al., 2020" in listed
