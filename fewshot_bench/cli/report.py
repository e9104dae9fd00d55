"""`fewshot-bench report`: everything stored as one HTML page, and as figures for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_bench.cli.options import CorrectOption, JsonOption, LabelsOption, correction
from fewshot_bench.cli.output import print_json
from fewshot_bench.cli.study_options import BaselineOption, ResultsOption

if TYPE_CHECKING:
    from fewshot_bench._io.locations import Location
    from fewshot_bench.report.content import PageContent


def report(
    results: ResultsOption = Path("results"),
    baseline: BaselineOption = None,
    correct: CorrectOption = "holm",
    out: Annotated[Path | None, typer.Option(help="File of the page. Default: RESULTS/report.html.")] = None,
    labels: LabelsOption = None,
    title: Annotated[str, typer.Option(help="The heading of the page.")] = "Few-shot results",
    figures: Annotated[
        Path | None, typer.Option(help="Also draw figures as SVG and PNG into this folder; needs Matplotlib.")
    ] = None,
    is_opened: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page that shows all stored outcomes and works without a network.

    It needs only outcomes: no images, no GPU. A protocol keeps the baseline of the existing leaderboard until
    another is named.
    """
    from fewshot_bench.report.page import write_page

    path = out or results / "report.html"
    content = write_page(results, path, baseline=baseline, correct=correction(correct), title=title, labels=labels)
    files = [] if figures is None else _drawn(content, figures)
    if as_json:
        print_json({"report": str(path), "figures": [str(file) for file in files]})
    else:
        typer.echo(f"report       {path}")
        if content.frame["baseline"].eq("").all():
            typer.echo("next         add --baseline NAME for differences from that method")
        if files:
            typer.echo(f"figures      {len(files)} files in {figures}")
    if is_opened:
        import webbrowser

        if not webbrowser.open(path.resolve().as_uri() if isinstance(path, Path) else str(path)):
            typer.echo("No browser was found; open the page yourself.", err=True)


def _drawn(content: PageContent, folder: Path) -> list[Location]:
    """The figures of a page, drawn into a folder; where they cannot be drawn, why is said."""
    from fewshot_bench.report import NoPictureError
    from fewshot_bench.report.paper_figures import draw_figures

    try:
        return draw_figures(content, folder)
    except NoPictureError as error:
        typer.echo(str(error), err=True)
        return []
