"""`fewshot-bench store` as a user types it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewshot_bench.cli.main import exit_code
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard

CELL = Cell(
    MethodCard("conv/centroid", "conv4", "00ff", "centroid"), ProtocolCard("toy", "ab" * 32, "novel", 3, 1, 2, 0, 1)
)
OTHER = replace(CELL, protocol=replace(CELL.protocol, shot=5))


def stored(results: Path, *, runs: int = 1) -> OutcomeStore:
    store = OutcomeStore(results / "outcomes")
    for cell in (CELL, OTHER):
        for run in range(runs):
            for start in range(0, 6, 2):
                store.append(cell, run, np.arange(start, start + 2), np.full((2, 6), run, np.uint8), 0.1)
    return store


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "results")
    return tmp_path / "results"


def parts(results: Path) -> list[Path]:
    return sorted(results.rglob("*.parquet"))


def test_compact_says_what_it_did_and_then_has_nothing_to_do(results, capsys):
    assert exit_code(["store", "compact"]) == 0
    assert capsys.readouterr().out.count("    3 -> 1 parts") == 2
    assert len(parts(results)) == 2
    assert exit_code(["store", "compact", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["parts"], one["bytes_before"] - one["bytes_after"]) for one in told] == [(1, 0)] * 2


def damaged_part(results: Path) -> str:
    part = parts(results)[0]
    part.write_bytes(part.read_bytes()[:-1])
    return part.name


def damaged_manifest(results: Path) -> str:
    (results / "outcomes" / CELL.key / "cell.json").write_text("{")
    return "cell.json is damaged"


def no_manifest(results: Path) -> str:
    (results / "outcomes" / CELL.key / "cell.json").unlink()
    return "cell.json is missing"


@pytest.mark.parametrize("damage", [damaged_part, damaged_manifest, no_manifest])
def test_compact_goes_on_after_a_damaged_cell_and_ends_with_1(results, capsys, damage):
    told = damage(results)
    key = parts(results)[0].relative_to(results / "outcomes").parts[0] if damage is damaged_part else CELL.key
    (other,) = {CELL.key, OTHER.key} - {key}
    assert exit_code(["store", "compact"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(told in line and line.startswith(f"{key}  damaged: ") for line in lines) == 1
    assert sum("3 -> 1 parts" in line and line.startswith(other) for line in lines) == 1
    assert lines[-1] == "2 cells, 1 of them damaged; nothing else was changed"
    assert len(parts(results / "outcomes" / other)) == 1
    assert len(parts(results / "outcomes" / key)) == 3
    assert exit_code(["store", "compact", "--json"]) == 1
    found = {one["cell"]: one for one in json.loads(capsys.readouterr().out)}
    assert found[key].keys() == found[other].keys()
    assert told in found[key]["damage"][0]
    assert (found[key]["parts"], found[other]["parts"], found[other]["damage"]) == (None, 1, [])


def test_folders_without_parts_are_none_of_compactions_business(results, capsys):
    (results / "outcomes" / "of mine").mkdir()
    OutcomeStore(results / "outcomes").open_cell(replace(CELL, protocol=replace(CELL.protocol, seed=3)))
    assert exit_code(["store", "compact"]) == 0
    assert "2 cells; nothing else" in capsys.readouterr().out


def test_check_ends_with_1_where_a_part_is_damaged_and_names_it(results, capsys):
    assert exit_code(["store", "check"]) == 0
    assert "2 cells, all whole" in capsys.readouterr().out
    part = parts(results)[0]
    part.write_bytes(part.read_bytes()[:-1])
    assert exit_code(["store", "check"]) == 1
    out = capsys.readouterr().out
    assert part.name in out
    assert "2 cells, 1 of them damaged" in out
    assert exit_code(["store", "check", "--json"]) == 1
    assert [len(one["damage"]) for one in json.loads(capsys.readouterr().out)] == [1, 0]


def test_merge_takes_folders_of_other_machines(results, capsys, tmp_path):
    stored(tmp_path / "elsewhere", runs=2)
    assert exit_code(["store", "merge", "elsewhere"]) == 0
    assert capsys.readouterr().out.count("3 parts copied, 3 there already") == 2
    assert len(OutcomeStore(results / "outcomes").read(CELL)) == 12


def test_prune_asks_first_and_refuses_what_means_several(results, capsys, monkeypatch):
    assert exit_code(["store", "prune", "conv/centroid"]) == 2
    assert "means 2 cells" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert exit_code(["store", "prune", CELL.key]) == 1
    assert "Nothing was removed" in capsys.readouterr().err
    assert exit_code(["store", "prune", CELL.key[:6], "--yes"]) == 0
    assert "removed" in capsys.readouterr().out
    assert OutcomeStore(results / "outcomes").cells() == [OTHER]


def test_prune_where_nobody_can_answer_says_so(results, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    before = parts(results)
    assert exit_code(["store", "prune", CELL.key]) == 2
    err = capsys.readouterr().err
    assert "--yes" in err
    assert "stopped" not in err
    assert parts(results) == before


def test_prune_of_an_empty_folder_lists_nothing_as_known(results, capsys):
    assert exit_code(["store", "prune", "x", "--results", "nowhere"]) == 2
    assert "there is no cell called 'x'. There is none. Give" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["check", "--results", "nowhere"], "there are no outcomes in nowhere"),
        (["compact", "--results", "nowhere"], "there are no outcomes in nowhere"),
        (["merge", "nowhere"], "there are no outcomes in nowhere"),
        (["merge", "results"], "cannot be merged into itself"),
        (["prune", "conv/centroids"], "Did you mean conv/centroid"),
        (["check", "--results", "nope://x"], "nope://x cannot be opened"),
    ],
    ids=str,
)
def test_what_a_user_gets_wrong_is_one_line(results, capsys, arguments, told):
    before = parts(results)
    assert exit_code(["store", *arguments]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert parts(results) == before
