"""`fewshot-bench leaderboard`: every stored outcome as one table and one CSV."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from fewshot_bench.cli.options import ClaimOption, CorrectOption, JsonOption, LabelsOption, choice, correction
from fewshot_bench.cli.output import print_json, stdout_console
from fewshot_bench.cli.study_options import BaselineOption, ResultsOption

if TYPE_CHECKING:
    import pandas as pd

    from fewshot_bench.outcomes import OutcomeStore
    from fewshot_bench.report import Claim


def leaderboard(
    results: ResultsOption = Path("results"),
    baseline: BaselineOption = None,
    out: Annotated[Path | None, typer.Option(help="File of the CSV. Default: RESULTS/leaderboard.csv.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Save the printed tables as a picture in this file.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write a Markdown table to this file; - for the terminal.")
    ] = None,
    latex: Annotated[
        Path | None, typer.Option(help="Write a LaTeX table (booktabs) to this file; - for the terminal.")
    ] = None,
    plus_minus: Annotated[
        str,
        typer.Option(
            help="What ± covers in Markdown and LaTeX: task (episodes, as in papers), data (also classes and images), "
            "both or none."
        ),
    ] = "task",
    claim: ClaimOption = "beyond",
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD=LABEL",
            help="Label of a method in the tables, by its name or a part of it. Repeatable.",
        ),
    ] = None,
    labels: LabelsOption = None,
    correct: CorrectOption = "holm",
    published: Annotated[
        bool, typer.Option(help="Show the papers' own numbers for the same kind of tasks, marked.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Summarise all stored outcomes, test them against a baseline, and write leaderboard.csv.

    A protocol keeps the baseline of the existing leaderboard until another is named.
    """
    from fewshot_bench._io.storage import write_atomically
    from fewshot_bench.outcomes import OutcomeStore
    from fewshot_bench.report import (
        Claim,
        PlusMinus,
        as_latex,
        as_markdown,
        labelled,
        labels_of_texts,
        read_labels,
        update_leaderboard,
        with_labels,
    )

    covered = cast("PlusMinus", choice(plus_minus, "--plus-minus", get_args(PlusMinus)))
    claimed = cast("Claim", choice(claim, "--claim", get_args(Claim)))
    path = out or results / "leaderboard.csv"
    store = OutcomeStore(results / "outcomes")
    frame = update_leaderboard(store, path, baseline, correct=correction(correct), with_published=published)
    by_option = labels_of_texts(frame, label or [])
    if labels is None:
        shown = with_labels(frame, by_option)
    else:
        of_file = read_labels(labels)
        shown = labelled(frame, replace(of_file, names={**of_file.names, **by_option}), where=labels)
    show(frame, as_json, svg, shown, claimed)
    for place, table in ((markdown, as_markdown), (latex, as_latex)):
        if place is not None:
            text = table(shown, plus_minus=covered, claim=claimed)
            if str(place) == "-":
                typer.echo(text, err=as_json)
                continue
            write_atomically(place, text.encode())
            typer.echo(f"table        {place}", err=as_json)
    if not as_json:
        _show_datasets(store)
        typer.echo(f"leaderboard  {path}")
        if frame["baseline"].isna().all():
            typer.echo("next         add --baseline NAME for paired t-tests against that method")
        show_answers(shown, frame)


def _show_datasets(store: OutcomeStore) -> None:
    """Print the source of each dataset's pixels, once per dataset and fingerprint."""
    from fewshot_bench._io.text import printable
    from fewshot_bench.datasets.dataset import preprocessing_line

    drawn = [cell for cell in store.cells() if not cell.protocol.is_claimed]
    cells = {(cell.protocol.dataset, cell.protocol.dataset_fingerprint): cell for cell in drawn}
    for (dataset, fingerprint), cell in sorted(cells.items()):
        typer.echo(printable(f"dataset      {dataset} {fingerprint[:12]}: {preprocessing_line(cell.dataset_recipe)}"))


def show(
    frame: pd.DataFrame,
    as_json: bool,
    svg: Path | None = None,
    labelled: pd.DataFrame | None = None,
    claim: Claim = "beyond",
    whole: pd.DataFrame | None = None,
) -> None:
    """Print a leaderboard as JSON, or as tables with labels; the best methods are those of `whole`, if given."""
    from fewshot_bench._io.storage import write_atomically
    from fewshot_bench.report import answers, leaderboard_records, print_leaderboard

    if as_json:
        print_json(leaderboard_records(frame, answers(frame if whole is None else whole)))
    else:
        print_leaderboard(frame if labelled is None else labelled, stdout_console(), claim)
    if svg is not None:
        from rich.console import Console

        picture = Console(record=True, file=io.StringIO())
        print_leaderboard(frame if labelled is None else labelled, picture, claim)
        write_atomically(svg, picture.export_svg(title="fewshot-bench leaderboard").encode())


def show_answers(whole: pd.DataFrame, frame: pd.DataFrame) -> None:
    """Print which methods of a whole leaderboard are best on the protocols of `frame`."""
    from fewshot_bench.report import answer_lines, answers, print_answers

    shown = set(frame["protocol_fingerprint"])
    print_answers(answer_lines([answer for answer in answers(whole) if answer.protocol in shown]), stdout_console())
