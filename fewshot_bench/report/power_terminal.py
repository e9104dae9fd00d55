"""Plans in a terminal of 80 columns, and as plain mappings."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.text import Text

from fewshot_bench.printable import printable
from fewshot_bench.report.power import Plan
from fewshot_bench.report.terminal import new_table, print_table
from fewshot_bench.report.wording import CLAIMED


def print_plan(plan: Plan, console: Console) -> None:
    """Print one plan: episodes per difference, then what the episodes at hand can find."""
    spread = plan.spread
    pilot = "" if spread.episodes is None else f" (pilot: {spread.episodes:,} episodes)"
    console.print(Text(printable(f"{spread.name}{pilot}"), "bold"))
    console.print(
        f"sd over episodes {spread.sd:.2f} points, of the paired differences {spread.sd_difference:.2f}, "
        f"correlation {'-' if math.isnan(spread.correlation) else f'{spread.correlation:.3f}'}",
        highlight=False,
    )
    table = new_table()
    for header in ("difference", "paired", "unpaired, each", ""):
        table.add_column(header, justify="right", no_wrap=True)
    for need in plan.needs:
        mark = "the pilot's" if _is_own(plan, need.difference) else ""
        table.add_row(f"{_points(need.difference)} points", f"{need.paired:,}", f"{need.unpaired:,}", mark)
    print_table(console, f"episodes to find a difference ({plan.power:.0%} power, two-sided {plan.alpha:.0%})", table)
    console.print(_detectable(plan), highlight=False)
    if spread.is_claimed:
        console.print(Text(CLAIMED, "dim"))


def _detectable(plan: Plan) -> str:
    """What the episodes at hand can find, in a sentence; nothing where no number of episodes is given."""
    if not plan.spread.sd_difference:
        return "The differences do not vary: this says nothing about how many episodes it takes.\n"
    if plan.detectable is None or plan.episodes is None:
        return ""
    paired, unpaired = map(_points, plan.detectable)
    return f"{plan.episodes:,} episodes find {paired} points or more if paired, {unpaired} if not.\n"


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
            {"difference": need.difference, "paired_episodes": need.paired, "unpaired_episodes": need.unpaired}
            for need in plan.needs
        ],
        "episodes": plan.episodes,
        "detectable_paired": None if plan.detectable is None else plan.detectable[0],
        "detectable_unpaired": None if plan.detectable is None else plan.detectable[1],
    }


def _points(value: float) -> str:
    """Two decimals, or two digits of what is smaller."""
    return f"{value:.2f}" if value >= 0.01 else f"{value:.2g}"


def _is_own(plan: Plan, difference: float) -> bool:
    return plan.spread.difference is not None and difference == abs(plan.spread.difference)
