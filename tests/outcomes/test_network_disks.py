"""What a disk of the network does that a local one does not, as it was seen on NFS, and what other machines leave."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from toy_cells import CELL, EPISODES, filled

from fewshot_bench._io import storage
from fewshot_bench._io.storage import TEMPORARY_SUFFIX, is_unchanged_for, read_bytes
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.checking import check_cell
from fewshot_bench.outcomes.leases import EpisodeRange, Leases

ELSEWHERE = "0123456789ab-17-4711"
RANGE = EpisodeRange(0, 0, 512)
DAY = 86_400


def stale(patch: pytest.MonkeyPatch, times: int, then: type[OSError] | None = None) -> list[Path]:
    """Let reading fail as it does where another machine removes a file between opening and reading; what was read."""
    read, asked = storage._read_once, []

    def fails(path: Path, largest: int | None) -> bytes:
        asked.append(path)
        if len(asked) <= times:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        if then is not None:
            raise then(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return read(path, largest)

    patch.setattr(storage, "_read_once", fails)
    return asked


def left_by_another_machine(path: Path, age: float) -> Path:
    """A file that did not change for some seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"owner": "{ELSEWHERE}"}}')
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


def test_a_file_that_is_replaced_between_opening_and_reading_is_read_anew(tmp_path, monkeypatch):
    store = filled(OutcomeStore(tmp_path / "outcomes"))
    stale(monkeypatch, times=2)
    assert OutcomeStore(store.folder).cells() == [CELL]


def test_a_lease_that_is_removed_between_opening_and_reading_was_let_go(tmp_path, monkeypatch):
    left_by_another_machine(Leases(tmp_path).place(RANGE, 0), age=0)
    asked = stale(monkeypatch, times=1, then=FileNotFoundError)
    assert Leases(tmp_path).take(RANGE) is None
    assert len(asked) == 2


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, number):
    def fails(path: Path, largest: int | None) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage, "_read_once", fails)
    with pytest.raises(OSError, match="part"):
        read_bytes(tmp_path / "part")


def test_unfinished_files_of_another_machine_go_after_a_day_and_no_sooner(tmp_path):
    store = filled(OutcomeStore(tmp_path / "outcomes"))
    folder = store.cell_folder(CELL)
    old = left_by_another_machine(folder / "run=0" / f".old.parquet.{ELSEWHERE}-00ff{TEMPORARY_SUFFIX}", 1.01 * DAY)
    new = left_by_another_machine(folder / "run=0" / f".new.parquet.{ELSEWHERE}-00ff{TEMPORARY_SUFFIX}", 0.99 * DAY)
    mine = left_by_another_machine(folder / f".mine{TEMPORARY_SUFFIX}", 9 * DAY)
    assert any("2 unfinished files of processes that may be at work" in note for note in check_cell(folder).notes)
    OutcomeStore(store.folder).open_cell(CELL)
    assert set(folder.rglob(".*")) == {new, mine}, "the name of mine says nothing of a process"
    assert not old.exists()
    assert np.array_equal(OutcomeStore(store.folder).done(CELL)[0], np.arange(EPISODES))


def test_a_lease_of_a_machine_that_went_down_after_it_had_stored_its_chunk_is_cleaned(tmp_path):
    leases = Leases(tmp_path, expiry=60)
    silent = left_by_another_machine(leases.place(RANGE, 0), age=61)
    alive = left_by_another_machine(leases.place(EpisodeRange(1, 0, 512), 0), age=50)
    leases.clean()
    assert sorted(leases.folder.iterdir()) == [alive]
    assert not silent.exists()


def test_the_age_of_a_file_is_told_by_its_disk_and_not_by_the_clock_of_this_machine(tmp_path, monkeypatch):
    path = left_by_another_machine(tmp_path / "file", age=100)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert is_unchanged_for(path, 99)
    assert not is_unchanged_for(path, 200)
    assert not is_unchanged_for(tmp_path / "not there", 0)
    assert list(tmp_path.iterdir()) == [path]
