"""`fewshot-bench embeddings`: measure the embeddings of networks on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_bench.cli.options import JsonOption, TrustCodeOption, choice, words
from fewshot_bench.cli.output import print_json, stdout_console
from fewshot_bench.cli.study_options import DeviceOption, ResultsOption, field_option
from fewshot_bench.study.study import Study

if TYPE_CHECKING:
    from fewshot_bench._io.locations import Location

_LAYOUTS = ("tsne", "pca", "umap", "none")


def embeddings(
    networks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NETWORK ...]", help="Backbones and checkpoints; differences are to the first."),
    ] = None,
    dataset: Annotated[str, field_option("dataset")] = "glyphs",
    split: Annotated[str, typer.Option(help="Split whose images are embedded.", rich_help_panel="Data")] = "novel",
    image_size: Annotated[int | None, field_option("image_size")] = None,
    interpolation: Annotated[str | None, field_option("interpolation")] = None,
    weights: Annotated[Path | None, field_option("weights")] = None,
    layout: Annotated[str, typer.Option(help="Picture of up to twenty classes: tsne, pca, umap or none.")] = "tsne",
    classes: Annotated[
        str | None, typer.Option(metavar="A,B", help="Also draw the similarities of two classes, as the paper does.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random weights, groups of classes and the layout.")] = 0,
    has_intervals: Annotated[
        bool, typer.Option("--intervals/--no-intervals", help="Compute intervals over classes.")
    ] = True,
    has_thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails/--no-thumbnails",
            help="Keep small images of the layout for the page, where the dataset may be shown.",
        ),
    ] = True,
    against_accuracy: Annotated[
        bool,
        typer.Option(
            "--against-accuracy",
            help="Correlate stored measures with the stored accuracies of the same networks; measures nothing.",
        ),
    ] = False,
    results: ResultsOption = Path("results"),
    device: DeviceOption = "auto",
    trust_code: TrustCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the embeddings of backbones and checkpoints on the same images.

    Prints isotropy, similarities and geometry with 95% intervals over classes, and differences between networks.
    Writes RESULTS/embeddings: a card for each network, two CSV files, and figures where Matplotlib is installed.
    fewshot-bench report shows the cards on its page.
    """
    if against_accuracy:
        if networks:
            raise typer.BadParameter("--against-accuracy reads stored cards and outcomes: leave out the networks.")
        _correlate(results, as_json)
        return
    if not networks:
        raise typer.BadParameter("name at least one backbone or checkpoint. See: fewshot-bench ls backbones")
    choice(layout, "--layout", _LAYOUTS)
    if interpolation is not None:
        choice(interpolation, "--interpolation", Study.choices("interpolation"))
    from fewshot_bench.datasets.dataset import split_name
    from fewshot_bench.study.known_names import refuse_misspelt_networks

    named_split = split_name(split)
    refuse_misspelt_networks(dataset, networks)
    from fewshot_bench.cli.progress_bars import ProgressBars
    from fewshot_bench.report.embeddings.output import cards_record, print_cards
    from fewshot_bench.study.embeddings import EmbeddingPlan, measure_networks  # after the names have been checked

    settings: dict[str, Any] = {
        "image_size": image_size,
        "interpolation": interpolation,
        "weights": weights,
        "layout": None if layout == "none" else layout,
        "classes": words(classes or ""),
    }
    plan = EmbeddingPlan(
        networks=tuple(networks),
        dataset=dataset,
        split=named_split,
        seed=seed,
        has_intervals=has_intervals,
        has_thumbnails=has_thumbnails,
        device=device,
        trusts_code=trust_code,
        **settings,
    )
    with ProgressBars() as progress:
        cards, pairs = measure_networks(plan, results, progress=progress)
    if as_json:
        print_json(cards_record(cards, pairs))
    else:
        print_cards(cards, pairs, stdout_console())
    _draw(cards, results, as_json)


def _draw(cards: list[Any], results: Location, as_json: bool) -> None:
    """Draw the figures, and print where the files are."""
    from fewshot_bench._io.storage import folders_in
    from fewshot_bench.report import NoPictureError
    from fewshot_bench.report.embeddings.pictures import draw_cards

    folder = results / "embeddings"
    try:
        files = draw_cards(cards, folder)
    except NoPictureError as error:
        files = []
        typer.echo(str(error), err=True)
    if as_json:
        return
    typer.echo(f"cards        {folder}")
    if files:
        typer.echo(f"figures      {len(files)} files in {folder}")
    if any(card.thumbnails for card in cards):
        typer.echo("thumbnails   the cards hold small images of the dataset; --no-thumbnails leaves them out")
    has_outcomes = bool(folders_in(results / "outcomes"))
    first = "" if has_outcomes else "fewshot-bench run stores outcomes; then "
    typer.echo(f"next         {first}fewshot-bench report shows the cards beside the leaderboard")


def _correlate(results: Location, as_json: bool) -> None:
    """Print the correlations of measures with accuracy, and write the tables and the figure."""
    from fewshot_bench.outcomes import OutcomeStore
    from fewshot_bench.report import NoPictureError
    from fewshot_bench.report.embeddings.accuracy import (
        correlate_with_accuracy,
        correlations_record,
        print_correlations,
        store_correlations,
    )

    found = correlate_with_accuracy(results, OutcomeStore(results / "outcomes"))
    try:
        files = store_correlations(found, results)
    except NoPictureError as error:
        files = []
        typer.echo(str(error), err=True)
    if as_json:
        print_json(correlations_record(found))
        return
    print_correlations(found, stdout_console())
    typer.echo(f"table        {results / 'embeddings' / 'accuracy.csv'}")
    if files:
        typer.echo(f"figures      {len(files)} files in {results / 'embeddings'}")
