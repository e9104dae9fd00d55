"""`fewshot-bench power`: how many episodes a comparison needs, what the present ones can find, and what would help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_bench.cli.options import JsonOption
from fewshot_bench.cli.study_options import ResultsOption

if TYPE_CHECKING:
    from fewshot_bench._io.locations import Place
    from fewshot_bench.report.power import Spread


def power(
    methods: Annotated[
        list[str] | None, typer.Argument(metavar="[A B]", help="Two stored methods as the pilot, by names or parts.")
    ] = None,
    results: ResultsOption = Path("results"),
    sd: Annotated[
        float | None, typer.Option(help="Without a pilot: standard deviation of an accuracy over episodes, in points.")
    ] = None,
    correlation: Annotated[
        float | None, typer.Option(help="Without a pilot: correlation of the two methods over the same episodes.")
    ] = None,
    difference: Annotated[
        list[float] | None, typer.Option(help="A difference to find, in points; may be given again.")
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=2, help="Episodes of a study; those of the pilot by default.")
    ] = None,
    chance: Annotated[float, typer.Option("--power", help="Chance of finding a difference that is there.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Significance level, two-sided.")] = 0.05,
    as_json: JsonOption = False,
) -> None:
    """Say how many episodes a difference needs, on this split and beyond it, and what the present episodes can find.

    From a pilot, two stored methods, or from --sd and --correlation, which say nothing of other classes. A pilot also
    tells what would help: more episodes, images per class, classes or datasets.
    """
    from fewshot_bench.outcomes import OutcomeStore
    from fewshot_bench.report import check_no_files
    from fewshot_bench.report.power import plan, plan_record, print_plan

    check_no_files(methods or [], OutcomeStore(results / "outcomes"))
    spreads = _spreads(methods or [], results, sd, correlation)
    plans = [plan(spread, difference or (), episodes=episodes, power=chance, alpha=alpha) for spread in spreads]
    if as_json:
        typer.echo(json.dumps([plan_record(one) for one in plans], indent=1))
        return
    from rich.console import Console

    console = Console()
    for one in plans:
        print_plan(one, console)


def _spreads(methods: list[str], results: Place, sd: float | None, correlation: float | None) -> list[Spread]:
    """From the pilot or from the numbers, whichever is given."""
    from fewshot_bench.outcomes import OutcomeStore
    from fewshot_bench.report.power import given_spread, stored_spreads

    if methods and (sd is not None or correlation is not None):
        raise typer.BadParameter("power takes a pilot, A and B, or --sd and --correlation, not both.")
    if sd is not None and correlation is not None:
        return [given_spread(sd, correlation)]
    if len(methods) != 2:
        raise typer.BadParameter("power takes two stored methods, A and B, or --sd and --correlation.")
    return stored_spreads(OutcomeStore(results / "outcomes"), *methods)
