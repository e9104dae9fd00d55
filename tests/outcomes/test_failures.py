from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toy_cells import CELL, PREDICTIONS, filled

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.maintenance import compact


def told(store: OutcomeStore) -> list[tuple[int, list[int], str]]:
    return [(one.run, one.episodes.tolist(), one.reason) for one in store.failures(CELL)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / CELL.key / "failures").iterdir())


def test_what_failed_is_told_until_it_is_stored(tmp_path):
    store = OutcomeStore(tmp_path)
    assert store.failures(CELL) == []
    store.record_failure(CELL, 1, np.array([5, 2, 3]), "the loss\nis   NaN")
    assert told(OutcomeStore(tmp_path)) == [(1, [2, 3], "the loss is NaN"), (1, [5], "the loss is NaN")]
    assert store.cells() == []
    store.append(CELL, 1, np.array([3, 4, 5]), PREDICTIONS[1][3:6], 0.1)
    assert told(store) == [(1, [2], "the loss is NaN")]
    assert [failure.run for failure in store.failures(CELL.key)] == [1]
    filled(store)
    assert told(store) == []


def test_a_later_reason_replaces_an_earlier_one_and_the_narrower_record_counts(tmp_path):
    store = OutcomeStore(tmp_path)
    store.record_failure(CELL, 0, np.arange(8), "out of memory")
    store.record_failure(CELL, 0, np.arange(8), "still out of memory")
    store.record_failure(CELL, 0, np.arange(2, 4), "the loss is NaN")
    assert told(store) == [(0, [0, 1, 4, 5, 6, 7], "still out of memory"), (0, [2, 3], "the loss is NaN")]


def test_a_reason_is_one_line_of_bounded_length_that_moves_no_cursor(tmp_path):
    store = OutcomeStore(tmp_path)
    store.record_failure(CELL, 0, np.arange(1), "\x1b[2J" + "x" * 5000)
    ((_, _, reason),) = told(store)
    assert len(reason) == 1000
    assert reason.isprintable()


def test_compaction_removes_void_records_alone(tmp_path):
    store = OutcomeStore(tmp_path)
    store.record_failure(CELL, 0, np.arange(4), "x")
    store.record_failure(CELL, 0, np.arange(10, 14), "y")
    filled(store)
    assert compact(tmp_path / CELL.key).void == 1
    assert files(tmp_path) == ["run=0-episodes-00010-00014.json"]
    assert told(store) == [(0, [12, 13], "y")]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"reason": 5}', b'{"reason": "' + b"x" * 1001 + b'"}', b"\xff", b" " * 100_001, b"[" * 90_000],
    ids=lambda content: repr(content[:14]),
)
def test_a_strangers_record_is_checked(tmp_path, content):
    store = OutcomeStore(tmp_path)
    store.record_failure(CELL, 0, np.arange(4), "x")
    (path,) = (tmp_path / CELL.key / "failures").iterdir()
    path.write_bytes(content)
    with pytest.raises(OutcomeError, match=r"run=0-episodes-00000-00004.json is damaged \(.*Delete that file"):
        store.failures(CELL)


def test_a_record_of_impossibly_many_episodes_takes_no_memory(tmp_path):
    store = OutcomeStore(tmp_path)
    store.record_failure(CELL, 0, np.arange(4), "x")
    (path,) = (tmp_path / CELL.key / "failures").iterdir()
    path.rename(path.with_name("run=0-episodes-00000-999999999.json"))
    with pytest.raises(OutcomeError, match="too many episodes"):
        store.failures(CELL)
    assert json.loads(path.with_name("run=0-episodes-00000-999999999.json").read_text()) == {"reason": "x"}


@pytest.mark.slow
def test_a_failure_of_more_episodes_than_one_file_may_tell_is_told_by_several(tmp_path):
    store = OutcomeStore(tmp_path)
    numbers = np.arange(5, 250_003)
    store.record_failure(CELL, 0, numbers, "no memory")
    failures = store.failures(CELL)
    assert [failure.reason for failure in failures] == ["no memory"] * 3
    np.testing.assert_array_equal(np.concatenate([failure.episodes for failure in failures]), numbers)
