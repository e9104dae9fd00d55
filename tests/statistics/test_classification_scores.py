"""McNemar's test, recall by class and calibration, against statsmodels, scikit-learn and the authors' formula."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar as of_statsmodels

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics import calibration, class_recall, mcnemar
from fewshot_bench.statistics.classification import CONFIDENCE_STEPS


@pytest.mark.parametrize("seed", range(4))
def test_mcnemars_p_is_that_of_statsmodels(seed):
    generator = np.random.default_rng(seed)
    a, b = generator.random((2, 300)) < [[0.7], [0.6 + 0.03 * seed]]
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    result = mcnemar(a, b)
    assert result.p == pytest.approx(of_statsmodels(table, exact=True).pvalue, rel=1e-9)
    assert (result.only_a, result.only_b, result.agreeing) == (table[0][1], table[1][0], table[0][0] + table[1][1])
    assert mcnemar(b, a).p == pytest.approx(result.p)


def test_mcnemars_test_by_hand():
    # 3 of 4 discordant images for A: 2 (1 + 4) / 16
    assert mcnemar([1, 1, 1, 0, 1], [0, 0, 0, 1, 1]).p == pytest.approx(10 / 16)
    assert mcnemar([1, 0], [1, 0]).p == 1
    assert mcnemar(np.ones(5000), np.zeros(5000)).p > 0


@pytest.mark.parametrize(("a", "b"), [([1, 0], [1]), ([], []), ([0.5], [1]), ([np.nan], [1])])
def test_mcnemars_test_refuses_what_is_not_right_or_wrong(a, b):
    with pytest.raises(ShapeError):
        mcnemar(a, b)


def test_recall_by_class_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(0, 5, (2, 200))
    expected = metrics.recall_score(labels, predictions, average=None)
    assert class_recall(labels, labels == predictions, 5) == pytest.approx(expected)


def test_a_class_without_images_has_no_recall_and_labels_beyond_the_classes_are_refused():
    assert np.isnan(class_recall([0, 0], [1, 0], 2)).tolist() == [False, True]
    with pytest.raises(ShapeError, match="0 to 1, not to 2"):
        class_recall([0, 2], [1, 0], 2)


def error_as_published(confidence, correct, bins=15):
    """The loop of Guo et al. (2017), in their words."""
    edges = np.linspace(0, 1, bins + 1)
    error = 0.0
    for low, high in pairwise(edges):
        in_bin = (confidence > low) & (confidence <= high)
        if in_bin.any():
            error += abs(confidence[in_bin].mean() - correct[in_bin].mean()) * in_bin.mean()
    return error


@pytest.mark.parametrize("bins", [10, 15])
def test_the_calibration_error_is_that_of_the_authors_loop(bins):
    generator = np.random.default_rng(1)
    confidence = generator.beta(5, 2, 2000)
    correct = generator.random(2000) < confidence**1.3
    assert calibration(confidence, correct, bins).error == pytest.approx(error_as_published(confidence, correct, bins))


def test_calibration_by_hand():
    # Bins of 15: 0.95 and 0.97 share the last one, 0.40 is on the edge of the sixth and belongs to it.
    found = calibration([0.95, 0.97, 0.40, 0.39], [1, 1, 0, 1])
    assert found.images.tolist() == [0] * 5 + [2] + [0] * 8 + [2]
    assert found.error == pytest.approx((abs(1.92 - 2) + abs(0.79 - 1)) / 4)
    assert (found.accuracy[-1], found.confidence[5]) == (1, pytest.approx(0.395))
    assert calibration([1.0, 1.0], [1, 1]).error == 0


@pytest.mark.parametrize("concentration", [2.0, 200.0])
def test_what_storing_confidences_costs_stays_within_the_stated_bound(concentration):
    generator = np.random.default_rng(2)
    for _ in range(20):
        # Many confidences close to the edge 0.6, on which rounding moves some of them.
        confidence = np.clip(0.6 + generator.normal(0, 1 / concentration / CONFIDENCE_STEPS * 100, 300), 0, 1)
        correct = generator.random(300) < 0.5
        stored = np.rint(confidence * CONFIDENCE_STEPS) / CONFIDENCE_STEPS
        found = calibration(stored, correct)
        assert abs(found.error - calibration(confidence, correct).error) <= found.rounding + 1e-12


def test_storing_confidences_moves_the_error_of_a_usual_network_by_less_than_a_hundredth_of_a_point():
    generator = np.random.default_rng(3)
    confidence = generator.beta(5, 1, 10_000)
    correct = generator.random(10_000) < confidence
    stored = np.rint(confidence * CONFIDENCE_STEPS) / CONFIDENCE_STEPS
    found = calibration(stored, correct)
    assert abs(found.error - calibration(confidence, correct).error) < 1e-4
    assert 0.5 / CONFIDENCE_STEPS <= found.rounding < 1e-3


@pytest.mark.parametrize("confidence", [[1.2, 0.5], [np.nan, 0.5], [0.5]])
def test_calibration_refuses_confidences_that_are_not_probabilities(confidence):
    with pytest.raises(ShapeError, match="2 images"):
        calibration(confidence, [1, 0])
