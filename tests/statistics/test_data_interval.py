from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics import data_half_widths, data_interval, mean_interval

T_2 = 4.302653  # quantile of Student's t from printed tables, two-sided 95%, 2 degrees of freedom


def every_episode(classes: int, way: int) -> np.ndarray:
    """All sets of `way` classes, [E, N]."""
    return np.array(list(itertools.combinations(range(classes), way)))


def drawn_episodes(seed: int, episodes: int, classes: int, way: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.array([generator.permutation(classes)[:way] for _ in range(episodes)])


def by_a_double_loop(values: np.ndarray, classes: np.ndarray) -> float:
    """The half-width straight from its definition: a line through all pairs of episodes."""
    centred = values - values.mean()
    sets = [set(row[row >= 0].tolist()) for row in classes]
    pairs = list(itertools.permutations(range(len(sets)), 2))
    shares = [len(sets[e] & sets[f]) / (len(sets[e]) * len(sets[f])) for e, f in pairs]
    products = [centred[e] * centred[f] for e, f in pairs]
    line = stats.linregress(shares, products)
    task = values.var(ddof=1) / len(values)
    unit = max(-line.intercept - task, 0)
    weights = np.array([[1 / len(members) if label in members else 0 for members in sets] for label in range(1000)])
    weights = weights[weights.any(axis=1)]
    sums, count = weights @ centred, len(weights)
    between = (sums**2).sum() * np.mean(shares) / (len(pairs) * np.var(shares))
    excess = max(stats.kurtosis(sums / weights.sum(axis=1), bias=False), 0)
    of_classes = 2 / (excess / count + 2 / (count - 1))
    freedom = max(of_classes * min((unit + task) / between, 1), min(of_classes, 4))
    return float(stats.t.ppf(0.975, min(freedom, len(values) - 1)) * math.sqrt(unit + task))


# What it is worth


@pytest.mark.parametrize(("classes", "way"), [(6, 2), (7, 3), (6, 4), (9, 3), (20, 3)])
def test_effects_that_add_up_give_the_textbook_variance(classes, way):
    # Y = sum of the effects of the classes, and every episode once: the mean is N times the mean effect, whose variance
    # for other classes is s^2 / C. Evenly spaced effects have light tails, hence at most C - 1 degrees of freedom.
    effects = np.arange(classes) / 10
    episodes = every_episode(classes, way)
    variance = way**2 * effects.var(ddof=1) / classes
    freedom = max((classes - 1) * min(variance / between_every_episode(effects, way), 1), 4)
    interval = data_interval(effects[episodes].sum(axis=1), episodes)
    assert interval.mean == pytest.approx(way * effects.mean())
    assert interval.half_width == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(variance), rel=1e-9)


def between_every_episode(effects: np.ndarray, way: int) -> float:
    """What lies between class sums by the hypergeometric distribution of how many classes two episodes share."""
    classes = len(effects)
    episodes, having = math.comb(classes, way), math.comb(classes - 1, way - 1)
    class_sums = having * (classes - way) / (classes - 1) * (effects - effects.mean()) / way
    shared = stats.hypergeom(classes, way, way)
    others = episodes - 1  # an episode shares all classes with itself, which is not a pair
    mean = (episodes * shared.mean() - way) / others
    square = (episodes * shared.moment(2) - way**2) / others
    spread = episodes * others * (square - mean**2) / way**4
    return float((class_sums**2).sum() * mean / way**2 / spread)


def test_one_class_per_episode_is_the_one_way_analysis_of_variance():
    # Three classes, two episodes each, worked by hand: grand mean 3, centred -3 -1, -1 1, 1 3. The pairs of a class
    # multiply to 3, -1, 3. The sum of squares is 22, so the 30 ordered pairs sum to -22, the 24 of two classes to -32,
    # and their mean is -4/3. The variance of the mean is 4/3, the degrees of freedom 2.
    values, classes = [0, 2, 2, 4, 4, 6], [[0], [0], [1], [1], [2], [2]]
    assert data_interval(values, classes).half_width == pytest.approx(T_2 * math.sqrt(4 / 3), rel=1e-6)


def test_it_covers_what_it_says_where_the_task_interval_does_not():
    generator = np.random.default_rng(5)
    covered = {"task": 0, "data": 0}
    for replicate in range(400):
        classes = drawn_episodes(replicate, 200, 20, 5)
        values = generator.normal(size=20)[classes].mean(axis=1) + generator.normal(size=200) / 2
        for name, interval in (("task", mean_interval(values)), ("data", data_interval(values, classes))):
            covered[name] += interval.low <= 0 <= interval.high
    assert 0.92 <= covered["data"] / 400 <= 0.98
    assert covered["task"] / 400 < 0.5


def test_without_differences_between_classes_it_is_the_task_interval_with_fewer_degrees_of_freedom():
    # Pairs of a class multiply to -1, the others to 0 in the mean: the line falls, and the classes' part is 0.
    values, classes = [1, -1, 1, -1, 1, -1], [[0], [0], [1], [1], [2], [2]]
    assert data_interval(values, classes).half_width == pytest.approx(T_2 * math.sqrt(6 / 5 / 6), rel=1e-6)


def test_more_episodes_of_the_same_classes_hardly_narrow_it():
    classes = drawn_episodes(0, 300, 12, 3)
    values = np.arange(12)[classes].mean(axis=1)
    once, tenfold = data_interval(values, classes), data_interval(np.tile(values, 10), np.tile(classes, (10, 1)))
    assert tenfold.half_width > 0.97 * once.half_width
    assert mean_interval(np.tile(values, 10)).half_width < 0.4 * mean_interval(values).half_width


def test_one_odd_class_among_many_costs_degrees_of_freedom():
    effects = np.zeros(20)
    effects[3] = 1
    classes = drawn_episodes(1, 400, 20, 5)
    values = effects[classes].mean(axis=1)
    task = values.var(ddof=1) / 400
    width = data_interval(values, classes).half_width
    assert width == pytest.approx(by_a_double_loop(values, classes))
    assert width > 1.2 * stats.t.ppf(0.975, 19) * math.sqrt(effects.var(ddof=1) / 20 + task)


# What it does not depend on

cases = st.tuples(st.integers(0, 10**6), st.integers(5, 30), st.integers(4, 12), st.integers(1, 3))


@settings(deadline=None, max_examples=60)
@given(cases, st.booleans())
def test_it_is_what_a_double_loop_over_pairs_finds(case, is_varying):
    seed, episodes, classes, way = case
    generator = np.random.default_rng(seed)
    drawn = drawn_episodes(seed, episodes, classes, way + 1)
    if is_varying:
        drawn[generator.random(episodes) < 0.5, -1] = -1
    if len(np.unique(drawn[drawn >= 0])) < 4:
        return
    values = generator.integers(0, 76, episodes) / 75
    found = data_interval(values, drawn).half_width
    if math.isnan(found):
        return
    assert found == pytest.approx(by_a_double_loop(values, drawn), rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(cases, st.floats(-100, 100), st.floats(0.01, 100), st.booleans())
def test_order_names_shift_and_scale_do_not_matter(case, shift, scale, is_negative):
    seed, episodes, classes, way = case
    generator = np.random.default_rng(seed)
    drawn, values = drawn_episodes(seed, episodes, classes, way), generator.random(episodes)
    expected = data_interval(values, drawn).half_width
    order, names = generator.permutation(episodes), generator.permutation(1000)[:classes]
    scale = -scale if is_negative else scale
    moved = data_interval(shift + scale * values[order], generator.permuted(names[drawn[order]], axis=1))
    assert moved.half_width == pytest.approx(abs(scale) * expected, rel=1e-6, nan_ok=True)


@settings(deadline=None, max_examples=40)
@given(cases)
def test_it_is_never_narrower_than_the_task_interval(case):
    seed, episodes, classes, way = case
    drawn, values = drawn_episodes(seed, episodes, classes, way), np.random.default_rng(seed).random(episodes)
    width = data_interval(values, drawn).half_width
    assert math.isnan(width) or width >= mean_interval(values).half_width * (1 - 1e-9)


def test_rows_on_the_same_episodes_are_worth_what_each_is_alone():
    classes = drawn_episodes(3, 200, 20, 5)
    rows = np.random.default_rng(3).random((4, 200)) + np.arange(20)[classes].mean(axis=1) / 20
    alone = [data_interval(row, classes).half_width for row in rows]
    assert data_half_widths(rows, classes) == pytest.approx(alone)


def test_a_column_of_absent_classes_changes_nothing():
    classes = drawn_episodes(4, 100, 10, 3)
    values = np.random.default_rng(4).random(100)
    padded = np.insert(classes, 1, -1, axis=1)
    assert data_interval(values, padded) == data_interval(values, classes)


def test_more_confidence_is_wider_and_the_number_of_classes_only_a_check():
    classes, values = drawn_episodes(4, 100, 10, 3), np.random.default_rng(4).random(100)
    assert data_interval(values, classes, 0.99).half_width > data_interval(values, classes).half_width
    assert data_interval(values, classes, class_count=351) == data_interval(values, classes)


# Where there is none


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([0.5], [[0, 1]]),
        ([0.5, 0.7], [[0, 1], [1, 2]]),
        ([0.5, 0.7, 0.4], [[0, 1], [1, 0], [0, 1]]),
        ([0.5, 0.7, 0.4], [[0, 1], [2, 3], [4, 5]]),
        ([0.5, 0.7, 0.4], [[0, 1], [0, 2], [1, 2]]),
    ],
    ids=[
        "one episode",
        "one pair",
        "all classes in all episodes",
        "no class in two episodes",
        "all but one, each once",
    ],
)
@pytest.mark.filterwarnings("error")
def test_the_half_width_is_unknown_where_all_pairs_share_alike(values, classes):
    interval = data_interval(values, classes)
    assert interval.mean == pytest.approx(np.mean(values))
    assert math.isnan(interval.half_width)


@pytest.mark.filterwarnings("error")
def test_equal_values_have_an_interval_of_no_width():
    assert data_interval([0.1] * 30, drawn_episodes(0, 30, 8, 3)).half_width == 0


@pytest.mark.parametrize(
    ("values", "classes", "said"),
    [
        ([0.5, math.nan], [[0, 1], [1, 2]], "NaN"),
        ([0.5, math.inf], [[0, 1], [1, 2]], "infinite"),
        ([], np.empty((0, 2), dtype=int), "at least one episode"),
        ([[0.5, 0.7]], [[0, 1], [1, 2]], r"values \[E\]"),
        ([0.5, 0.7], [[0, 1]], r"\[2, N\]"),
        ([0.5, 0.7], [0, 1], r"\[2, N\]"),
        ([0.5, 0.7], [[0.0, 1.0], [1.0, 2.0]], "float64"),
        ([0.5, 0.7], [[0, 1], [1, 1]], "twice"),
        ([0.5, 0.7], [[0, 1], [-1, -1]], "has none"),
        ([0.5, 0.7], np.empty((2, 0), dtype=int), "has none"),
        ([0.5, 0.7], [[0, 1], [1, -2]], "not -2"),
        ([0.5, 0.7], [[0, 1], [1, 20]], "from 0 to 19"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(values, classes, said):
    with pytest.raises(ShapeError, match=said) as refusal:
        data_interval(values, classes, class_count=20)
    assert "\n" not in str(refusal.value)
