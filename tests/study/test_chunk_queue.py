"""Processes that take chunks of one queue compute what is missing, together, and nothing else."""

from __future__ import annotations

import itertools
import multiprocessing
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fewshot_bench.outcomes.leases
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard
from fewshot_bench.outcomes.leases import EpisodeRange, Leases
from fewshot_bench.study.chunks import ChunkQueue, ClaimedChunk, Shard, missing_episodes

CELL = Cell(MethodCard("m", "b", "w", "a"), ProtocolCard("toy", "ab" * 32, "novel", 2, 1, 1, 0, 1))


def store_some(store: OutcomeStore, run: int, numbers) -> None:
    """Store episodes, whatever is predicted of them."""
    numbers = np.array(sorted(numbers), dtype=np.int64)
    if len(numbers):
        store.append(CELL, run, numbers, np.zeros((len(numbers), 2), np.uint8), 0.1)


class Remembered(OutcomeStore):
    """A store that keeps which episodes there are in memory, for many small trials."""

    def __init__(self, folder: Path, numbers: dict[int, set[int]]) -> None:
        super().__init__(folder)
        self.numbers = numbers
        self.cell_folder(CELL).mkdir(parents=True, exist_ok=True)

    def done(self, cell: Cell) -> dict[int, np.ndarray]:
        return {run: np.array(sorted(numbers), dtype=np.int64) for run, numbers in self.numbers.items() if numbers}


def queue_of(store: OutcomeStore, protocol: Protocol, size: int, shard: Shard | None = None) -> ChunkQueue:
    return ChunkQueue(store, [(CELL, protocol, missing_episodes(store, CELL, protocol, shard))], lambda _: size)


@pytest.fixture
def store(tmp_path) -> OutcomeStore:
    made = OutcomeStore(tmp_path / "outcomes")
    made.open_cell(CELL)
    return made


def test_chunks_lie_on_a_grid_whatever_is_stored_already(store):
    store_some(store, 0, [*range(3, 9), 13])
    queue = queue_of(store, Protocol("toy", episodes=22, runs=2), 8)
    taken = [queue.take() for _ in range(6)]
    assert [(one.lease.key, one.chunk.numbers.tolist()) for one in taken] == [
        (EpisodeRange(0, 0, 8), [0, 1, 2]),
        (EpisodeRange(0, 8, 16), [9, 10, 11, 12, 14, 15]),
        (EpisodeRange(0, 16, 24), [16, 17, 18, 19, 20, 21]),
        (EpisodeRange(1, 0, 8), list(range(8))),
        (EpisodeRange(1, 8, 16), list(range(8, 16))),
        (EpisodeRange(1, 16, 24), list(range(16, 22))),
    ]
    assert queue.episodes == 44 - 7
    assert queue.take() is None
    assert queue.is_empty


def test_a_run_whose_episodes_are_all_stored_has_no_chunk(store):
    store_some(store, 0, range(20))
    queue = queue_of(store, Protocol("toy", episodes=20, runs=1), 8)
    assert queue.is_empty
    assert queue.episodes == 0


def test_what_another_process_holds_waits_and_what_it_lets_go_can_be_taken(store):
    protocol = Protocol("toy", episodes=16, runs=1)
    mine, yours = queue_of(store, protocol, 8), queue_of(store, protocol, 8)
    first, second = mine.take(), yours.take()
    assert [one.lease.key for one in (first, second)] == [EpisodeRange(0, 0, 8), EpisodeRange(0, 8, 16)]
    assert mine.take() is None
    assert not mine.is_empty
    second.lease.release()
    assert mine.take().lease.key == EpisodeRange(0, 8, 16)
    first.lease.release()


def test_what_others_have_stored_meanwhile_is_dropped_wholly_or_in_part(store):
    queue = queue_of(store, Protocol("toy", episodes=24, runs=1), 8)
    other = OutcomeStore(store.folder)
    store_some(other, 0, range(12))
    assert queue.drop_stored() == 12
    taken = queue.take()
    assert taken.chunk.numbers.tolist() == [12, 13, 14, 15]
    store_some(other, 0, [12, 14])
    assert queue.still_missing(taken.cell, taken.chunk).numbers.tolist() == [13, 15]
    store_some(other, 0, [13, 15])
    assert queue.still_missing(taken.cell, taken.chunk) is None


def test_processes_that_cut_otherwise_share_what_is_left(store):
    protocol = Protocol("toy", episodes=20, runs=1)
    small, large = queue_of(store, protocol, 4), queue_of(store, protocol, 10)
    first, other = small.take(), large.take()
    assert [one.lease.key for one in (first, other)] == [EpisodeRange(0, 0, 4), EpisodeRange(0, 10, 20)]
    assert small.take().lease.key == EpisodeRange(0, 4, 8)
    rest = large.take()
    assert (rest.lease.key, rest.chunk.numbers.tolist()) == (EpisodeRange(0, 8, 10), [8, 9])
    assert small.take() is None
    assert large.take() is None
    store_some(OutcomeStore(store.folder), 0, range(4, 20))
    assert (small.drop_stored(), large.drop_stored()) == (12, 4)  # of small: 8 to 19; of large: 4 to 7
    first.lease.release()
    assert large.take().chunk.numbers.tolist() == [0, 1, 2, 3]


def test_one_lease_over_many_chunks_is_read_once_a_look(store, monkeypatch):
    protocol = Protocol("toy", episodes=100, runs=1)
    large, small = queue_of(store, protocol, 100), queue_of(store, protocol, 1)
    assert large.take() is not None
    read, content = [], fewshot_bench.outcomes.leases.lease_content
    monkeypatch.setattr("fewshot_bench.outcomes.leases.lease_content", lambda place: read.append(0) or content(place))
    assert small.take() is None
    assert len(read) == 1
    assert large.take() is None
    assert len(read) == 1, "nobody has to read his own"


def test_a_chunk_is_compared_with_the_stored_episodes_near_it_alone(store, monkeypatch):
    """A study may have thousands of chunks, and more than a thousand times as many stored episodes."""
    queue = queue_of(store, Protocol("toy", episodes=1000, runs=2), 10)
    store_some(OutcomeStore(store.folder), 0, [*range(495), 505])
    compared, without = [], np.setdiff1d
    monkeypatch.setattr(np, "setdiff1d", lambda some, stored: compared.append(len(stored)) or without(some, stored))
    assert queue.drop_stored() == 496
    assert sum(compared) == 496
    assert queue.take().chunk.numbers.tolist() == [495, 496, 497, 498, 499]
    assert queue.take().chunk.numbers.tolist() == [500, 501, 502, 503, 504, 506, 507, 508, 509]


def test_the_leases_of_a_cell_are_listed_when_it_comes_to_its_chunks(store, monkeypatch):
    """Behind a URL a listing is a request, and a method may have many cells."""
    protocol, other = Protocol("toy", episodes=8, runs=1), replace(CELL, method=MethodCard("other", "b", "w", "b"))
    store.open_cell(other)
    left = [(cell, protocol, missing_episodes(store, cell, protocol)) for cell in (CELL, other)]
    queue, listed, snapshot = ChunkQueue(store, left, lambda _: 8), [], Leases.snapshot
    monkeypatch.setattr(Leases, "snapshot", lambda leases: listed.append(leases.folder.parent.name) or snapshot(leases))
    queue.take()
    assert set(listed) == {CELL.key}
    queue.take()
    assert set(listed) == {CELL.key, other.key}


@pytest.mark.slow
@given(
    episodes=st.integers(1, 60),
    runs=st.integers(1, 3),
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=4),
    stored=st.sets(st.tuples(st.integers(0, 2), st.integers(0, 70)), max_size=60),
    order=st.randoms(use_true_random=False),
    count=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_any_number_of_processes_compute_exactly_what_is_missing(episodes, runs, sizes, stored, order, count):
    folder = Path(tempfile.mkdtemp())
    try:
        there = {run: {number for of, number in stored if of == run} for run in range(3)}
        store = Remembered(folder, there)
        protocol = Protocol("toy", episodes=episodes, runs=runs)
        missing = {(run, n) for run in range(runs) for n in range(episodes)} - stored
        queues = [queue_of(store, protocol, size) for size in sizes * count]
        computed: list[tuple[int, int]] = []
        under_way: list[ClaimedChunk] = []
        while queues or under_way:
            queue = order.choice(queues) if queues and (not under_way or order.random() < 0.6) else None
            taken = None if queue is None else queue.take()
            if taken is not None:
                left = queue.still_missing(taken.cell, taken.chunk)
                computed += [] if left is None else [(left.run, int(number)) for number in left.numbers]
                under_way.append(taken)
            elif under_way:
                ended = under_way.pop(order.randrange(len(under_way)))
                there[ended.chunk.run] |= set(ended.chunk.numbers.tolist())
                ended.lease.release()
            else:
                queues.remove(queue)
        assert sorted(computed) == sorted(missing)
    finally:
        shutil.rmtree(folder)


def work_through(folder: Path, size: int, computed) -> None:
    """What a process does until nothing is missing."""
    store = OutcomeStore(folder)
    queue = queue_of(store, Protocol("toy", episodes=300, runs=2), size)
    while not queue.is_empty:
        taken = queue.take()
        if taken is None:
            time.sleep(0.001)
            queue.drop_stored()
            continue
        left = queue.still_missing(taken.cell, taken.chunk)
        if left is not None:
            time.sleep(0.0002 * len(left))
            store_some(store, left.run, left.numbers)
            computed.put([(left.run, int(number)) for number in left.numbers])
        taken.lease.release()
    computed.put(None)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(7, 50), (10, 11), (1000, 12)])
def test_two_processes_that_cut_otherwise_compute_no_episode_twice(store, sizes):
    fork = multiprocessing.get_context("fork")
    computed, numbers, ended = fork.SimpleQueue(), [], 0
    workers = [fork.Process(target=work_through, args=(store.folder, size, computed)) for size in sizes]
    for worker in workers:
        worker.start()
    while ended < len(workers):
        some = computed.get()
        ended += some is None
        numbers += some or []
    for worker in workers:
        worker.join(60)
    assert sorted(numbers) == [(run, number) for run in range(2) for number in range(300)]


@given(episodes=st.integers(0, 5000), count=st.integers(1, 60))
def test_shards_are_a_division_of_every_run(episodes, count):
    parts = [Shard(number, count).of(episodes) for number in range(1, count + 1)]
    assert list(itertools.chain.from_iterable(parts)) == list(range(episodes))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shards_together_compute_everything_once(store):
    protocol = Protocol("toy", episodes=25, runs=2)
    store_some(store, 1, [0, 7, 24])
    taken = []
    for number in (1, 2, 3):
        queue = queue_of(store, protocol, 4, Shard(number, 3))
        while (one := queue.take()) is not None:
            taken += [(one.chunk.run, int(number)) for number in one.chunk.numbers]
            one.lease.release()
    everything = {(run, number) for run in range(2) for number in range(25)}
    assert sorted(taken) == sorted(everything - {(1, 0), (1, 7), (1, 24)})


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/2", "1/2/3", "a/b", "1 / 2", "²/3", "1/2\n"])
def test_a_text_that_is_no_shard_is_refused(text):
    with pytest.raises(StudyError, match="--shard takes I/N"):
        Shard.read(text)


def test_a_shard_is_read_as_it_is_written():
    assert Shard.read("2/4") == Shard(2, 4)
    assert str(Shard(2, 4)) == "2/4"
