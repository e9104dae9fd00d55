"""What measures do not depend on, what they are without a group of classes, and which input they refuse."""

import math

import numpy as np
import pytest
from clusters_of_classes import by_name, clusters

from fewshot_bench.embeddings import MEASURES, compare_embeddings, measure, similarity_histograms
from fewshot_bench.embeddings import embedded_classes as blocks
from fewshot_bench.errors import EmbeddingError, FewshotBenchError, ShapeError

ROWS, LABELS = clusters()


def assert_equal_measures(found, expected, tolerance=2e-5):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=tolerance, abs=1e-6), key


def test_every_measure_is_listed_once_and_in_order():
    rows = measure(ROWS, LABELS, intervals=False)
    order = [list(MEASURES).index(row.name) for row in rows]
    assert order == sorted(order)
    assert len({(row.name, row.variant) for row in rows}) == len(rows)
    assert {row.name for row in (*rows, *compare_embeddings(ROWS, ROWS, LABELS, intervals=False))} == set(MEASURES)


def test_a_rotation_changes_nothing():
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    expected = by_name(measure(ROWS, LABELS, intervals=False))
    assert_equal_measures(by_name(measure((ROWS @ rotation).astype(np.float32), LABELS, intervals=False)), expected)


@pytest.mark.slow
def test_the_order_of_images_and_the_names_of_classes_change_nothing():
    order = np.random.default_rng(2).permutation(len(ROWS))
    rows = measure(ROWS[order], 100 - 7 * LABELS[order])
    assert_equal_measures(by_name(rows), by_name(measure(ROWS, LABELS, intervals=False)))
    for row, expected in zip(rows, measure(ROWS, LABELS), strict=True):
        assert (row.low, row.high) == pytest.approx((expected.low, expected.high), rel=1e-3), row


@pytest.mark.slow
def test_the_size_of_blocks_changes_nothing(monkeypatch):
    expected, pictures = measure(ROWS, LABELS), similarity_histograms(ROWS, LABELS, 100)
    compared = compare_embeddings(ROWS, ROWS[:, :3], LABELS)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 3)
    assert_equal_measures(by_name(measure(ROWS, LABELS)), by_name(expected))
    assert_equal_measures(by_name(compare_embeddings(ROWS, ROWS[:, :3], LABELS)), by_name(compared))
    found = similarity_histograms(ROWS, LABELS, 100)
    np.testing.assert_array_equal(found.same, pictures.same)
    np.testing.assert_array_equal(found.different, pictures.different)


def test_scale_changes_raw_isotropy_alone():
    found, expected = (by_name(measure(rows, LABELS, intervals=False)) for rows in (8 * ROWS, ROWS))
    changed = {key for key in expected if found[key] != pytest.approx(expected[key], rel=1e-5)}
    assert changed == {("isotropy_score", "raw"), ("isotropy_score", "centred")}


def test_a_shift_changes_nothing_that_is_centred():
    found, expected = (by_name(measure(rows, LABELS, intervals=False)) for rows in (ROWS + 4, ROWS))
    same = {key for key in expected if found[key] == pytest.approx(expected[key], rel=1e-4)}
    centred = {key for key in expected if key[1] in ("centred", "cl2")}
    assert same == centred | {
        ("isoscore", "raw"),
        ("participation_ratio", "raw"),
        ("nc1", "raw"),
        ("ncm_accuracy", "raw"),
    }


@pytest.mark.parametrize(("classes", "groups"), [(5, 20), (7, 3)])
def test_a_replicate_is_the_measure_of_the_other_classes(classes, groups):
    rows, labels = clusters(classes, 6, 5, seed=3)
    split = blocks.embedded_classes(rows, labels, groups=groups, seed=4)
    whole = {(row.name, row.variant): row for row in measure(rows, labels, groups=groups, seed=4)}
    for group in range(split.groups):
        kept = split.group_of_class[split.labels] != group
        expected = by_name(measure(split.rows[kept], split.labels[kept], intervals=False))
        assert_equal_measures({key: row.replicates[group] for key, row in whole.items()}, expected)


def test_classes_are_assigned_to_groups_evenly_and_by_the_seed_alone():
    labels = np.repeat(np.arange(50), 2)
    rows = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    splits = [blocks.embedded_classes(rows, labels, groups=20, seed=seed) for seed in (0, 0, 1)]
    assert sorted(splits[0].classes_of_groups) == [2] * 10 + [3] * 10
    assert np.array_equal(splits[0].rows, splits[1].rows)
    assert not np.array_equal(splits[0].rows, splits[2].rows)


@pytest.mark.slow
def test_intervals_hold_their_values_and_stay_within_what_is_possible():
    rows, labels = clusters(12, 6, 5)
    for row in measure(rows, labels):
        low, high = MEASURES[row.name].bounds(5)
        assert low <= row.low <= row.value <= row.high <= high, row
    assert all(row.low is row.high is None for row in measure(rows, labels, intervals=False))


# Two networks


@pytest.mark.slow
def test_differences_are_paired_over_the_same_classes():
    noise = 0.01 * np.random.default_rng(0).normal(size=ROWS.shape).astype(np.float32)
    single = {(row.name, row.variant): row for row in measure(ROWS, LABELS)}
    for row in compare_embeddings(ROWS, ROWS + noise, LABELS):
        if row.name not in ("linear_cka", "ncm_accuracy"):
            alone = single[row.name, row.variant]
            assert row.high - row.low < 0.2 * (alone.high - alone.low), row


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(monkeypatch):
    other = ROWS[:, ::-1] ** 2
    expected = compare_embeddings(ROWS, other, LABELS)
    measured = measure(ROWS, LABELS), measure(other, LABELS)
    monkeypatch.setattr("fewshot_bench.embeddings.measures.Spectrum", None)
    assert compare_embeddings(ROWS, other, LABELS, measured=measured) == expected


def test_a_network_compared_with_itself_does_not_differ_and_is_aligned():
    for row in compare_embeddings(ROWS, ROWS, LABELS):
        expected = 1 if row.name == "linear_cka" else 0
        assert (row.value, row.low, row.high) == pytest.approx((expected,) * 3, abs=1e-9), row


def test_measurements_with_other_groups_are_refused():
    measured, in_groups = measure(ROWS, LABELS), measure(ROWS, LABELS, groups=3)
    for pair in ((measured, in_groups), (measured, measured[:-1])):
        with pytest.raises(ShapeError, match="same groups and seed"):
            compare_embeddings(ROWS, ROWS, LABELS, measured=pair)
    with pytest.raises(ShapeError, match="3 for 5"):
        compare_embeddings(ROWS, ROWS, LABELS, measured=(in_groups, in_groups))


# What is refused, and what has no value


def changed(place, value, dtype=np.float32):
    rows = ROWS.astype(dtype)
    rows[place] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "labels", "words"),
    [
        (changed((3, 1), math.nan), LABELS, "1 of 40 embeddings .* image 3"),
        (changed((4, 0), math.inf), LABELS, "1 of 40 embeddings .* image 4"),
        (changed((2, 2), 1e200, np.float64), LABELS, "1 of 40 embeddings .* image 2"),
        (changed(slice(5, 7), 0), LABELS, "2 of 40 embeddings are zero.* image 5"),
        (np.zeros_like(ROWS), LABELS, "40 of 40 embeddings are zero"),
        (np.ones_like(ROWS), LABELS, "all 40 embeddings are equal"),
        (ROWS, np.zeros(40, dtype=int), "one class"),
        (ROWS, np.arange(40), "one image"),
        (ROWS, LABELS[:-1], r"\[40, 6\] and \[39\]"),
        (ROWS[0], LABELS[:6], r"\[6\] and \[6\]"),
        (ROWS[:0], LABELS[:0], r"\[0, 6\] and \[0\]"),
        (ROWS, LABELS + 0.5, "whole numbers"),
        (ROWS.astype(int), LABELS, "floating point"),
    ],
)
@pytest.mark.parametrize(
    "call", [measure, similarity_histograms, lambda rows, labels: compare_embeddings(rows, rows, labels)]
)
def test_what_cannot_be_measured_is_refused_in_one_line(call, rows, labels, words):
    with pytest.raises((EmbeddingError, ShapeError), match=words) as error:
        call(rows, labels)
    assert "\n" not in str(error.value)


def test_networks_on_different_images_and_absent_classes_are_refused():
    with pytest.raises(FewshotBenchError, match=r"\[39, 6\] and \[40\]"):
        compare_embeddings(ROWS, ROWS[:-1], LABELS)
    with pytest.raises(ShapeError, match="label 9"):
        similarity_histograms(ROWS, LABELS, classes=[1, 9])
    with pytest.raises(ShapeError, match="not 0"):
        similarity_histograms(ROWS, LABELS, 0)
    with pytest.raises(ShapeError, match="not 1"):
        measure(ROWS, LABELS, groups=1)


def test_two_classes_have_values_and_no_intervals():
    chosen = LABELS < 2
    for row in measure(ROWS[chosen], LABELS[chosen]):
        assert math.isfinite(row.value)
        assert row.low is row.high is None


def test_a_network_that_gives_one_direction_has_no_variance_after_normalisation():
    rows = np.arange(1, 41, dtype=np.float32)[:, None] * np.array([0.1, 0.7, 0.3], dtype=np.float32)
    found = by_name(measure(rows, LABELS, intervals=False))
    assert found["participation_ratio", "raw"] == pytest.approx(1, abs=1e-6)
    assert math.isnan(found["participation_ratio", "l2"])
    assert found["uniformity", "l2"] == pytest.approx(0, abs=1e-6)
    assert found["isotropy_score", "l2"] == pytest.approx(math.exp(-2), rel=1e-5)  # e^-1 / e


def test_classes_that_share_their_mean_are_not_told_apart():
    rows = np.array([[1, 2], [-1, 2], [2, 2], [-2, 2]], dtype=np.float32)
    found = by_name(measure(rows, [0, 0, 1, 1], intervals=False))
    assert math.isnan(found["nc1", "raw"])


def test_one_dimension_can_be_measured():
    found = by_name(measure(ROWS[:, :1], LABELS, intervals=False))
    assert found["participation_ratio", "raw"] == pytest.approx(1)
    assert math.isnan(found["isoscore", "raw"])


def test_fewer_images_than_dimensions_have_no_more_effective_dimensions_than_images():
    rows, labels = clusters(4, 3, 50)
    found = by_name(measure(rows, labels, intervals=False))
    assert found["rankme", "centred"] <= 11 + 1e-6
    assert found["isotropy_score", "raw"] > 0
