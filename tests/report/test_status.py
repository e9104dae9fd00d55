"""How far studies are: counted, measured and told as somebody who only looks can know it."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from stored_cells import cell, fill
from upath import UPath

from fewshot_bench._io.locks import owner
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.leases import EpisodeRange, Leases
from fewshot_bench.outcomes.study_log import PlannedCell, StudyRecord
from fewshot_bench.report.status import CellState, StudyState, Watch, status_text
from fewshot_bench.units import duration_text

ELSEWHERE = "0123456789ab-17-4711"
CE, SCHANE = "conv/base-ce/centroid", "conv/base-ce+schane/centroid"


def planned(name=CE, *, shot=1, runs=2, episodes=50):
    return PlannedCell("cifar-fs", f"cifar-fs 5-way {shot}-shot", name, runs, episodes)


def stored(results, name=CE, *, runs=2, episodes=30, seconds=0.5, **protocol):
    of = cell(name, **protocol)
    fill(OutcomeStore(results / "outcomes"), of, np.full((runs, episodes), 50), chunk=10, seconds=seconds)
    return of


def written(results, cells, known=(), **fields):
    record = StudyRecord(results, tuple(cells), **fields)
    record.write()
    record.cells_known(known)
    return record


def shown(state, results="results", width=80, height=None):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(status_text(state, results, width=width, height=height))
    return console.export_text()


def test_a_method_that_is_planned_says_that_it_is_transductive_before_anything_is_stored(tmp_path):
    cells = [replace(planned(), is_transductive=True), planned(SCHANE)]
    written(tmp_path, cells)
    state = Watch(tmp_path).look()
    assert [one.is_transductive for one in state.cells] == [True, False]
    text = shown(state)
    assert f"{CE.removeprefix('conv/')} (transductive)" in text
    assert f"{SCHANE} (transductive)" not in text
    assert [one["is_transductive"] for one in state.as_dict()["cells"]] == [True, False]


def test_a_study_without_transductive_methods_is_recorded_as_it_always_was(tmp_path):
    record = StudyRecord(tmp_path, (planned(),))
    assert "is_transductive" not in record.cells[0].as_dict()
    assert StudyRecord(tmp_path, (replace(planned(), is_transductive=True),)).id != record.id


def test_episodes_are_counted_of_those_that_were_planned(tmp_path):
    known = stored(tmp_path, runs=3, episodes=60)
    written(tmp_path, [planned(runs=2, episodes=50), planned(SCHANE)], [known])
    done, waiting = Watch(tmp_path).look().cells
    assert (done.done, done.planned, done.left, done.key) == (100, 100, 0, known.key)
    assert (waiting.done, waiting.planned, waiting.left, waiting.key) == (0, 100, 100, "")
    assert waiting.seconds_left is None


@pytest.mark.parametrize(
    "place", [lambda folder: folder, lambda folder: UPath("memory://looked-at")], ids=["disk", "url"]
)
def test_what_is_stored_between_two_looks_is_seen(tmp_path, place):
    results = place(tmp_path)
    known = stored(results, episodes=20)
    written(results, [planned()], [known])
    watch = Watch(results)
    assert watch.look().cells[0].done == 40
    stored(results, episodes=50)
    state = watch.look()
    assert state.cells[0].done == 100
    assert state.is_complete
    assert state.seconds_left == 0


def test_a_cell_that_several_studies_plan_is_shown_once_with_the_most_episodes(tmp_path):
    known = stored(tmp_path)
    for episodes in (30, 200, 50):
        written(tmp_path, [planned(episodes=episodes)], [known])
    (state,) = Watch(tmp_path).look().cells
    assert (state.done, state.planned) == (60, 400)


def test_failures_leave_less_to_do_and_are_named(tmp_path):
    known = stored(tmp_path)
    store = OutcomeStore(tmp_path / "outcomes")
    store.record_failure(known, 0, np.arange(25, 50), "out of memory")  # the first five are stored all the same
    store.record_failure(known, 1, np.arange(30, 50), "NaN")
    written(tmp_path, [planned()], [known])
    state = Watch(tmp_path).look()
    assert (state.cells[0].done, state.cells[0].failed, state.cells[0].left) == (60, 40, 0)
    assert state.is_complete
    assert "complete, but 40 episodes failed" in shown(state)


def test_who_holds_leases_is_at_work_and_sets_the_rate(tmp_path):
    known = stored(tmp_path, seconds=0.5)
    written(tmp_path, [planned()], [known])
    assert Watch(tmp_path).look().processes == 0
    leases = Leases(tmp_path / "outcomes" / known.key)
    held = [leases.take(EpisodeRange(run, 30, 40)) for run in (0, 1)]
    state = Watch(tmp_path).look()
    assert (state.cells[0].workers, state.processes) == ((owner(),), 1)
    assert state.cells[0].rate == pytest.approx(2.0)
    assert state.cells[0].seconds_left == state.seconds_left == pytest.approx(20.0)
    assert "1 process running" in shown(state)
    for lease in held:
        lease.release()
    assert Watch(tmp_path).look().cells[0].workers == ()


def test_one_that_was_killed_with_its_machine_is_not_at_work_for_ever(tmp_path):
    known = stored(tmp_path)
    record = written(tmp_path, [planned()], [known])
    told = {"began": "2026-01-01T00:00:00+00:00", "heard": "2026-01-01T00:00:00+00:00", "ended": ""}
    process = tmp_path / "studies" / record.id / f"process-{ELSEWHERE}.json"
    process.write_text(json.dumps({**told, "command": "fewshot-bench run --episodes 50"}))
    lease = Leases(tmp_path / "outcomes" / known.key).place(EpisodeRange(0, 30, 40), 0)
    lease.parent.mkdir()
    lease.write_text(json.dumps({"owner": ELSEWHERE, "token": "ab" * 8, "beat": "000000000001"}))
    state = Watch(tmp_path).look()
    assert (state.processes, state.cells[0].workers) == (0, ())
    assert "no process running" in shown(state)
    assert "fewshot-bench run --episodes 50" in shown(state)
    process.write_text(process.read_text().replace("2026-01-01T", "9999-01-01T"))
    state = Watch(tmp_path).look()
    assert (state.processes, state.cells[0].workers) == (1, (ELSEWHERE,))


def test_a_process_that_ended_one_study_long_ago_may_be_at_work_at_the_next(tmp_path):
    known = stored(tmp_path)
    past, present = written(tmp_path, [planned(SCHANE)]), written(tmp_path, [planned()], [known])
    told = {"began": "2026-01-01T00:00:00+00:00", "command": ""}
    for record, heard, ended in ((past, "2026-01-01", "finished"), (present, "9999-01-01", "")):
        process = tmp_path / "studies" / record.id / f"process-{ELSEWHERE}.json"
        process.parent.mkdir(exist_ok=True)
        process.write_text(json.dumps({**told, "heard": f"{heard}T00:00:00+00:00", "ended": ended}))
    lease = Leases(tmp_path / "outcomes" / known.key).place(EpisodeRange(0, 30, 40), 0)
    lease.parent.mkdir()
    lease.write_text(json.dumps({"owner": ELSEWHERE, "token": "ab" * 8, "beat": "000000000001"}))
    state = Watch(tmp_path).look()
    assert state.processes == 1
    assert [one.workers for one in state.cells if one.key == known.key] == [(ELSEWHERE,)]


def test_a_rate_is_measured_between_looks_once_there_are_two(tmp_path):
    now = [0.0]
    known = stored(tmp_path, episodes=10, seconds=0.5)
    written(tmp_path, [planned(episodes=1000)], [known])
    watch = Watch(tmp_path, now=lambda: now[0])
    assert watch.look().cells[0].rate == pytest.approx(2.0)
    now[0] = 5.0
    stored(tmp_path, episodes=60)
    assert watch.look().cells[0].rate == pytest.approx(100 / 5)
    now[0] = 100.0
    assert watch.look().cells[0].rate is not None


def test_time_left_takes_what_is_unknown_to_be_as_fast_as_the_rest_and_divides_by_processes():
    cells = (
        CellState("toy", "toy", "a", "1", 50, 100, workers=("x", "y"), rate=10.0),
        CellState("toy", "toy", "b", "", 0, 100),
    )
    state = StudyState(cells, processes=2)
    assert cells[0].seconds_left == 5
    assert state.seconds_left == pytest.approx((5 * 2 / 50) * 150 / 2)
    assert StudyState((cells[1],)).seconds_left is None


def test_a_study_that_stops_early_is_complete_when_it_says_so(tmp_path):
    known = stored(tmp_path)
    record = written(tmp_path, [planned(episodes=30_000), planned(SCHANE)], [known], stops_early=True)
    state = Watch(tmp_path).look()
    assert not state.is_complete
    assert "60/<=60,000" in shown(state)
    with record.at_work():
        assert not Watch(tmp_path).look().is_complete
    state = Watch(tmp_path).look()
    assert state.is_complete
    assert state.cells[1].failed == 100  # its base stage came to nothing


def test_how_to_go_on_is_the_command_of_the_process_that_was_there_last(tmp_path):
    known = stored(tmp_path)
    record = written(tmp_path, [planned()], [known])
    with pytest.raises(KeyboardInterrupt), record.at_work("fewshot-bench run --episodes 50"):
        raise KeyboardInterrupt
    text = shown(Watch(tmp_path).look())
    assert "no process running; the last one: interrupted" in text
    assert "next         fewshot-bench run --episodes 50 --results" in text


def test_a_machine_that_went_down_is_at_work_no_more_once_another_has_finished_the_study(tmp_path):
    known = stored(tmp_path, episodes=50)
    record = written(tmp_path, [planned()], [known])
    silent = tmp_path / "studies" / record.id / "process-0123456789ab-17-4711.json"
    silent.parent.mkdir(exist_ok=True)
    silent.write_text('{"began": "2026-01-01T00:00:00+00:00", "command": "fewshot-bench run", "ended": ""}')
    assert Watch(tmp_path).look().processes == 1, "it may be training, for all that is known"
    with record.at_work("fewshot-bench run"):
        assert Watch(tmp_path).look().processes == 2
    assert Watch(tmp_path).look().processes == 0


@pytest.mark.parametrize("typed", ["run --results study --shots 1", "run --results=study --shots 1 --fresh"])
def test_how_to_go_on_names_the_folder_that_is_looked_at(tmp_path, typed):
    """A record has only the last part of a path, and --fresh would begin another folder."""
    known = stored(tmp_path / "study")
    record = written(tmp_path / "study", [planned()], [known])
    with pytest.raises(KeyboardInterrupt), record.at_work(f"fewshot-bench {typed}"):
        raise KeyboardInterrupt
    command = Watch(tmp_path / "study").look().command
    assert command == f"fewshot-bench run --shots 1 --results {tmp_path / 'study'}"


@pytest.mark.parametrize("shard", ["--shard 1/2", "--shard=1/2"])
def test_after_a_shard_what_goes_on_is_the_command_for_all_of_them(tmp_path, shard):
    known = stored(tmp_path)
    with written(tmp_path, [planned()], [known]).at_work(f"fewshot-bench run {shard} --shots 1", is_all=False):
        assert shard in Watch(tmp_path).look().command
    assert Watch(tmp_path).look().command == f"fewshot-bench run --shots 1 --results {tmp_path}"


def test_a_recorded_command_that_no_shell_takes_is_shown_as_it_is(tmp_path):
    record = written(tmp_path, [planned()])
    with pytest.raises(KeyboardInterrupt), record.at_work("fewshot-bench run '"):
        raise KeyboardInterrupt
    assert Watch(tmp_path).look().command == "fewshot-bench run '"


def test_a_folder_without_records_shows_what_is_stored(tmp_path):
    stored(tmp_path, SCHANE)
    stored(tmp_path, CE, shot=5)
    state = Watch(tmp_path).look()
    assert [(one.method, one.done, one.planned) for one in state.cells] == [(SCHANE, 60, None), (CE, 60, None)]
    text = shown(state, "some where")
    assert "no study is recorded" in text
    assert "next         fewshot-bench leaderboard --results 'some where'" in text


def test_stored_cells_of_no_study_are_counted(tmp_path):
    written(tmp_path, [planned()], [stored(tmp_path)])
    stored(tmp_path, SCHANE)
    state = Watch(tmp_path).look()
    assert (len(state.cells), state.others) == (1, 1)
    assert "1 more stored cells belong to no recorded study" in shown(state)


def test_damage_is_told_and_the_rest_is_shown(tmp_path):
    broken, whole = stored(tmp_path), stored(tmp_path, SCHANE)
    part = next((tmp_path / "outcomes" / broken.key).rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-8])
    written(tmp_path, [planned(), planned(SCHANE)], [broken, whole])
    (tmp_path / "studies" / f"{'ab' * 8}.json").write_text("[]")
    state = Watch(tmp_path).look()
    assert "damaged" in state.cells[0].problem
    assert state.cells[1].done == 60
    assert not state.is_complete
    text = shown(state).replace("\n", "")
    assert f"{'ab' * 8}.json is damaged" in text
    assert broken.key in text


def test_nothing_to_look_at_is_said(tmp_path):
    with pytest.raises(OutcomeError, match="has neither outcomes nor studies"):
        Watch(tmp_path / "nothing").look()


def many(count=40):
    return StudyState(
        tuple(
            CellState("toy", f"toy 5-way {shot}-shot", f"method {number} [red]\x1b[2J" + "x" * 100, f"{number}", 10, 20)
            for number in range(count)
            for shot in (1, 5)
        )
    )


def test_the_table_fits_80_columns_and_a_strangers_text_stays_text():
    state = many(2)
    big = replace(state.cells[0], done=123_456, planned=9_000_000, failed=99_999, rate=123.4, workers=("a", "b"))
    text = shown(replace(state, cells=(big, *state.cells[1:])))
    assert max(map(len, text.splitlines())) <= 80
    assert "123,456/9,000,000" in text
    assert "[red]" in text
    assert "\x1b" not in text


def test_a_low_terminal_shows_where_something_happens():
    state = many()
    at_work = replace(state.cells[61], workers=("a",), done=7)
    state = replace(state, cells=(*state.cells[:61], at_work, *state.cells[62:]))
    text = shown(state, height=24)
    assert len(text.splitlines()) <= 24
    assert " 7/20" in text
    assert "72 idle cells not shown" in text
    assert "not shown" not in shown(state)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5_900, "98 min"), (6_300, "1 h 45"), (200_000, "2 d 7 h")],
)
def test_times_are_told_in_two_units(seconds, text):
    assert duration_text(seconds) == text
