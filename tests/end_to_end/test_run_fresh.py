"""`run --fresh` as a user types it: interrupted before its first episode, refused, or many times at once."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from upath import UPath

from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import LocationError
from fewshot_bench.study import free_folder, new_results_folder


@pytest.mark.parametrize("typed", [["--results", "mine"], ["--results=mine"], []])
def test_the_command_that_goes_on_names_the_new_folder_and_begins_no_other(typed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "mine" if typed else "results"
    (tmp_path / name).mkdir()
    (tmp_path / name / "kept").touch()
    folders, recorded = [], []

    def interrupted(plan, *, arguments, **_):
        folders.append(str(plan.results))
        recorded.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("fewshot_bench.study.run_plan", interrupted)
    assert exit_code(["run", *typed, "--fresh", "--episodes", "10"]) == 130
    assert folders == [f"{name}-2"]
    goes_on = ["run", "--episodes", "10", "--results", f"{name}-2"]
    assert recorded == [goes_on], "as it is recorded, and shown by status"
    assert capsys.readouterr().err.strip().endswith(f": fewshot-bench {' '.join(goes_on)}")
    assert [path.name for path in (tmp_path / name).iterdir()] == ["kept"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--dataset", "cifar-fs"], ["--shard", "3/2"], ["--way", "60"]])
@pytest.mark.parametrize("there", [["mine"], []])
def test_one_that_is_refused_leaves_nothing(options, there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSHOT_BENCH_HOME", str(tmp_path / "home"))
    for name in there:
        (tmp_path / name).mkdir()
    assert exit_code(["run", "--results", "mine", "--fresh", *options]) == 2
    assert sorted({path.name for path in tmp_path.iterdir()} - {"home"}) == there


def test_looking_ahead_makes_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fewshot_bench.cli.run._dry_run", lambda plan, *_: print(plan.results))
    (tmp_path / "results").mkdir()
    assert exit_code(["run", "--fresh", "--dry-run"]) == 0
    assert capsys.readouterr().out == "results-2\n"
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def take_one(results: Path, barrier, taken) -> None:
    barrier.wait()
    with new_results_folder(results) as folder:
        taken.put(folder.name)
        (folder / "note").touch()


@pytest.mark.slow
def test_twenty_at_once_get_twenty_folders(tmp_path):
    (tmp_path / "mine").mkdir()
    fork = multiprocessing.get_context("fork")
    for _ in range(3):
        barrier, taken = fork.Barrier(20), fork.SimpleQueue()
        workers = [fork.Process(target=take_one, args=(tmp_path / "mine", barrier, taken)) for _ in range(20)]
        for worker in workers:
            worker.start()
        names = {taken.get() for _ in workers}
        for worker in workers:
            worker.join(60)
        assert len(names) == 20
    assert free_folder(tmp_path / "mine").name == "mine-62"


def test_a_folder_that_another_has_made_in_its_place_stays(tmp_path):
    with new_results_folder(tmp_path / "mine") as folder:
        (folder / "note").touch()
        (folder / "note").unlink()
        os.rmdir(folder)
        os.mkdir(folder)
    assert folder.exists()


def test_a_network_that_is_away_in_the_end_hides_no_interruption(monkeypatch):
    def away(place):
        raise LocationError(f"{place} cannot be reached")

    monkeypatch.setattr("fewshot_bench.study.plan.remove", away)
    with pytest.raises(KeyboardInterrupt), new_results_folder(UPath("memory://interrupted/results")):
        raise KeyboardInterrupt
