"""How many episodes a comparison needs on a split and beyond it, from a pilot or from given spreads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from fewshot_bench._io.text import printable
from fewshot_bench.errors import ComparisonError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report.comparisons import stored_pairs
from fewshot_bench.report.leaderboard_output import new_table, print_table
from fewshot_bench.report.names import CLAIMED, protocol_names
from fewshot_bench.report.scores import TaskScores, images_of_episodes
from fewshot_bench.statistics import (
    BeyondSplit,
    VarianceParts,
    beyond_split,
    detectable_difference,
    paired_episodes_needed,
    pilot,
    sd_of_difference,
    unpaired_episodes_needed,
    variance_parts,
)
from fewshot_bench.statistics.variance_parts import Source

USUAL_DIFFERENCES = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Percentage points that are planned for by default."""
_POINTS = 100
_FEWEST_EPISODES = 30
"""The fewest of a pilot that says anything about classes and images."""
_UNKNOWN_OF_SPREADS = "--sd and --correlation say nothing about classes"
_HELPS, _HARDLY_HELPS, _MOST = 0.25, 0.1, 0.5
"""Shares of the uncertainty: from which more of its source helps, below which it hardly does, above which most is."""


@dataclass(frozen=True)
class Spread:
    """What planning needs to know, in percentage points.

    Attributes:
        name: what it is taken from.
        sd: standard deviation of one method's accuracy over episodes (pooled over the two).
        sd_difference: standard deviation of the paired differences.
        correlation: of the two methods over the same episodes; NaN where one is constant.
        episodes: of the pilot; None where the spreads are given.
        difference: mean difference of the pilot; None where the spreads are given.
        is_claimed: whether files claim which episodes of the pilot are the same.
        beyond: the test of the claim beyond the split, in points; None where there is none.
        parts: the variance of the difference beyond the split by its source, in squared points; None without `beyond`.
        why_no_beyond: why there is none; empty where there is one.
        is_partly_seen: whether the episodes lack some of the split's classes, or images where the classes are fixed.
    """

    name: str
    sd: float
    sd_difference: float
    correlation: float
    episodes: int | None = None
    difference: float | None = None
    is_claimed: bool = False
    beyond: BeyondSplit | None = None
    parts: VarianceParts | None = None
    why_no_beyond: str = _UNKNOWN_OF_SPREADS
    is_partly_seen: bool = False


@dataclass(frozen=True)
class Need:
    """Episodes that it takes to find one difference.

    Attributes:
        difference: in points.
        paired: with a test on this split, on the same episodes.
        unpaired: with a test of each method on other episodes.
        beyond: with the test beyond this split, on the same episodes; None where no number of episodes finds it, or
            that test is unknown.
    """

    difference: float
    paired: int
    unpaired: int
    beyond: int | None = None


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
        detectable_beyond: the same beyond the split; None where that is unknown as well.
        floor: smallest difference (in points) that any number of episodes finds beyond the split; None where unknown.
        floor_limits: its 90% interval, as far as the pilot knows the variance between classes; None where unknown.
    """

    spread: Spread
    power: float
    alpha: float
    needs: Sequence[Need]
    episodes: int | None
    detectable: tuple[float, float] | None
    detectable_beyond: float | None = None
    floor: float | None = None
    floor_limits: tuple[float, float] | None = None


def given_spread(sd: float, correlation: float) -> Spread:
    """Spreads that a user states, in points."""
    return Spread(f"sd {sd:g}, correlation {correlation:g}", sd, sd_of_difference(sd, sd, correlation), correlation)


def stored_spreads(store: OutcomeStore, a: str, b: str) -> list[Spread]:
    """Spreads of two stored methods, one per protocol that both were run on; whole splits have no episodes to plan.

    Raises:
        UnknownNameError, ComparisonError: as `compare_tasks`, or all protocols are whole splits.
    """
    every = stored_pairs(store, a, b)
    pairs = [scores for scores in every if not scores.protocol.is_whole]
    if not pairs:
        raise ComparisonError(
            f"power plans how many episodes to draw, and {every[0].protocol.task} has a fixed number of images. Use "
            "fewshot-bench compare for the interval over them."
        )
    names = protocol_names([scores.protocol for scores in pairs])
    spreads = []
    for scores in pairs:
        name, both = names[scores.protocol.fingerprint], scores.pair(0, 1)
        if both.sum() < 2:
            raise ComparisonError(f"a pilot needs two episodes that both methods have; {name} has fewer.")
        measured = pilot(*scores.accuracy[:, both])
        sd_difference = _POINTS * measured.sd_difference
        beyond, parts, why_not = _beyond(scores, both, sd_difference)
        sample_size = sum(scores.class_sizes) if scores.has_fixed_classes else len(scores.class_sizes)
        spreads.append(
            Spread(
                name,
                _POINTS * math.hypot(measured.sd_a, measured.sd_b) / math.sqrt(2),
                sd_difference,
                measured.correlation,
                measured.episodes,
                _POINTS * measured.difference,
                scores.protocol.is_claimed,
                beyond,
                parts,
                why_not,
                beyond is not None and beyond.overlap.sample_size < sample_size,
            )
        )
    return spreads


def _beyond(
    scores: TaskScores, both: NDArray[np.bool_], sd_difference: float
) -> tuple[BeyondSplit | None, VarianceParts | None, str]:
    """The test beyond the split and where its variance comes from, in points; or why there is none."""
    overlap = scores.overlap(both)
    if not overlap.strata:
        return None, None, overlap.why_unknown
    if not sd_difference:
        return None, None, "the differences do not vary"
    if overlap.episodes < _FEWEST_EPISODES:
        return None, None, f"that takes {_FEWEST_EPISODES} episodes or more; there are {overlap.episodes}"
    classes = images = None
    sizes = scores.class_sizes
    if sizes and not overlap.is_fixed:
        classes, images = images_of_episodes(scores.protocol, sizes, scores.run[both], scores.episode[both])
    differences = _POINTS * (scores.accuracy[0, both] - scores.accuracy[1, both])
    parts = variance_parts(differences, overlap, classes, images)
    return beyond_split(differences, overlap), parts, ""


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
    beyond = spread.beyond
    own = [abs(spread.difference)] if spread.difference else []
    wanted = sorted(differences or {*USUAL_DIFFERENCES, *own})
    needs = [
        Need(
            difference,
            paired_episodes_needed(difference, spread.sd_difference, power=power, alpha=alpha),
            unpaired_episodes_needed(difference, spread.sd, power=power, alpha=alpha),
            None if beyond is None else beyond.episodes_needed(difference, power=power, alpha=alpha),
        )
        for difference in wanted
    ]
    count = episodes or spread.episodes
    detectable = detectable_beyond = floor = limits = None
    if count:
        detectable = (
            detectable_difference(count, spread.sd_difference, power=power, alpha=alpha),
            detectable_difference(count, spread.sd, power=power, alpha=alpha, paired=False),
        )
    if beyond is not None:
        detectable_beyond = beyond.detectable(count, power=power, alpha=alpha) if count else None
        floor = beyond.floor(power=power, alpha=alpha)
        limits = beyond.floor_limits(power=power, alpha=alpha)
    return Plan(spread, power, alpha, needs, count, detectable, detectable_beyond, floor, limits)


_NAMES: Mapping[Source, str] = {
    "episodes": "the episodes",
    "images": "the images",
    "classes": "the classes",
    "classes and images": "the classes and their images",
    "episodes and images": "the episodes and their images",
}


def what_helps(spread: Spread) -> str:
    """Where the uncertainty beyond the split comes from and what would lessen it, in a sentence; empty if unknown."""
    if spread.parts is None or spread.beyond is None:
        return ""
    shares = spread.parts.shares
    task = spread.beyond.sd_difference**2 / spread.beyond.overlap.episodes
    low, high = (limit / (limit + task) for limit in spread.beyond.variance_limits)
    if low < _HARDLY_HELPS and high > _MOST:
        sample_name = "images" if spread.beyond.overlap.is_fixed else "classes and their images"
        return (
            f"The episodes are too few to tell what the {sample_name} add to the uncertainty: more episodes would tell."
        )
    names = dict(_NAMES)
    if spread.parts.image_error is not None and shares.get("classes and images", 0) >= _HARDLY_HELPS:
        names["classes and images"] += " (too few episodes to tell them apart)"
    (largest, share), *others = shares.items()
    texts = [
        f"about {share:.0%} comes from {names[largest]}",
        *(f"{share:.0%} from {names[source]}" for source, share in others),
    ]
    limit = "about other images of these classes" if spread.beyond.overlap.is_fixed else "beyond this split"
    lessened = _lessened_by_more(shares, is_fixed=spread.beyond.overlap.is_fixed)
    helps = [f"more {name}" for name, share in lessened.items() if share >= _HELPS]
    hardly = [name for name, share in lessened.items() if share < _HARDLY_HELPS]
    sentence = f"Of the uncertainty {limit}, {_joined(texts, 'and')}: {_joined(helps, 'or')} would help"
    return sentence + (f", more {_joined(hardly, 'or')} hardly." if hardly else ".")


def _lessened_by_more(shares: Mapping[Source, float], *, is_fixed: bool) -> dict[str, float]:
    """What share of the uncertainty there is less of with more of something, the largest first.

    The variance from images is that of all images, so more classes with as many images each lessen it as well.
    """
    of_sample = sum(share for source, share in shares.items() if "episodes" not in source)
    lessened = {} if is_fixed else {"classes": of_sample, "datasets": of_sample}
    for source, share in shares.items():
        if source == "images" or (source == "classes and images" and share < _HARDLY_HELPS):
            lessened["images per class"] = share
        elif "episodes" in source:
            lessened["episodes" if source == "episodes" else "episodes with images of their own"] = share
    return dict(sorted(lessened.items(), key=lambda item: -item[1]))


def _joined(texts: Sequence[str], conjunction: str) -> str:
    *others, last = texts
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def print_plan(plan: Plan, console: Console) -> None:
    """Print one plan: episodes per difference, what the episodes at hand can find, what no number of them can."""
    spread = plan.spread
    pilot = "" if spread.episodes is None else f" (pilot: {spread.episodes:,} episodes)"
    console.print(Text(printable(f"{spread.name}{pilot}"), "bold"))
    console.print(
        f"sd over episodes {spread.sd:.2f} points, of the paired differences {spread.sd_difference:.2f}, "
        f"correlation {'-' if math.isnan(spread.correlation) else f'{spread.correlation:.3f}'}",
        highlight=False,
    )
    is_known = spread.beyond is not None
    table = new_table("difference", "paired", "unpaired, each", *(["beyond"] if is_known else []), "")
    table.columns[0].justify = "right"
    for need in plan.needs:
        beyond = "never" if need.beyond is None else f"{need.beyond:,}" if plan.floor else f"≥ {need.beyond:,}"
        counts = [f"{need.paired:,}", f"{need.unpaired:,}", *([beyond] if is_known else [])]
        is_of_pilot = spread.difference is not None and need.difference == abs(spread.difference)
        mark = "the pilot's" if is_of_pilot else ""
        table.add_row(f"{_points(need.difference)} points", *counts, mark)
    print_table(console, f"episodes to find a difference ({plan.power:.0%} power, two-sided {plan.alpha:.0%})", table)
    for sentence in filter(None, (_detectable(plan), _floor(plan), what_helps(spread))):
        console.print(sentence, highlight=False)
    if spread.is_claimed:
        console.print(Text(CLAIMED, "dim"))
    console.print()


def _detectable(plan: Plan) -> str:
    """What the episodes at hand can find, in a sentence; nothing where no number of episodes is given."""
    if not plan.spread.sd_difference:
        return "The differences do not vary: this says nothing about how many episodes it takes."
    if plan.detectable is None or plan.episodes is None:
        return ""
    paired, unpaired = map(_points, plan.detectable)
    beyond = "" if plan.detectable_beyond is None else f"; {_points(plan.detectable_beyond)} beyond it"
    return (
        f"{plan.episodes:,} episodes find {paired} points or more on this split if paired, {unpaired} if not{beyond}."
    )


def _floor(plan: Plan) -> str:
    """What no number of episodes can find beyond the split, in a sentence, or why that is unknown."""
    beyond, floor = plan.spread.beyond, plan.floor
    if beyond is None or floor is None or plan.floor_limits is None:
        return f"Beyond the split: unknown, {plan.spread.why_no_beyond}." if plan.spread.sd_difference else ""
    count, (low, high) = beyond.overlap.sample_size, map(_points, plan.floor_limits)
    sample, others = (
        (f"{count:,} images", "other images of these classes")
        if beyond.overlap.is_fixed
        else (f"{count:,} classes", "other classes and images")
    )
    if not floor:
        possible = f"; these {sample} may set one of up to {high} points" if plan.floor_limits[1] else ""
        return f"Beyond this split ({others}), no limit shows so far{possible}."
    partly = (
        " These episodes do not have all of the split; more episodes bring new ones."
        if plan.spread.is_partly_seen
        else ""
    )
    return (
        f"Beyond this split ({others}), no number of episodes of these {sample} finds less than "
        f"{_points(floor)} points (90% interval {low} to {high}).{partly}"
    )


def plan_record(plan: Plan) -> dict[str, Any]:
    """A plan as a mapping; spreads and differences are in percentage points."""
    spread = plan.spread
    return {
        "from": spread.name,
        "note": CLAIMED if spread.is_claimed else None,
        "sd": spread.sd,
        "sd_difference": spread.sd_difference,
        "correlation": None if math.isnan(spread.correlation) else spread.correlation,
        "pilot_episodes": spread.episodes,
        "pilot_difference": spread.difference,
        "power": plan.power,
        "alpha": plan.alpha,
        "needs": [
            {
                "difference": need.difference, "paired_episodes": need.paired, "unpaired_episodes": need.unpaired,
                "beyond_episodes": need.beyond,
            }
            for need in plan.needs
        ],
        "episodes": plan.episodes,
        "detectable_paired": None if plan.detectable is None else plan.detectable[0],
        "detectable_unpaired": None if plan.detectable is None else plan.detectable[1],
        "detectable_beyond": plan.detectable_beyond,
        "beyond": _beyond_record(plan),
        "why_no_beyond": spread.why_no_beyond or None,
    }  # fmt: skip


def _beyond_record(plan: Plan) -> dict[str, Any] | None:
    """What is known of the claim beyond the split; variances are in squared points."""
    beyond, parts = plan.spread.beyond, plan.spread.parts
    if beyond is None or parts is None:
        return None
    return {
        "covers": beyond.overlap.covers,
        "sample_size": beyond.overlap.sample_size,
        "floor": plan.floor,
        "floor_ci90": plan.floor_limits,
        "variances": dict(parts.variances),
        "image_variance_error": parts.image_error,
        "what_helps": what_helps(plan.spread) or None,
    }


def _points(value: float) -> str:
    """Two decimals, or two digits of what is smaller."""
    return f"{value:.2f}" if value >= 0.01 else f"{value:.2g}"
