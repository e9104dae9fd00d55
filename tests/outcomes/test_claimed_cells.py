"""Cells of claimed episodes in the store: as whole, as immutable and as checked as any other."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_cells import CELL, everything, filled

from fewshot_bench.errors import OutcomeError, ShapeError
from fewshot_bench.outcomes import Cell, OutcomeStore, claimed_frame, claimed_method, claimed_protocol
from fewshot_bench.outcomes.checking import check_cell
from fewshot_bench.outcomes.claimed import classes_text
from fewshot_bench.outcomes.maintenance import compact, merge, prune
from fewshot_bench.outcomes.part import CONSTANTS, METADATA, Identity

CLAIMED = Cell(claimed_method("proto"), claimed_protocol("cifar-fs", "novel", 3, 1, "acc"))
NUMBERS = np.array([0, 5, 7, 100_000])


def frame(run: int = 0, *, shift: float = 0.0) -> pd.DataFrame:
    classes = np.array(["1;2;30", "ant;bee;cat", "", "1;2;3"], dtype=object)
    correct, queries = np.array([3, -1, 0, -1]), np.array([4, 9, 7, 0])
    accuracy = np.array([0.75, 0.5 + shift, 0.0, 1 / 3])
    return claimed_frame(np.full(4, run), NUMBERS, accuracy, correct=correct, queries=queries, classes=classes)


@pytest.fixture
def store(tmp_path):
    store = OutcomeStore(tmp_path / "outcomes")
    for run in (0, 3):
        store.append_frame(CLAIMED, frame(run))
    return store


def test_claimed_episodes_are_read_as_they_were_stored(store):
    expected = pd.concat([frame(0), frame(3)], ignore_index=True)
    read = OutcomeStore(store.folder).read(CLAIMED, with_predictions=False)
    pd.testing.assert_frame_equal(read, expected, check_like=True)
    assert OutcomeStore(store.folder).read(CLAIMED)["predictions"].tolist() == [b""] * 8
    assert OutcomeStore(store.folder).outcomes(CLAIMED).predictions.shape == (8, 0)
    assert OutcomeStore(store.folder).cells() == [CLAIMED]
    assert {run: numbers.tolist() for run, numbers in OutcomeStore(store.folder).done(CLAIMED).items()} == {
        0: NUMBERS.tolist(),
        3: NUMBERS.tolist(),
    }


def test_two_methods_of_other_names_are_two_methods():
    assert claimed_method("a").fingerprint != claimed_method("b").fingerprint
    assert claimed_method("a").fingerprint == claimed_method("a").fingerprint


def test_compaction_keeps_every_claimed_episode(store):
    before = store.read(CLAIMED)
    done = compact(store.folder / CLAIMED.key)
    assert done.parts == 2
    assert len(list(store.folder.rglob("*.parquet"))) == 1
    pd.testing.assert_frame_equal(OutcomeStore(store.folder).read(CLAIMED), before)
    whole = everything(store.folder)
    compact(store.folder / CLAIMED.key)
    assert everything(store.folder) == whole


def test_merge_copies_claimed_cells_and_refuses_other_numbers(store, tmp_path):
    target = tmp_path / "target"
    filled(OutcomeStore(target))
    merge([store.folder], target)
    merged = OutcomeStore(target)
    pd.testing.assert_frame_equal(merged.read(CLAIMED), store.read(CLAIMED))
    assert {cell.key for cell in merged.cells()} == {CLAIMED.key, CELL.key}
    other = OutcomeStore(tmp_path / "other")
    other.append_frame(CLAIMED, frame(0, shift=0.25))
    before = everything(target)
    with pytest.raises(OutcomeError, match="run 0, episode 5 is stored twice and differently"):
        merge([other.folder], target)
    assert everything(target) == before


@pytest.mark.parametrize("column", ["classes", "queries"])
def test_copies_that_differ_in_what_else_is_claimed_contradict_each_other(column, store):
    changed = frame(0)
    changed[column] = changed[column].replace({"": "7;8;9", 9: 10})
    store.append_frame(CLAIMED, changed)
    for with_predictions in (True, False):
        with pytest.raises(OutcomeError, match="stored twice and differently"):
            OutcomeStore(store.folder).read(CLAIMED, with_predictions=with_predictions)


def test_prune_leaves_nothing(store):
    assert prune(store.folder / CLAIMED.key) == 3
    assert OutcomeStore(store.folder).cells() == []


def test_a_whole_cell_is_whole_although_its_numbers_have_gaps(store):
    found = check_cell(store.folder / CLAIMED.key)
    assert (found.damage, found.notes, found.episodes) == ([], [], {0: 4, 3: 4})


def test_one_byte_less_is_damage(store):
    part = next(store.folder.rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    assert "its bytes do not match the digest" in check_cell(store.folder / CLAIMED.key).damage[0]


WRONG = {
    "predictions instead of classes": lambda f: f.drop(columns="classes"),
    "no frame": lambda f: f.to_dict(),
    "text as accuracy": lambda f: f.assign(accuracy="0.5"),
    "accuracy above 1": lambda f: f.assign(accuracy=70.0),
    "NaN": lambda f: f.assign(accuracy=np.nan),
    "a run below 0": lambda f: f.assign(run=-1),
    "an episode too large": lambda f: f.assign(episode=2**31),
    "more correct than queries": lambda f: f.assign(correct=10),
    "another fraction": lambda f: f.assign(correct=1, queries=3, accuracy=0.5),
    "numbers as classes": lambda f: f.assign(classes=3),
    "too few classes": lambda f: f.assign(classes="1;2"),
    "classes in another order": lambda f: f.assign(classes="2;1;3"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_claimed_frame_is_not_stored(kind, tmp_path):
    store = OutcomeStore(tmp_path)
    with pytest.raises(ShapeError):
        store.append_frame(CLAIMED, WRONG[kind](frame()))
    assert everything(tmp_path) == {}


def test_predictions_are_not_stored_in_a_claimed_cell(tmp_path):
    with pytest.raises(ShapeError):
        OutcomeStore(tmp_path).append(CLAIMED, 0, np.arange(2), np.zeros((2, 6), np.uint8), 0.1)


def test_classes_are_sorted_by_value_if_all_are_numbers():
    assert classes_text(["10", "9", "2"], 3) == "2;9;10"
    assert classes_text([" b", "10 ", "a"], 3) == "10;a;b"


PARTS: dict[str, Any] = {
    "episode below 0": {"episode": pa.array([-1, 5], pa.int32())},
    "run below 0": {"run": pa.array([-1, 0], pa.int16())},
    "accuracy of NaN": {"accuracy": pa.array([0.5, float("nan")])},
    "accuracy above 1": {"accuracy": pa.array([0.5, 1.5])},
    "accuracy missing": {"accuracy": pa.array([0.5, None], pa.float64())},
    "accuracy as text": {"accuracy": pa.array(["0.5", "0.5"])},
    "accuracy in float32": {"accuracy": pa.array([0.5, 0.5], pa.float32())},
    "counts that contradict": {"correct": pa.array([1, 1], pa.int32())},
    "counts without queries": {"correct": pa.array([1, -1], pa.int32()), "queries": pa.array([0, 0], pa.int32())},
    "queries without end": {"queries": pa.array([2**31 - 1, 0], pa.int32())},
    "classes missing": {"classes": pa.array([None, ""], pa.string())},
    "classes as bytes": {"classes": pa.array([b"", b""])},
    "classes of another way": {"classes": pa.array(["1;2", ""])},
    "a class twice": {"classes": pa.array(["1;1;2", ""])},
    "classes with control characters": {"classes": pa.array(["1;2;\x1b[31m", ""])},
    "a class without end": {"classes": pa.array(["1;2;" + "x" * 100_000, ""])},
    "another method": {"method": pa.array(["x", "x"])},
    "a method missing": {"method": pa.array([None, None], pa.string())},
    "lists as classes": {"classes": pa.array([["1"], ["2"]])},
    "another column": {"extra": pa.array([1, 2])},
}


def written(folder, columns: dict[str, Any], *, stretch: str | None = None, rows: int = 2):
    """A part that a stranger made, with the right digest."""
    identity = Identity.of(CLAIMED)
    usual = {
        **{name: pa.array([getattr(identity, name)] * rows) for name in CONSTANTS},
        "run": pa.array([0] * rows, pa.int16()),
        "episode": pa.array(range(rows), pa.int32()),
        "accuracy": pa.array([0.5] * rows),
        "correct": pa.array([-1] * rows, pa.int32()),
        "queries": pa.array([4] * rows, pa.int32()),
        "classes": pa.array([""] * rows, pa.string()),
    }
    table, stream = pa.table({**usual, **columns}), io.BytesIO()
    claims = identity.metadata(None, 0, 0) if stretch is None else identity.metadata(0, 0, rows)
    with pq.ParquetWriter(stream, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({METADATA: json.dumps(claims)})
    content = stream.getvalue()
    start = "together" if stretch is None else stretch
    path = folder / CLAIMED.key / f"{start}-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (folder / CLAIMED.key / "cell.json").write_text(CLAIMED.as_json(), encoding="utf-8")
    return OutcomeStore(folder)


def test_a_part_that_is_right_is_read(tmp_path):
    assert len(written(tmp_path, {}).read(CLAIMED)) == 2


@pytest.mark.parametrize("kind", PARTS)
def test_a_strangers_part_with_a_wrong_value_is_damaged(kind, tmp_path):
    store = written(tmp_path, PARTS[kind])
    for with_predictions in (True, False):
        with pytest.raises(OutcomeError) as caught:
            store.read(CLAIMED, with_predictions=with_predictions)
        assert "\n" not in str(caught.value)
    assert check_cell(tmp_path / CLAIMED.key).damage


def test_a_part_of_a_chunk_is_no_part_of_a_claimed_cell(tmp_path):
    (tmp_path / CLAIMED.key / "run=0").mkdir(parents=True)
    store = written(tmp_path, {}, stretch="run=0/episodes-00000-00002")
    with pytest.raises(OutcomeError, match="damaged"):
        store.read(CLAIMED)


@pytest.mark.slow
def test_text_that_a_few_bytes_repeat_is_in_memory_once(tmp_path):
    text = ";".join(f"{number:0200d}" for number in range(3))
    rows = 200_000
    store = written(tmp_path, {"classes": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [text])}, rows=rows)
    classes = store.read(CLAIMED)["classes"]
    assert len({id(one) for one in classes}) == 1


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=3,
)
_FIELDS = ["sampler_settings", "query", "way", "shot", "sampler", "dataset", "dataset_fingerprint", "seed"]


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(_FIELDS), _VALUES)
def test_a_claimed_description_holds_the_kinds_that_it_should_or_is_damaged(field, value):
    content = json.loads(CLAIMED.as_json())
    content["protocol"][field] = value
    try:
        cell = Cell.from_json(json.dumps(content))
    except OutcomeError:
        return
    assert isinstance(cell.protocol.task, str)
    assert cell.protocol.query > 0 or cell.protocol.is_claimed
    assert not cell.protocol.is_claimed or isinstance(cell.protocol.sampler_settings["tasks"], str)


@pytest.mark.parametrize("settings_of_it", [{}, {"tasks": ""}, {"tasks": 3}, {"tasks": "a\nb"}, {"tasks": "a", "b": 1}])
def test_a_claim_has_a_name_and_nothing_else(settings_of_it):
    cell = replace(CLAIMED, protocol=replace(CLAIMED.protocol, sampler_settings=settings_of_it))
    with pytest.raises(OutcomeError, match="sampler_settings should be tasks"):
        Cell.from_json(cell.as_json())


def test_only_claimed_episodes_may_leave_the_number_of_queries_open():
    cell = replace(CLAIMED, protocol=replace(CELL.protocol, query=0))
    with pytest.raises(OutcomeError, match="query should be"):
        Cell.from_json(cell.as_json())
