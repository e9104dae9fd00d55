"""Leases divide work: one holder at a time, and none that is gone or silent for too long keeps others waiting."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import fewshot_bench.outcomes.leases
from fewshot_bench._io.locks import owner
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes.leases import (
    EXPIRY,
    EXPIRY_VARIABLE,
    EpisodeRange,
    Heartbeat,
    Lease,
    Leases,
    LeaseSnapshot,
    expiry_seconds,
)

RANGE = EpisodeRange(0, 0, 512)
ELSEWHERE = "0123456789ab-17-4711"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gone() -> str:
    """A process of this machine that has ended."""
    program = "from fewshot_bench._io.locks import owner; print(owner())"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """The folder of a cell."""
    folder = tmp_path / "outcomes" / "0123456789abcdef"
    folder.mkdir(parents=True)
    return folder


def files(cell: Path) -> list[str]:
    return sorted(path.name for path in (cell / "leases").iterdir())


def left_by(holder: str, cell: Path, *, generation: int = 0, beat: int = 1) -> Path:
    """A lease as another process leaves it."""
    path = Leases(cell).place(RANGE, generation)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"owner": holder, "token": "ab" * 8, "beat": beat}))
    return path


def test_of_two_that_try_one_has_it_until_it_lets_go(cell):
    mine, yours = Leases(cell), Leases(cell)
    lease = mine.take(RANGE)
    assert lease is not None
    assert lease.is_held()
    assert yours.take(RANGE) is None
    assert yours.take(EpisodeRange(1, 0, 512)) is not None
    lease.release()
    assert not lease.is_held()
    assert yours.take(RANGE) is not None


def test_one_of_a_process_that_ended_is_taken_at_once_and_nothing_of_it_stays(cell, gone, clock):
    left_by(gone, cell)
    lease = Leases(cell, now=clock).take(RANGE)
    assert lease is not None
    assert Leases(cell, now=clock).take(RANGE) is None
    lease.release()
    assert files(cell) == []


def test_one_of_another_machine_is_taken_after_it_was_seen_unchanged_for_as_long_as_it_takes(cell, clock):
    path = left_by(ELSEWHERE, cell)
    leases = Leases(cell, expiry=60, now=clock)
    assert leases.take(RANGE) is None
    clock.seconds += 59
    assert leases.take(RANGE) is None
    left_by(ELSEWHERE, cell, beat=2)
    clock.seconds += 2
    assert leases.take(RANGE) is None, "it has given a heartbeat"
    clock.seconds += 59
    os.utime(path, (0, 0))
    assert leases.take(RANGE) is None
    clock.seconds += 1
    assert leases.take(RANGE) is not None


def test_what_one_observer_has_seen_is_nothing_to_another(cell, clock):
    left_by(ELSEWHERE, cell)
    first = Leases(cell, expiry=60, now=clock)
    first.take(RANGE)
    clock.seconds += 60
    second = Leases(cell, expiry=60, now=clock)
    assert second.take(RANGE) is None
    assert first.take(RANGE) is not None


def test_dates_of_files_and_the_time_of_day_do_not_matter(cell, clock, monkeypatch):
    path = left_by(ELSEWHERE, cell)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    leases = Leases(cell, expiry=60, now=clock)
    for date in (0, 1 << 33):
        os.utime(path, (date, date))
        assert leases.take(RANGE) is None
    clock.seconds += 60
    assert leases.take(RANGE) is not None


def test_a_holder_that_was_taken_for_lost_notices_and_its_release_leaves_the_new_one_alone(cell, clock):
    old = Leases(cell).take(RANGE)
    assert old is not None
    observer = Leases(cell, expiry=60, now=clock)
    assert observer.take(RANGE) is None
    clock.seconds += 60
    new = observer.take(RANGE)
    assert new is not None
    assert new.is_held()
    assert not old.is_held()
    old.release()
    assert new.is_held()
    assert Leases(cell).take(RANGE) is None
    new.release()
    assert files(cell) == []


def test_an_interrupt_while_one_is_let_go_leaves_it_to_the_end(cell, gone, monkeypatch):
    left_by(gone, cell)
    leases = Leases(cell)
    others, lease = Leases(cell).take(EpisodeRange(1, 0, 512)), leases.take(RANGE)
    assert others is not None
    assert lease is not None

    def interrupted(path, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lease.release()
    leases.release_all()
    assert files(cell) == [others.place.name]
    assert others.is_held()


def test_a_release_removes_the_newest_generation_last(cell, gone, monkeypatch):
    left_by(gone, cell)
    leases = Leases(cell)
    lease = leases.take(RANGE)
    assert lease is not None
    removed = []
    unlink = Path.unlink

    def watched(path, **options):
        removed.append(path.name)
        assert Leases(cell).take(RANGE) is None, "as long as it is being let go it is held"
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", watched)
    lease.release()
    assert [name.rsplit(".", 2)[1] for name in removed] == ["0", "1"]


PART = EpisodeRange(0, 500, 600)


@pytest.mark.parametrize("other", [PART, EpisodeRange(0, 0, 511), EpisodeRange(0, 10, 20), EpisodeRange(0, 0, 1024)])
def test_of_two_that_overlap_one_is_held_at_a_time(cell, other):
    mine, yours = Leases(cell), Leases(cell)
    lease = mine.take(RANGE)
    assert lease is not None
    assert yours.take(other) is None
    assert mine.snapshot().held(other) == yours.snapshot().held(other) == [RANGE]
    lease.release()
    assert yours.take(other) is not None


def test_neighbours_and_other_runs_do_not_overlap(cell):
    assert Leases(cell).take(RANGE) is not None
    for other in (EpisodeRange(0, 512, 600), EpisodeRange(1, 0, 512)):
        assert Leases(cell).take(other) is not None


def test_a_lost_one_is_no_hindrance_to_those_that_overlap_it_and_goes_with_them(cell, gone, clock):
    left_by(gone, cell)
    left_by(ELSEWHERE, cell, generation=1)
    leases = Leases(cell, expiry=60, now=clock)
    assert leases.take(PART) is None
    clock.seconds += 60
    lease = leases.take(PART)
    assert lease is not None
    assert lease.is_held()
    assert Leases(cell).take(RANGE) is None
    lease.release()
    assert files(cell) == []


def test_what_took_the_place_of_a_lost_one_meanwhile_stays(cell, gone):
    left_by(gone, cell)
    lease = Leases(cell).take(PART)
    assert lease is not None
    newer = left_by(owner(), cell, generation=1)  # it has not seen ours
    lease.release()
    assert files(cell) == [newer.name]


@pytest.mark.slow
@pytest.mark.parametrize("other", [RANGE, PART])
def test_of_two_that_are_made_at_the_same_moment_at_most_one_is_kept(cell, monkeypatch, other):
    create, taken = fewshot_bench.outcomes.leases.create_exclusively, []

    def second_comes_first(place, content):
        monkeypatch.undo()
        taken.append(Leases(cell).take(other))
        return create(place, content)

    monkeypatch.setattr(fewshot_bench.outcomes.leases, "create_exclusively", second_comes_first)
    assert Leases(cell).take(RANGE) is None
    (theirs,) = taken
    assert theirs.is_held()
    assert files(cell) == [theirs.place.name]


def test_of_many_that_overlap_and_are_made_at_the_same_moment_exactly_one_is_kept(cell, monkeypatch):
    """If all let go where they see others, they might do so for ever."""
    ranges = [EpisodeRange(0, first, 512) for first in range(8)]
    create, listed = fewshot_bench.outcomes.leases.create_exclusively, fewshot_bench.outcomes.leases.files_under
    barrier, taken, looked = threading.Barrier(len(ranges)), [], set()

    def all_at_once(place, content):
        made = create(place, content)
        barrier.wait(30)
        return made

    def by_all_before_any_lets_go(folder):
        found = listed(folder)
        if threading.get_ident() not in looked:
            looked.add(threading.get_ident())
            barrier.wait(30)
        return found

    def take(key: EpisodeRange, leases: Leases, snapshot: LeaseSnapshot) -> None:
        taken.append(leases.take(key, snapshot))

    monkeypatch.setattr(fewshot_bench.outcomes.leases, "create_exclusively", all_at_once)
    seen = [(key, leases, leases.snapshot()) for key in ranges for leases in [Leases(cell)]]
    monkeypatch.setattr(fewshot_bench.outcomes.leases, "files_under", by_all_before_any_lets_go)
    threads = [threading.Thread(target=take, args=one) for one in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    (kept,) = filter(None, taken)
    assert kept.key == ranges[0]
    assert kept.is_held()
    assert files(cell) == [kept.place.name]


def take_many(cell: str, worker: int, barrier, taken) -> None:
    leases = Leases(Path(cell))
    barrier.wait()
    for first in range(0, 200, 10):
        if leases.take(EpisodeRange(0, first, first + 10)) is not None:
            taken.put((first, worker))
    barrier.wait()  # nobody ends before all have tried: the leases of one that ended may be taken


@pytest.mark.slow
@pytest.mark.parametrize("is_lost", [False, True])
def test_of_several_processes_exactly_one_gets_each(cell, gone, is_lost):
    if is_lost:
        for first in range(0, 200, 10):
            path = Leases(cell).place(EpisodeRange(0, first, first + 10), 3)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"owner": gone, "token": "", "beat": 1}))
    fork = multiprocessing.get_context("fork")
    barrier, taken = fork.Barrier(4), fork.SimpleQueue()
    workers = [fork.Process(target=take_many, args=(str(cell), number, barrier, taken)) for number in range(4)]
    for worker in workers:
        worker.start()
    got = [taken.get() for _ in range(20)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert taken.empty()
    assert sorted(first for first, _ in got) == list(range(0, 200, 10))


def test_of_several_threads_exactly_one_gets_each(cell):
    barrier, taken = threading.Barrier(8), []

    def work() -> None:
        leases = Leases(cell)
        barrier.wait()
        for first in range(0, 100, 10):
            if (lease := leases.take(EpisodeRange(0, first, first + 10))) is not None:
                taken.append(lease)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lease.key.first for lease in taken) == list(range(0, 100, 10))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'"x"',
        b"null",
        b'{"owner": 3}',
        b"[" * 5000,
        b"x" * 5000,
    ],
)
def test_one_that_says_of_no_holder_waits_for_one_heartbeat_and_is_taken(cell, clock, content):
    path = left_by(ELSEWHERE, cell)
    path.write_bytes(content)
    leases = Leases(cell, expiry=60, now=clock)
    assert leases.take(RANGE) is None
    clock.seconds += 4
    assert leases.take(RANGE) is None
    clock.seconds += 1
    lease = leases.take(RANGE)
    assert lease is not None
    lease.release()
    assert files(cell) == []


def test_files_with_other_names_are_nothing_and_stay(cell, gone):
    path = left_by(gone, cell)
    names = ["note.txt", "run-000-episodes-00000-00512.lease", f".{path.name}.tmp", "run-x-episodes-0-1.0.lease"]
    for name in names:
        path.with_name(name).write_text("{}")
    leases = Leases(cell)
    assert list(leases.generations()) == [RANGE]
    leases.clean()
    assert files(cell) == sorted(names)


def test_cleaning_removes_what_ended_processes_left_and_nothing_else(cell, gone):
    Leases(cell).place(EpisodeRange(2, 0, 512), 0).parent.mkdir()
    Leases(cell).place(EpisodeRange(2, 0, 512), 0).touch()  # its holder ended before it could say who it was
    left_by(gone, cell)
    left_by(gone, cell, generation=1)
    held = Leases(cell).take(EpisodeRange(1, 0, 512))
    assert held is not None
    Leases(cell).clean()
    assert files(cell) == [held.place.name]
    assert held.is_held()


def test_who_works_at_a_cell_is_listed_without_those_that_ended(cell, gone):
    assert Leases(cell).owners() == {}
    left_by(gone, cell)
    assert Leases(cell).owners() == {}
    lease = Leases(cell).take(RANGE)
    assert lease is not None
    assert Leases(cell).owners() == {RANGE: owner()}
    assert Leases(cell).generations() == {RANGE: 1}


def test_a_heartbeat_changes_a_lease_until_it_stops_so_that_nobody_takes_it_for_lost(cell):
    leases = Leases(cell)
    lease = leases.take(RANGE)
    assert lease is not None
    first = lease.place.read_bytes()
    with Heartbeat([leases], every=0.01):
        changed = next_content(lease, first)
        next_content(lease, changed)
    stopped = lease.place.read_bytes()
    assert json.loads(stopped)["owner"] == owner()
    time.sleep(0.05)
    assert lease.place.read_bytes() == stopped


def next_content(lease: Lease, known: bytes) -> bytes:
    """The content of a lease once it has changed; never half of it."""
    deadline = time.monotonic() + 60
    while (content := lease.place.read_bytes()) == known and time.monotonic() < deadline:
        pass
    assert content != known
    assert json.loads(content)["owner"] == owner(), "a reader never meets half a heartbeat"
    return content


def test_a_lease_that_beats_is_held_at_every_moment(cell):
    leases = Leases(cell)
    lease = leases.take(RANGE)
    assert lease is not None
    with Heartbeat([leases], every=0.0001):
        assert all(lease.is_held() for _ in range(2000))


def test_a_heartbeat_brings_no_released_or_removed_lease_back(cell):
    leases = Leases(cell)
    released, removed = leases.take(RANGE), leases.take(EpisodeRange(1, 0, 512))
    assert released is not None
    assert removed is not None
    released.release()
    removed.place.unlink()
    leases.beat()
    assert files(cell) == []
    assert not removed.is_held()


def test_a_disk_that_is_away_does_not_stop_the_heartbeat(cell):
    leases = Leases(cell)
    lease = leases.take(RANGE)
    assert lease is not None
    (cell / "leases").rename(cell / "away")
    with Heartbeat([leases], every=0.005):
        time.sleep(0.05)
        (cell / "away").rename(cell / "leases")
        next_content(lease, lease.place.read_bytes())
    assert lease.is_held()


def test_no_lease_stays_where_its_content_does_not_fit_on_the_disk(cell):
    (cell / "leases").mkdir()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            Leases(cell).take(RANGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert files(cell) == []


def test_no_lease_is_taken_in_a_folder_that_is_gone(cell):
    """A network disk that is away leaves an empty mount point: nothing is to be written below it."""
    leases = Leases(cell)
    cell.rename(cell.parent / "away")
    with pytest.raises(FileNotFoundError, match=cell.name):
        leases.take(RANGE)
    assert not cell.exists()


def test_the_environment_says_when_a_lease_expires(cell, clock, monkeypatch):
    assert expiry_seconds() == EXPIRY
    monkeypatch.setenv(EXPIRY_VARIABLE, "1.5")
    left_by(ELSEWHERE, cell)
    leases = Leases(cell, now=clock)
    assert leases.take(RANGE) is None
    clock.seconds += 1.4
    assert leases.take(RANGE) is None
    clock.seconds += 0.1
    assert leases.take(RANGE) is not None


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "a minute"])
def test_an_environment_that_says_no_number_of_seconds_is_refused(cell, monkeypatch, text):
    monkeypatch.setenv(EXPIRY_VARIABLE, text)
    with pytest.raises(StudyError, match=f"{EXPIRY_VARIABLE} should be a number of seconds such as 60, not '{text}'"):
        Leases(cell)


def test_an_interruption_while_a_lease_is_taken_leaves_none(tmp_path, monkeypatch):
    leases = Leases(tmp_path)
    create = fewshot_bench.outcomes.leases.create_exclusively

    def interrupted(place, content):
        create(place, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(fewshot_bench.outcomes.leases, "create_exclusively", interrupted)
    with pytest.raises(KeyboardInterrupt):
        leases.take(EpisodeRange(0, 0, 8))
    assert leases.generations()
    leases.release_all()
    assert not leases.generations()
