"""`run --fresh` as a user types it, interrupted before its first episode."""

from __future__ import annotations

import pytest

from fewshot_bench.cli.main import exit_code


@pytest.mark.parametrize("typed", [["--results", "mine"], ["--results=mine"], []])
def test_the_command_that_goes_on_names_the_new_folder_and_begins_no_other(typed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "mine" if typed else "results"
    (tmp_path / name).mkdir()
    (tmp_path / name / "kept").touch()
    folders, told = [], []

    def interrupted(plan, *, run, **_):
        folders.append(str(plan.results))
        told.append(run.keywords["arguments"])
        raise KeyboardInterrupt

    monkeypatch.setattr("fewshot_bench.study.run_plan", interrupted)
    assert exit_code(["run", *typed, "--fresh", "--episodes", "10"]) == 130
    assert folders == [f"{name}-2"]
    goes_on = ["run", "--episodes", "10", "--results", f"{name}-2"]
    assert told == [goes_on], "as it is recorded, and shown by status"
    assert capsys.readouterr().err.strip().endswith(f": fewshot-bench {' '.join(goes_on)}")
    assert [path.name for path in (tmp_path / name).iterdir()] == ["kept"]
