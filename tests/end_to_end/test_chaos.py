"""A study whose processes are killed again and again ends as one that nobody disturbed."""

from __future__ import annotations

import random

import pytest

pytestmark = pytest.mark.slow

STUDY = [
    *("run", "--device", "cpu", "--base-loss", "none", "--adapt", "centroid,toy_adaptations:Slow"),
    *("--shots", "1", "--runs", "2", "--episodes", "60", "--chunk", "5"),
]


@pytest.mark.parametrize(("processes", "kills", "seed"), [(1, 6, 1), (2, 4, 2), (4, 4, 3)])
def test_kills_at_random_moments_lose_nothing_and_double_nothing(forks, tmp_path, processes, kills, seed):
    from chaos import Chaos

    chaos = Chaos(tmp_path, processes, random.Random(seed), forks, STUDY, pace=0.2, new_interpreters=0.0)
    tally = chaos.run(kills, print)
    assert tally.is_clean, tally
    assert sum(tally.kills.values()) >= kills
    assert tally.episodes == 240 * tally.studies > 0


def test_a_kill_of_the_command_as_it_is_typed(forks, tmp_path):
    from chaos_compare import compared
    from chaos_kills import Life, Moment, environment_of, started

    environment = environment_of(tmp_path / "home")
    study = ["run", "--base-loss", "none", "--adapt", "centroid,logistic", "--episodes", "60", "--chunk", "2"]
    results, undisturbed = tmp_path / "results", tmp_path / "undisturbed"

    def arguments(folder):
        return [*study, "--runs", "1", "--shots", "1", "--device", "cpu", "--results", str(folder)]

    assert Life(forks.start(arguments(undisturbed), tmp_path / "log-0", environment), tmp_path / "log-0").ends() == 0
    life = started(arguments(results), environment, tmp_path / "log-1")
    assert Moment("part", parts=7, delay=0.0, latest=120).wait(life, results, lambda: False)
    life.kill()
    assert 0 < len(list(results.rglob("*.parquet"))) < 60
    assert not (results / "leaderboard.csv").exists()
    assert Life(forks.start(arguments(results), tmp_path / "log-2", environment), tmp_path / "log-2").ends() == 0
    found = compared(results, undisturbed)
    assert not found, found
    assert found.episodes == 120
