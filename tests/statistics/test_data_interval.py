from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics import (
    class_overlap,
    data_interval,
    data_intervals,
    data_p_of_all_pairs,
    image_overlap,
    mean_interval,
    separate_images,
)

T_2 = 4.302653  # quantile of Student's t from printed tables, two-sided 95%, 2 degrees of freedom


def every_episode(classes: int, way: int) -> np.ndarray:
    """All sets of `way` classes, [E, N]."""
    return np.array(list(itertools.combinations(range(classes), way)))


def drawn_episodes(seed: int, episodes: int, classes: int, way: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.array([generator.permutation(classes)[:way] for _ in range(episodes)])


def by_a_double_loop(values: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    """Both ends straight from their definition: a line through all pairs of episodes."""
    centred = values - values.mean()
    sets = [set(row[row >= 0].tolist()) for row in classes]
    pairs = list(itertools.permutations(range(len(sets)), 2))
    shares = [len(sets[e] & sets[f]) / (len(sets[e]) * len(sets[f])) for e, f in pairs]
    products = [centred[e] * centred[f] for e, f in pairs]
    line = stats.linregress(shares, products)
    task = values.var(ddof=1) / len(values)
    weights = np.array([[1 / len(members) if label in members else 0 for members in sets] for label in range(1000)])
    weights = weights[weights.any(axis=1)]
    sums, count = weights @ centred, len(weights)
    between = (sums**2).sum() * np.mean(shares) / (len(pairs) * np.var(shares))
    unit = max(-line.intercept - task, math.sqrt(2 / (count - 1)) / 2 * between)
    left = min((unit + task) / between, 1)
    freedom = min(max((count - 1) * left, min(count - 1, 4)), len(values) - 1)
    skewness = stats.skew(sums / weights.sum(axis=1), bias=False) / math.sqrt(count)
    skewness *= left**1.5 / (left**3 + 6 / (0.3 * count) ** 2)
    t = stats.t.ppf(0.975, freedom)
    size, error = abs(np.clip(skewness, -1, 1)), math.sqrt(unit + task)
    hall = optimize.brentq(lambda arm: arm - size * arm**2 / 3 + size**2 * arm**3 / 27 - size / 6 - t, 0, 1e6)
    arms = (t, max(hall, t)) if skewness > 0 else (max(hall, t), t)
    return values.mean() - error * arms[0], values.mean() + error * arms[1]


# What it is worth


@pytest.mark.parametrize(("classes", "way"), [(6, 2), (7, 3), (6, 4), (9, 3), (20, 3)])
def test_effects_that_add_up_give_the_textbook_variance(classes, way):
    # Y = sum of the effects of the classes, and every episode once: the mean is N times the mean effect, whose variance
    # for other classes is s^2 / C. Evenly spaced effects are symmetric, so both arms are Student's.
    effects = np.arange(classes) / 10
    episodes = every_episode(classes, way)
    variance = way**2 * effects.var(ddof=1) / classes
    left = min(variance / between_every_episode(effects, way), 1)
    freedom = max((classes - 1) * left, 4)
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
    # and their mean is -4/3. So the variance of the mean is 4/3, of which the drawing of episodes is 22/30. But the
    # classes' part is taken to be at least half of its error, sqrt(2 / 2) of what it is with the noise of episodes: of
    # the class sums -4, 0, 4 that is 32 * (1/5) / 4.8 = 4/3. The variance is 22/30 + 2/3, the degrees of freedom 2.
    values, classes = [0, 2, 2, 4, 4, 6], [[0], [0], [1], [1], [2], [2]]
    assert data_interval(values, classes).half_width == pytest.approx(T_2 * math.sqrt(22 / 30 + 2 / 3), rel=1e-6)


@pytest.mark.slow
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


def test_one_odd_class_among_many_lengthens_the_arm_on_its_side():
    effects = np.zeros(20)
    effects[3] = 1
    classes = drawn_episodes(1, 400, 20, 5)
    values = effects[classes].mean(axis=1)
    up, down = data_interval(values, classes), data_interval(-values, classes)
    assert (up.low, up.high) == pytest.approx(by_a_double_loop(values, classes))
    assert (down.low, down.high) == pytest.approx((-up.high, -up.low))
    assert up.high - up.mean > 2 * (up.mean - up.low)
    assert up.half_width == up.high - up.mean


# What it does not depend on

cases = st.tuples(st.integers(0, 10**6), st.integers(5, 30), st.integers(4, 12), st.integers(1, 3))


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(cases, st.booleans())
def test_it_is_what_a_double_loop_over_pairs_finds(case, is_varying):
    seed, episodes, classes, way = case
    generator = np.random.default_rng(seed)
    drawn = drawn_episodes(seed, episodes, classes, way + 1)
    if is_varying:
        drawn[generator.random(episodes) < 0.5, -1] = -1
    _, occurrences = np.unique(drawn[drawn >= 0], return_counts=True)
    if len(occurrences) < 4 or occurrences.max() == 1:
        return
    values = generator.integers(0, 76, episodes) / 75
    found = data_interval(values, drawn)
    if math.isnan(found.half_width):
        return
    assert (found.low, found.high) == pytest.approx(by_a_double_loop(values, drawn), rel=1e-6, abs=1e-9)


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
    found, task = data_interval(values, drawn), mean_interval(values)
    if math.isnan(found.half_width):
        return
    assert found.low <= task.low + 1e-9 * task.half_width
    assert found.high >= task.high - 1e-9 * task.half_width


def test_rows_on_the_same_episodes_are_worth_what_each_is_alone():
    classes = drawn_episodes(3, 200, 20, 5)
    rows = np.random.default_rng(3).random((4, 200)) + np.arange(20)[classes].mean(axis=1) / 20
    together = data_intervals(rows, class_overlap(classes)).each()
    for row, found in zip(rows, together, strict=True):
        alone = data_interval(row, classes)
        assert (found.low, found.high, found.p) == pytest.approx((alone.low, alone.high, alone.p))


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
        ([0.5, 0.7, 0.4], [[0, 1], [0, 2], [1, 2]]),
    ],
    ids=[
        "one episode",
        "one pair",
        "all classes in all episodes",
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
        ([0.5, 0.7], [[0, 1]], "values of 2 episodes, but classes or images of 1"),
        ([0.5, 0.7], [0, 1], r"\[E, N\]"),
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


# p, by inverting it


@settings(deadline=None, max_examples=60)
@given(cases, st.floats(-0.3, 0.3))
def test_p_is_the_smallest_alpha_at_which_the_interval_leaves_out_0(case, shift):
    seed, episodes, classes, way = case
    drawn = drawn_episodes(seed, episodes, classes, way)
    values = np.random.default_rng(seed).random(episodes) - 0.5 + shift
    found = data_intervals(values[None], class_overlap(drawn))
    p = float(found.p[0])
    if math.isnan(p) or not 1e-6 < p < 0.99:
        return
    for alpha, holds in ((0.99 * p, True), (1.01 * p, False)):
        low, high = found.ends(1 - alpha)
        assert bool(low[0] <= 0 <= high[0]) == holds


def test_swapping_the_methods_mirrors_everything():
    classes = drawn_episodes(6, 300, 20, 5)
    generator = np.random.default_rng(6)
    values = generator.exponential(size=20)[classes].mean(axis=1) / 20 + generator.normal(size=300) / 50
    one, other = data_interval(values, classes), data_interval(-values, classes)
    assert (one.low, one.high, one.p) == pytest.approx((-other.high, -other.low, other.p))


@pytest.mark.parametrize("is_varying", [False, True])
def test_p_of_all_pairs_is_that_of_each_difference(is_varying):
    classes = drawn_episodes(7, 300, 12, 4)
    if is_varying:
        classes[::3, -1] = -1
    rows = np.random.default_rng(7).integers(40, 60, size=(5, 300)) / 75
    rows[4] = rows[3]
    overlap = class_overlap(classes)
    assert overlap.weighs_alike is not is_varying
    p = data_p_of_all_pairs(rows, overlap)
    for a, b in itertools.combinations(range(5), 2):
        assert p[a, b] == p[b, a] == pytest.approx(data_intervals((rows[a] - rows[b])[None], overlap).p[0])
    assert p[3, 4] == 1
    assert (np.diag(p) == 1).all()


def test_equal_differences_are_as_certain_as_the_classes_allow():
    classes = drawn_episodes(0, 30, 8, 3)
    assert data_interval([0.1] * 30, classes).p == 2.0 ** (1 - 8)
    assert data_interval([0.0] * 30, classes).p == 1


def test_an_unknown_interval_has_no_p_and_says_why():
    found = data_interval([0.5, 0.7, 0.4], [[0, 1], [1, 0], [0, 1]])
    assert math.isnan(found.p)
    assert found.why_unknown == "every episode has all classes"


def test_episodes_that_share_no_class_are_independent():
    classes = np.arange(60).reshape(20, 3)
    values = np.random.default_rng(8).random(20)
    found, task = data_interval(values, classes), mean_interval(values)
    assert found.half_width >= task.half_width
    assert found.covers == "classes and images"


# Fixed classes: every episode has all of them, and the images are the sample


def drawn_images(seed: int, episodes: int, classes: int, images: int, size: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.permuted(np.tile(np.arange(images), (episodes, classes, 1)), axis=2)[:, :, :size]


def images_by_a_double_loop(values: np.ndarray, images: np.ndarray) -> float:
    """The variance of the mean: per class a line through the products of all pairs against their common images.

    It is at least half the standard error that it has where the pairs of an episode with itself are noise alone.
    """
    centred = values - values.mean()
    pairs = list(itertools.permutations(range(len(values)), 2))
    products = np.array([centred[e] * centred[f] for e, f in pairs])
    total, noisy, seen = 0.0, 0.0, 0
    for of_class in images.transpose(1, 0, 2):
        sets = [set(row[row >= 0].tolist()) for row in of_class]
        shares = np.array([len(sets[e] & sets[f]) for e, f in pairs])
        total += stats.linregress(shares, products).slope * shares.mean()
        own = sum(len(row) * value**2 for row, value in zip(sets, centred, strict=True))
        noisy += ((shares * products).sum() + own) * shares.mean() / ((shares - shares.mean()) ** 2).sum()
        seen += len(set().union(*sets))
    least = 0.5 * math.sqrt(2 / (seen - images.shape[1])) * noisy
    return max(total, least) + values.var(ddof=1) / len(values)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(8, 30), st.integers(1, 4), st.integers(2, 5))
def test_the_variance_over_images_is_what_a_double_loop_finds(seed, episodes, classes, size):
    images = drawn_images(seed, episodes, classes, 9, size)
    values = np.random.default_rng(seed).random(episodes)
    found = data_intervals(values[None], image_overlap(images))
    assert found.standard_errors[0] ** 2 == pytest.approx(images_by_a_double_loop(values, images))


@pytest.mark.slow
def test_it_covers_other_images_of_the_same_classes_where_the_task_interval_does_not():
    covered = {"task": 0, "data": 0}
    for replicate in range(300):
        generator = np.random.default_rng(replicate)
        images = drawn_images(replicate, 200, 3, 40, 10)
        effects = generator.normal(size=(3, 40))
        values = np.take_along_axis(effects[None], images, axis=2).mean(axis=(1, 2)) + generator.normal(size=200) / 5
        found = data_intervals(values[None], image_overlap(images)).each()[0]
        task = mean_interval(values)
        covered["data"] += found.low <= 0 <= found.high
        covered["task"] += task.low <= 0 <= task.high
    assert 0.92 <= covered["data"] / 300 <= 0.98
    assert covered["task"] / 300 < 0.6


def test_where_every_episode_has_all_images_the_variance_over_images_is_unknown():
    images = np.tile(np.arange(6), (20, 2, 1))
    found = data_intervals(np.random.default_rng(0).random((1, 20)), image_overlap(images)).each()[0]
    assert math.isnan(found.half_width)
    assert "all images" in found.why_unknown


def test_episodes_that_share_no_image_give_the_interval_over_episodes():
    images = np.arange(240).reshape(20, 2, 6)
    values = np.random.default_rng(1).random(20)
    found = data_intervals(values[None], image_overlap(images)).each()[0]
    assert found.half_width == pytest.approx(mean_interval(values).half_width)
    assert found.covers == "images of these classes"


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((3, 2), int), r"\[E, N, K \+ Q\]"),
        (np.zeros((3, 2, 2)), "float64"),
        (np.zeros((3, 2, 2), int), "twice"),
        (np.zeros((0, 2, 2), int), r"\[E, N, K \+ Q\]"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, said):
    with pytest.raises(ShapeError, match=said):
        image_overlap(images)


@pytest.mark.slow
@pytest.mark.parametrize("way", [5, 10, 15, 18])
def test_equal_methods_are_rarely_told_apart_however_near_the_way_is_to_the_number_of_classes(way):
    found = []
    for replicate in range(300):
        classes = drawn_episodes(replicate, 300, 20, way)
        generator = np.random.default_rng(replicate)
        values = generator.normal(size=20)[classes].mean(axis=1) + generator.normal(size=300)
        found.append(data_interval(values, classes).p < 0.05)
    assert np.mean(found) <= 0.08


def test_images_that_are_episodes_of_their_own_have_students_interval():
    generator = np.random.default_rng(5)
    means = generator.integers(0, 4, (3, 40)) / 3  # of three trainings, right or wrong
    intervals = data_intervals(means, separate_images(40))
    low, high = intervals.ends()
    p = data_p_of_all_pairs(means, separate_images(40))
    for row, values in enumerate(means):
        expected = stats.ttest_1samp(values, 0)
        assert (low[row], high[row]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
        assert intervals.p[row] == pytest.approx(expected.pvalue)
        assert p[row] == pytest.approx([1 if row == other else stats.ttest_rel(values, means[other]).pvalue
                                        for other in range(3)])  # fmt: skip
    assert intervals.overlap.covers == "images of these classes"
    assert separate_images(1).why_unknown


def test_separate_images_are_what_the_overlap_of_images_finds():
    classes = np.repeat(np.arange(4), 10)  # image i is an episode, the other classes have none
    images = np.where(classes[:, None] == np.arange(4), np.arange(40)[:, None], -1)[:, :, None]
    values = np.random.default_rng(6).random((2, 40))
    found, expected = (data_intervals(values, overlap) for overlap in (separate_images(40), image_overlap(images)))
    assert found.standard_errors == pytest.approx(expected.standard_errors)
    assert found.overlap.covers == expected.overlap.covers
