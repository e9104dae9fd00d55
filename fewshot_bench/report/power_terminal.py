"""Plans in a terminal of 80 columns, and as plain mappings."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.text import Text

from fewshot_bench.printable import printable
from fewshot_bench.report.power import Need, Plan, what_helps
from fewshot_bench.report.terminal import new_table, print_table
from fewshot_bench.report.wording import CLAIMED


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
    table = new_table()
    is_known = spread.beyond is not None
    for header in ("difference", "paired", "unpaired, each", *(["beyond"] if is_known else []), ""):
        table.add_column(header, justify="right", no_wrap=True)
    for need in plan.needs:
        counts = [f"{need.paired:,}", f"{need.unpaired:,}", *([_beyond(need, plan)] if is_known else [])]
        mark = "the pilot's" if _is_own(plan, need.difference) else ""
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


def _beyond(need: Need, plan: Plan) -> str:
    if need.beyond is None:
        return "never"
    return f"{need.beyond:,}" if plan.floor else f"≥ {need.beyond:,}"


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
                "difference": need.difference,
                "paired_episodes": need.paired,
                "unpaired_episodes": need.unpaired,
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
    }


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


def _is_own(plan: Plan, difference: float) -> bool:
    return plan.spread.difference is not None and difference == abs(plan.spread.difference)
