"""What a study writes down: shared by its processes, honest about how each ended, and read as a stranger's data."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from upath import UPath

from fewshot_bench._io.locks import owner
from fewshot_bench._io.storage import temporary_name
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard, episode_frame
from fewshot_bench.outcomes.study_log import FINISHED, PlannedCell, StudyRecord, recorded_studies

PROTOCOL = ProtocolCard("toy", "ab" * 32, "novel", 3, 1, 2, 0, 1)
ELSEWHERE = "0123456789ab-17-4711"
METHODS = ("conv/centroid", "conv/logistic")
PLANNED = tuple(PlannedCell("toy", PROTOCOL.task, name, 2, 10) for name in METHODS)


def cell(name, weights="00"):
    return Cell(MethodCard(name, "conv", weights, name), PROTOCOL)


def record(results, **fields):
    return StudyRecord(results, PLANNED, **fields)


def found(results):
    ((study,), problems) = recorded_studies(results)
    assert problems == []
    return study


def memory(name):
    return UPath(f"memory://{name}")


@pytest.mark.parametrize("place", [None, memory], ids=["disk", "url"])
def test_what_is_written_down_comes_back(tmp_path, place):
    results = tmp_path if place is None else place("written-down")
    with record(results).at_work("fewshot-bench run"):
        record(results).cells_known([cell(METHODS[1]), cell("not planned")])
        study = found(results)
        assert study.cells == PLANNED
        assert study.keys == {1: (cell(METHODS[1]).key,)}
        (process,) = study.processes
        assert (process.owner, process.command, process.is_there) == (owner(), "fewshot-bench run", True)
        assert not study.is_finished
    assert found(results).is_finished


def test_a_record_never_changes_its_name_or_its_bytes(tmp_path):
    study = replace(record(tmp_path), cells=(*PLANNED, replace(PLANNED[0], is_transductive=True)), settings={"seed": 1})
    study.write()
    content = (tmp_path / "studies" / "4550513543832a6c.json").read_bytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "e1a1334bb1a10a3e"


def test_processes_of_one_study_share_its_record_and_lose_nothing(tmp_path):
    one, other = record(tmp_path), record(tmp_path)
    with one.at_work(), other.at_work():
        one.cells_known([cell(METHODS[0])])
        other.cells_known([cell(METHODS[1])])
        one.cells_known([cell(METHODS[0], weights="11")])
    study = found(tmp_path)
    assert {number: len(keys) for number, keys in study.keys.items()} == {0: 2, 1: 1}


@pytest.mark.parametrize("dies", ["before", "meanwhile"])
def test_what_a_process_left_half_written_when_it_was_killed_is_removed(tmp_path, dies):
    folder = tmp_path / "studies" / record(tmp_path).id
    folder.mkdir(parents=True)
    code = "from fewshot_bench._io.storage import temporary_name; print(temporary_name('process-x.json'))"
    of_another = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    mine = temporary_name("process-x.json")
    (folder / mine).write_bytes(b"{")
    if dies == "before":
        (folder / of_another).write_bytes(b"{")
    with record(tmp_path).at_work():
        assert not (folder / of_another).exists()
        (folder / of_another).write_bytes(b"{")
    assert not (folder / of_another).exists()
    assert (folder / mine).exists()


@pytest.mark.parametrize(
    "other",
    [
        {"cells": PLANNED[:1]},
        {"settings": {"seed": 1}},
        {"stops_early": True},
        {"cells": (replace(PLANNED[0], episodes=11),)},
    ],
    ids=str,
)
def test_another_study_has_another_record(tmp_path, other):
    record(tmp_path).write()
    replace(record(tmp_path), **other).write()
    assert len(recorded_studies(tmp_path)[0]) == 2


@pytest.mark.parametrize(
    ("error", "told"), [(KeyboardInterrupt, "interrupted"), (RuntimeError, "failed"), (None, "did its part")], ids=str
)
def test_how_a_process_ended_is_told(tmp_path, error, told):
    def work():
        with record(tmp_path).at_work(is_all=False):
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()
    (process,) = found(tmp_path).processes
    assert (process.ended, process.is_there) == (told, False)
    assert not found(tmp_path).is_finished


def test_a_process_that_was_killed_is_not_there_and_is_forgotten_by_the_next(tmp_path):
    program = "from fewshot_bench._io.locks import owner; print(owner())"
    dead = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    record(tmp_path).write()
    place = tmp_path / "studies" / record(tmp_path).id / f"process-{dead}.json"
    place.parent.mkdir()
    place.write_text(json.dumps({"began": "2026", "command": "fewshot-bench run", "ended": ""}))
    (process,) = found(tmp_path).processes
    assert not process.is_there
    with record(tmp_path).at_work():
        assert [process.owner for process in found(tmp_path).processes] == [owner()]


def said(results, owner, **told):
    """What a process has left of itself."""
    place = results / "studies" / record(results).id / f"process-{owner}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"began": "2026", "command": "", "ended": "", **told}))


@pytest.mark.parametrize(
    ("heard", "is_there"),
    [
        (timedelta(minutes=8), True),
        (timedelta(minutes=12), False),
        (timedelta(days=400), False),
        (timedelta(hours=-5), True),
        ("", True),
        ("yesterday", True),
        ("2020-01-01T00:00:00", True),
        ("2020-01-01T00:00:00+00:00", False),
    ],
)
def test_one_of_another_machine_is_there_until_it_was_silent_for_long(tmp_path, heard, is_there):
    if isinstance(heard, timedelta):
        heard = (datetime.now(timezone.utc) - heard).isoformat(timespec="seconds")
    record(tmp_path).write()
    said(tmp_path, ELSEWHERE, heard=heard)
    (process,) = found(tmp_path).processes
    assert process.is_there == is_there


def test_one_of_an_earlier_release_that_gave_no_signs_is_there(tmp_path):
    record(tmp_path).write()
    said(tmp_path, ELSEWHERE)
    assert [process.is_there for process in found(tmp_path).processes] == [True]


@pytest.mark.slow
@pytest.mark.parametrize("place", [None, memory], ids=["disk", "url"])
def test_a_process_gives_signs_of_life_until_it_ends_and_none_where_its_file_was_removed(tmp_path, place, monkeypatch):
    results = tmp_path if place is None else place("signs")
    monkeypatch.setattr("fewshot_bench.outcomes.study_log.SIGN", 0.01)
    times = iter(range(10, 60))
    monkeypatch.setattr("fewshot_bench.outcomes.study_log._now", lambda: f"2026-01-01T00:00:{next(times, 59)}+00:00")
    with record(results).at_work("fewshot-bench run"):
        deadline = time.monotonic() + 60
        while not found(results).processes[0].heard.endswith(":59+00:00") and time.monotonic() < deadline:
            time.sleep(0.01)
        (process,) = found(results).processes
        assert (process.command, process.ended) == ("fewshot-bench run", "")
        assert process.heard == "2026-01-01T00:00:59+00:00"
        (results / "studies" / record(results).id / f"process-{owner()}.json").unlink()
        time.sleep(0.05)
        assert found(results).processes == ()


def stopped(results, work):
    """A study that ends in an error after some work."""
    with record(results).at_work():
        work()
        raise StudyError("no more.")


def test_a_study_that_could_not_begin_leaves_nothing(tmp_path):
    results = tmp_path / "results"
    with pytest.raises(StudyError):
        stopped(results, lambda: record(results).cells_known([cell(METHODS[0])]))
    assert not results.exists()


def test_one_that_has_outcomes_stays(tmp_path):
    def work():
        record(tmp_path).cells_known([cell(METHODS[0])])
        frame = episode_frame(0, np.arange(1), np.zeros((1, 6), dtype=np.uint8), 3)
        OutcomeStore(tmp_path / "outcomes").append_frame(cell(METHODS[0]), frame)

    with pytest.raises(StudyError):
        stopped(tmp_path, work)
    (process,) = found(tmp_path).processes
    assert process.ended == "failed"


def test_one_that_another_process_is_at_stays(tmp_path):
    other = tmp_path / "studies" / record(tmp_path).id / "process-0123456789ab-1-2.json"
    with pytest.raises(StudyError):
        stopped(tmp_path, lambda: other.write_text('{"began": "", "command": "", "ended": ""}'))
    assert len(found(tmp_path).processes) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda told: told.update(version=2), "version should be 1, not 2"),
        (lambda told: told.update(cells="all"), "cells should be a list"),
        (lambda told: told["cells"].append(3), "cells.2 should be a mapping"),
        (lambda told: told["cells"][0].update(episodes=True), "cells.0.episodes should be a whole number"),
        (lambda told: told["cells"][0].update(runs=10**12), "cells.0.runs should be less"),
        (lambda told: told["cells"][0].update(method="\ud800"), "cells.0.method should be text"),
        (lambda told: told["cells"][0].pop("task"), "cells.0 lacks task"),
        (lambda told: told.pop("stops_early"), "stops_early is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_record_of_another_kind_is_a_problem_with_its_place(tmp_path, change, told):
    record(tmp_path).write()
    place = tmp_path / "studies" / f"{record(tmp_path).id}.json"
    content = json.loads(place.read_text())
    change(content)
    place.write_text(json.dumps(content))
    studies, (problem,) = recorded_studies(tmp_path)
    assert studies == []
    assert problem.startswith(f"{place} is damaged ({told}")


@pytest.mark.parametrize("text", [b"", b"[]", b"3", b"[" * 100_000, b"\xff", b"null"], ids=repr)
def test_no_record_at_all_is_no_crash(tmp_path, text):
    record(tmp_path).write()
    (tmp_path / "studies" / f"{record(tmp_path).id}.json").write_bytes(text)
    folder = tmp_path / "studies" / record(tmp_path).id
    folder.mkdir()
    (folder / "process-0123456789ab-1-2.json").write_bytes(text)
    (folder / "cell-00000-nothing").write_bytes(text)
    (tmp_path / "studies" / "notes.txt").write_bytes(text)
    assert len(recorded_studies(tmp_path)[1]) == 1


def test_a_process_that_says_nothing_readable_is_passed_over(tmp_path):
    with record(tmp_path).at_work():
        folder = tmp_path / "studies" / record(tmp_path).id
        (folder / "process-0123456789ab-1-2.json").write_text('{"began": 3}')
        assert [process.owner for process in found(tmp_path).processes] == [owner()]


def test_a_finished_study_is_finished_by_the_word_that_says_so(tmp_path):
    with record(tmp_path).at_work():
        pass
    assert [process.ended for process in found(tmp_path).processes] == [FINISHED]
    with pytest.raises(StudyError):
        stopped(tmp_path, lambda: None)
    assert recorded_studies(tmp_path) == ([], [])
