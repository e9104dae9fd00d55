"""An audit and a reproduction as tables of at most 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot_bench._io.text import printable
from fewshot_bench.audit.finding import Audit, CellAudit, Finding
from fewshot_bench.outcomes import marked
from fewshot_bench.report.names import short_name

if TYPE_CHECKING:
    from fewshot_bench.audit.reproduce import OtherOutcome, Reproduction

_STYLES = {"pass": "green", "fail": "bold red", "not checked": "yellow"}
_SURELY = 0.95
_MOST_OUTCOMES = 8
_LONGEST = 28


def print_audit(audit: CellAudit, console: Console, *, in_full: bool = True) -> None:
    """Print the findings of one cell; in short, one line names the checks that passed."""
    console.print(_plain(f"{audit.key}  {audit.task}"), soft_wrap=True, style="bold")
    if audit.method:
        console.print(_plain(marked(audit.method, audit.is_transductive)), soft_wrap=True)
    passed = [finding.check for finding in audit.findings if finding.verdict == "pass"]
    shown = audit.findings if in_full else [finding for finding in audit.findings if finding.verdict != "pass"]
    if not in_full:
        console.print(_plain(f"pass: {', '.join(passed) or 'none'}"), style="dim")
    if shown:
        console.print(_findings(shown, console))
    elif not in_full:
        console.print()


def print_conclusion(audit: Audit, console: Console) -> None:
    """Print the outcome of an audit whose cells have been printed, and before that what could not be checked."""
    count = len(audit.cells)
    unchecked = audit.unchecked()
    if unchecked:
        console.print(Text("could not be checked", style="bold yellow"))
        table = _facts(console)
        for group in unchecked:
            cells = "" if count == 1 else f" of {len(group.cells)} of {count} cells"
            table.add_row("", _plain(f"{', '.join(group.checks)}{cells}: {group.reason}"))
            if group.options:
                table.add_row("", Text(f"to check it: {' or '.join(group.options)}", style="bold"))
        console.print(table)
    if audit.pooled:
        console.print(_findings(audit.pooled, console))
    sampled = _sampled(audit)
    if sampled:
        table = _facts(console)
        table.add_row("sample", _plain(sampled))
        console.print(table)
    cells = "1 cell" if count == 1 else f"{count} cells"
    unmade = sum(finding.verdict == "not checked" for cell in audit.cells for finding in cell.findings)
    if audit.outcome == "passed":
        console.print(f"{cells}: no check failed, {unmade} could not be made", highlight=False)
    else:
        outcomes = [cell.outcome for cell in audit.cells]
        counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("passed", "not confirmed", "failed"))
        console.print(f"{cells}: {counts}; {unmade} checks could not be made", highlight=False)


def _sampled(audit: Audit) -> str:
    """How many episodes were run again, and how surely a forger is found with them."""
    samples = [cell.sample for cell in audit.cells if cell.sample is not None]
    if not samples:
        return ""
    worst = max(samples, key=lambda sample: sample.found_with(_SURELY))
    drawn = f"--seed {audit.seed} draws the same again"
    if worst.checked == worst.stored:
        return f"all {worst.stored:,} episodes of each cell; {drawn}"
    least = worst.found_with(_SURELY)
    return (
        f"{worst.checked:,} of {worst.stored:,} episodes of each cell; if {least:.1%} of them were forged, this would "
        f"show with {worst.chance_of_finding(round(least * worst.stored)):.0%}, and more with --episodes; {drawn}"
    )


def print_reproduction(result: Reproduction, console: Console) -> None:
    """Print how one cell came out again."""
    console.print(_plain(f"{result.key}  {result.task}"), soft_wrap=True, style="bold")
    console.print(_plain(marked(result.method, result.is_transductive)), soft_wrap=True)
    table = _facts(console)
    checked = "all" if result.episodes == result.stored_episodes else f"{result.episodes:,} of the"
    drawn = "" if result.seed is None else f", drawn by --seed {result.seed}"
    is_whole = result.confidence_difference is not None
    table.add_row(
        "test images" if is_whole else "episodes", f"{checked} {result.stored_episodes:,} stored, run again{drawn}"
    )
    differing = _differing(result.predictions, result.queries, result.explanation)
    table.add_row("predictions", differing, style="green" if result.is_equal else "bold red")
    table.add_row("accuracy", _differing(result.other_accuracies, result.episodes, ""))
    change = result.new_mean - result.stored_mean
    means = f"{result.stored_mean:.2f} stored, {result.new_mean:.2f} now: {change:+.2f} points"
    table.add_row("mean", means if result.others else f"{result.stored_mean:.2f}, both")
    if result.confidence_difference is not None:
        table.add_row("confidence", f"differs by {result.confidence_difference:.5f} at most")
    if result.weights:
        table.add_row("weights", f"the base stage gave others here, {result.weights[:12]}...")
    for difference in result.environment_diff:
        recorded, here = (short_name(printable(text), _LONGEST) for text in (difference.recorded, difference.here))
        table.add_row(_plain(difference.name), _plain(f"{recorded} in the record, {here} here"))
    table.add_row("", "")
    console.print(table)
    if result.others:
        console.print(_outcomes(result.others))
        hidden = len(result.others) - _MOST_OUTCOMES
        if hidden > 0:
            console.print(f"and {hidden:,} more; --json has all of them\n")


def _differing(count: int, total: int, why: str) -> str:
    if not count:
        return f"all {total:,} are the same{f'; {why}' if why else ''}"
    return f"{count:,} of {total:,} differ{f': {why}' if why else ''}"


def _facts(console: Console) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False, width=min(80, console.width))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    return table


def _findings(findings: Sequence[Finding], console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, width=min(80, console.width))
    table.add_column("check", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("finding", overflow="fold", ratio=1)
    for finding in findings:
        verdict = Text(finding.verdict, style=_STYLES[finding.verdict])
        table.add_row(_plain(finding.check), verdict, _plain(finding.detail))
    return table


def _outcomes(others: tuple[OtherOutcome, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("run", "episode", "stored correct", "new correct", "other predictions"):
        table.add_column(name, justify="right")
    for other in others[:_MOST_OUTCOMES]:
        numbers = (other.run, other.episode, other.stored_correct, other.new_correct, other.predictions)
        table.add_row(*(f"{number:,}" for number in numbers))
    return table


def _plain(text: str) -> Text:
    """Text in which neither markup nor control characters count."""
    return Text(printable(text))
