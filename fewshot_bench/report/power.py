"""How many episodes a comparison needs: rows of differences and episode counts, from a pilot or from given spreads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fewshot_bench.errors import ComparisonError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report.comparisons import stored_pairs
from fewshot_bench.statistics import (
    detectable_difference,
    paired_episodes_needed,
    pilot,
    sd_of_difference,
    unpaired_episodes_needed,
)

USUAL_DIFFERENCES = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Percentage points that are looked at where nobody names one."""
_POINTS = 100


@dataclass(frozen=True)
class Spread:
    """What planning needs to know, in percentage points.

    Attributes:
        name: what it is taken from.
        sd: standard deviation of one method's accuracy over episodes (pooled over the two).
        sd_difference: standard deviation of the paired differences.
        correlation: of the two methods over the same episodes; NaN where one is constant.
        episodes: of the pilot; None where the spreads are given.
        difference: mean difference of the pilot; None likewise.
        is_claimed: whether files claim which episodes of the pilot are the same.
    """

    name: str
    sd: float
    sd_difference: float
    correlation: float
    episodes: int | None = None
    difference: float | None = None
    is_claimed: bool = False


@dataclass(frozen=True)
class Need:
    """Episodes that it takes to find one difference (in points) with tests on the same episodes, and on others."""

    difference: float
    paired: int
    unpaired: int


@dataclass(frozen=True)
class Plan:
    """What a study of some size can find.

    Attributes:
        spread: what it is computed from.
        power: chance of finding a difference that is there.
        alpha: two-sided significance level.
        needs: episodes for each difference.
        detectable: smallest difference (in points) that the episodes at hand find with this power, paired and unpaired;
            None where no number of episodes is given.
    """

    spread: Spread
    power: float
    alpha: float
    needs: Sequence[Need]
    episodes: int | None
    detectable: tuple[float, float] | None


def given_spread(sd: float, correlation: float) -> Spread:
    """Spreads that a user states, in points."""
    return Spread(f"sd {sd:g}, correlation {correlation:g}", sd, sd_of_difference(sd, sd, correlation), correlation)


def stored_spreads(store: OutcomeStore, a: str, b: str) -> list[Spread]:
    """Spreads of two stored methods, one per protocol that both were run on.

    Raises:
        UnknownNameError, ComparisonError: as `compare_tasks`.
    """
    spreads = []
    for scores in stored_pairs(store, a, b):
        both = scores.pair(0, 1)
        if both.sum() < 2:
            raise ComparisonError(f"a pilot needs two episodes that both methods have; {scores.protocol.task} has not.")
        found = pilot(*scores.accuracy[:, both])
        spreads.append(
            Spread(
                scores.protocol.task,
                _POINTS * math.hypot(found.sd_a, found.sd_b) / math.sqrt(2),
                _POINTS * found.sd_difference,
                found.correlation,
                found.episodes,
                _POINTS * found.difference,
                scores.protocol.is_claimed,
            )
        )
    return spreads


def plan(
    spread: Spread,
    differences: Sequence[float] = (),
    *,
    episodes: int | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
) -> Plan:
    """Say how many episodes differences need, and what a number of episodes can find.

    Args:
        spread: of the accuracies.
        differences: in points; the usual ones, and that of the pilot, where none is given.
        episodes: of the study; those of the pilot by default.
        power: chance of finding a difference that is there.
        alpha: two-sided significance level.

    Raises:
        ShapeError, ComparisonError: a number is out of its range.
    """
    own = [abs(spread.difference)] if spread.difference else []
    wanted = sorted(differences or {*USUAL_DIFFERENCES, *own})
    needs = [
        Need(
            difference,
            paired_episodes_needed(difference, spread.sd_difference, power=power, alpha=alpha),
            unpaired_episodes_needed(difference, spread.sd, power=power, alpha=alpha),
        )
        for difference in wanted
    ]
    count = episodes or spread.episodes
    detectable = None
    if count:
        detectable = (
            detectable_difference(count, spread.sd_difference, power=power, alpha=alpha),
            detectable_difference(count, spread.sd, power=power, alpha=alpha, paired=False),
        )
    return Plan(spread, power, alpha, needs, count, detectable)
