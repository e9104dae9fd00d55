from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.errors import ShapeError
from fewshot_bench.outcomes import Cell, MethodCard, Outcomes, ProtocolCard, episode_frame

PREDICTIONS = np.array([[0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 0], [1, 1, 2, 2, 0, 0]], dtype=np.uint8)


def test_queries_are_counted_class_by_class():
    frame = episode_frame(2, np.array([7, 8, 9]), PREDICTIONS, way=3, seconds=0.5)
    assert frame["correct"].tolist() == [6, 3, 0]
    assert frame["accuracy"].tolist() == [1.0, 0.5, 0.0]
    assert frame["run"].tolist() == [2, 2, 2]
    assert frame["episode"].tolist() == [7, 8, 9]
    assert frame["seconds"].tolist() == [0.5, 0.5, 0.5]


def test_time_is_unknown_where_nobody_measured_it():
    assert math.isnan(episode_frame(0, np.array([0]), PREDICTIONS[:1], way=3)["seconds"].iloc[0])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 5), st.randoms(use_true_random=False))
def test_predictions_come_back_as_they_went_in(way, query, episodes, random):
    predictions = np.array(
        [[random.randrange(way) for _ in range(way * query)] for _ in range(episodes)], dtype=np.uint8
    ).reshape(episodes, way * query)
    cell = Cell(MethodCard("m", "b", "w", "a"), ProtocolCard("d", "f", "novel", way, 1, query, 0, 1))
    outcomes = Outcomes(cell, episode_frame(0, np.arange(episodes), predictions, way))
    assert len(outcomes) == episodes
    np.testing.assert_array_equal(outcomes.predictions, predictions)
    expected = [sum(row[m] == m // query for m in range(way * query)) / (way * query) for row in predictions]
    np.testing.assert_array_equal(outcomes.accuracy, np.array(expected))
    np.testing.assert_array_equal(outcomes.episode, np.arange(episodes))
    assert set(outcomes.run) <= {0}


@pytest.mark.parametrize(
    ("numbers", "predictions", "way", "message"),
    [
        (np.arange(3), PREDICTIONS.astype(np.int64), 3, "must be uint8"),
        (np.arange(6), PREDICTIONS.ravel(), 3, r"must be uint8 or uint16 \[E, N \* Q\], not uint8 \[18\]"),
        (np.arange(2), PREDICTIONS, 3, "2 episode numbers, but predictions of 3 episodes"),
        (np.arange(3), PREDICTIONS, 4, "6 queries per episode are not the same number for each of 4 classes"),
        (np.arange(3), PREDICTIONS, 2, "names class 2 of 2-way episodes"),
        (np.arange(3), PREDICTIONS, 257, "must be uint16"),
        (np.arange(3), PREDICTIONS, 65_536, "way must be 1 to 65,535, not 65536"),
    ],
)
def test_predictions_of_other_episodes_are_refused(numbers, predictions, way, message):
    with pytest.raises(ShapeError, match=message):
        episode_frame(0, numbers, predictions, way)
