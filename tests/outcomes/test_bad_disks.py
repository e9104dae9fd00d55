"""Disks that fill up, are read-only or vanish: an OSError that names the file, and nothing stored is touched."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from toy_cells import CELL, EPISODES, PREDICTIONS, everything, filled

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.maintenance import compact


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with 64 KiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def until_full(store):
    """Append until the disk refuses, and return the error with the number of episodes that are stored."""
    for number in range(1000):
        before = everything(store.folder)
        try:
            store.append(CELL, 0, np.array([number]), PREDICTIONS[0][[number % EPISODES]], 0.25)
        except OSError as error:
            assert everything(store.folder) == before, "nothing is left of the part, and the others are untouched"
            return error, number
    raise AssertionError("the disk never filled up")


def test_a_full_disk_loses_the_part_that_was_written_and_no_other(small_disk):
    store = OutcomeStore(small_disk / "outcomes")
    error, stored = until_full(store)
    assert error.errno == errno.ENOSPC
    assert str(small_disk) in str(error.filename)
    assert 3 < stored < 100
    assert len(store.read(CELL)) == len(OutcomeStore(store.folder).done(CELL)[0]) == stored


def test_a_full_disk_can_be_made_compact_as_far_as_there_is_room_and_goes_on(small_disk):
    store = OutcomeStore(small_disk / "outcomes")
    _, stored = until_full(store)
    before = store.read(CELL)
    with pytest.raises(OSError, match="No space left"):
        compact(store.folder / CELL.key)
    pd.testing.assert_frame_equal(store.read(CELL), before)
    last = max(store.folder.rglob("*.parquet"))
    shutil.move(last, small_disk.parent / last.name)
    compact(store.folder / CELL.key)
    store.append(CELL, 1, np.arange(1), PREDICTIONS[1][:1], 0.25)
    assert len(store.read(CELL)) == stored


@contextmanager
def files_of_at_most(size):
    """As on a disk with a quota; the signal that comes with it is Python's to ignore."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_becomes_too_large_leaves_nothing_of_itself(tmp_path):
    store = filled(OutcomeStore(tmp_path))
    before = everything(tmp_path)
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large") as caught:
        store.append(CELL, 5, np.arange(EPISODES), PREDICTIONS[0], 0.25)
    assert caught.value.errno == errno.EFBIG
    assert "run=5" in str(caught.value.filename)
    assert everything(tmp_path) == before


def test_a_folder_that_vanished_is_made_again_or_named(tmp_path):
    store = filled(OutcomeStore(tmp_path / "outcomes"))
    shutil.rmtree(tmp_path / "outcomes")
    (tmp_path / "outcomes").write_text("a file in its place")
    with pytest.raises(OSError, match="outcomes") as caught:
        store.append(CELL, 2, np.arange(2), PREDICTIONS[0][:2], 0.25)
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)


def test_a_disk_that_goes_away_in_the_middle_of_a_write_is_named(tmp_path, monkeypatch):
    """The rename and then the clean-up find nothing there any more, as on a network disk."""
    store = filled(OutcomeStore(tmp_path))

    def gone(*arguments, **_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(arguments[0]))

    monkeypatch.setattr("os.replace", gone)
    monkeypatch.setattr("pathlib.Path.unlink", gone)
    with pytest.raises(OSError, match="Stale file handle"):
        store.append(CELL, 2, np.arange(2), PREDICTIONS[0][:2], 0.25)


def test_a_disk_that_is_away_is_no_damage(tmp_path, monkeypatch):
    """Nobody is told to delete what cannot be reached for the moment."""
    store = filled(OutcomeStore(tmp_path))

    def away(path, largest):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("fewshot_bench._io.storage._read_once", away)
    for use in (store.cells, lambda: store.read(CELL), lambda: OutcomeStore(tmp_path).done(CELL)):
        with pytest.raises(OSError, match="Input/output error") as caught:
            use()
        assert caught.value.errno == errno.EIO


def test_a_read_only_folder_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere; the small file system stands in")
    store = filled(OutcomeStore(tmp_path))
    (tmp_path / CELL.key).chmod(0o500)
    with pytest.raises(PermissionError, match=CELL.key):
        store.append(CELL, 2, np.arange(2), PREDICTIONS[0][:2], 0.25)


def test_a_read_only_file_system_is_named_and_can_be_read(small_disk):
    store = filled(OutcomeStore(small_disk / "outcomes"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with pytest.raises(OSError, match="Read-only file system") as caught:
            store.append(CELL, 2, np.arange(2), PREDICTIONS[0][:2], 0.25)
        assert str(small_disk) in str(caught.value.filename)
        assert len(OutcomeStore(small_disk / "outcomes").read(CELL)) == 2 * EPISODES
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
