"""Statistics of one prediction per test image: McNemar's test, recall by class, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics.intervals import SMALLEST_P

CALIBRATION_BINS = 15
"""As Guo et al. (2017) take them."""
CONFIDENCE_STEPS = 65535
"""Steps between 0 and 1 of stored confidences; a multiple of `CALIBRATION_BINS`, so that the edges of
the bins are steps."""


@dataclass(frozen=True)
class McNemarTest:
    """Two classifiers on the same images.

    Attributes:
        only_a: images that A alone classifies correctly.
        only_b: images that B alone classifies correctly.
        agreeing: images on which both are right, or both are wrong.
        p: exact, two-sided; 1 if both classify every image alike.
    """

    only_a: int
    only_b: int
    agreeing: int
    p: float


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemarTest:
    """McNemar's exact test (1947): of the images that only one of two classifies correctly, does each have half?

    It is about these two networks: it covers other images, but not other trainings.

    Args:
        a: whether A classifies each image correctly, [I].
        b: the same of B, on the same images in the same order, [I].

    Raises:
        ShapeError: the arrays do not pair up, are empty, or hold something other than 0 and 1.

    >>> mcnemar([1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0])
    McNemarTest(only_a=3, only_b=1, agreeing=2, p=0.625)
    """
    first, second = (_right_or_wrong(values) for values in (a, b))
    if first.shape != second.shape:
        raise ShapeError(f"McNemar's test needs the same images of both, not {len(first)} and {len(second)}.")
    only_a, only_b = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_a + only_b
    p = float(stats.binomtest(only_a, discordant).pvalue) if discordant else 1.0
    return McNemarTest(only_a, only_b, len(first) - discordant, max(p, SMALLEST_P))


def class_recall(labels: ArrayLike, correct: ArrayLike, classes: int) -> NDArray[np.float64]:
    """Share of the images of each class that are classified correctly, [C]; NaN for a class without images.

    Args:
        labels: true class of each image, [I].
        correct: 1 where it is classified correctly, else 0, or a mean of these over trainings, [I].
        classes: C.

    Raises:
        ShapeError: the arrays do not pair up, or a label is not from 0 to C - 1.

    >>> class_recall([0, 0, 1, 1], [1, 0, 1, 1], classes=3).tolist()
    [0.5, 1.0, nan]
    """
    numbers, values = np.asarray(labels), np.asarray(correct, dtype=np.float64)
    if numbers.ndim != 1 or numbers.shape != values.shape or not np.issubdtype(numbers.dtype, np.integer):
        raise ShapeError(
            f"recall needs an integer label and a value for each image, [I], not {list(numbers.shape)} and "
            f"{list(values.shape)}."
        )
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= classes):
        raise ShapeError(f"labels of {classes} classes go from 0 to {classes - 1}, not to {numbers.max()}.")
    images = np.bincount(numbers, minlength=classes)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(numbers, values, classes) / images)


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far confidences are from accuracies.

    Attributes:
        error: expected calibration error: |mean confidence - accuracy| of the bins, weighted by their images.
        rounding: largest change of the error by storing confidences in steps of 1/65,535: half a step, plus twice the
            share of the images on the edge of a bin, each weighted by the distance of its confidence from 0 or 1.
        images: of each bin, [B].
        confidence: mean of each bin, NaN where it is empty, [B].
        accuracy: of each bin, NaN where it is empty, [B].
    """

    error: float
    rounding: float
    images: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def calibration(confidence: ArrayLike, correct: ArrayLike, bins: int = CALIBRATION_BINS) -> Calibration:
    """Expected calibration error of the predicted classes over bins of equal width (Naeini et al., 2015).

    Bin b of B holds confidences above b / B up to (b + 1) / B, as in Guo et al. (2017). The estimate is biased
    upwards: with few images, even a calibrated network has an error above 0.

    Args:
        confidence: probability of the predicted class of each image, [I].
        correct: whether the image is classified correctly, [I].
        bins: B.

    Raises:
        ShapeError: the arrays do not pair up, are empty, or a confidence is not between 0 and 1.

    >>> found = calibration([0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0])
    >>> round(found.error, 3)
    0.1
    """
    right, values = _right_or_wrong(correct), np.asarray(confidence, dtype=np.float64)
    if values.shape != right.shape or not ((values >= 0) & (values <= 1)).all():
        raise ShapeError(f"calibration needs a confidence from 0 to 1 of each of {len(right)} images.")
    # Division is exact to the last bit, so a stored confidence on an edge equals the edge.
    edges = np.arange(1, bins) / bins
    number = np.searchsorted(edges, values, side="left")
    images = np.bincount(number, minlength=bins)
    sums = [np.bincount(number, column, bins) for column in (values, right)]
    gaps = np.abs(sums[0] - sums[1])
    on_edge = np.isin(values, edges)
    moved = 2 * float(np.abs(values - right)[on_edge].sum())
    with np.errstate(invalid="ignore"):
        means = [of_bin / images for of_bin in sums]
    rounding = 0.5 / CONFIDENCE_STEPS + moved / len(right)
    return Calibration(float(gaps.sum() / len(right)), rounding, images, means[0], means[1])


def _right_or_wrong(values: ArrayLike) -> NDArray[np.bool_]:
    given = np.asarray(values)
    if given.ndim != 1 or not len(given) or not np.isin(given, (0, 1)).all():
        raise ShapeError(f"correctness should be 0 or 1 for each of one or more images, [I], not {list(given.shape)}.")
    return given.astype(np.bool_)
