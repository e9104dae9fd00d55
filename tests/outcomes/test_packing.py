from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench.errors import ShapeError
from fewshot_bench.outcomes.packing import digits_per_byte, packed, packed_size, unpacked


@given(st.integers(1, 255), st.integers(1, 80), st.integers(0, 5), st.integers(0, 2**32))
def test_predictions_come_back_as_they_were_packed(way, queries, episodes, seed):
    predictions = np.random.default_rng(seed).integers(0, way, size=(episodes, queries)).astype(np.uint8)
    content = packed(predictions, way)
    assert content.shape == (episodes, packed_size(queries, way))
    np.testing.assert_array_equal(unpacked(content, queries, way), predictions)


@pytest.mark.parametrize(("way", "digits"), [(1, 8), (2, 8), (3, 5), (4, 4), (5, 3), (6, 3), (7, 2), (16, 2), (17, 1)])
def test_as_many_predictions_share_a_byte_as_fit(way, digits):
    assert digits_per_byte(way) == digits


def test_75_predictions_of_5_classes_take_25_bytes():
    assert packed(np.array([[1, 2, 3] * 25], np.uint8), 5).tolist() == [[1 + 2 * 5 + 3 * 25] * 25]


def test_a_prediction_of_no_class_is_refused():
    with pytest.raises(ShapeError, match="names class 5 of 5-way"):
        packed(np.array([[0, 5]], np.uint8), 5)


@pytest.mark.parametrize(
    "content", [[[125, 0]], [[0, 5]], [[0, 0, 0]]], ids=["no digits", "a query too many", "a byte too many"]
)
def test_bytes_that_nobody_packs_are_none(content):
    assert unpacked(np.array(content, np.uint8), 4, 5) is None
