"""When to stop drawing episodes: a rule for intervals of a width that is fixed beforehand (Chow & Robbins, 1965)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fewshot_bench.statistics.intervals import mean_interval, require_positive

# A few dozen episodes can be equal by chance, and a first interval of no width would end the study.
FEWEST_EPISODES = 100


@dataclass(frozen=True)
class Look:
    """The state of the stopping rule after the episodes so far.

    Attributes:
        episodes: so far.
        half_width: of the interval of their mean; NaN for one episode.
        enough: whether to stop here.
        expected: how many episodes will have been needed, judging from their spread so far; at least the fewest.
    """

    episodes: int
    half_width: float
    enough: bool
    expected: int


def look(accuracies: ArrayLike, half_width: float, *, confidence: float = 0.95, fewest: int = FEWEST_EPISODES) -> Look:
    """Say whether the interval of the mean is narrow enough.

    Only the width decides, never a difference or a p: see docs/statistics.md on what repeated looks do to each.

    Args:
        accuracies: of all episodes so far, [E].
        half_width: wanted, in the unit of the accuracies.
        confidence: of the interval.
        fewest: episodes before which no look is enough.

    Raises:
        ShapeError: there is no episode, an accuracy is NaN, or the half-width is not above 0.
    """
    require_positive(half_width=half_width)
    interval = mean_interval(accuracies, confidence)
    episodes = np.size(accuracies)
    enough = episodes >= fewest and interval.half_width <= half_width
    if math.isnan(interval.half_width):
        return Look(episodes, math.nan, False, fewest)
    expected = max(fewest, math.ceil(episodes * (interval.half_width / half_width) ** 2))
    return Look(episodes, interval.half_width, enough, expected)
