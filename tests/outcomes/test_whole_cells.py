"""Outcomes of whole splits: a prediction and its confidence for every image, in the same store as episodes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forged_parts import forged, written
from hypothesis import given
from hypothesis import strategies as st
from toy_cells import CELL, filled

from fewshot_bench.errors import OutcomeError, ShapeError
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard
from fewshot_bench.outcomes.cell import FORMAT, NewerFormatError
from fewshot_bench.outcomes.packing import are_confidences, packed_confidence, unpacked_confidence

METHOD = MethodCard("conv/classifier", "conv4", "00ff", "classifier")
WHOLE = Cell(METHOD, ProtocolCard("toy", "ab" * 32, "test", 3, 0, 1, 0, 1, "whole", {}), class_sizes=(2, 1, 3))
MANY = replace(WHOLE, protocol=replace(WHOLE.protocol, way=300))
TRUTH = np.array([[0], [0], [1], [2], [2], [2]], np.uint8)
PREDICTED = np.array([[0], [1], [1], [2], [0], [2]], np.uint8)
CONFIDENCE = np.array([1.0, 0.5, 1 / 3, 0.9, 0.75, 0.34])


def stored(folder, numbers=range(6), cell=WHOLE):
    store, rows = OutcomeStore(folder), np.array(numbers)
    store.append(cell, 0, rows, PREDICTED[rows], 0.1, truth=TRUTH[rows], confidence=CONFIDENCE[rows])
    return store


def part(store, cell=WHOLE):
    (path,) = (store.folder / cell.key).rglob("*.parquet")
    return path


@pytest.mark.parametrize("cell", [WHOLE, MANY], ids=["one byte", "two bytes"])
def test_what_is_stored_is_read_again(tmp_path, cell):
    frame = stored(tmp_path, cell=cell).outcomes(cell).frame
    assert frame["correct"].tolist() == [1, 0, 1, 1, 0, 1]
    assert frame["confidence"].to_numpy() == pytest.approx(CONFIDENCE, abs=0.5 / 65_535)
    assert (OutcomeStore(tmp_path).read(cell, with_predictions=False)["confidence"] == frame["confidence"]).all()


def test_a_part_holds_one_column_more_in_two_bytes_a_row(tmp_path):
    table = pq.read_table(part(stored(tmp_path)))
    assert table.column_names[-2:] == ["seconds", "confidence"]
    assert table["confidence"].type == pa.uint16()
    assert table["confidence"].to_pylist()[:2] == [65_535, 32_768]


def test_parts_and_cards_of_episodes_stay_what_they_are(tmp_path):
    store = filled(OutcomeStore(tmp_path))
    for path in (tmp_path / CELL.key).rglob("*.parquet"):
        assert "confidence" not in pq.read_schema(path).names
        assert json.loads(pq.read_schema(path).metadata[b"fewshot-bench"])["format"] == FORMAT
    assert json.loads((store.folder / CELL.key / "cell.json").read_text())["format"] == FORMAT


def test_older_releases_are_told_that_the_format_is_newer(tmp_path, monkeypatch):
    text = WHOLE.as_json()
    monkeypatch.setattr("fewshot_bench.outcomes.cell.FORMAT_OF_WHOLE", FORMAT)
    with pytest.raises(NewerFormatError, match="written by a newer fewshot-bench"):
        Cell.from_json(text)


def test_images_stored_one_after_the_other_are_those_stored_at_once_and_compaction_keeps_them(tmp_path):
    from fewshot_bench.outcomes.maintenance import compact

    store = stored(tmp_path / "parts", range(2))
    stored(tmp_path / "parts", range(2, 6))
    before = store.read(WHOLE)
    assert before.drop(columns="seconds").equals(stored(tmp_path / "whole").read(WHOLE).drop(columns="seconds"))
    compact(store.folder / WHOLE.key)
    assert part(store).name.startswith("together-")
    assert OutcomeStore(store.folder).read(WHOLE).equals(before)


def test_a_copy_may_differ_by_rounding_and_by_no_more(tmp_path):
    store = stored(tmp_path, range(2))
    store.append(WHOLE, 0, np.arange(3), PREDICTED[:3], 0.2, truth=TRUTH[:3], confidence=CONFIDENCE[:3] - 1e-5)
    assert len(store.read(WHOLE)) == 3
    store.append(WHOLE, 0, np.arange(4), PREDICTED[:4], 0.2, truth=TRUTH[:4], confidence=CONFIDENCE[:4] * 0.999 + 4e-4)
    with pytest.raises(OutcomeError, match="is stored twice and differently"):
        store.read(WHOLE)


@pytest.mark.parametrize("wrong", [1.1, -0.1, np.nan, np.inf, 0.2])
def test_what_is_not_the_probability_of_the_most_probable_class_is_not_stored(tmp_path, wrong):
    confidence = CONFIDENCE.copy()
    confidence[3] = wrong
    with pytest.raises(ShapeError, match="confidence should be"):
        OutcomeStore(tmp_path).append(WHOLE, 0, np.arange(6), PREDICTED, 0.1, truth=TRUTH, confidence=confidence)


def test_outcomes_without_confidence_are_not_stored(tmp_path):
    with pytest.raises(ShapeError, match="should have the column confidence once"):
        OutcomeStore(tmp_path).append(WHOLE, 0, np.arange(6), PREDICTED, 0.1, truth=TRUTH)


def changed(column):
    def change(table):
        return table.set_column(table.column_names.index("confidence"), "confidence", column)

    return change


FORGERIES = {
    "a confidence below that of any choice": changed(pa.array([65_535] * 5 + [21_000], pa.uint16())),
    "a missing one": changed(pa.array([65_535] * 5 + [None], pa.uint16())),
    "numbers of another type": changed(pa.array([1.0] * 6)),
    "signed numbers": changed(pa.array([30_000] * 6, pa.int16())),
    "text": changed(pa.array(["1"] * 6)),
    "no confidence": lambda table: table.drop_columns("confidence"),
    "it twice": lambda table: table.append_column("confidence", table["confidence"]),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_part_is_refused(tmp_path, name):
    path = part(stored(tmp_path))
    table = FORGERIES[name](pq.read_table(path).replace_schema_metadata(None))
    path.unlink()
    forged(tmp_path / WHOLE.key, written(table, WHOLE, 0, end=6), 0, rows=6)
    for with_predictions in (True, False):
        with pytest.raises(OutcomeError, match="are damaged"):
            OutcomeStore(tmp_path).read(WHOLE, with_predictions=with_predictions)


def test_confidences_in_a_cell_of_episodes_are_refused(tmp_path):
    store = OutcomeStore(tmp_path)
    store.append(CELL, 0, np.arange(4), np.zeros((4, 6), np.uint8), 0.1)
    (path,) = (tmp_path / CELL.key).rglob("*.parquet")
    table = pq.read_table(path).replace_schema_metadata(None)
    path.unlink()
    content = written(table.append_column("confidence", pa.array([65_535] * 4, pa.uint16())), CELL, 0)
    forged(tmp_path / CELL.key, content, 0)
    with pytest.raises(OutcomeError, match="are damaged"):
        OutcomeStore(tmp_path).read(CELL)


IDENTITIES = {
    "a shot": {"shot": 1},
    "two queries": {"query": 2},
    "a seed": {"seed": 4},
    "settings": {"sampler_settings": {"alpha": 2.0}},
    "one class": {"way": 1},
    "no shot of another sampler": {"sampler": "standard"},
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_card_that_no_release_writes_is_refused(name):
    cell = replace(WHOLE, protocol=replace(WHOLE.protocol, **IDENTITIES[name]))
    with pytest.raises(OutcomeError, match="should be"):
        Cell.from_json(cell.as_json())
    assert Cell.from_json(WHOLE.as_json()) == WHOLE


@given(st.lists(st.floats(1 / 7, 1), min_size=1, max_size=9))
def test_packing_rounds_to_the_nearest_of_65_535_steps(values):
    confidence = np.array(values)
    packed = packed_confidence(confidence, 7)
    assert are_confidences(packed, 7)
    assert unpacked_confidence(packed) == pytest.approx(confidence, abs=0.5 / 65_535)
    assert (packed_confidence(unpacked_confidence(packed), 7) == packed).all()
