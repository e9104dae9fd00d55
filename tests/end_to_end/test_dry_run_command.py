"""`fewshot-bench run --dry-run` as a user types it."""

from __future__ import annotations

import json

import pytest

from fewshot_bench.cli.main import exit_code

pytestmark = pytest.mark.slow

TINY = "timm:test_vit.r160_in1k"
UNTRAINED = ["--base-loss", "none", "--episodes", "40", "--runs", "2", "--shots", "1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_options_alone_are_looked_at_and_nothing_is_written(folder, capsys):
    assert exit_code(["run", "--dry-run", *UNTRAINED]) == 0
    printed = capsys.readouterr().out
    assert "glyphs 5-way 1-shot\n  conv4_32/centroid  80 episodes, 0 stored, the rest " in printed
    assert "embeddings   glyphs novel by conv4_32, 1,200 images: " in printed
    for word in ("time  ", "80 episodes left, one process on cpu", "memory  ", "outcomes     at most", "cache  "):
        assert word in printed
    assert not (folder / "results").exists()


def test_a_transductive_method_says_so_before_it_is_run(folder, capsys):
    options = [*UNTRAINED, "--adapt", "centroid,finetune", "--bn", "transductive", "--set", "epochs=1"]
    assert exit_code(["run", "--dry-run", *options]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "80 episodes, 0 stored" in line]
    assert ["(transductive)  80 episodes" in line for line in lines] == ["finetune" in line for line in lines]
    assert len(lines) == 2


def test_what_is_stored_is_told_as_json(folder, capsys):
    assert exit_code(["run", *UNTRAINED]) == 0
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*")}
    assert exit_code(["run", "--dry-run", "--json", *UNTRAINED, "--adapt", "centroid,logistic"]) == 0
    ahead = json.loads(capsys.readouterr().out)
    assert [(cell["method"], cell["done"], cell["left"]) for cell in ahead["cells"]] == [
        ("conv4_32/centroid", 80, 0),
        ("conv4_32/logistic", 0, 80),
    ]
    assert {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*")} == before


@pytest.mark.parametrize(
    ("preset", "change", "datasets"),
    [
        ("schane-ablation", [], ["cifar-fs"]),
        ("schane-lambda", ["--set", f"methods.0.backbone={TINY}"], ["cifar-fs"]),
        (
            "schane-table1",
            ["--set", f"backbone={TINY}"],
            ["cifar-fs", "fc100", "mini-imagenet", "tiered-imagenet"],
        ),
    ],
)
def test_a_preset_says_what_is_missing_on_this_machine(folder, capsys, preset, change, datasets):
    assert exit_code(["run", preset, "--dry-run", *change]) == 2
    printed = capsys.readouterr().out
    for dataset in datasets:
        assert f"{dataset} has not been imported. Run: fewshot-bench data get {dataset}" in printed
        assert f"{dataset}" in printed
    assert "come from the Hugging Face hub and are not on this machine" in printed
    assert "base-ce+schane" in printed
    assert "The study cannot run before this is fixed." in printed


def test_a_sweep_has_no_dry_run(folder, capsys):
    assert exit_code(["sweep", "--dry-run"]) == 2
    assert "--dry-run" in capsys.readouterr().err
