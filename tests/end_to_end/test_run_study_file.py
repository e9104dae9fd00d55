"""`fewshot-bench run STUDY`, `ls studies` and `study` as a user types them."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from fewshot_bench.cli.main import exit_code
from fewshot_bench.report import TIMING_COLUMNS

pytestmark = pytest.mark.slow

STUDY = """
name = "untrained"
shots = [1]
episodes = 40
runs = 2
base_losses = "none"

[outputs]
markdown = true

[[methods]]
backbone = "conv4_32"
adaptations = ["centroid", "logistic"]

[[methods]]
backbone = "conv4_64"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    return tmp_path


def test_a_study_file_runs_to_one_leaderboard_and_one_page(folder, capsys):
    assert exit_code(["run", "study.toml", "--baseline", "logistic"]) == 0
    printed = capsys.readouterr().out
    frame = pd.read_csv(folder / "results" / "leaderboard.csv")
    assert sorted(frame["method"]) == ["conv4_32/centroid", "conv4_32/logistic", "conv4_64/centroid"]
    assert (frame["episodes"] * frame["runs"] == 80).all()
    assert frame["baseline"].str.startswith("conv4_32/logistic").all()
    for word in (
        "paired t-test",
        "results/outcomes",
        "leaderboard.csv",
        "report.html",
        "markdown     results/table.md",
    ):
        assert word in printed
    assert (folder / "results" / "report.html").is_file()
    assert "conv4\\_64/centroid" in (folder / "results" / "table.md").read_text(encoding="utf-8")


def test_a_preset_with_set_and_a_command_line_give_the_same_bytes(folder, capsys):
    small = ["--set", "episodes=20", "--set", "runs=1", "--set", "methods.0.base_losses=none"]
    assert exit_code(["run", "quickstart", *small, "--results", "a", "--chunk", "7", "--json"]) == 0
    assert {row["shot"] for row in json.loads(capsys.readouterr().out)} == {1, 5}
    assert exit_code(["run", "--episodes", "20", "--runs", "1", "--base-loss", "none", "--results", "b"]) == 0
    a, b = (
        pd.read_csv(folder / name / "leaderboard.csv", dtype=str).drop(columns=list(TIMING_COLUMNS)) for name in "ab"
    )
    pd.testing.assert_frame_equal(a, b)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--shots", "5"], "--shots describes a study, and study.toml describes it already."),
        (["--lambda", "0.5"], "or use --set lambda=0.5."),
        (["--adapt", "logistic"], "or use --set adaptations=logistic."),
        (["--tune", "all"], "or use --set hyper_parameters.tune=all."),
        (["--split", "0.5,0.2,0.3"], "or use --set fractions=0.5,0.2,0.3."),
        (["--setting", "best.toml"], "--setting describes a study"),
        (["--set", "episods=3"], "--set episods=3: there is no key 'episods'. Did you mean episodes?"),
        (["--set", "episodes"], "--set takes NAME=VALUE, not 'episodes'."),
        (["--baseline", "ridge"], "baseline of glyphs: there is no method called 'ridge'."),
        (["--device", "nowhere"], "there is no device 'nowhere' here."),
        (["--set", "methods.1.backbone=conv5"], "there is no backbone called 'conv5'"),
        (["--set", "datasets=glyphs,fc100"], "fc100 has not been imported."),
    ],
)
def test_a_user_who_errs_beside_a_study_reads_one_line(folder, capsys, options, sentence):
    assert exit_code(["run", "study.toml", *options]) == 2
    error = capsys.readouterr().err
    assert sentence in error.strip().splitlines()[-1]
    assert error.count("error:") == 1
    assert not (folder / "results").exists()


def test_an_error_in_the_file_names_its_line(folder, capsys):
    (folder / "study.toml").write_text(STUDY.replace('backbone = "conv4_64"', "backbones = 'x'"), encoding="utf-8")
    assert exit_code(["run", "study.toml"]) == 2
    assert "error: study.toml, line 16: there is no key 'backbones' in methods. Did you mean backbone?" in (
        capsys.readouterr().err
    )


def test_the_presets_are_listed_and_can_be_copied(folder, capsys):
    assert exit_code(["ls", "studies"]) == 0
    listed = capsys.readouterr().out
    assert "schane-table1" in listed
    assert "fewshot-bench study NAME > study.toml" in listed
    assert exit_code(["study", "schane-ablation"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# Table 3 of the SCHaNe paper")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert exit_code(["study", "schane-tabel1"]) == 2
    assert "Did you mean schane-table1" in capsys.readouterr().err
