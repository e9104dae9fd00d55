"""Ways to say how far a mean over episodes may be off for other classes and images, compared by their coverage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from gaussian_classes import Floats, Images
from numpy.typing import NDArray
from scipy import stats

from fewshot_bench.statistics import DataIntervals, Overlap, class_overlap, data_intervals, image_overlap
from fewshot_bench.statistics.data_interval import explained_variance

Classes = NDArray[np.int64]
QUANTILE = 0.975


@dataclass(frozen=True)
class Drawn:
    """What one replicate gives.

    Attributes:
        values: accuracies and differences, [A, E].
        classes: class numbers of each episode, [E, N]; -1 where there is none.
        class_count: C.
        images: of each episode, the classes in the same order, [E, C, K + Q], where the classes are fixed; else None.
    """

    values: Floats
    classes: Classes
    class_count: int
    images: Images | None = None

    @cached_property
    def overlap(self) -> Overlap:
        """What the episodes share: classes, or images where the classes are fixed."""
        if self.images is not None:
            return image_overlap(self.images)
        return class_overlap(self.classes, self.class_count)

    @cached_property
    def found(self) -> DataIntervals:
        """What is shipped, before it becomes intervals."""
        return data_intervals(self.values, self.overlap)


Candidate = Callable[[Drawn], tuple[Floats, Floats]]
"""Lower and upper ends of the 95% intervals, each [A]; NaN where there are none."""


def task(drawn: Drawn) -> tuple[Floats, Floats]:
    """Student's t over episodes."""
    return _around(drawn, _task_variance(drawn.values), drawn.values.shape[1] - 1)


def shipped(drawn: Drawn) -> tuple[Floats, Floats]:
    """`fewshot_bench.statistics.data_interval`."""
    return drawn.found.ends()


def student(drawn: Drawn) -> tuple[Floats, Floats]:
    """The shipped variance and degrees of freedom, without the skewness."""
    return _around(drawn, drawn.found.standard_errors**2, drawn.found.freedom)


def johnson(drawn: Drawn) -> tuple[Floats, Floats]:
    """The shipped interval, its longer arm by Johnson's (1978) first-order correction instead of Hall's."""
    found = drawn.found
    t = stats.t.ppf(QUANTILE, found.freedom)
    shift, errors = found.skewness * (1 / 6 + t**2 / 3), found.standard_errors
    return found.means - errors * (t - np.minimum(shift, 0)), found.means + errors * (t + np.maximum(shift, 0))


def kurtosis(drawn: Drawn) -> tuple[Floats, Floats]:
    """What was shipped before: no least variance, no skewness, and fewer degrees of freedom for heavy tails.

    The tails are those of the class effects (O'Neill, 2014).
    """
    found, count, (stratum,) = drawn.found, drawn.overlap.sample_size, drawn.overlap.strata
    explained = np.array([explained_variance(row, drawn.overlap)[0] for row in drawn.values])
    variance = np.maximum(explained, 0) + found.task_variances
    (sums,) = drawn.overlap.class_sums(drawn.values - drawn.values.mean(axis=1, keepdims=True))
    left = np.minimum(variance / ((sums**2).sum(axis=0) * stratum.mean / stratum.spread), 1)
    weights = np.asarray(stratum.membership.sum(axis=0)).reshape(-1, 1)
    excess = np.maximum(stats.kurtosis(sums / weights, bias=False), 0)
    of_classes = 2 / (excess / count + 2 / (count - 1))
    return _around(drawn, variance, np.maximum(of_classes * left, np.minimum(of_classes, 4.0)))


def jackknife_less_noise(drawn: Drawn) -> tuple[Floats, Floats]:
    """The jackknife over classes (Efron and Stein, 1981), less what the drawing of episodes adds to it.

    The variance of that drawing counts once.
    """
    count = drawn.class_count
    without = 1 - _members(drawn.classes, count).astype(np.float64)
    means = (drawn.values @ without) / without.sum(axis=0)
    way, drawing = float((drawn.classes >= 0).sum(axis=1).mean()), _task_variance(drawn.values)
    noise = (count - 1) * way / (count - way) * drawing
    return _around(drawn, np.maximum((count - 1) * means.var(axis=1) - noise, 0) + drawing, count - 1)


def disjoint_pairs(drawn: Drawn) -> tuple[Floats, Floats]:
    """Minus the mean product of centred values of two episodes without a common class (Wang and Lindsay, 2014)."""
    centred = (drawn.values - drawn.values.mean(axis=1, keepdims=True)).astype(np.float32)
    members = _members(drawn.classes, drawn.class_count)
    apart = (members @ members.T == 0).astype(np.float32)
    if not apart.any():
        nothing = np.full(len(centred), np.nan)
        return nothing, nothing
    products = ((centred @ apart) * centred).sum(axis=1) / apart.sum()
    variance = np.maximum(-products.astype(np.float64), _task_variance(drawn.values))
    return _around(drawn, variance, drawn.class_count - 1)


CANDIDATES: dict[str, Candidate] = {
    "data": shipped,
    "Student's t": student,
    "Johnson's 1/3": johnson,
    "kurtosis": kurtosis,
    "jackknife": jackknife_less_noise,
    "disjoint pairs": disjoint_pairs,
    "task": task,
}
FIXED_CANDIDATES: dict[str, Candidate] = {"data": shipped, "task": task}
"""Those for fixed classes, where only images are a sample."""


def _task_variance(values: Floats) -> Floats:
    return np.asarray(values.var(axis=1, ddof=1) / values.shape[1])


def _members(classes: Classes, class_count: int) -> NDArray[np.float32]:
    """Whether an episode has a class, [E, C]."""
    members = np.zeros((len(classes), class_count + 1), dtype=np.float32)
    np.put_along_axis(members, classes, 1, axis=1)  # -1 is the last column
    return members[:, :-1]


def _around(drawn: Drawn, variance: Floats, freedom: float | Floats) -> tuple[Floats, Floats]:
    means, half_widths = drawn.values.mean(axis=1), stats.t.ppf(QUANTILE, freedom) * np.sqrt(variance)
    return means - half_widths, means + half_widths
