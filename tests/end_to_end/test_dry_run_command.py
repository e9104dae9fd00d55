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


@pytest.mark.parametrize("preset", ["schane-ablation", "schane-lambda", "dhillon-table1"])
def test_presets_for_a_gpu_fit_into_80_gigabytes_without_images_or_weights(folder, capsys, preset):
    # Smaller networks of the same kinds, with and without batch normalisation, and fewer points of the search.
    backbone = "conv4_64" if preset.startswith("dhillon") else TINY
    key = "methods.0.backbone" if preset == "schane-lambda" else "backbone"
    change = ["--set", f"{key}={backbone}", "--set", "way=5"]
    change += ["--set", "methods.0.tau=0.5", "--set", "methods.0.lambda=0.5"] if preset == "schane-lambda" else []
    assert exit_code(["run", preset, *change, "--dry-run", "--memory", "80GB", "--flops", "4e14"]) == 0
    printed = capsys.readouterr().out
    assert "the images of cifar-fs are not on this machine" in printed
    assert "precision=bf16" in printed
    assert " operations)" in printed
    assert "(an estimate: operations are counted, at 4e+14 per second; nothing was timed." in printed
    assert "80.0 GB on the device" in printed
    assert "timed on" not in printed


def test_a_plan_that_does_not_fit_is_a_problem_and_json_has_the_operations(folder, capsys):
    options = ["--base-loss", "ce", "--base-batch", "512", "--episodes", "40", "--runs", "1", "--json"]
    assert exit_code(["run", "--dry-run", *options, "--memory", "300 MB"]) == 2
    ahead = json.loads(capsys.readouterr().out)
    assert "batches of 512 images in two views" in ahead["missing"][0]
    assert ahead["machine"] == {"memory": 300_000_000, "flops": None}
    training = next(work for work in ahead["work"] if work["kind"] == "training")
    assert training["seconds"] is None
    assert training["operations"] > 0
    assert exit_code(["run", "--dry-run", *options, "--memory", "3GiB", "--flops", "1e12"]) == 0
    ahead = json.loads(capsys.readouterr().out)
    assert ahead["machine"] == {"memory": 3 << 30, "flops": 1e12}
    training = next(work for work in ahead["work"] if work["kind"] == "training")
    assert training["seconds"] == pytest.approx([training["operations"] / 1e12] * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory", "80GB"], "--memory is for --dry-run"),
        (["--flops", "4e14"], "--flops is for --dry-run"),
        (["--dry-run", "--memory", "80"], "--memory takes a number and a unit"),
        (["--dry-run", "--memory", "80Gb"], "GB"),
        (["--dry-run", "--flops", "0"], "--flops takes operations per second such as 4e14, not 0"),
        (["--dry-run", "--flops", "-1"], "--flops takes operations per second"),
        (["--dry-run", "--flops", "1e-300"], "--flops takes operations per second"),
        (["--dry-run", "--flops", "inf"], "--flops takes operations per second"),
        (["--dry-run", "--flops", "fast"], "--flops"),
        (["--base-precision", "bf17"], "'float32', 'bf16' or 'fp16'"),
    ],
)
def test_wrong_values_are_refused(folder, capsys, options, message):
    assert exit_code(["run", *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (folder / "results").exists()


def test_base_precision_is_taken_by_run_sweep_and_study_files(folder, capsys):
    small = ["--base-loss", "ce", "--base-epochs", "1", "--base-precision", "bf16", "--shots", "1", "--runs", "1"]
    assert exit_code(["run", *small, "--episodes", "5", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["method"] == "conv4_32/base-ce@epochs=1,precision=bf16/centroid"
    grid = ["--grid", "base_precision=float32,bf16", "--episodes", "5", "--json"]
    assert exit_code(["sweep", "--base-loss", "ce", "--base-epochs", "1", "--adapt", "centroid", *grid]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert {point["base_precision"] for point in points} == {"float32", "bf16"}
    (folder / "study.toml").write_text('base_losses = "ce"\nbase_precision = "bf17"\n')
    assert exit_code(["run", "study.toml"]) == 2
    assert "study.toml, line 2" in capsys.readouterr().err
