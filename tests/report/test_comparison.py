from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from stored_cells import cell, fill, outcomes, study

from fewshot_bench.errors import ComparisonError, ShapeError, UnknownNameError
from fewshot_bench.outcomes import Outcomes, OutcomeStore
from fewshot_bench.report import cells_of_method, compare, compare_methods, comparison_record, resolve_method

CE, SCHANE = cell("CE"), cell("SCHaNe")


def together(*several: Outcomes) -> Outcomes:
    return Outcomes(several[0].cell, pd.concat([one.frame for one in several], ignore_index=True))


def test_the_difference_is_a_minus_b_in_points():
    comparison = compare(outcomes(SCHANE, [60, 63, 57, 60]), outcomes(CE, [57, 57, 57, 57]))
    # differences 3, 6, 0, 3 of 75 queries: mean 4 points, t = sqrt(6) as in the test of four pairs by hand
    assert comparison.test.mean_difference == pytest.approx(0.04)
    assert comparison.test.t == pytest.approx(np.sqrt(6))
    assert str(comparison).startswith("SCHaNe - CE: +4.00 points, 95% interval ")
    assert "over classes and images (±5.20 over episodes): no difference shown (p = 0.092 on this split" in str(
        comparison
    )


def test_episodes_are_matched_by_run_and_number_whatever_their_order():
    a = together(outcomes(SCHANE, [10, 20, 30], run=0), outcomes(SCHANE, [40, 50, 60], run=1))
    b = together(outcomes(CE, [35, 47, 58], run=1), outcomes(CE, [7, 16, 29], run=0))
    shuffled = Outcomes(a.cell, a.frame.sample(frac=1, random_state=3))
    assert compare(shuffled, b) == compare(a, b)
    assert compare(a, b).test.mean_difference == pytest.approx((3 + 4 + 1 + 5 + 3 + 2) / 6 / 75)


def test_only_common_episodes_count_and_the_others_are_mentioned():
    a, b = outcomes(SCHANE, [40, 41, 42, 43, 44]), outcomes(CE, [40, 40, 39, 0], first=2)
    comparison = compare(a, b)
    assert comparison.test.n == 3
    assert (comparison.left_out_of_a, comparison.left_out_of_b) == (2, 1)
    assert str(comparison).endswith("3 episodes); unpaired episodes dropped: 2 of SCHaNe and 1 of CE")
    assert comparison.test.mean_difference == pytest.approx((2 + 3 + 5) / 3 / 75)


def test_equal_differences_are_as_certain_as_their_number_allows():
    sentence = str(compare(outcomes(SCHANE, [60] * 5), outcomes(CE, [45] * 5)))
    assert "+20.00 points, 95% interval +20.00 to +20.00 over classes and images (±0.00 over episodes)" in sentence
    assert "p = 0.062 on this split, p = 0.062 beyond it; 5 episodes" in sentence


def test_a_difference_too_certain_for_a_double_is_not_called_zero():
    many = compare(outcomes(SCHANE, [60, 61] * 1000), outcomes(CE, [45] * 2000))
    assert many.test.p > 0
    assert "(p < 0.001 on this split" in str(many)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shot": 5}, r"cifar-fs 5-way 1-shot seed 0, CE on cifar-fs 5-way 5-shot seed 0: shot differs \(1 and 5\)"),
        ({"dataset": "fc100", "shot": 5}, r"CE on fc100 5-way 5-shot seed 0: dataset differs \(cifar-fs and fc100\)"),
        ({"seed": 1}, r"CE on cifar-fs 5-way 1-shot seed 1: seed differs \(0 and 1\)"),
        ({"dataset_fingerprint": "cd" * 32}, r"dataset fingerprint differs \(abababababab and cdcdcdcdcdcd\)"),
        ({"split": "validation"}, r"split differs \(novel and validation\)"),
        ({"sampler_version": 2}, r"sampler version differs \(1 and 2\)"),
    ],
)
def test_other_protocols_are_refused_with_the_first_difference(change, message):
    with pytest.raises(ComparisonError, match=message) as refusal:
        compare(outcomes(SCHANE, [1, 2]), outcomes(cell("CE", **change), [1, 2]))
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("SCHaNe was run on")


def test_other_episodes_of_one_protocol_are_refused():
    with pytest.raises(ComparisonError, match="have no episode of cifar-fs 5-way 1-shot in common"):
        compare(outcomes(SCHANE, [1, 2], run=0), outcomes(CE, [1, 2], run=1))


def test_one_common_episode_is_not_enough():
    with pytest.raises(ComparisonError, match="needs two episodes or more; SCHaNe and CE share 1"):
        compare(outcomes(SCHANE, [1, 2]), outcomes(CE, [1, 2], first=1))


def test_methods_of_one_name_are_told_apart():
    again = cell("CE", weights="trained again")
    comparison = compare(outcomes(again, [5, 6, 8]), outcomes(CE, [5, 5, 5]))
    assert (comparison.a, comparison.b) == (again.method.label, CE.method.label)


def test_the_record_says_the_same_as_the_sentence():
    record = comparison_record(compare(outcomes(SCHANE, [60, 63, 57, 60]), outcomes(CE, [57, 57, 57, 57])))
    assert record["difference"] == pytest.approx(4)
    assert (record["method_a"], record["method_b"]) == ("SCHaNe", "CE")
    assert (record["wins"], record["losses"], record["ties"]) == (3, 0, 1)
    assert record["verdict"] == "no difference shown"
    certain = comparison_record(compare(outcomes(CE, [45] * 5), outcomes(SCHANE, [60] * 5)))
    assert (certain["t"], certain["p"], certain["verdict"]) == (None, 1 / 16, "no difference shown")
    assert (certain["diff_data_ci95_low"], certain["effect_size"]) == (pytest.approx(-20), None)
    assert record["headline"] in str(compare(outcomes(SCHANE, [60, 63, 57, 60]), outcomes(CE, [57, 57, 57, 57])))


class TestStoredMethods:
    @pytest.mark.slow
    def test_two_methods_are_compared_on_every_common_protocol(self, tmp_path):
        store = study(tmp_path)
        fill(store, cell("conv/ce/centroid", dataset="fc100"), np.full((1, 5), 30))
        comparisons = compare_methods(store, "schane", "conv/ce/centroid")
        assert [(c.protocol.dataset, c.protocol.shot) for c in comparisons] == [("cifar-fs", 1), ("cifar-fs", 5)]
        assert all(c.test.n == 120 and 0.02 < c.test.mean_difference < 0.06 for c in comparisons)

    def test_methods_without_a_common_protocol_name_what_differs(self, tmp_path):
        store = study(tmp_path)
        fill(store, cell("other", shot=10), np.full((1, 5), 30))
        message = r"other was run on .* 5-way 10-shot seed 0, conv/ce/logistic on .*: shot differs \(10 and 1\)"
        with pytest.raises(ComparisonError, match=message):
            compare_methods(store, "other", "logistic")

    def test_a_method_is_not_compared_with_itself(self, tmp_path):
        with pytest.raises(ComparisonError, match="both mean conv/ce/logistic"):
            compare_methods(study(tmp_path), "logistic", "conv/ce/logistic")

    @pytest.mark.slow
    def test_a_name_of_two_methods_needs_its_label(self, tmp_path):
        store = study(tmp_path)
        again = cell("conv/ce/logistic", weights="trained again")
        fill(store, again, np.tile(np.arange(40), (3, 1)))
        with pytest.raises(ComparisonError, match=r"names 2 methods .* Name one of these") as refusal:
            compare_methods(store, "logistic", "schane")
        assert again.method.label in str(refusal.value)
        (comparison,) = compare_methods(store, again.method.label, "schane")[:1]
        assert comparison.test.mean_difference < 0


class TestNames:
    NAMES = ("conv/base-ce/centroid", "conv/base-ce+schane/centroid", "conv/base-ce/logistic")

    @pytest.mark.parametrize("wanted", ["schane", "SCHaNe", "base-ce+schane/centroid"])
    def test_a_part_that_one_name_has_is_enough(self, wanted):
        assert resolve_method(self.NAMES, wanted) == "conv/base-ce+schane/centroid"

    def test_a_whole_name_wins_over_longer_ones(self):
        assert resolve_method(["centroid", "conv/centroid"], "centroid") == "centroid"

    def test_a_part_of_several_names_is_refused_with_the_candidates(self):
        with pytest.raises(ComparisonError, match="'logi' fits 2 methods: a/logistic, b/logistic"):
            resolve_method(["b/logistic", "a/logistic", "a/logistic", "c"], "logi")

    def test_an_unknown_name_is_answered_with_the_nearest(self):
        with pytest.raises(UnknownNameError, match="Did you mean conv/base-ce/logistic"):
            resolve_method(self.NAMES, "conv/base-ce/logistik")

    def test_a_label_picks_one_of_the_methods_that_share_a_name(self):
        first, again, elsewhere = cell("m"), cell("m", weights="2"), cell("m", weights="3", shot=5)
        cells = [first, again, elsewhere]
        found = cells_of_method(cells, again.method.label)
        assert found == {again.protocol.fingerprint: [again], elsewhere.protocol.fingerprint: [elsewhere]}
        assert cells_of_method(cells, "m")[first.protocol.fingerprint] == [first, again]


def test_a_store_is_enough_to_compare(tmp_path):
    store = OutcomeStore(tmp_path)
    fill(store, CE, np.array([[10, 20, 30], [11, 12, 13]]))
    fill(store, SCHANE, np.array([[12, 21, 33]]))
    (comparison,) = compare_methods(store, "SCHaNe", "CE")
    assert (comparison.test.n, comparison.left_out_of_a, comparison.left_out_of_b) == (3, 0, 3)


class TestArrays:
    def test_accuracies_give_the_sentence_of_outcomes(self):
        a, b = np.array([60, 63, 57, 60]), np.array([57, 57, 57, 57])
        of_outcomes, of_arrays = compare(outcomes(SCHANE, a), outcomes(CE, b)), compare(a / 75, b / 75)
        assert of_arrays.test == of_outcomes.test
        assert of_arrays.verdict == "no difference shown"
        assert "none over classes and images, as no classes are given" in str(of_arrays)
        assert str(of_arrays).endswith("claimed, not verified")
        assert comparison_record(of_arrays)["p"] == of_outcomes.test.p

    def test_percent_and_fractions_are_the_same(self):
        a, b = np.array([0.4, 0.5, 0.7]), np.array([0.4, 0.45, 0.6])
        assert compare(100 * a, 100 * b).test.mean_difference == pytest.approx(compare(a, b).test.mean_difference)

    def test_classes_by_name_or_number_give_the_interval_over_classes(self):
        generator = np.random.default_rng(0)
        numbers = np.array([generator.permutation(12)[:3] for _ in range(60)])
        a, b = generator.integers(30, 45, 60) / 45, generator.integers(25, 45, 60) / 45
        by_number = compare(a, b, classes=numbers)
        by_name = compare(a, b, classes=np.array(list("abcdefghijkl"))[numbers], names=("ours", "theirs"))
        assert not np.isnan(by_number.data.p)
        assert (by_name.data, by_name.a) == (by_number.data, "ours")

    @pytest.mark.parametrize(
        ("a", "b", "words"),
        [
            ([0.5, 0.6], [0.5], "two arrays"),
            ([0.5, np.nan], [0.5, 0.6], "finite"),
            ([50, 60], [0.5, 0.6], "mix percent and fractions: 60 is a percentage, and 0.5 is not"),
            ([50, 0.6], [50, 60], "mix percent and fractions"),
            ([-0.1, 0.6], [0.5, 0.6], "not at -0.1"),
            ([101, 60], [50, 60], "not at 101"),
            ([[0.5], [0.6]], [[0.5], [0.6]], "two arrays"),
            (["0.5", "good"], [0.5, 0.6], "of numbers: .*'good'"),
        ],
    )
    def test_bad_accuracies_are_refused_in_one_line(self, a, b, words):
        with pytest.raises(ShapeError, match=words) as refusal:
            compare(a, b)
        assert "\n" not in str(refusal.value)

    def test_outcomes_and_an_array_are_refused(self):
        with pytest.raises(ComparisonError, match="two outcomes, or two arrays"):
            compare(outcomes(SCHANE, [1, 2]), [0.1, 0.2])
