from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from toy_cells import CELL, EPISODES, PREDICTIONS, everything, filled, parts

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.maintenance import compact

FOLDER = Path(CELL.key)
WRITER = pq.ParquetWriter


def test_one_part_is_left_and_the_outcomes_are_the_same(tmp_path):
    store = filled(OutcomeStore(tmp_path), chunk=5)
    before = store.read(CELL)
    done = compact(tmp_path / FOLDER)
    assert (done.parts, len(parts(store))) == (6, 1)
    assert done.bytes_after == parts(store)[0].stat().st_size < done.bytes_before
    pd.testing.assert_frame_equal(store.read(CELL), before)
    pd.testing.assert_frame_equal(store.read(CELL, with_predictions=False), before.drop(columns="predictions"))
    for again in (store, OutcomeStore(tmp_path)):
        assert {run: numbers.tolist() for run, numbers in again.done(CELL).items()} == {
            run: [*range(EPISODES)] for run in (0, 1)
        }


def test_a_compact_cell_stays_as_it_is(tmp_path):
    filled(OutcomeStore(tmp_path), chunk=5)
    compact(tmp_path / FOLDER)
    before = everything(tmp_path)
    compact(tmp_path / FOLDER)
    assert everything(tmp_path) == before


def test_gaps_and_what_is_added_later_are_kept(tmp_path):
    store = OutcomeStore(tmp_path)
    store.append(CELL, 3, np.array([1, 7, 8]), PREDICTIONS[0][[1, 7, 8]], 0.5)
    store.append(CELL, 0, np.array([4]), PREDICTIONS[0][[4]], 0.5)
    compact(tmp_path / FOLDER)
    store.append(CELL, 3, np.array([2]), PREDICTIONS[0][[2]], 0.5)
    compact(tmp_path / FOLDER)
    assert store.read(CELL)[["run", "episode"]].to_numpy().tolist() == [[0, 4], [3, 1], [3, 2], [3, 7], [3, 8]]
    assert len(parts(store)) == 1


@pytest.mark.parametrize("damage", ["a flipped byte", "copies that disagree"])
def test_damage_stops_it_and_nothing_is_removed(tmp_path, damage):
    store = filled(OutcomeStore(tmp_path), chunk=5)
    if damage == "a flipped byte":
        content = bytearray(parts(store)[1].read_bytes())
        content[100] ^= 1
        parts(store)[1].write_bytes(content)
    else:
        store.append(CELL, 0, np.arange(2), (PREDICTIONS[0][:2] + 1) % 3, 0.1)
    before = everything(tmp_path)
    with pytest.raises(OutcomeError, match=r"damaged|twice and differently"):
        compact(tmp_path / FOLDER)
    assert everything(tmp_path) == before


def test_a_part_that_is_not_read_back_as_written_costs_no_other(tmp_path, monkeypatch):
    store = filled(OutcomeStore(tmp_path), chunk=5)
    before = everything(tmp_path)

    def other_bytes(place: Path, content: bytes) -> None:
        place.write_bytes(content[:-1])

    monkeypatch.setattr("fewshot_bench.outcomes.maintenance.write_once", other_bytes)
    with pytest.raises(OutcomeError, match=r"together-.* are damaged"):
        compact(tmp_path / FOLDER)
    assert before.items() <= everything(tmp_path).items()
    assert len(parts(store)) == 7


DIES = """
import os, shutil, sys
from pathlib import Path
from fewshot_bench.outcomes.maintenance import compact

def dies_at(moment):
    def hook(event, arguments):
        nonlocal moment
        if event in ("os.rename", "os.remove") or (event == "open" and str(arguments[0]).endswith(".tmp")):
            moment -= 1
            if moment < 0:
                os._exit(9)
    sys.addaudithook(hook)

for moment in range(20):
    copy = Path(sys.argv[2]) / str(moment)
    shutil.copytree(sys.argv[1], copy)
    child = os.fork()
    if child == 0:
        dies_at(moment)
        compact(next(copy.iterdir()))
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing_and_the_next_one_ends_it(tmp_path):
    """Just before each opening, renaming and removing of a file, each on a copy of its own."""
    whole = filled(OutcomeStore(tmp_path / "whole"), chunk=6).read(CELL)
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path / "whole"), str(tmp_path / "killed")], check=True)
    copies = [OutcomeStore(folder) for folder in (tmp_path / "killed").iterdir()]
    assert len(copies) == 8, "open, rename, four parts, the temporary file, and the one that was not killed"
    for store in copies:
        pd.testing.assert_frame_equal(store.read(CELL), whole)
        compact(store.folder / FOLDER)
        assert len(parts(store)) == 1
        pd.testing.assert_frame_equal(store.read(CELL), whole)
    assert not list((tmp_path / "killed").rglob("*.tmp"))


@pytest.mark.slow
def test_who_appends_and_who_reads_meanwhile_loses_nothing(tmp_path):
    store, problems, stop = OutcomeStore(tmp_path), [], threading.Event()
    store.append(CELL, 0, np.arange(1), PREDICTIONS[0][:1], 0.1)

    def repeat(use):
        try:
            seen = 0
            while not stop.is_set():
                count = use()
                assert count >= seen, "an episode was gone for a moment"
                seen = count
        except BaseException as error:
            problems.append(error)

    def compacted():
        compact(tmp_path / FOLDER)
        return 0

    readers = [
        lambda: len(OutcomeStore(tmp_path).read(CELL)),
        lambda: sum(map(len, OutcomeStore(tmp_path).done(CELL).values())),
        compacted,
        compacted,
    ]
    threads = [threading.Thread(target=repeat, args=(use,)) for use in readers]
    for thread in threads:
        thread.start()
    for number in range(1, 60):
        store.append(CELL, number % 3, np.array([number]), PREDICTIONS[0][[number % EPISODES]], 0.1)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(store.read(CELL)) == 60


@pytest.mark.slow
@pytest.mark.parametrize("seconds", np.arange(1, 13) / 100)
def test_two_at_once_over_copies_of_other_seconds_lose_nothing(tmp_path, monkeypatch, seconds):
    """The second begins when the first has one file left to remove: what each keeps, the other has seen."""
    store = OutcomeStore(tmp_path)
    for start in (0, 4):
        store.append(CELL, 0, np.arange(start, start + 4), PREDICTIONS[0][start : start + 4], 0.06)
    compact(tmp_path / FOLDER)
    store.append(CELL, 0, np.arange(4), PREDICTIONS[0][:4], seconds)
    pending = [True]

    def remove(place: Path) -> None:
        if pending and place.name.startswith("together"):
            pending.clear()
            compact(tmp_path / FOLDER)
        place.unlink(missing_ok=True)

    monkeypatch.setattr("fewshot_bench.outcomes.maintenance.remove", remove)
    compact(tmp_path / FOLDER)
    assert store.read(CELL)["episode"].tolist() == [*range(8)]
    assert len(parts(store)) == 1


def test_of_two_parts_that_hold_the_same_the_same_one_is_kept_whatever_writes_here(tmp_path, monkeypatch):
    """Another release of the file format's library writes other bytes of the same outcomes."""
    store = filled(OutcomeStore(tmp_path), chunk=5)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for copy, compression in ((ours, "zstd"), (theirs, "gzip")):
        with monkeypatch.context() as patch:
            patch.setattr("fewshot_bench.outcomes.part.pq.ParquetWriter", _writer_with(compression))
            shutil.copytree(tmp_path / FOLDER, copy / FOLDER)
            compact(copy / FOLDER)
    left = [parts(OutcomeStore(copy))[0] for copy in (ours, theirs)]
    assert left[0].name != left[1].name
    for copy, (one, other) in ((ours, left), (theirs, left[::-1])):
        shutil.copy(other, one.with_name(other.name))
        compact(copy / FOLDER)
    assert [one.name for copy in (ours, theirs) for one in parts(OutcomeStore(copy))] == [min(p.name for p in left)] * 2
    pd.testing.assert_frame_equal(OutcomeStore(theirs).read(CELL), store.read(CELL))


def _writer_with(compression: str) -> Callable[..., pq.ParquetWriter]:
    return lambda *arguments, **options: WRITER(*arguments, **{**options, "compression": compression})


def test_failures_of_a_cell_without_outcomes_are_left(tmp_path):
    store = OutcomeStore(tmp_path)
    store.record_failure(CELL, 0, np.arange(3), "no memory")
    assert compact(tmp_path / FOLDER).void == 0
    assert len(store.failures(CELL)) == 1
