"""The interval of a mean over episodes that also covers which classes and images the split happened to hold.

Episodes that share a class share its images, so they are not independent draws of the population that the split came
from. How much of their variation they have in common is seen in pairs of episodes: the more classes two of them share,
the more alike they are. A line through the products of centred values against the share in common gives the variance
of the mean (docs/data-interval.md derives it).

The mean over all episodes that a split allows is a U-statistic in its classes (Hoeffding, 1948), and the slope of the
line is what Efron and Stein's (1981) jackknife estimates by leaving one class out, without the noise of drawing only
some of the episodes. Wang and Lindsay (2014) take the pairs without a common class alone, which needs 2 N <= C. That
estimate is unbiased where the line's is slightly too wide; in the simulation its intervals cover less than they should.

Where every episode has all classes of the split, the classes are fixed and the images are the sample: the same line,
once for each class, against the images of that class that two episodes share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, stats

from fewshot_bench.arrays import as_array, as_floats
from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics.intervals import SMALLEST_P, require_probability
from fewshot_bench.statistics.multiple import all_pairs
from fewshot_bench.statistics.paired import p_of_equal_differences

ABSENT = -1
"""What fills the places of a class or an image that an episode does not have."""

LEAST_FREEDOM = 4.0
"""Degrees of freedom that subtracting the episodes' noise leaves at least."""

LEAST_OF_ERROR = 0.5
"""Share of its own standard error that the variance from drawing classes or images is taken to have at least.

Where most of what varies is noise (few episodes, many images, a way near the number of classes), the estimate is 0 in
many samples, and intervals that believe it are too short: in 300 noisy 15-way tasks of 20 classes, one pair of equal
methods in six would be called different."""

LIKELY_SKEWNESS = 0.3
"""Standard deviation that the skewness of a mean over classes is taken to have before any class is seen."""

EQUAL = 1e-9
"""Values that differ by less than this share of their mean differ by rounding alone."""

NO_SKEWNESS = 1e-5
"""A skewness below this is taken for none."""

Covered = Literal["classes and images", "images of these classes"]


@dataclass(frozen=True)
class DataInterval:
    """A mean with its interval for other classes and images of the same kind.

    Attributes:
        mean: over the episodes.
        low: lower end; NaN where the interval is unknown.
        high: upper end; NaN where the interval is unknown.
        p: two-sided; the smallest alpha at which the interval of confidence 1 - alpha leaves out 0. NaN if unknown.
        covers: "classes and images", or "images of these classes" where every episode has all classes.
        why_unknown: why there is no interval; empty where there is one.

    >>> interval = data_interval([0.5, 0.6, 0.7, 0.5, 0.6, 0.8], [[0, 1], [0, 2], [1, 2], [0, 3], [1, 3], [2, 3]])
    >>> low, high = interval
    >>> interval.covers, f"{low:.3f} to {high:.3f}"
    ('classes and images', '0.281 to 0.952')
    """

    mean: float
    low: float
    high: float
    p: float
    covers: Covered = "classes and images"
    why_unknown: str = ""

    def __iter__(self) -> Iterator[float]:
        return iter((self.low, self.high))

    @property
    def half_width(self) -> float:
        """The longer arm: mean ± this holds the whole interval."""
        return max(self.high - self.mean, self.mean - self.low)


@dataclass(frozen=True)
class _Stratum:
    """What pairs of different episodes share of one sample: of the classes, or of the images of one class.

    Attributes:
        membership: weight of what an episode has, else 0, [E, C]: 1 / way for classes, 1 for images.
        squares: sum of an episode's squared weights, [E].
        mean: mean of the share over pairs of episodes, where the share is the product of their memberships.
        spread: sum of the squared deviations of the share.
    """

    membership: sparse.csr_matrix
    squares: NDArray[np.float64]
    mean: float
    spread: float


@dataclass(frozen=True)
class Overlap:
    """What pairs of different episodes have in common; made once for all values on the same episodes.

    Attributes:
        episodes: E.
        covers: what is taken for the sample.
        strata: one for classes, one per class for images; empty where the variance cannot be known.
        why_unknown: why it cannot; empty where it can.

    >>> class_overlap([[0, 1], [0, 1], [0, 1]]).why_unknown
    'every episode has all classes'
    """

    episodes: int
    covers: Covered
    strata: tuple[_Stratum, ...] = ()
    why_unknown: str = ""

    @property
    def pairs(self) -> float:
        """Ordered pairs of different episodes."""
        return float(self.episodes) * (self.episodes - 1)

    @property
    def is_fixed(self) -> bool:
        """Whether the classes are fixed, so that images are the sample."""
        return self.covers == "images of these classes"

    @property
    def sample_size(self) -> int:
        """How many classes, or images, the episodes have."""
        return sum(stratum.membership.shape[1] for stratum in self.strata)

    @cached_property
    def noise(self) -> float:
        """How many times the variance of a mean over episodes the differences between classes (images) contain of it.

        It is what the variance of the draw has more before the noise of drawing episodes is subtracted; hardly another
        one for more episodes of the same protocol.
        """
        factors = [
            self.pairs * stratum.mean * (float(stratum.squares.mean()) - stratum.mean) / stratum.spread
            for stratum in self.strata
            if stratum.spread
        ]
        return math.fsum(factors)

    @cached_property
    def squares(self) -> NDArray[np.float64]:
        """Sums of squared weights of every stratum, [E, S]."""
        if not self.strata:
            return np.zeros((self.episodes, 0))
        return np.stack([stratum.squares for stratum in self.strata], axis=1)

    @property
    def weighs_alike(self) -> bool:
        """Whether every episode has the same sum of squared weights in each stratum."""
        return bool(np.allclose(self.squares, self.squares[:1], rtol=1e-12))

    def class_sums(self, values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Sums of centred values, [A, E], over the episodes that have a class (an image), [C, A] of each stratum."""
        columns = np.ascontiguousarray(values.T)
        return [np.asarray(stratum.membership.T @ columns) for stratum in self.strata]


@dataclass(frozen=True, eq=False)
class DataIntervals:
    """The intervals of several means over the same episodes.

    Attributes:
        means: [A].
        task_variances: of the means, from the drawing of episodes alone, [A].
        sample_variances: of the means, from the draw of classes and images, [A]; NaN where unknown.
        freedom: degrees of freedom of their sum, [A].
        skewness: of the means over draws of the classes, [A]; 0 for fixed classes.
        overlap: what the episodes share.
    """

    means: NDArray[np.float64]
    task_variances: NDArray[np.float64]
    sample_variances: NDArray[np.float64]
    freedom: NDArray[np.float64]
    skewness: NDArray[np.float64]
    overlap: Overlap

    @property
    def standard_errors(self) -> NDArray[np.float64]:
        """Of the means, over draws of episodes, classes and images, [A]."""
        return np.sqrt(self.task_variances + self.sample_variances)

    def ends(self, confidence: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper ends, each [A]; NaN where they are unknown.

        The arm on the side to which the classes are skewed is longer than Student's: there lies what classes that the
        split does not hold would add (Hall, 1992). The other arm is not shortened: 20 classes do not know their
        skewness well enough for that.
        """
        require_probability(confidence=confidence)
        t = stats.t.ppf((1 + confidence) / 2, self.freedom)
        shift = extension(self.skewness, t)
        errors = self.standard_errors
        return self.means - errors * (t - np.minimum(shift, 0)), self.means + errors * (t + np.maximum(shift, 0))

    @cached_property
    def p(self) -> NDArray[np.float64]:
        """Two-sided p of each mean being 0, by inverting the interval, [A]; NaN where it is unknown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.where(self.means == 0, 0.0, np.abs(self.means) / self.standard_errors)
        t = _t_of_arm(np.maximum(-np.sign(self.means) * self.skewness, 0), size)
        p = np.maximum(2 * stats.t.sf(t, self.freedom), SMALLEST_P)
        equal = p_of_equal_differences(min(self.overlap.sample_size, self.overlap.episodes))
        p = np.where(np.isinf(size), equal, np.minimum(p, 1.0))
        return np.where(np.isnan(self.sample_variances), np.nan, p)

    def each(self, confidence: float = 0.95) -> list[DataInterval]:
        """The interval of each mean, [A]."""
        low, high = self.ends(confidence)
        rows = zip(self.means.tolist(), low.tolist(), high.tolist(), self.p.tolist(), strict=True)
        covers, why = self.overlap.covers, self.overlap.why_unknown
        return [DataInterval(mean, left, right, p, covers, why) for mean, left, right, p in rows]


def data_interval(
    values: ArrayLike, classes: ArrayLike, confidence: float = 0.95, class_count: int | None = None
) -> DataInterval:
    """Interval of a mean over episodes, as an estimate for other classes and images of the same kind.

    It is never narrower than Student's t interval over the episodes, which covers their drawing alone.

    Args:
        values: one per episode, accuracies or paired differences, [E].
        classes: class numbers of each episode, [E, N]; -1 fills up where the way varies.
        confidence: between 0 and 1.
        class_count: classes of the split; only checks that no number is beyond it.

    Returns:
        The mean and its interval. The ends are NaN where the episodes cannot tell how much classes differ: there is one
        episode, or all pairs of episodes have as many classes in common, as where N = C (see `image_overlap`).
        Episodes without a common class are independent; the interval is then Student's over the episodes.

    Raises:
        ShapeError: there is no episode, the arrays do not fit each other, values are NaN or infinite, an episode has no
            class or one of them twice.

    >>> classes = [[0, 1], [0, 2], [1, 2], [0, 3], [1, 3], [2, 3]]
    >>> interval = data_interval([0.5, 0.6, 0.7, 0.5, 0.6, 0.8], classes)
    >>> print(f"{interval.mean:.3f}, {interval.low:.3f} to {interval.high:.3f}")
    0.617, 0.281 to 0.952
    """
    row = as_floats(values)
    if row.ndim != 1:
        raise ShapeError(f"a mean over episodes needs values [E], not {list(row.shape)}.")
    return data_intervals(row[None], class_overlap(classes, class_count)).each(confidence)[0]


def class_overlap(classes: ArrayLike, class_count: int | None = None) -> Overlap:
    """What pairs of episodes share by their classes.

    The share of two episodes is the number of their common classes over the product of their ways.

    Args:
        classes: class numbers of each episode, [E, N]; -1 fills up where the way varies.
        class_count: classes of the split; only checks that no number is beyond it.

    Raises:
        ShapeError: an episode has no class or one of them twice, or a number is out of range.

    >>> overlap = class_overlap([[0, 1], [0, 2], [1, 2], [0, 3], [1, 3], [2, 3]])
    >>> overlap.episodes, overlap.sample_size, overlap.covers
    (6, 4, 'classes and images')
    """
    labels = _checked_classes(classes, class_count)
    present = labels != ABSENT
    ways = present.sum(axis=1)
    stratum = _stratum(labels[present], np.repeat(1 / ways, ways), ways)
    if stratum is None:
        has_all = len(labels) > 1 and int(ways.min()) == len(np.unique(labels[present]))
        why = "every episode has all classes" if has_all else "too few episodes to tell how much classes differ"
        return Overlap(len(labels), "classes and images", why_unknown=why)
    return Overlap(len(labels), "classes and images", (stratum,))


def image_overlap(images: ArrayLike) -> Overlap:
    """What pairs of episodes share by their images, where every episode has all classes.

    Support and query images count alike: as the sampler gives the images of a class their places by chance, a line
    against all of them has the slope that support and query images together explain (docs/data-interval.md).

    Args:
        images: image numbers of each episode, the classes in the same order in all of them, [E, N, K + Q]; -1 fills up
            where a class has fewer queries.

    Raises:
        ShapeError: the images are not such an array, or an episode has one of them twice in a class.

    >>> images = [[[0, 1], [4, 5]], [[1, 2], [5, 6]], [[2, 3], [4, 7]]]  # of two classes in three episodes
    >>> image_overlap(images).covers
    'images of these classes'
    """
    given = np.asarray(images)
    if given.ndim != 3 or not np.issubdtype(given.dtype, np.integer) or not given.size:
        raise ShapeError(f"image numbers must be whole numbers [E, N, K + Q], not {given.dtype} {list(given.shape)}.")
    strata = []
    for labels in given.transpose(1, 0, 2):
        ordered = np.sort(labels, axis=1)
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != ABSENT)).any():
            raise ShapeError("the images of a class must differ; some episode has one of them twice.")
        present = labels != ABSENT
        counts = present.sum(axis=1)
        stratum = _stratum(labels[present], np.ones(int(counts.sum())), counts)
        if stratum is None:
            why = "the episodes use all images of a class, or there are too few episodes"
            return Overlap(len(given), "images of these classes", why_unknown=why)
        strata.append(stratum)
    return Overlap(len(given), "images of these classes", tuple(strata))


def separate_images(episodes: int) -> Overlap:
    """The overlap of episodes of one image each, which share nothing.

    The episodes are then a sample of images of fixed classes, and the data interval is Student's over them. The draw is
    not taken to be stratified by class, so the interval is slightly wider than for splits with so many images of each.

    Args:
        episodes: how many images.

    >>> separate_images(1000).covers
    'images of these classes'
    """
    if episodes < 2:
        return Overlap(episodes, "images of these classes", why_unknown="there is one image")
    membership = sparse.identity(episodes, format="csr", dtype=np.float64)
    return Overlap(episodes, "images of these classes", (_Stratum(membership, np.ones(episodes), 0.0, 0.0),))


def data_intervals(values: ArrayLike, overlap: Overlap) -> DataIntervals:
    """Intervals of several means over the same episodes.

    Args:
        values: one per row and episode, [A, E].
        overlap: what the episodes share, from `class_overlap` or `image_overlap`.

    Raises:
        ShapeError: the values are not [A, E] finite numbers on these episodes.

    >>> overlap = class_overlap([[0, 1], [0, 2], [1, 2], [0, 3], [1, 3], [2, 3]])
    >>> intervals = data_intervals([[0.5, 0.6, 0.7, 0.5, 0.6, 0.8], [0.4, 0.5, 0.6, 0.4, 0.6, 0.7]], overlap)
    >>> intervals.means.round(4).tolist()
    [0.6167, 0.5333]
    """
    rows = _checked_values(values, overlap)
    centred = rows - rows[:, :1]  # equal values become exact zeros
    centred -= centred.mean(axis=1, keepdims=True)
    means = rows.mean(axis=1)
    return _intervals(means, *_squares(means, centred, overlap), overlap.class_sums(centred), overlap)


def data_p_of_all_pairs(values: ArrayLike, overlap: Overlap) -> NDArray[np.float64]:
    """P of the difference of every two rows beyond the split, [A, A]; 1 on the diagonal, NaN where it is unknown.

    Sums over classes are made once per row. Where all episodes weigh alike, as they do unless the way varies, the
    variances of all differences come from one covariance matrix; else each pair takes a few passes over its episodes.

    Args:
        values: one per row and episode, [A, E].
        overlap: what the episodes share, from `class_overlap` or `image_overlap`.

    Raises:
        ShapeError: the values are not [A, E] finite numbers on these episodes.
        ComparisonError: there are fewer than two episodes.

    >>> overlap = class_overlap([[0, 1], [0, 2], [1, 2], [0, 3], [1, 3], [2, 3]])
    >>> p = data_p_of_all_pairs([[0.5, 0.6, 0.7, 0.5, 0.6, 0.8], [0.4, 0.5, 0.6, 0.4, 0.6, 0.7]], overlap)
    >>> p.round(3).tolist()
    [[1.0, 0.074], [0.074, 1.0]]
    """
    rows = _checked_values(values, overlap)
    sums = overlap.class_sums(rows - rows.mean(axis=1, keepdims=True))
    pairs = all_pairs(rows) if overlap.weighs_alike else None
    result = np.ones((len(rows), len(rows)))
    for first in range(len(rows) - 1):
        others = slice(first + 1, None)
        if pairs is not None:
            means, task = pairs.mean_differences[first, others], pairs.standard_errors[first, others] ** 2
            own = overlap.pairs * task[:, None] * overlap.squares[:1]
        else:
            differences = rows[first] - rows[others]
            means = differences.mean(axis=1)
            task, own = _squares(means, differences - means[:, None], overlap)
        intervals = _intervals(means, task, own, [of[:, [first]] - of[:, others] for of in sums], overlap)
        result[first, others] = result[others, first] = intervals.p
    return result


def _squares(
    means: NDArray[np.float64], centred: NDArray[np.float64], overlap: Overlap
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variances of means from the drawing of episodes, [A], and what each episode has in common with itself, [A, S]."""
    flat = np.ptp(centred, axis=1) <= EQUAL * np.abs(means)
    squares = np.where(flat[:, None], 0.0, centred**2)
    task = squares.sum(axis=1) / max(overlap.episodes - 1, 1) / overlap.episodes
    return task, squares @ overlap.squares


def _intervals(
    means: NDArray[np.float64],
    task: NDArray[np.float64],
    own: NDArray[np.float64],
    sums: list[NDArray[np.float64]],
    overlap: Overlap,
) -> DataIntervals:
    """The intervals of some means.

    Args:
        means: [A].
        task: their variances from the drawing of episodes; 0 where all values are equal, [A].
        own: squared values weighted by `Overlap.squares`: an episode with itself is not a pair, [A, S].
        sums: of centred values over the episodes that have a class (an image), [C, A] of each stratum.
        overlap: what the episodes share.
    """
    if not overlap.strata:
        nothing = np.full(len(means), math.nan)
        return DataIntervals(means, task, nothing, nothing, nothing, overlap)
    together = np.stack([np.where(task == 0, 0.0, (of_classes**2).sum(axis=0)) for of_classes in sums], axis=1)
    explained, noisy = _explained(own, together, task, overlap)
    unit = np.maximum(explained, least_variance(noisy, overlap))
    left = np.divide(unit + task, noisy, out=np.ones_like(task), where=noisy > unit + task)
    skewness = np.zeros_like(task) if overlap.is_fixed else _skewness(overlap.strata[0], sums[0], left)
    freedom = np.minimum(freedom_left(overlap, left), overlap.episodes - 1)
    return DataIntervals(means, task, unit, freedom, np.where(task == 0, 0.0, skewness), overlap)


def least_variance(noisy: NDArray[np.float64], overlap: Overlap) -> NDArray[np.float64]:
    """The least that the variance of means from drawing classes or images is taken to be, [A]; see `LEAST_OF_ERROR`."""
    return LEAST_OF_ERROR * math.sqrt(2 / max(overlap.sample_size - len(overlap.strata), 1)) * noisy


def _explained(
    own: NDArray[np.float64], together: NDArray[np.float64], task: NDArray[np.float64], overlap: Overlap
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the shares of pairs explain of the variance of means, and the same with the noise of episodes, each [A].

    Args:
        own: products of centred values of an episode with itself, which is not a pair, times its share, [A, S].
        together: those of all episodes with all, [A, S].
        task: variances of the means over episodes, [A].
        overlap: what the episodes share.
    """
    explained, noisy = np.zeros_like(task), np.zeros_like(task)
    for number, stratum in enumerate(overlap.strata):
        if not stratum.spread:
            continue  # no two episodes share anything
        # Centred values add up to nothing, so the mean product of a pair is -task.
        slope = (together[:, number] - own[:, number] + overlap.pairs * stratum.mean * task) / stratum.spread
        explained += slope * stratum.mean
        noisy += together[:, number] * stratum.mean / stratum.spread
    return explained, noisy


def explained_variance(values: NDArray[np.float64], overlap: Overlap) -> tuple[float, float]:
    """The variance of one mean from the draw of classes or images, which may come out below 0, and its standard error.

    The error is that where values are independent of what the episodes share.
    """
    centred = _checked_values(values[None], overlap)
    centred = centred - centred.mean()
    together = np.stack([(sums**2).sum(axis=0) for sums in overlap.class_sums(centred)], axis=1)
    task = np.array([centred.var(ddof=1) / overlap.episodes])
    explained, _ = _explained(centred**2 @ overlap.squares, together, task, overlap)
    slopes = [stratum.mean / math.sqrt(stratum.spread) for stratum in overlap.strata if stratum.spread]
    return float(explained[0]), math.sqrt(2) * overlap.episodes * float(task[0]) * math.hypot(*slopes)


def freedom_left(overlap: Overlap, left: NDArray[np.float64]) -> NDArray[np.float64]:
    """Degrees of freedom of the total variance, where a share of it is left without the noise of episodes, [A].

    The total is what lies between classes, less what the drawing of episodes adds to that. The difference has the
    error of its minuend, so freedom shrinks with the share that is left, down to a floor. Satterthwaite (1946) would
    take the share squared; where little is left of 20 classes that gives quantiles beyond use. Many images allow it.
    """
    if overlap.is_fixed:
        return np.maximum((overlap.sample_size - len(overlap.strata)) * left**2, LEAST_FREEDOM)
    most = float(max(overlap.sample_size - 1, 1))
    return np.maximum(most * left, min(most, LEAST_FREEDOM))


def extension(skewness: ArrayLike, t: ArrayLike) -> NDArray[np.float64]:
    """How much longer than t standard errors the arm is on the side of the skewness, with its sign.

    Hall (1992) transforms a mean of skewness g by t = T - g T^2 / 3 + g^2 T^3 / 27 - g / 6, so that t has Student's
    distribution to the second order. It rises with T, so it can be inverted; the arm is T where that is longer than t.
    """
    given, quantile = np.broadcast_arrays(np.asarray(skewness, dtype=np.float64), np.asarray(t, dtype=np.float64))
    size = np.maximum(np.abs(given), NO_SKEWNESS)
    arm = 3 / size * (1 - np.cbrt(1 - size * (quantile + size / 6)))
    return np.where(np.abs(given) < NO_SKEWNESS, 0.0, np.sign(given) * np.maximum(arm - quantile, 0))


def _t_of_arm(skewness: NDArray[np.float64], arm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The t whose arm on the side of a skewness of at least 0 is so many standard errors long; see `extension`."""
    with np.errstate(invalid="ignore", over="ignore"):
        hall = arm - skewness * arm**2 / 3 + skewness**2 * arm**3 / 27 - skewness / 6
        return np.where(skewness < NO_SKEWNESS, arm, np.clip(hall, 0, arm))


def _skewness(stratum: _Stratum, sums: NDArray[np.float64], left: NDArray[np.float64]) -> NDArray[np.float64]:
    """Skewness of a mean over draws of the classes, from their effects, [C, A] -> [A]; at most 1 in size.

    The noise of drawing episodes adds to the variance of the effects but hardly to their third moment, so it hides
    skewness by the share of the variance that is left without it, to the power 3/2. Undoing that magnifies the error of
    the estimate as well, 6 / C for normal effects; so it is shrunk towards 0 as if the skewness itself were a draw with
    the standard deviation `LIKELY_SKEWNESS`.
    """
    effects = sums / np.asarray(stratum.membership.sum(axis=0)).reshape(-1, 1)
    count = len(effects)
    if count < 3:
        return np.zeros(effects.shape[1])
    deviations = effects - effects.mean(axis=0)
    second, third = (deviations**2).mean(axis=0), (deviations**3).mean(axis=0)
    biased = np.divide(third, second**1.5, out=np.zeros_like(second), where=second > 0)
    of_mean = biased * math.sqrt(count * (count - 1)) / (count - 2) / math.sqrt(count)
    return shrunk_skewness(of_mean, count, left)


def shrunk_skewness(of_mean: ArrayLike, classes: int, left: ArrayLike) -> NDArray[np.float64]:
    """The skewness of a mean over classes that the interval takes, from its estimate; see `_skewness`."""
    without_noise = np.power(left, 1.5)
    shrunk = np.asarray(of_mean) * without_noise / (without_noise**2 + _skewness_noise(classes))
    return np.asarray(np.clip(shrunk, -1, 1))


def most_skewed(classes: int) -> float:
    """The share of the variance left without noise at which the interval takes most of an estimated skewness."""
    return float(min(_skewness_noise(classes) ** (1 / 3), 1.0))


def _skewness_noise(classes: int) -> float:
    """Variance of an estimate of the skewness of a mean over normal classes, beside that of the skewness itself."""
    return 6 / (classes * LIKELY_SKEWNESS) ** 2


def _stratum(numbers: NDArray[np.int64], weights: NDArray[np.float64], counts: NDArray[np.int64]) -> _Stratum | None:
    """What the pairs have in common; None where all of them share alike.

    Args:
        numbers: of the classes (images) of each episode, one episode behind the other.
        weights: of each of them.
        counts: how many each episode has, [E].
    """
    episodes = len(counts)
    pairs = float(episodes) * (episodes - 1)
    if not pairs:
        return None
    seen = np.bincount(numbers) > 0
    columns = (np.cumsum(seen) - 1)[numbers]  # numpy.unique would sort them all
    starts = np.concatenate([[0], np.cumsum(counts)])
    membership = sparse.csr_matrix((weights, columns, starts), shape=(episodes, int(seen.sum())))
    squares = np.asarray(membership.multiply(membership).sum(axis=1), dtype=np.float64).ravel()
    together = membership.T @ membership
    mean = (float((np.asarray(membership.sum(axis=0)) ** 2).sum()) - float(squares.sum())) / pairs
    square_sum = float((together.data**2).sum()) - float((squares**2).sum())
    spread = square_sum - pairs * mean**2
    if abs(mean) * pairs <= 1e-9 * float(squares.sum()):
        return _Stratum(membership, squares, 0.0, 0.0)  # no two episodes share anything
    return None if spread <= 1e-9 * square_sum else _Stratum(membership, squares, mean, spread)


def _checked_values(values: ArrayLike, overlap: Overlap) -> NDArray[np.float64]:
    rows = as_floats(values)
    if rows.ndim != 2 or not rows.shape[1]:
        raise ShapeError(f"means over episodes need values [A, E] of at least one episode, not {list(rows.shape)}.")
    if rows.shape[1] != overlap.episodes:
        raise ShapeError(f"there are values of {rows.shape[1]} episodes, but classes or images of {overlap.episodes}.")
    if not np.isfinite(rows).all():
        raise ShapeError("values of episodes must be finite numbers; some are NaN or infinite.")
    return rows


def _checked_classes(classes: ArrayLike, class_count: int | None) -> NDArray[np.int64]:
    given = as_array(classes)
    if given.ndim != 2 or not np.issubdtype(given.dtype, np.integer):
        raise ShapeError(f"episodes need class numbers [E, N], not {given.dtype} {list(given.shape)}.")
    labels = given.astype(np.int64)
    ordered = np.sort(labels, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != ABSENT)).any():
        raise ShapeError("the classes of an episode must differ; some episode has one of them twice.")
    if given.shape[1] == 0 or (ordered[:, -1] == ABSENT).any():
        raise ShapeError("every episode needs a class; some episode has none.")
    if len(ordered) and (ordered.min() < ABSENT or (class_count is not None and ordered.max() >= class_count)):
        limit = "" if class_count is None else f" to {class_count - 1}"
        raise ShapeError(
            f"class numbers go from 0{limit}, with -1 where there is none, not {ordered.min()} to {ordered.max()}."
        )
    return labels
