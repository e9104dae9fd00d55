"""`fewshot-bench run --sampler` and `episodes ... --sampler`, as a user would type them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from fewshot_bench.cli.main import exit_code
from fewshot_bench.outcomes import OutcomeStore

pytestmark = pytest.mark.slow

OTHERS = ("disjoint", "dirichlet", "varied")
BASE = ["--base-loss", "ce", "--base-epochs", "1", "--query", "5"]
SETTINGS = {"disjoint": {}, "dirichlet": {"alpha": 2.0}, "varied": {"least_way": 2, "least_shot": 1}}


def run(results: Path, *options: str) -> int:
    return exit_code(["run", *BASE, "--results", str(results), *options])


def stored(results: Path) -> pd.DataFrame:
    """All outcomes but for their times, with the cell they belong to."""
    store = OutcomeStore(results / "outcomes")
    frames = [store.read(cell).assign(cell=cell.key) for cell in store.cells()]
    return pd.concat(frames, ignore_index=True).drop(columns="seconds")


def cells(results: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(results.glob("outcomes/*/cell.json"))]


@pytest.mark.parametrize("sampler", OTHERS)
def test_a_study_of_any_sampler_ends_with_a_tested_leaderboard_and_can_be_compared(tmp_path, capsys, sampler):
    number = [] if sampler == "disjoint" else ["--episodes", "40", "--runs", "2"]
    assert run(tmp_path, "--adapt", "centroid,logistic", "--sampler", sampler, *number) == 0
    frame = pd.read_csv(tmp_path / "leaderboard.csv")
    assert len(frame) == 4
    assert frame["p"].notna().sum() == 2
    assert (frame["mean"] > 20).all()
    if sampler == "disjoint":
        assert sorted(frame["episodes"].unique()) == [23, 39]
        assert (frame["runs"] == 1).all()
    for cell in cells(tmp_path):
        assert cell["protocol"]["sampler"] == sampler
        assert cell["protocol"]["sampler_settings"] == SETTINGS[sampler]
        assert cell["class_sizes"] == [60] * 20
    capsys.readouterr()
    assert exit_code(["compare", "logistic", "centroid", "--results", str(tmp_path)]) == 0
    assert sampler in capsys.readouterr().out, "the task of each row names the sampler"
    assert exit_code(["compare", "logistic", "centroid", "--results", str(tmp_path), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["comparisons"]
    assert [record["shot"] for record in compared] == [1, 5]
    expected = frame[frame["p"].notna()].sort_values("shot")["paired_episodes"]
    assert [record["episodes"] for record in compared] == expected.tolist()


@pytest.mark.parametrize("sampler", OTHERS)
def test_fine_tuning_goes_on_where_it_stopped_and_the_chunk_changes_nothing(tmp_path, sampler):
    options = ["--adapt", "finetune", "--shots", "2", "--set", "epochs=2", "--bn", "transductive"]
    options += ["--sampler", sampler, *([] if sampler == "disjoint" else ["--runs", "1"])]
    assert run(tmp_path / "whole", *options, "--episodes", "8") == 0
    assert run(tmp_path / "parts", *options, "--episodes", "3", "--chunk", "2") == 0
    assert run(tmp_path / "parts", *options, "--episodes", "8", "--chunk", "3") == 0
    pd.testing.assert_frame_equal(stored(tmp_path / "whole"), stored(tmp_path / "parts"))
    (cell,) = cells(tmp_path / "parts")
    assert cell["method"]["is_transductive"] is True


def test_methods_on_tasks_of_other_samplers_are_not_compared(tmp_path, capsys):
    assert run(tmp_path, "--adapt", "centroid", "--shots", "1", "--sampler", "disjoint") == 0
    assert run(tmp_path, "--adapt", "logistic", "--shots", "1", "--episodes", "20", "--runs", "1") == 0
    capsys.readouterr()
    assert exit_code(["compare", "centroid", "logistic", "--results", str(tmp_path)]) == 2
    assert "sampler differs (disjoint and standard), so no episode is the same" in capsys.readouterr().err
    frame = pd.read_csv(tmp_path / "leaderboard.csv")
    assert frame["p"].isna().all()
    assert frame["protocol_fingerprint"].nunique() == 2


def test_a_sweep_takes_the_sampler_too(tmp_path, capsys):
    options = [*BASE, "--adapt", "logistic", "--grid", "C=0.1,10", "--sampler", "disjoint", "--results", str(tmp_path)]
    assert exit_code(["sweep", *options, "--json"]) == 0
    chosen = json.loads(capsys.readouterr().out)
    assert chosen["protocol"]["sampler"] == "disjoint"
    assert chosen["budget"]["runs"] == 1
    assert {point["episodes"] for point in chosen["points"]} == {chosen["budget"]["episodes"]}
    assert 20 < chosen["budget"]["episodes"] < 40
    points = {path: path.stat().st_mtime_ns for path in tmp_path.glob("sweeps/*/points/*.json")}
    assert exit_code(["sweep", *options]) == 0
    assert {path: path.stat().st_mtime_ns for path in points} == points, "complete points are not run again"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--sampler", "disjoined"),
            "--sampler: Input should be 'standard', 'disjoint', 'dirichlet', 'varied' or 'whole'",
        ),
        (("--alpha", "2"), "--alpha is for the dirichlet sampler, not for standard"),
        (("--sampler", "dirichlet", "--alpha", "0"), "--alpha should be from 0.001 to 1,000"),
        (("--sampler", "varied", "--least-way", "6"), "--least-way of the varied sampler should be from 2 to 5"),
        (("--sampler", "disjoint", "--runs", "2"), "there is one run of them, not 2"),
        (("--sampler", "disjoint", "--episodes", "40"), "has images for 39 disjoint episodes"),
        (("--sampler", "disjoint", "--query", "60"), "leave such classes of your own images out"),
    ],
)
def test_what_does_not_go_together_is_one_line_before_anything_is_trained(tmp_path, capsys, options, sentence):
    assert run(tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "outcomes").exists()


@pytest.mark.parametrize("sampler", OTHERS)
def test_episodes_of_any_sampler_are_shown_frozen_and_verified(tmp_path, capsys, sampler):
    options = ["--sampler", sampler, "--query", "4"]
    assert exit_code(["episodes", "show", *options, "--shot", "3", "--episode", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["protocol"] == f"glyphs-5way-3shot-{sampler}"
    assert sum(len(row["query"]) for row in shown["classes"]) == 4 * len(shown["classes"])
    locks = str(tmp_path / "locks")
    number = [] if sampler == "disjoint" else ["--episodes", "20", "--runs", "2"]
    assert exit_code(["episodes", "freeze", *options, "--shots", "3", *number, "--out", locks]) == 0
    assert exit_code(["episodes", "verify", locks]) == 0
    assert f"glyphs-5way-3shot-{sampler}.toml: episodes match, images match" in capsys.readouterr().out
    path = tmp_path / "locks" / f"glyphs-5way-3shot-{sampler}.toml"
    path.write_text(path.read_text().replace("seed = 0", "seed = 1"))
    assert exit_code(["episodes", "verify", locks]) == 2
    assert "EPISODES DIFFER" in capsys.readouterr().out
