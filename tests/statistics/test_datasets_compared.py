from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scikit_posthocs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.statistics import critical_difference, friedman, paired_over_datasets, paired_t_test

# Ranks of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 datasets: Demsar (2006), "Statistical comparisons of classifiers
# over multiple data sets", JMLR 7, table 6.
DEMSAR_RANKS = np.array(
    [
        [4, 3, 2, 1],  # adult (sample)
        [1, 2, 3, 4],  # breast cancer
        [4, 1, 2, 3],  # breast cancer wisconsin
        [4, 1, 3, 2],  # cmc
        [4, 2, 3, 1],  # ionosphere
        [1, 2.5, 4, 2.5],  # iris
        [3, 2, 4, 1],  # liver disorders
        [2.5, 2.5, 4, 1],  # lung cancer
        [4, 3, 2, 1],  # lymphography
        [2.5, 2.5, 2.5, 2.5],  # mushroom
        [4, 2.5, 1, 2.5],  # primary tumor
        [3, 2, 4, 1],  # rheum
        [4, 1, 2, 3],  # voting
        [3, 1, 4, 2],  # wine
    ]
)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_demsars_example():
    test = friedman(-DEMSAR_RANKS)
    assert test.mean_ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert test.statistic == pytest.approx(9.28, abs=0.005)
    assert test.iman_davenport == pytest.approx(3.69, abs=0.005)
    assert test.iman_davenport_p < 0.05  # "the critical value of F(3, 39) for alpha = 0.05 is 2.85"
    assert test.critical_difference == pytest.approx(1.25, abs=0.005)
    # "At p = 0.10, the critical difference is 1.12": C4.5 against C4.5+m and C4.5+m+cf, by 1.143 and 1.179.
    looser = friedman(-DEMSAR_RANKS, alpha=0.10)
    assert looser.critical_difference == pytest.approx(1.12, abs=0.005)
    assert not test.significant.any()
    assert np.argwhere(np.triu(looser.significant)).tolist() == [[0, 1], [0, 3]]


@pytest.mark.parametrize("methods", [3, 4, 5, 6])
@pytest.mark.parametrize("datasets", [2, 3, 4, 5])
def test_ranks_can_differ_only_where_agreement_on_every_dataset_shows_it(methods, datasets):
    """No ranks lie further apart than where every dataset puts the same method first and the same one last."""
    test = friedman(np.tile(np.arange(methods), (datasets, 1)))
    assert np.ptp(test.mean_ranks) == methods - 1
    assert test.can_differ == test.significant.any()
    # Demsar (2006), table 5a: q = 2.343, 2.569, 2.728, 2.850 for 3 to 6 methods.
    q = {3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850}[methods]
    assert test.can_differ == (q * math.sqrt(methods * (methods + 1) / (6 * datasets)) < methods - 1)
    assert test.can_differ == (datasets > 2)


def test_over_two_datasets_no_number_of_methods_is_enough():
    assert not any(friedman(np.tile(np.arange(methods), (2, 1))).can_differ for methods in range(3, 26))


@pytest.mark.parametrize(
    ("alpha", "quantiles"),
    # Demsar (2006), table 5a, for 2 to 10 classifiers.
    [
        (0.05, [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]),
        (0.10, [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]),
    ],
)
def test_the_quantiles_of_demsars_table(alpha, quantiles):
    for methods, q in enumerate(quantiles, start=2):
        unit = math.sqrt(methods * (methods + 1) / (6 * 14))
        assert critical_difference(methods, 14, alpha=alpha) / unit == pytest.approx(q, abs=0.0011)


def test_without_ties_the_statistic_is_scipys():
    accuracies = np.random.default_rng(3).random((8, 5))
    ours, theirs = friedman(accuracies), stats.friedmanchisquare(*accuracies.T)
    assert (ours.statistic, ours.p) == pytest.approx((theirs.statistic, theirs.pvalue))


def test_ties_make_the_test_cautious():
    accuracies = np.random.default_rng(4).integers(0, 3, (12, 4))
    assert friedman(accuracies).p > stats.friedmanchisquare(*accuracies.T).pvalue


@pytest.mark.parametrize("seed", range(5))
def test_pairs_beyond_the_critical_difference_are_those_of_scikit_posthocs(seed):
    generator = np.random.default_rng(seed)
    accuracies = generator.normal([0.6, 0.62, 0.66, 0.7], 0.05, (12, 4))
    theirs = scikit_posthocs.posthoc_nemenyi_friedman(accuracies).to_numpy() < 0.05
    np.testing.assert_array_equal(friedman(accuracies).significant, theirs)
    assert seed or theirs.any()


def test_methods_in_the_same_order_everywhere():
    # Of the 6 orders of three methods, four datasets show the same: chance (1/6)^3.
    test = friedman([[0.9, 0.8, 0.7]] * 4)
    assert test.mean_ranks.tolist() == [1, 2, 3]
    assert test.statistic == pytest.approx(8)
    assert test.iman_davenport == math.inf
    assert test.iman_davenport_p == pytest.approx(1 / 216)


def test_duplicated_methods_do_not_differ():
    test = friedman(np.repeat(np.random.default_rng(5).random((6, 1)), 3, axis=1))
    assert (test.statistic, test.p, test.iman_davenport, test.iman_davenport_p) == (0, 1, 0, 1)
    assert test.mean_ranks.tolist() == [2, 2, 2]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.permutations(range(4)))
def test_the_order_of_methods_and_what_every_method_gains_on_a_dataset_change_nothing(seed, order):
    accuracies = np.random.default_rng(seed).integers(0, 10, (6, 4))
    here, there = friedman(accuracies), friedman(accuracies[:, order] + np.arange(6)[:, None])
    assert there.statistic == pytest.approx(here.statistic)
    assert there.mean_ranks == pytest.approx(here.mean_ranks[list(order)])


@pytest.mark.parametrize(
    ("accuracies", "error", "message"),
    [
        ([0.1, 0.2], ShapeError, r"finite accuracies \[D, A\]"),
        ([[0.1, math.nan, 0.2]] * 3, ShapeError, r"finite accuracies \[D, A\]"),
        ([[0.1, 0.2, 0.3]], ComparisonError, "there are 1 and 3"),
        ([[0.1, 0.2]] * 4, ComparisonError, "Compare two methods by a paired test"),
    ],
)
def test_what_cannot_be_ranked_is_refused(accuracies, error, message):
    with pytest.raises(error, match=message):
        friedman(accuracies)


def test_four_datasets_cannot_give_a_rank_test_below_an_eighth():
    # Schane's own differences at 1 shot (Long et al., 2023, table 1): 3.32, 3.52, 1.73 and 2.40 points.
    comparison = paired_over_datasets([87.00, 69.87, 92.35, 87.24], [83.68, 66.35, 90.62, 84.84])
    assert comparison.test == paired_t_test([87.00, 69.87, 92.35, 87.24], [83.68, 66.35, 90.62, 84.84])
    assert comparison.mean_difference == pytest.approx(2.7425)
    assert comparison.test.p < 0.01
    assert comparison.wilcoxon_p == comparison.permutation_p == comparison.smallest_p == 0.125


def test_one_dataset_is_no_sample_of_datasets():
    with pytest.raises(ComparisonError, match="two datasets or more; there are 1"):
        paired_over_datasets([0.5], [0.4])
