"""Outcomes of tasks with uneven queries, and of tasks that differ in their number of queries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.errors import OutcomeError, ShapeError
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard, episode_frame
from fewshot_bench.outcomes.part import Identity, new_part

METHOD = MethodCard("conv/centroid", "conv4", "00ff", "centroid")
UNEVEN = Cell(METHOD, ProtocolCard("toy", "ab", "novel", 3, 1, 2, 0, 1, "dirichlet", {"alpha": 2.0}))
VARIED = Cell(METHOD, ProtocolCard("toy", "ab", "novel", 4, 1, 2, 0, 1, "varied", {"least_way": 2, "least_shot": 1}))
EVEN = Cell(METHOD, ProtocolCard("toy", "ab", "novel", 4, 1, 2, 0, 1))
WAYS = np.random.default_rng(0).integers(2, 5, size=12)


def varied_frame(numbers=range(12), *, run=0):
    """Episodes of 2, 3 and 4 classes with two queries of each."""
    generator = np.random.default_rng(1)
    frames = []
    for number in range(12):
        way = int(WAYS[number])
        predictions = generator.integers(0, way, size=(1, 2 * way)).astype(np.uint8)
        if number in numbers:
            frames.append(episode_frame(run, np.array([number]), predictions, way, 0.5))
    return pd.concat(frames, ignore_index=True)


def parts(store, cell):
    return sorted((store.folder / cell.key).rglob("*.parquet"))


def test_uneven_queries_are_counted_by_their_own_truth(tmp_path):
    predictions = np.array([[0, 0, 1, 2, 2, 2], [1, 1, 1, 1, 1, 1]], np.uint8)
    truth = np.array([[0, 0, 0, 0, 2, 2], [1, 1, 1, 1, 1, 2]], np.uint8)
    store = OutcomeStore(tmp_path)
    store.append(UNEVEN, 0, np.arange(2), predictions, 0.1, truth=truth)
    outcomes = store.outcomes(UNEVEN)
    assert outcomes.frame["correct"].tolist() == [4, 5]
    assert outcomes.accuracy.tolist() == [4 / 6, 5 / 6]
    assert (outcomes.predictions == predictions).all()


def test_without_their_truth_uneven_queries_are_refused(tmp_path):
    with pytest.raises(ShapeError, match="dirichlet has unequal numbers of queries per class"):
        OutcomeStore(tmp_path).append(UNEVEN, 0, np.arange(2), np.zeros((2, 6), np.uint8), 0.1)
    assert OutcomeStore(tmp_path).cells() == []


@pytest.mark.parametrize(
    "truth",
    [np.zeros((2, 5), np.uint8), np.zeros((1, 6), np.uint8), np.zeros((2, 6), int), np.full((2, 6), 3, np.uint8)],
    ids=["fewer queries", "fewer episodes", "another type", "a class that is not there"],
)
def test_a_truth_of_other_episodes_is_refused(truth):
    with pytest.raises(ShapeError, match=r"the truth must name classes of 3-way episodes, uint8 \[2, 6\]"):
        episode_frame(0, np.arange(2), np.zeros((2, 6), np.uint8), 3, truth=truth)


def test_episodes_of_several_sizes_are_one_part_and_come_back_as_they_were_stored(tmp_path):
    store = OutcomeStore(tmp_path)
    frame = varied_frame()
    store.append_frame(VARIED, frame.sample(frac=1, random_state=0))
    (part,) = parts(store, VARIED)
    assert part.name.startswith("episodes-00000-00012-")
    pd.testing.assert_frame_equal(store.read(VARIED), frame)
    pd.testing.assert_frame_equal(store.read(VARIED.key), frame)
    assert store.done(VARIED)[0].tolist() == [*range(12)]
    predictions = store.outcomes(VARIED).predictions
    assert predictions.shape == (12, 8)
    assert ((predictions == 255).sum(axis=1) == 8 - 2 * WAYS).all()


def test_episodes_of_one_size_may_be_appended_as_an_array(tmp_path):
    store = OutcomeStore(tmp_path)
    store.append(VARIED, 0, np.arange(2), np.array([[0, 0, 1, 1], [1, 1, 0, 0]], np.uint8), 0.1)
    store.append(VARIED, 0, np.array([2]), np.zeros((1, 8), np.uint8), 0.1)
    assert store.read(VARIED)["accuracy"].tolist() == [1.0, 0.0, 0.25]


def test_what_is_stored_already_is_kept_and_runs_are_kept_apart(tmp_path):
    store = OutcomeStore(tmp_path)
    store.append_frame(VARIED, varied_frame(range(4)))
    store.append_frame(VARIED, pd.concat([varied_frame(range(4, 12)), varied_frame(run=1)]))
    expected = pd.concat([varied_frame(), varied_frame(run=1)], ignore_index=True)
    pd.testing.assert_frame_equal(store.read(VARIED), expected)


@pytest.mark.parametrize(("way", "queries"), [(2, 2), (3, 1), (5, 2)])
def test_sizes_that_the_protocol_does_not_have_are_refused(tmp_path, way, queries):
    frame = episode_frame(0, np.array([0]), np.zeros((1, way * queries), np.uint8), way)
    for cell in (VARIED, EVEN) if way != 2 else (EVEN,):
        with pytest.raises(ShapeError, match=rf"predictions per episode, not {way * queries}"):
            OutcomeStore(tmp_path).append_frame(cell, frame)
    with pytest.raises(ShapeError, match=r"not the same number|has 4 to 8 predictions|has 8 predictions"):
        OutcomeStore(tmp_path).append(VARIED if way != 2 else EVEN, 0, np.arange(1), np.zeros((1, 3), np.uint8), 0.1)


def test_a_part_with_sizes_that_the_protocol_does_not_have_is_damaged(tmp_path):
    store = OutcomeStore(tmp_path)
    store.append_frame(VARIED, varied_frame())
    other = OutcomeStore(tmp_path / "other")
    other.append(EVEN, 0, np.arange(12), np.zeros((12, 8), np.uint8), 0.1)
    (part,) = parts(other, EVEN)
    identity = replace(Identity.of(EVEN), queries=VARIED.protocol.queries_per_episode)
    name, content = new_part(varied_frame(), identity, 0)
    part.unlink()
    (other.folder / EVEN.key / name).write_bytes(content)
    with pytest.raises(OutcomeError, match="predictions should be of type fixed_size_binary"):
        other.read(EVEN)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_flipped_bit_in_episodes_of_several_sizes_never_changes_an_outcome_unnoticed(tmp_path_factory, data):
    store = OutcomeStore(tmp_path_factory.mktemp("flipped"))
    store.append_frame(VARIED, varied_frame())
    part = parts(store, VARIED)[0]
    content = bytearray(part.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    part.write_bytes(content)
    for with_predictions in (True, False):
        with pytest.raises(OutcomeError, match=rf"{part.name} are damaged"):
            store.read(VARIED, with_predictions=with_predictions)


def test_parts_of_one_size_have_it_in_their_type_as_ever(tmp_path):
    store = OutcomeStore(tmp_path)
    store.append(EVEN, 0, np.arange(2), np.zeros((2, 8), np.uint8), 0.1)
    store.append_frame(VARIED, varied_frame())
    types = [
        str(pq.ParquetFile(parts(store, cell)[0]).schema_arrow.field("predictions").type) for cell in (EVEN, VARIED)
    ]
    assert types == ["fixed_size_binary[2]", "binary"]


def test_the_sampler_and_its_settings_make_another_cell():
    cards = [
        EVEN.protocol,
        replace(EVEN.protocol, sampler="disjoint"),
        VARIED.protocol,
        replace(VARIED.protocol, sampler_settings={"least_way": 3, "least_shot": 1}),
    ]
    assert len({card.fingerprint for card in cards}) == 4
    assert [card.task for card in cards[:3]] == [
        "toy 4-way 1-shot",
        "toy 4-way 1-shot disjoint",
        "toy 4-way 1-shot varied",
    ]
    assert [list(card.queries_per_episode) for card in cards] == [[8], [8], [4, 6, 8], [6, 8]]
