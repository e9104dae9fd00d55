"""An audit as a table that fits 80 columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot_bench.audit.finding import CellAudit, printable

_STYLES = {"pass": "green", "fail": "bold red", "not checked": "yellow"}


def print_audit(audit: CellAudit, console: Console) -> None:
    """Print the findings of one cell.

    Args:
        audit: of the cell.
        console: where to.
    """
    console.print(_plain(f"{audit.key}  {audit.task}"), soft_wrap=True, style="bold")
    if audit.method:
        console.print(_plain(audit.method), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, width=min(80, console.width))
    table.add_column("check", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("finding", overflow="fold", ratio=1)
    for finding in audit.findings:
        verdict = Text(finding.verdict, style=_STYLES[finding.verdict])
        table.add_row(_plain(finding.check), verdict, _plain(finding.detail))
    console.print(table)


def _plain(text: str) -> Text:
    """Text in which neither markup nor control characters count."""
    return Text(printable(text))
