"""`fewshot-bench predict`: classify images with a classifier that `fit` kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_bench._io.text import printable
from fewshot_bench.cli.options import JsonOption, TrustCodeOption
from fewshot_bench.cli.output import print_json, stdout_console
from fewshot_bench.cli.study_options import DeviceOption

if TYPE_CHECKING:
    from fewshot_bench.evaluation.predictions import Predictions

_SOME_REFUSED = 1
"""Exit code where some images could not be read."""


def predict(
    classifier: Annotated[Path, typer.Argument(metavar="CLASSIFIER", help="A folder that fewshot-bench fit made.")],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE ...", help="Image files, and folders with all images below them.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.csv", help="Write the table to a CSV file instead."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="K", help="Classes to name for each image.")] = 1,
    download: Annotated[
        bool, typer.Option("--download", help="Download pretrained weights that the classifier names.")
    ] = False,
    device: DeviceOption = "auto",
    trust_code: TrustCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Classify images with a classifier that fewshot-bench fit kept.

    Exit code 1 if some images could not be read; the others are classified.
    """
    from fewshot_bench.evaluation.classifier_card import read_card

    read_card(classifier)  # a mistyped folder is found before torch is imported
    from fewshot_bench.cli.progress_bars import ProgressBars
    from fewshot_bench.evaluation.classifier import Classifier

    with ProgressBars() as progress:
        loaded = Classifier.load(classifier, device=device, trusts_code=trust_code, downloads=download)
        predictions = loaded.predict(images, progress=progress)
    if output is not None:
        from fewshot_bench._io.storage import write_atomically

        write_atomically(output, predictions.to_csv(top).encode())
    if as_json:
        print_json(predictions.record(top))
    elif output is None:
        _show(predictions, top)
    else:
        typer.echo(printable(f"predicted    {len(predictions):,} images by {loaded.card.method}"))
        typer.echo(printable(f"table        {output}"))
    for image in predictions.refused:
        typer.echo(printable(f"refused      {image.name}: {image.reason}"), err=True)
    if predictions.refused:
        raise typer.Exit(_SOME_REFUSED)


def _show(predictions: Predictions, top: int) -> None:
    """Print the table."""
    from rich.table import Table
    from rich.text import Text

    frame = predictions.to_frame(top)
    table = Table(box=None, pad_edge=False)
    for column in frame.columns:
        is_number = frame[column].dtype.kind == "f"
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        cells = [printable(value) if isinstance(value, str) else f"{value:.3f}" for value in row]
        table.add_row(*(Text(cell) for cell in cells))
    console = stdout_console()
    console.print(table)
    if predictions.kind != predictions.column:
        console.print(Text(f"score: {predictions.kind}"))
