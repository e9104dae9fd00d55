"""`run --shard`: a fixed part of every run, and the table when all parts are there."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from fewshot_bench.cli.main import exit_code

pytestmark = pytest.mark.slow

RUN = ["run", "--base-loss", "none", "--backbone", "conv4_32", "--episodes", "21", "--runs", "2", "--shots", "1"]


def test_shards_make_the_whole_and_the_last_one_writes_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert exit_code([*RUN, "--results", "whole"]) == 0
    assert exit_code([*RUN, "--shard", "2/2"]) == 0
    assert "shard 2/2: its episodes are stored; 20 of other shards are not" in capsys.readouterr().out
    assert not (tmp_path / "results" / "leaderboard.csv").exists()
    assert exit_code([*RUN, "--shard", "2/2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"shard": "2/2", "missing": 20, "failed": 0}
    assert exit_code([*RUN, "--shard", "1/2"]) == 0
    frames = [pd.read_csv(tmp_path / name / "leaderboard.csv") for name in ("whole", "results")]
    assert frames[0]["mean"].tolist() == frames[1]["mean"].tolist()
    assert frames[1][["episodes", "runs"]].to_numpy().tolist() == [[21, 2]]


def test_a_shard_starts_no_folder_of_its_own(capsys):
    assert exit_code([*RUN, "--shard", "1/2", "--fresh"]) == 2
    assert "--fresh takes a folder of its own for every shard" in capsys.readouterr().err
