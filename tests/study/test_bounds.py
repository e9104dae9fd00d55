"""Studies of more than can be stored are refused before any memory is taken: in Python, in files, as options."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from fewshot_bench.cli.main import exit_code
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import EpisodeError, FewshotBenchError, StudyError
from fewshot_bench.limits import LARGEST_SIZE, LARGEST_WAY, MOST_EPISODES, MOST_RUNS
from fewshot_bench.study import Axis, Grid, Study
from fewshot_bench.study.study_parser import Override, plan_of_file

TOO_MUCH: dict[str, tuple[dict[str, Any], str]] = {
    "episodes": ({"episodes": 10**12}, str(MOST_EPISODES)),
    "runs": ({"runs": 10**9}, str(MOST_RUNS)),
    "one run more than can be stored": ({"runs": MOST_RUNS + 1, "episodes": 1}, str(MOST_RUNS)),
    "runs of episodes": ({"runs": 20_000, "episodes": 20_000}, "at most 10,000,000 episodes"),
    "episodes until an interval": ({"until_ci": 1.0, "max_episodes": 10**10}, str(MOST_EPISODES)),
    "way": ({"way": LARGEST_WAY + 1}, str(LARGEST_WAY)),
    "shots": ({"shots": [LARGEST_SIZE + 1]}, str(LARGEST_SIZE)),
    "queries": ({"query": 10**9}, str(LARGEST_SIZE)),
    "a seed": ({"seed": 10**60}, str(1 << 128)),
    "cells": ({"shots": list(range(1, 5000)), "adaptations": ["centroid"] * 3}, "at most 10,000 cells"),
}


def in_little_memory(use: Callable[[], object]) -> str:
    """What is said; less than 20 MB may be taken to say it."""
    tracemalloc.start()
    try:
        with pytest.raises((FewshotBenchError, ValidationError)) as caught:
            use()
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    return str(caught.value)


@pytest.mark.parametrize("what", TOO_MUCH)
def test_a_study_of_more_than_can_be_stored_is_refused(tmp_path, what):
    fields, told = TOO_MUCH[what]
    assert told in in_little_memory(lambda: Study(**fields))
    file = tmp_path / "study.toml"
    file.write_text("".join(f"{name} = {value!r}\n" for name, value in fields.items()))
    assert told in in_little_memory(lambda: plan_of_file(str(file)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--episodes", str(10**12)], "--episodes: Input should be less than or equal to 10000000"),
        (["--runs", str(10**9)], "--runs: Input should be less than or equal to 32768"),
        (["--runs", "30000", "--episodes", "3000"], "all runs together should have at most 10,000,000 episodes"),
        (["--way", "70000"], "--way: Input should be less than or equal to 65535"),
        (["--shots", "2000000"], "--shots: Input should be less than or equal to 1000000"),
        (["--way", "5000", "--query", "5000"], "take 25,005,000 images; at most 2,000,000 are possible"),
    ],
)
def test_so_are_options(tmp_path, monkeypatch, capsys, options, told):
    monkeypatch.chdir(tmp_path)
    assert exit_code(["run", "--backbone", "conv4_32", "--base-loss", "none", *options]) == 2
    error = capsys.readouterr().err
    assert told in error.strip().splitlines()[-1]
    assert error.count("error:") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"runs": 10**9},
        {"episodes": 10**12},
        {"runs": 20_000, "episodes": 20_000},
        {"way": 10**5},
        {"shot": 10**7},
        {"query": 10**7},
        {"way": 1000, "shot": 10_000},
        {"way": 300, "query": 100, "sampler": "dirichlet"},
        {"seed": 10**5000},
        {"seed": -(10**39)},
        {"seed": 0.5},
        {"seed": "0"},
        {"way": 5.0},
        {"runs": True},
        {"episodes": float("inf")},
    ],
    ids=lambda fields: " ".join(fields),
)
def test_so_are_protocols(fields):
    with pytest.raises(EpisodeError, match=r"should be a whole number|at most [12]0?,000,000 "):
        Protocol("toy", **fields)


def test_the_largest_of_each_are_taken():
    assert (
        Protocol("toy", way=LARGEST_WAY, shot=1, query=1, episodes=1, runs=MOST_RUNS, seed=1 << 128).runs == MOST_RUNS
    )
    assert Study(runs=1, episodes=MOST_EPISODES, shots=(1,)).episodes == MOST_EPISODES


def test_a_grid_is_counted_before_its_points_are_made():
    axes = tuple(Axis(name, tuple(range(10**5))) for name in ("lambda", "tau", "reading"))
    told = in_little_memory(lambda: Grid(axes))
    assert "the grid has 100,000 x 100,000 x 100,000 = 1,000,000,000,000,000 points; at most 10,000" in told
    assert len(Grid((Axis("lambda", tuple(range(100))), Axis("tau", tuple(range(100)))))) == 10_000


def test_lists_of_lambda_and_tau_are_counted_before_they_are_combined(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text("")
    values = [number / 10_000 for number in range(10_000)]  # 0 among them, which knows no tau
    overrides = [Override(("lambda",), values, ""), Override(("tau",), values[1:], "")]
    with pytest.raises(StudyError, match=r"99,980,002 methods on 1 datasets are more than 2,000 studies"):
        plan_of_file(str(file), overrides)


def test_what_lambda_and_tau_make_together_is_what_is_counted(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text("lambda = [0, 0.5, 1]\ntau = [0.1, 0.5]\n")
    assert len(plan_of_file(str(file)).studies) == 5
