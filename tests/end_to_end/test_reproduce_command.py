"""`reproduce` as a user types it: its lines, its exit codes, its JSON."""

from __future__ import annotations

import json
import re

import pytest
from audited_results import another_prediction, rewritten, small_result, with_part

from fewshot_bench.cli.main import exit_code
from fewshot_bench.study.workers import MethodWorker

pytestmark = pytest.mark.slow


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """The folders of two cells in ./results, by the name of the adaptation."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return {
        name: small_result(tmp_path / "results", adaptations=(name,), episodes=6) for name in ("centroid", "logistic")
    }


def typed(capsys, *arguments):
    capsys.readouterr()
    code = exit_code(["reproduce", *arguments, "--device", "cpu"])
    return code, *capsys.readouterr()


def test_equal_outcomes_end_with_code_0_in_80_columns(cells, capsys):
    code, out, _ = typed(capsys, "results")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("all 900 are the same") == 2
    assert out.rstrip().endswith("2 cells: every outcome is the one stored")


def test_other_outcomes_end_with_code_1_and_a_table_of_the_first(cells, capsys):
    def all_of_it(frame):
        frame["predictions"] = [bytes([(said[0] + 1) % 5]) + said[1:] for said in frame["predictions"]]

    for part in (0, 2):
        with_part(cells["centroid"], part, all_of_it)
    code, out, _ = typed(capsys, "results")
    assert code == 1
    assert "10 of 900 differ: by the same versions" in out
    assert ["run", "episode", "stored", "correct", "new", "correct", "other", "predictions"] in map(
        str.split, out.splitlines()
    )
    assert "and 2 more; --json has all of them" in out
    assert out.rstrip().endswith(f"1 of 2 cells: outcomes differ ({cells['centroid'].name})")
    assert typed(capsys, "logistic")[0] == 0


def test_json_has_every_other_outcome_and_its_exit_code_is_the_same(cells, capsys):
    with_part(cells["logistic"], 0, another_prediction)
    code, out, _ = typed(capsys, "results", "--json", "--shots", "1")
    records = {record["key"]: record for record in json.loads(out)}
    assert code == 1
    assert [other["episode"] for other in records[cells["logistic"].name]["others"]] == [0]
    assert records[cells["centroid"].name]["is_equal"] is True


def test_a_cell_that_cannot_be_run_again_ends_with_one_line_and_code_2(cells, capsys):
    bare = rewritten(cells["centroid"], lambda told: told.pop("provenance"))
    code, out, err = typed(capsys, bare.name)
    assert (code, out) == (2, "")
    assert err.count("error: ") == 1
    assert "the outcomes do not record the study that made them" in err
    code, out, err = typed(capsys, "results")
    assert code == 2
    assert f"error: 1 of 2 cells were not run again; {bare.name}: " in err
    assert "all 900 are the same" in out
    with_part(cells["logistic"], 0, another_prediction)
    code, _, err = typed(capsys, "results")
    assert code == 1
    assert f"not run again: {bare.name}: " in err


def test_what_a_stranger_wrote_stays_text(cells, capsys):
    def named(told):
        told["method"]["name"] = "[red]mine\x1b[31m"
        told["versions"]["torch"] = "[b]\x1b[2J" + 50 * "9"

    code, out, _ = typed(capsys, rewritten(cells["centroid"], named).name)
    assert code == 0
    assert "\x1b" not in out
    assert "[red]mine" in out
    assert "torch        [b]" in out


@pytest.mark.parametrize("into", [(), ("--into", "again")], ids=str)
def test_an_interruption_says_whether_anything_was_kept(cells, capsys, monkeypatch, into):
    def stop(worker, chunk):
        raise KeyboardInterrupt

    monkeypatch.setattr(MethodWorker, "__call__", stop)
    code, _, err = typed(capsys, "centroid", *into)
    assert code == 130
    assert ("nothing was kept. With --into DIR" in err) == (not into)
    assert ("before anything new was saved. To start again: fewshot-bench reproduce centroid" in err) == bool(into)


def test_a_sample_is_told_and_the_command_that_goes_on_draws_it_again(cells, capsys, monkeypatch):
    code, out, _ = typed(capsys, "centroid", "--episodes", "4")
    seed = re.search(r"4 of the 12 stored, run again, drawn by --seed (\d+)", out)[1]
    assert code == 0
    assert out.rstrip().endswith("1 cell: every outcome that was run again is the one stored")
    (record,) = json.loads(typed(capsys, "centroid", "--episodes", "4", "--seed", seed, "--json")[1])
    assert record["seed"] == int(seed)
    assert json.loads(typed(capsys, "centroid", "--json")[1])[0]["seed"] is None

    def stop(worker, chunk):
        raise KeyboardInterrupt

    monkeypatch.setattr(MethodWorker, "__call__", stop)
    _, _, err = typed(capsys, "centroid", "--episodes", "4", "--into", "again")
    assert re.search(
        r"fewshot-bench reproduce centroid --episodes 4 --into again --device cpu --seed \d+$", err.strip()
    )
