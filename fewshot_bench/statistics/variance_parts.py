"""What the variance of a mean over episodes comes from: the draw of episodes, of images, or of classes.

The draw of classes and images together is in `data_interval`. Images are separated from classes by the
episodes that share a class: the more of its images two of them share, the more alike they are, beyond what the class
alone makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics.data_interval import ABSENT, Overlap, data_intervals, explained_variance, image_overlap

MOST_IMAGE_ERROR = 1 / 8
"""Standard error of the images' share of the total above which images and classes are not separated."""

Source = Literal["episodes", "images", "classes", "classes and images", "episodes and images"]


@dataclass(frozen=True)
class VarianceParts:
    """Variance of a mean over episodes as an estimate beyond the split, by what is drawn.

    Attributes:
        variances: by source; they add up to the variance of the data interval. Images count with the classes where the
            two cannot be separated, and with the episodes where no two episodes share an image.
        image_error: standard error of the variance that comes from images, or would if it were separated from
            that of classes; None where it was not estimated.
    """

    variances: Mapping[Source, float]
    image_error: float | None = None

    @property
    def total(self) -> float:
        """Variance of the mean."""
        return sum(self.variances.values())

    @property
    def shares(self) -> dict[Source, float]:
        """Of the total, the largest first; empty where nothing varies."""
        ordered = sorted(self.variances.items(), key=lambda item: -item[1])
        return {source: variance / self.total for source, variance in ordered} if self.total else {}


def variance_parts(
    values: ArrayLike, overlap: Overlap, classes: ArrayLike | None = None, images: ArrayLike | None = None
) -> VarianceParts:
    """Divide the variance of a mean over episodes, as an estimate beyond the split, into what is drawn.

    Args:
        values: one per episode, [E].
        overlap: what the episodes share, from `class_overlap` or `image_overlap`.
        classes: class numbers of each episode, [E, N]; -1 fills up where the way varies.
        images: image numbers, the classes in the order of `classes`, [E, N, K + Q]; -1 fills up. Without them, images
            are not separated from classes.

    Raises:
        ShapeError: the arrays do not fit each other, or nothing can be known of the draw of classes and images.

    >>> from fewshot_bench.statistics import class_overlap
    >>> classes = [[0, 1], [0, 2], [1, 2], [0, 3], [1, 3], [2, 3]]
    >>> parts = variance_parts([0.5, 0.6, 0.7, 0.5, 0.6, 0.8], class_overlap(classes))
    >>> print(", ".join(f"{share:.0%} {source}" for source, share in parts.shares.items()))
    80% classes and images, 20% episodes
    """
    row = np.asarray(values, dtype=np.float64)
    if not overlap.strata:
        raise ShapeError(f"the variance beyond the split is unknown: {overlap.why_unknown}.")
    intervals = data_intervals(row[None], overlap)
    task, sample = float(intervals.task_variances[0]), float(intervals.sample_variances[0])
    if overlap.is_fixed:
        shares_any = any(stratum.spread for stratum in overlap.strata)
        return VarianceParts({"episodes": task, "images": sample} if shares_any else {"episodes and images": task})
    estimate = None if classes is None or images is None else _image_variance(row, classes, images)
    if estimate is None:
        return VarianceParts({"episodes": task, "classes and images": sample})
    variance, error = estimate
    if not error:
        return VarianceParts({"episodes and images": task, "classes": sample}, error)
    if error > MOST_IMAGE_ERROR * (task + sample):
        return VarianceParts({"episodes": task, "classes and images": sample}, error)
    of_images = min(max(variance, 0.0), sample)
    return VarianceParts({"episodes": task, "images": of_images, "classes": sample - of_images}, error)


def _image_variance(values: NDArray[np.float64], classes: ArrayLike, images: ArrayLike) -> tuple[float, float] | None:
    """Variance of the mean from the draw of images, and its standard error; None where it cannot be known.

    For every class a line through the products of pairs that both have it, against their number of common images: its
    slope times the mean number over all pairs of episodes is what that class's images contribute. The error is that of
    slopes where values are independent; 0 where no two episodes share an image.
    """
    numbers, given = np.asarray(classes), np.asarray(images)
    if given.ndim != 3 or given.shape[:2] != numbers.shape or len(numbers) != len(values):
        raise ShapeError(
            f"images [E, N, K + Q] must fit classes [E, N] and values [E], not {list(given.shape)}, "
            f"{list(numbers.shape)} and {list(values.shape)}."
        )
    pairs = float(len(values)) * (len(values) - 1)
    variance = squared_error = 0.0
    for number in np.unique(numbers[numbers != ABSENT]):
        rows, places = np.nonzero(numbers == number)
        if len(rows) < 2:
            continue
        overlap = image_overlap(given[rows, places][:, None])
        if not overlap.strata:
            return None
        explained, error = explained_variance(values[rows], overlap)
        share = overlap.pairs / pairs
        variance += share * explained
        squared_error += (share * error) ** 2
    return variance, float(np.sqrt(squared_error))
