"""`fewshot-bench compare A B`: the paired t-test of two methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fewshot_bench.cli.options import JsonOption, ResultsOption


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A method's name, or a part that no other has.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other method.")],
    results: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Compare two methods on the episodes that both have seen: paired t-test, mean difference and its CI."""
    from fewshot_bench.outcomes import OutcomeStore
    from fewshot_bench.report import compare_methods, comparison_record, print_comparisons

    comparisons = compare_methods(OutcomeStore(results / "outcomes"), a, b)
    if as_json:
        typer.echo(json.dumps([comparison_record(comparison) for comparison in comparisons], indent=1))
        return
    from rich.console import Console

    print_comparisons(comparisons, Console())
