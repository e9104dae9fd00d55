from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.statistics import (
    BeyondSplit,
    beyond_split,
    class_overlap,
    data_intervals,
    detectable_difference,
    episodes_needed,
    image_overlap,
    paired_episodes_needed,
    pilot,
    sd_of_difference,
    unpaired_episodes_needed,
)
from fewshot_bench.statistics.paired import p_of_equal_differences


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("effect", "paired", "unpaired"),
    # Two-sided, alpha 0.05, power 0.8, as G*Power 3 prints them; unpaired also in Cohen (1988), table 2.4.1.
    [(0.2, 199, 394), (0.5, 34, 64), (0.8, 15, 26)],
)
def test_cohens_small_medium_and_large_effect(effect, paired, unpaired):
    assert paired_episodes_needed(effect, 1) == paired_episodes_needed(-10 * effect, 10) == paired
    assert unpaired_episodes_needed(effect, 1) == unpaired == episodes_needed(effect, 1)


def test_more_power_and_a_stricter_level_need_more():
    # G*Power 3: paired, d = 0.5.
    assert paired_episodes_needed(0.5, 1, power=0.95) == 54
    assert paired_episodes_needed(0.5, 1, alpha=0.01) == 51


def test_the_correlation_says_how_many_fewer_episodes_pairing_needs():
    # One point of difference at ten points of standard deviation: sd of the difference 10 sqrt(2 (1 - r)).
    assert episodes_needed(1, 10) == 1571
    assert episodes_needed(1, 10, correlation=0.9) == paired_episodes_needed(1, math.sqrt(20)) == 159
    assert episodes_needed(1, 10, correlation=0.5) == paired_episodes_needed(1, 10)


def test_two_standard_deviations_are_pooled():
    assert episodes_needed(1, 6, sd_b=8) == unpaired_episodes_needed(1, math.sqrt(50))
    assert episodes_needed(1, 3, sd_b=4, correlation=0) == paired_episodes_needed(1, 5)
    assert sd_of_difference(3, 4, 0) == 5
    assert sd_of_difference(3, 4, 1) == pytest.approx(1)
    assert sd_of_difference(3, 3, 1) == 0


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_four_of_five_studies_of_that_size_find_the_difference(correlation):
    episodes = episodes_needed(0.01, 0.1, correlation=correlation)
    generator = np.random.default_rng(2026)
    shared = generator.normal(0, math.sqrt(correlation), (4000, episodes))
    a, b = (shared + generator.normal(0, math.sqrt(1 - correlation), (4000, episodes)) for _ in range(2))
    p = stats.ttest_rel(0.61 + 0.1 * a, 0.60 + 0.1 * b, axis=1).pvalue
    assert 0.78 <= np.mean(p < 0.05) <= 0.82  # three standard errors


def test_four_of_five_unpaired_studies_find_the_difference():
    generator = np.random.default_rng(2027)
    a, b = generator.normal(0, 0.1, (2, 4000, episodes_needed(0.05, 0.1)))
    assert 0.78 <= np.mean(stats.ttest_ind(a + 0.05, b, axis=1).pvalue < 0.05) <= 0.82


@settings(deadline=None, max_examples=50)
@given(st.floats(0.02, 1.5), st.sampled_from([0.5, 0.8, 0.95]), st.booleans())
def test_the_detectable_difference_is_the_way_back(effect, power, paired):
    need = paired_episodes_needed if paired else unpaired_episodes_needed
    episodes = need(effect, 1, power=power)
    assert detectable_difference(episodes, 1, power=power, paired=paired) <= effect * (1 + 1e-9)
    if episodes > 2:
        assert detectable_difference(episodes - 1, 1, power=power, paired=paired) > effect * (1 - 1e-9)


def test_three_thousand_episodes_see_a_twentieth_of_a_standard_deviation():
    # 2.8016 / sqrt(3000), 2.8016 = 1.95996 + 0.84162, for so many episodes that t is normal.
    assert detectable_difference(3000, 0.1) == pytest.approx(0.1 * 2.8016 / math.sqrt(3000), rel=1e-3)
    assert detectable_difference(3000, 0.1, paired=False) == pytest.approx(0.1 * 2.8016 * math.sqrt(2 / 3000), rel=1e-3)


@pytest.mark.parametrize("need", [paired_episodes_needed, unpaired_episodes_needed])
def test_the_extremes_have_answers(need):
    assert need(1000, 1e-3) == 2
    assert need(1e-4, 1) == pytest.approx(2.8016**2 * 1e8 * (1 if need is paired_episodes_needed else 2), rel=1e-3)


def test_differences_that_do_not_vary_need_as_many_pairs_as_their_p_does():
    for alpha in (0.5, 0.05, 0.01, 1 / 64):
        needed = paired_episodes_needed(1, 0, alpha=alpha)
        assert p_of_equal_differences(needed) < alpha <= p_of_equal_differences(needed - 1) or needed == 2


def test_a_difference_beyond_all_reach_is_refused():
    with pytest.raises(ComparisonError, match="more than a trillion episodes"):
        paired_episodes_needed(1e-300, 1)


@pytest.mark.parametrize(("episodes", "paired"), [(1472, True), (2903, False)])
def test_a_power_that_scipy_answers_with_nan_is_no_obstacle(episodes, paired):
    # scipy.stats.nct.sf is NaN at an effect of 1 here, where the search begins.
    expected = 2.8016 * math.sqrt((1 if paired else 2) / episodes)
    assert detectable_difference(episodes, 1, paired=paired) == pytest.approx(expected, rel=2e-3)


def test_no_spread_hides_no_difference():
    assert detectable_difference(10, 0) == 0


def test_a_pilot_says_what_both_kinds_of_test_need():
    generator = np.random.default_rng(6)
    shared = generator.normal(0.6, 0.09, 2000)
    a, b = shared + 0.01 + generator.normal(0, 0.03, 2000), shared + generator.normal(0, 0.03, 2000)
    found = pilot(a, b)
    assert found.episodes == 2000
    assert found.sd_difference == pytest.approx(sd_of_difference(found.sd_a, found.sd_b, found.correlation))
    assert found.correlation == pytest.approx(0.9, abs=0.02)
    assert found.paired_episodes() == paired_episodes_needed(found.difference, found.sd_difference)
    assert found.paired_episodes(0.01) == episodes_needed(
        0.01, found.sd_a, sd_b=found.sd_b, correlation=found.correlation
    )
    assert found.unpaired_episodes(0.01) == episodes_needed(0.01, found.sd_a, sd_b=found.sd_b)
    assert found.unpaired_episodes(0.01) > 8 * found.paired_episodes(0.01)


def test_a_pilot_without_a_difference_needs_to_be_told_one():
    with pytest.raises(ComparisonError, match=r"difference of 0. Name the smallest one that matters"):
        pilot([0.1, 0.2], [0.1, 0.2]).paired_episodes()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: episodes_needed(0.1, -1), "standard deviation must be"),
        (lambda: paired_episodes_needed(0.1, -1), "standard deviation must be"),
        (lambda: episodes_needed(0.1, math.nan), "standard deviation must be"),
        (lambda: episodes_needed(math.inf, 1), "difference must be"),
        (lambda: episodes_needed(0.1, 1, power=80), "power must lie between 0 and 1"),
        (lambda: episodes_needed(0.1, 1, alpha=0), "alpha must lie between 0 and 1"),
        (lambda: episodes_needed(0.1, 1, power=0.05), "power must be greater than alpha"),
        (lambda: episodes_needed(0.1, 1, correlation=1.2), "correlation must lie between -1 and 1"),
        (lambda: detectable_difference(10, -1), "standard deviation must be"),
    ],
)
def test_numbers_out_of_range_are_refused(call, message):
    with pytest.raises(ShapeError, match=message):
        call()


def test_one_episode_detects_nothing():
    with pytest.raises(ComparisonError, match="two episodes or more; there are 1"):
        detectable_difference(1, 0.1)


# Beyond the split: classes and images are a sample


def drawn_classes(episodes: int, classes: int, way: int) -> np.ndarray:
    return np.random.default_rng(0).random((episodes, classes)).argsort(axis=1)[:, :way]


def memberships(classes: np.ndarray) -> np.ndarray:
    """1 / N where an episode has a class, else 0, [E, C]."""
    found = np.zeros((len(classes), classes.max() + 1))
    np.put_along_axis(found, classes, 1 / classes.shape[1], axis=1)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "way", "noise"), [(20, 5, 0.0), (20, 5, 5.0), (20, 5, 10.0), (5, 2, 1.0), (10, 5, 5.0), (64, 5, 5.0)]
)
def test_four_of_five_studies_find_beyond_the_split_what_the_plan_says(classes, way, noise):
    generator, drawn = np.random.default_rng(0), drawn_classes(1000, classes, way)
    values = generator.normal(size=(2000, classes)) @ memberships(drawn).T
    values += noise * generator.normal(size=values.shape)
    overlap = class_overlap(drawn)
    plan = BeyondSplit(1 / classes, math.sqrt(values.var(axis=1, ddof=1).mean()), overlap)
    difference = plan.detectable(1000)
    found = data_intervals(values + difference, overlap)
    assert 0.75 <= np.mean((found.p < 0.05) & (found.means > 0)) <= 0.85
    assert plan.episodes_needed(difference * (1 + 1e-6)) == pytest.approx(1000, abs=1)
    assert plan.episodes_needed(plan.floor() * 0.99) is None


def test_four_of_five_studies_of_fixed_classes_find_for_other_images_what_the_plan_says():
    generator = np.random.default_rng(1)
    images = generator.random((600, 5, 60)).argsort(axis=2)[:, :, :16] + 60 * np.arange(5)[:, None]
    values = generator.normal(size=(1500, 300)) @ memberships(images.reshape(600, -1)).T
    values += 0.2 * generator.normal(size=values.shape)
    overlap = image_overlap(images)
    plan = BeyondSplit(1 / 300, math.sqrt(values.var(axis=1, ddof=1).mean()), overlap)
    found = data_intervals(values + plan.detectable(600), overlap)
    assert 0.75 <= np.mean((found.p < 0.05) & (found.means > 0)) <= 0.85


def test_the_floor_of_fixed_classes_is_that_of_a_t_test_of_their_images():
    images = np.random.default_rng(2).random((50, 2, 9)).argsort(axis=2)[:, :, :4]
    floor = BeyondSplit(0.3**2, 2.0, image_overlap(images)).floor(power=0.9, alpha=0.01)
    assert TTestPower().power(floor / 0.3, 1, 0.005, df=2 * 9 - 2, alternative="larger") == pytest.approx(0.9, abs=1e-4)


def test_the_floor_of_classes_is_above_that_of_a_t_test_of_as_many_pairs():
    # The interval is longer where a sample looks skewed by chance: the fewer the classes, the more.
    ratios = []
    for classes in (8, 20, 200):
        plan = BeyondSplit(0.3**2, 2.0, class_overlap(drawn_classes(2000, classes, 5)))
        ratios.append(plan.floor() / detectable_difference(classes, 0.3 * math.sqrt(classes)))
    assert ratios[0] > ratios[1] > ratios[2] > 1
    assert ratios[1] == pytest.approx(1.03, abs=0.01)
    assert ratios[2] < 1.02


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([4, 6, 20, 160]),
    st.floats(0, 2),
    st.floats(0.1, 10),
    st.sampled_from([0.5, 0.8, 0.95]),
    st.sampled_from([0.001, 0.05, 0.2]),
)
def test_more_episodes_never_find_less_beyond_the_split_nor_less_than_the_floor(classes, variance, sd, power, alpha):
    plan = BeyondSplit(variance, sd, class_overlap(drawn_classes(300, classes, 3)))
    found = [plan.detectable(episodes, power=power, alpha=alpha) for episodes in (2, 5, 50, 600, 10**7)]
    assert found == sorted(found, reverse=True)
    assert found[-1] * (1 + 1e-6) >= plan.floor(power=power, alpha=alpha)
    needed = plan.episodes_needed(found[3] * (1 + 1e-6), power=power, alpha=alpha)
    assert needed <= 601
    assert needed >= paired_episodes_needed(found[3] * (1 + 1e-6), sd, power=power, alpha=alpha)
    assert plan.detectable(needed, power=power, alpha=alpha) <= found[3] * (1 + 1e-5)


def test_a_pilot_takes_the_variance_of_the_data_interval_and_limits_it():
    drawn = drawn_classes(600, 20, 5)
    overlap, outside = class_overlap(drawn), np.zeros(2)
    for replicate in range(400):
        generator = np.random.default_rng(replicate)
        values = memberships(drawn) @ generator.normal(size=20) + 3 * generator.normal(size=600)
        found = beyond_split(values, overlap)
        low, high = found.variance_limits
        outside += [low > 1 / 20, high < 1 / 20]
        if replicate < 20:
            taken = data_intervals(values[None], overlap).sample_variances[0]
            assert found.sample_variance <= taken * (1 + 1e-9)
            assert found.sample_variance == pytest.approx(taken) or found.sample_variance < 1 / 60
            assert found.sd_difference == pytest.approx(values.std(ddof=1))
            assert low <= found.sample_variance <= high
            assert found.floor_limits() == pytest.approx(
                [replace(found, sample_variance=v).floor() for v in (low, high)]
            )
    assert (np.abs(outside / 400 - 0.05) <= 0.035).all()


def test_where_classes_show_no_variance_there_is_no_floor():
    plan = BeyondSplit(0.0, 2.0, class_overlap(drawn_classes(300, 20, 5)))
    assert plan.floor() == 0
    assert plan.episodes_needed(0.01) > paired_episodes_needed(0.01, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: beyond_split([1.0, 2, 4], class_overlap([[0, 1]] * 3)), "unknown: every episode has all classes"),
        (lambda: beyond_split([1.0] * 300, class_overlap(drawn_classes(300, 20, 5))), "standard deviation"),
        (lambda: beyond_split([1.0, 2.0], class_overlap(drawn_classes(300, 20, 5))), "values of 2 episodes"),
        (lambda: BeyondSplit(1, 1, class_overlap(drawn_classes(300, 20, 5))).floor(power=0.01), "greater than alpha"),
        (lambda: BeyondSplit(1, 1, class_overlap(drawn_classes(300, 20, 5))).detectable(1), "two episodes or more"),
    ],
)
def test_what_cannot_be_planned_beyond_the_split_is_refused(call, message):
    with pytest.raises((ShapeError, ComparisonError), match=message):
        call()
