"""Ways to say how far a mean over episodes may be off for other classes and images, compared by their coverage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 200
Floats = NDArray[np.float64]
Classes = NDArray[np.int64]
Candidate = Callable[[Floats, Classes, int], Floats]
"""Values [A, E], classes [E, N] with -1 where there is none, C -> half-widths [A]."""


def task(values: Floats, classes: Classes, class_count: int) -> Floats:
    """Student's t over episodes."""
    return _half_widths(_task_variance(values), values.shape[1] - 1)


def jackknife(values: Floats, classes: Classes, class_count: int) -> Floats:
    """Leave out one class, with all the episodes that have it (Efron and Stein, 1981)."""
    return _half_widths(_jackknife_variance(values, classes, class_count), class_count - 1)


def jackknife_less_noise(values: Floats, classes: Classes, class_count: int) -> Floats:
    """The jackknife without what the drawing of episodes adds to it, and with the variance of that drawing."""
    way, drawing = float((classes >= 0).sum(axis=1).mean()), _task_variance(values)
    noise = (class_count - 1) * way / (class_count - way) * drawing
    variance = np.maximum(_jackknife_variance(values, classes, class_count) - noise, 0) + drawing
    return _half_widths(variance, class_count - 1)


def disjoint_pairs(values: Floats, classes: Classes, class_count: int) -> Floats:
    """Minus the mean product of centred values of two episodes without a common class (Wang and Lindsay, 2014)."""
    centred = (values - values.mean(axis=1, keepdims=True)).astype(np.float32)
    members = _members(classes, class_count)
    apart = (members @ members.T == 0).astype(np.float32)
    if not apart.any():
        return np.full(len(values), np.nan)
    products = ((centred @ apart) * centred).sum(axis=1) / apart.sum()
    variance = np.maximum(-products.astype(np.float64), _task_variance(values))
    return _half_widths(variance, class_count - 1)


def bootstrap(values: Floats, classes: Classes, class_count: int) -> Floats:
    """Draw classes with replacement; an episode weighs the product of how often its classes came (Owen, 2007)."""
    generator = np.random.default_rng(classes.shape[0])
    counts = generator.multinomial(class_count, np.full(class_count, 1 / class_count), size=RESAMPLES)
    padded = np.concatenate([counts, np.ones((RESAMPLES, 1), dtype=counts.dtype)], axis=1).astype(np.float32)
    weights = np.ones((RESAMPLES, len(classes)), dtype=np.float32)
    for column in classes.T:
        weights *= padded[:, column]
    total = weights.sum(axis=1)
    usable = total > 0
    means = (weights[usable] @ values.T.astype(np.float32)) / total[usable, None]
    return _half_widths(means.astype(np.float64).var(axis=0, ddof=1), class_count - 1)


def shipped(values: Floats, classes: Classes, class_count: int) -> Floats:
    """`fewshot_bench.statistics.data_interval`."""
    return data_half_widths(values, classes, class_count=class_count)


CANDIDATES: dict[str, Candidate] = {
    "task": task,
    "data": shipped,
    "jackknife": jackknife,
    "jackknife less noise": jackknife_less_noise,
    "disjoint pairs": disjoint_pairs,
    "bootstrap": bootstrap,
}


def _task_variance(values: Floats) -> Floats:
    return np.asarray(values.var(axis=1, ddof=1) / values.shape[1])


def _members(classes: Classes, class_count: int) -> NDArray[np.float32]:
    """Whether an episode has a class, [E, C]."""
    members = np.zeros((len(classes), class_count + 1), dtype=np.float32)
    np.put_along_axis(members, classes, 1, axis=1)  # -1 is the last column
    return members[:, :-1]


def _jackknife_variance(values: Floats, classes: Classes, class_count: int) -> Floats:
    without = 1 - _members(classes, class_count).astype(np.float64)
    means = (values @ without) / without.sum(axis=0)
    return np.asarray((class_count - 1) * means.var(axis=1))


def _half_widths(variance: Floats, freedom: float) -> Floats:
    return np.asarray(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
