from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_cells import CELL, EPISODES, PREDICTIONS, PROTOCOL, filled, parts

from fewshot_bench._io import storage
from fewshot_bench._io.storage import temporary_name
from fewshot_bench.errors import OutcomeError, ShapeError
from fewshot_bench.outcomes import Cell, OutcomeStore


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_outcomes_come_back_as_they_were_stored(tmp_path):
    store = filled(OutcomeStore(tmp_path))
    outcomes = OutcomeStore(tmp_path).outcomes(CELL)
    np.testing.assert_array_equal(outcomes.predictions, PREDICTIONS.reshape(-1, 6))
    assert outcomes.run.tolist() == [0] * EPISODES + [1] * EPISODES
    assert outcomes.episode.tolist() == [*range(EPISODES)] * 2
    assert (outcomes.frame["seconds"] == 0.25).all()
    pd.testing.assert_frame_equal(store.read(CELL.key), outcomes.frame)


def test_the_layout_on_disk_is_the_documented_one(tmp_path):
    store = filled(OutcomeStore(tmp_path))
    assert [path.relative_to(tmp_path / CELL.key).as_posix() for path in parts(store)] == [
        f"run={run}/episodes-00000-00012-{digest_of(path)}.parquet" for run, path in enumerate(parts(store))
    ]
    description = json.loads((tmp_path / CELL.key / "cell.json").read_text())
    assert description["method"]["name"] == "conv/centroid"
    assert description["protocol"]["shot"] == 1
    assert description["format"] == 2
    file = pq.ParquetFile(parts(store)[0])
    assert [(field.name, str(field.type)) for field in file.schema_arrow] == [
        ("protocol", "string"),
        ("method", "string"),
        ("seed", "string"),
        ("run", "int16"),
        ("episode", "int32"),
        ("queries", "int32"),
        ("correct", "int32"),
        ("accuracy", "double"),
        ("predictions", "fixed_size_binary[2]"),
        ("seconds", "double"),
    ]
    (row,) = file.read().slice(3, 1).to_pylist()
    assert (row["protocol"], row["method"], row["seed"]) == (PROTOCOL.fingerprint, CELL.method.fingerprint, "0")
    assert (row["run"], row["episode"], row["queries"]) == (0, 3, 6)
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


@st.composite
def chunkings(draw):
    """Chunks (run, numbers) that hold every episode at least once, in any order, some of them twice."""
    chunks = []
    for run in range(2):
        order = draw(st.permutations(range(EPISODES)))
        cuts = sorted(draw(st.sets(st.integers(1, EPISODES - 1), max_size=5)))
        chunks += [(run, order[i:j]) for i, j in zip([0, *cuts], [*cuts, EPISODES], strict=True)]
    chunks += draw(st.lists(st.sampled_from(chunks), max_size=2))
    return draw(st.permutations(chunks))


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(chunks=chunkings())
def test_chunks_order_and_repetition_never_change_what_is_read(tmp_path_factory, chunks):
    whole = filled(OutcomeStore(tmp_path_factory.mktemp("whole")))
    pieces = OutcomeStore(tmp_path_factory.mktemp("pieces"))
    for run, numbers in chunks:
        pieces.append(CELL, run, np.array(numbers), PREDICTIONS[run][list(numbers)], 0.25)
    pd.testing.assert_frame_equal(pieces.read(CELL), whole.read(CELL))
    assert {run: list(numbers) for run, numbers in pieces.done(CELL).items()} == {
        0: [*range(EPISODES)],
        1: [*range(EPISODES)],
    }


def test_of_overlapping_parts_an_episode_counts_once(tmp_path):
    store = OutcomeStore(tmp_path)
    store.append(CELL, 0, np.arange(0, 8), PREDICTIONS[0][:8], 1.0)
    store.append(CELL, 0, np.arange(4, 12), PREDICTIONS[0][4:], 2.0)
    frame = store.read(CELL)
    assert frame["episode"].tolist() == [*range(12)]
    assert frame["seconds"].tolist() == [1.0] * 8 + [2.0] * 4


def test_what_was_read_before_is_not_read_again_and_what_is_new_is(tmp_path, monkeypatch):
    store = filled(OutcomeStore(tmp_path), chunk=4)
    read = []
    real = storage._read_once
    monkeypatch.setattr(storage, "_read_once", lambda path, most: read.append(path.name) or real(path, most))
    first = store.read(CELL, with_predictions=False)
    first["accuracy"] = 0.0  # the frame is the caller's own
    assert len(read) == 6
    store.append(CELL, 2, np.arange(2), PREDICTIONS[0][:2], 0.25)
    read.clear()
    again = store.read(CELL, with_predictions=False)
    assert [name for name in read if name.endswith(".parquet")] == [parts(store)[-1].name]
    monkeypatch.undo()
    pd.testing.assert_frame_equal(again, OutcomeStore(tmp_path).read(CELL).drop(columns="predictions"))


def test_nothing_stored_is_overwritten(tmp_path):
    store = filled(OutcomeStore(tmp_path))
    before, frame = {path: path.read_bytes() for path in parts(store)}, store.read(CELL)
    store.append(CELL, 0, np.arange(EPISODES), PREDICTIONS[0], 9.0)
    assert {path: content for path in parts(store) if (content := path.read_bytes()) in before.values()} == before
    again = store.read(CELL)
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), frame.drop(columns="seconds"))


@pytest.mark.parametrize("with_predictions", [True, False])
def test_an_episode_that_is_stored_twice_and_differently_names_both_parts(tmp_path, with_predictions):
    store = filled(OutcomeStore(tmp_path))
    other = PREDICTIONS[0][4:6].copy()
    other[1] = (other[1] + 1) % 3  # of episode 5; as many may be correct
    store.append(CELL, 0, np.arange(4, 6), other, 0.25)
    names = [path.name for path in parts(store) if "run=0" in str(path)]
    with pytest.raises(
        OutcomeError, match=r"run 0, episode 5 is stored twice and differently, in .* and in "
    ) as caught:
        store.read(CELL, with_predictions=with_predictions)
    assert all(name in str(caught.value) for name in names)


def test_predictions_are_read_only_where_they_are_wanted(tmp_path):
    store = filled(OutcomeStore(tmp_path))
    pd.testing.assert_frame_equal(
        store.read(CELL, with_predictions=False), store.read(CELL).drop(columns="predictions")
    )


def test_done_says_which_episodes_are_missing(tmp_path):
    store = OutcomeStore(tmp_path)
    assert store.done(CELL) == {}
    store.append(CELL, 1, np.array([9, 2, 3]), PREDICTIONS[1][[9, 2, 3]], 0.1)
    assert {run: numbers.tolist() for run, numbers in store.done(CELL).items()} == {1: [2, 3, 9]}


def test_no_episodes_are_no_part(tmp_path):
    store = OutcomeStore(tmp_path)
    store.append(CELL, 0, np.arange(0), np.empty((0, 6), np.uint8), 0.1)
    assert parts(store) == []
    assert store.cells() == []


def test_cells_lists_what_has_outcomes(tmp_path):
    store = OutcomeStore(tmp_path)
    assert store.cells() == []
    other = replace(CELL, protocol=replace(PROTOCOL, shot=5))
    begun = replace(CELL, protocol=replace(PROTOCOL, shot=10))
    store.open_cell(begun)
    filled(store, other)
    filled(store)
    assert store.cells() == sorted([CELL, other], key=lambda cell: cell.key)


def test_reading_a_cell_without_outcomes_says_so(tmp_path):
    with pytest.raises(OutcomeError, match=f"no outcomes in .*{CELL.key}"):
        OutcomeStore(tmp_path).read(CELL)


def test_predictions_of_another_protocol_are_refused(tmp_path):
    with pytest.raises(ShapeError, match="2 queries per class has 6 predictions per episode, not 9"):
        OutcomeStore(tmp_path).append(CELL, 0, np.arange(1), np.zeros((1, 9), np.uint8), 0.1)
    assert OutcomeStore(tmp_path).cells() == []


class TestAnotherDescription:
    def test_the_same_method_goes_on_under_the_name_that_it_was_stored_under_first(self, tmp_path):
        done = filled(OutcomeStore(tmp_path)).done(CELL)
        renamed = replace(CELL, method=replace(CELL.method, name="conv@image_size=32/centroid"))
        store = OutcomeStore(tmp_path)
        store.open_cell(renamed)
        assert {run: list(numbers) for run, numbers in store.done(renamed).items()} == {
            run: list(numbers) for run, numbers in done.items()
        }
        store.append(renamed, 0, np.array([99]), PREDICTIONS[0][:1], 0.1)
        assert store.cells() == [CELL]
        assert 99 in OutcomeStore(tmp_path).done(CELL)[0]
        assert store.names_of(renamed.method) == [CELL.method.name]
        assert store.names_of(replace(CELL.method, weights="other")) == []
        assert store.names_of(renamed.method, ["0123456789abcdef"]) == []

    def test_a_cell_that_goes_on_under_other_versions_records_both(self, tmp_path):
        filled(OutcomeStore(tmp_path))
        newer = replace(CELL, versions={"torch": "2.4.0", "timm": "1.0"})
        for _ in range(2):
            OutcomeStore(tmp_path).append(newer, 2, np.arange(2), PREDICTIONS[0][:2], 0.1)
        (stored,) = OutcomeStore(tmp_path).cells()
        assert stored.versions == {"torch": "2.3.0 and 2.4.0", "timm": "1.0"}
        assert stored.key == CELL.key

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"method": {}}'])
    def test_a_damaged_description_is_named(self, tmp_path, text):
        store = filled(OutcomeStore(tmp_path))
        (tmp_path / CELL.key / "cell.json").write_text(text)
        with pytest.raises(OutcomeError, match=r"cell\.json is damaged .* Delete the folder"):
            store.cells()

    def test_a_description_in_the_wrong_folder_is_refused(self, tmp_path):
        store = filled(OutcomeStore(tmp_path))
        (tmp_path / CELL.key).rename(tmp_path / "0123456789abcdef")
        with pytest.raises(OutcomeError, match="describes another cell"):
            store.cells()


class TestDamage:
    def test_a_truncated_part_is_named_before_anything_is_computed(self, tmp_path):
        store = filled(OutcomeStore(tmp_path))
        part = parts(store)[1]
        for length in (0, 3, len(part.read_bytes()) // 2, len(part.read_bytes()) - 1):
            part.write_bytes(part.read_bytes()[:length])
            for use in (OutcomeStore(tmp_path).done, store.read):
                with pytest.raises(OutcomeError, match=rf"{part.name} are damaged .* Delete that file and run again"):
                    use(CELL)

    def test_deleting_the_damaged_part_and_running_again_mends_it(self, tmp_path):
        store = filled(OutcomeStore(tmp_path))
        whole = store.read(CELL)
        parts(store)[1].unlink()
        assert set(store.done(CELL)) == {0}
        pd.testing.assert_frame_equal(filled(store).read(CELL), whole)

    @pytest.mark.slow
    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_a_flipped_bit_never_changes_an_outcome_unnoticed(self, tmp_path_factory, data):
        store = filled(OutcomeStore(tmp_path_factory.mktemp("flipped")))
        whole, part = store.read(CELL), parts(store)[0]
        content = bytearray(part.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        part.write_bytes(content)
        for use in (store.read, OutcomeStore(store.folder).done):
            with pytest.raises(OutcomeError, match=rf"{part.name} are damaged"):
                use(CELL)
        part.unlink()
        pd.testing.assert_frame_equal(store.read(CELL), whole[whole["run"] == 1].reset_index(drop=True))

    @pytest.mark.parametrize("with_predictions", [True, False])
    def test_a_part_under_the_name_of_other_episodes_is_refused(self, tmp_path, with_predictions):
        store = filled(OutcomeStore(tmp_path))
        part = parts(store)[0]
        end = f"-{digest_of(part)}.parquet"
        for name in (f"run=2/episodes-00000-00012{end}", f"run=0/episodes-00100-00112{end}", f"together{end}"):
            (tmp_path / CELL.key / name).parent.mkdir(exist_ok=True)
            part = part.rename(tmp_path / CELL.key / name)
            with pytest.raises(OutcomeError, match="not those that its name says"):
                store.read(CELL, with_predictions=with_predictions)

    @pytest.mark.parametrize("with_predictions", [True, False])
    def test_a_part_of_another_cell_is_refused(self, tmp_path, with_predictions):
        other = replace(CELL, method=replace(CELL.method, weights="11ee"))
        filled(OutcomeStore(tmp_path), other)
        store = filled(OutcomeStore(tmp_path))
        for part in (tmp_path / other.key).rglob("*.parquet"):
            part.rename(tmp_path / CELL.key / part.relative_to(tmp_path / other.key))
        with pytest.raises(OutcomeError, match=r"holds outcomes of another method or protocol than its folder\. Move"):
            store.read(CELL, with_predictions=with_predictions)

    def test_a_name_of_more_episodes_than_there_can_be_takes_no_memory(self, tmp_path):
        store = filled(OutcomeStore(tmp_path))
        part = parts(store)[0]
        part.rename(part.with_name(f"episodes-00000-999999999-{digest_of(part)}.parquet"))
        with pytest.raises(OutcomeError, match="not those that its name says"):
            store.done(CELL)


DIES_WHILE_WRITING = """
import os, sys
import numpy as np
from fewshot_bench.outcomes import Cell, OutcomeStore
cell = Cell.from_json(sys.argv[2])
real, calls = os.fsync, []
def fsync(descriptor):
    calls.append(1)
    if len(calls) == 4:  # cell.json, two parts, and now the third
        os.ftruncate(descriptor, 100)
        os._exit(9)
    real(descriptor)
os.fsync = fsync
for start in range(0, 12, 4):
    OutcomeStore(__import__("pathlib").Path(sys.argv[1])).append(
        cell, 0, np.arange(start, start + 4), np.zeros((4, 6), np.uint8), 0.1
    )
"""

APPENDS = """
import sys
from pathlib import Path
import numpy as np
from fewshot_bench.outcomes import Cell, OutcomeStore
for episode in range(20):
    OutcomeStore(Path(sys.argv[1])).append(
        Cell.from_json(sys.argv[2]), int(sys.argv[3]), np.array([episode]), np.zeros((1, 6), np.uint8), 0.1
    )
"""


class TestInterruption:
    @pytest.mark.slow
    def test_a_kill_in_the_middle_of_a_write_leaves_the_store_readable(self, tmp_path):
        killed = subprocess.run([sys.executable, "-c", DIES_WHILE_WRITING, str(tmp_path), CELL.as_json()])
        assert killed.returncode == 9
        left = [path for path in (tmp_path / CELL.key / "run=0").iterdir() if path.suffix == ".tmp"]
        assert len(left) == 1
        own = left[0].with_name(temporary_name("episodes.parquet"))
        own.touch()
        store = OutcomeStore(tmp_path)
        assert store.done(CELL)[0].tolist() == [*range(8)]
        assert len(store.read(CELL)) == 8
        store.append(CELL, 0, np.arange(8, 12), PREDICTIONS[0][8:], 0.1)
        assert store.read(CELL)["episode"].tolist() == [*range(12)]
        assert not left[0].exists(), "what a dead process has left is removed"
        assert own.exists(), "and nothing of a living one"

    def test_an_exception_while_writing_leaves_no_file(self, tmp_path, monkeypatch):
        def interrupted(*_):
            raise KeyboardInterrupt

        store = OutcomeStore(tmp_path)
        store.open_cell(CELL)
        monkeypatch.setattr("os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            filled(store)
        assert list((tmp_path / CELL.key / "run=0").iterdir()) == []

    @pytest.mark.slow
    def test_two_processes_may_append_at_once(self, tmp_path):
        other = replace(CELL, protocol=replace(PROTOCOL, shot=5))
        jobs = [(CELL, 0), (CELL, 1), (other, 0)]
        processes = [
            subprocess.Popen([sys.executable, "-c", APPENDS, str(tmp_path), cell.as_json(), str(run)])
            for cell, run in jobs
        ]
        assert [process.wait() for process in processes] == [0, 0, 0]
        store = OutcomeStore(tmp_path)
        assert [len(store.read(cell)) for cell in (CELL, other)] == [40, 20]


def test_a_cell_that_goes_on_keeps_what_was_recorded_and_adds_what_was_not(tmp_path):
    store = OutcomeStore(tmp_path)
    store.open_cell(replace(CELL, provenance={"commands": ["first"], "git_commit": "aa"}))
    store.open_cell(replace(CELL, class_sizes=(3, 4), provenance={"commands": ["second"], "git_commit": "bb"}))
    store.open_cell(replace(CELL, class_sizes=(3, 4), provenance={"commands": ["first"]}))
    stored = Cell.from_json((tmp_path / CELL.key / "cell.json").read_text(encoding="utf-8"))
    assert stored.class_sizes == (3, 4)
    assert stored.provenance == {
        "commands": ["first", "second"],
        "git_commit": "aa",
        "continued": [{"git_commit": "bb"}],
    }


def test_a_cell_that_goes_on_elsewhere_says_where(tmp_path):
    laptop = {"git_commit": "a" * 40, "hardware": {"device": "cpu"}, "peak_bytes": 5}
    cluster = {"git_commit": "b" * 40, "hardware": {"device": "H100"}, "engine": {"name": "ray"}, "peak_bytes": 3}
    store = OutcomeStore(tmp_path)
    for told in (laptop, cluster, laptop, cluster):
        store.open_cell(replace(CELL, provenance=told))
    store.append(CELL, 0, np.arange(2), PREDICTIONS[0][:2], 0.1)
    (stored,) = store.cells()
    assert {name: stored.provenance[name] for name in laptop} == laptop
    assert stored.provenance["continued"] == [{name: cluster[name] for name in ("git_commit", "hardware", "engine")}]
