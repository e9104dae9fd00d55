"""An audit as a table that fits 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot_bench.audit.finding import CellAudit, Finding
from fewshot_bench.printable import printable

_STYLES = {"pass": "green", "fail": "bold red", "not checked": "yellow"}


def print_audit(audit: CellAudit, console: Console, *, in_full: bool = True) -> None:
    """Print the findings of one cell.

    Args:
        audit: of the cell.
        console: where to.
        in_full: whether checks that passed have their findings too; otherwise one line names them.
    """
    console.print(_plain(f"{audit.key}  {audit.task}"), soft_wrap=True, style="bold")
    if audit.method:
        console.print(_plain(audit.method), soft_wrap=True)
    passed = [finding.check for finding in audit.findings if finding.verdict == "pass"]
    shown = audit.findings if in_full else [finding for finding in audit.findings if finding.verdict != "pass"]
    if not in_full:
        console.print(_plain(f"pass: {', '.join(passed) or 'none'}"), style="dim")
    if shown:
        console.print(_table(shown, console))
    elif not in_full:
        console.print()


def _table(findings: Sequence[Finding], console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, width=min(80, console.width))
    table.add_column("check", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("finding", overflow="fold", ratio=1)
    for finding in findings:
        verdict = Text(finding.verdict, style=_STYLES[finding.verdict])
        table.add_row(_plain(finding.check), verdict, _plain(finding.detail))
    return table


def _plain(text: str) -> Text:
    """Text in which neither markup nor control characters count."""
    return Text(printable(text))
