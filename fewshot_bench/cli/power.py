"""`fewshot-bench power`: how many episodes a comparison needs, and what the present ones can find."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_bench.cli.options import JsonOption
from fewshot_bench.cli.output import print_json, stdout_console
from fewshot_bench.cli.study_options import ResultsOption

if TYPE_CHECKING:
    from fewshot_bench._io.locations import Location
    from fewshot_bench.report.power import Spread


def power(
    methods: Annotated[
        list[str] | None,
        typer.Argument(metavar="[A B]", help="Two stored methods as the pilot, by names or parts of them."),
    ] = None,
    results: ResultsOption = Path("results"),
    sd: Annotated[
        float | None, typer.Option(help="Without a pilot: standard deviation of an accuracy over episodes, in points.")
    ] = None,
    correlation: Annotated[
        float | None, typer.Option(help="Without a pilot: correlation of the two methods over the same episodes.")
    ] = None,
    difference: Annotated[list[float] | None, typer.Option(help="A difference to find, in points. Repeatable.")] = None,
    episodes: Annotated[int | None, typer.Option(min=2, help="Episodes of a study. Default: the pilot's.")] = None,
    chance: Annotated[float, typer.Option("--power", help="Probability of finding a real difference.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Significance level, two-sided.")] = 0.05,
    as_json: JsonOption = False,
) -> None:
    """Say how many episodes a difference needs, on this split and beyond it, and what the present episodes can find.

    Takes a pilot (two stored methods), or --sd and --correlation, which say nothing about other classes. A pilot also
    shows what would help: more episodes, images per class, classes or datasets.
    """
    from fewshot_bench.outcomes import OutcomeStore
    from fewshot_bench.report import check_no_files
    from fewshot_bench.report.power import plan, plan_record, print_plan

    check_no_files(methods or [], OutcomeStore(results / "outcomes"))
    spreads = _spreads(methods or [], results, sd, correlation)
    plans = [plan(spread, difference or (), episodes=episodes, power=chance, alpha=alpha) for spread in spreads]
    if as_json:
        print_json([plan_record(found) for found in plans])
        return
    console = stdout_console()
    for found in plans:
        print_plan(found, console)


def _spreads(methods: list[str], results: Location, sd: float | None, correlation: float | None) -> list[Spread]:
    """The spreads of the pilot, or the one of the numbers."""
    from fewshot_bench.outcomes import OutcomeStore
    from fewshot_bench.report.power import given_spread, stored_spreads

    if methods and (sd is not None or correlation is not None):
        raise typer.BadParameter("power takes either two stored methods, A and B, or --sd and --correlation.")
    if sd is not None and correlation is not None:
        return [given_spread(sd, correlation)]
    if len(methods) != 2:
        raise typer.BadParameter("power takes two stored methods, A and B, or --sd and --correlation.")
    return stored_spreads(OutcomeStore(results / "outcomes"), *methods)
