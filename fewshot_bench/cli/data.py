"""`fewshot-bench data`: bring datasets into the canonical store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_bench.cli.options import JsonOption

if TYPE_CHECKING:
    from fewshot_bench.datasets import Dataset

data = typer.Typer(help="Import or download datasets.", no_args_is_help=True, rich_markup_mode=None)

ReplaceOption = Annotated[bool, typer.Option("--replace", help="Replace a stored dataset whose pixels differ.")]


@data.command("import")
def import_(
    name: Annotated[str, typer.Argument(help="cifar-fs or fc100.")],
    source: Annotated[Path, typer.Option("--from", help="cifar100.zip of the CIFAR-FS distribution.")],
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build a dataset from files that you have."""
    from fewshot_bench.cli.progress import ProgressBars
    from fewshot_bench.datasets import import_dataset

    with ProgressBars() as progress:
        dataset = import_dataset(name, source, replace=replace, progress=progress)
    _describe(dataset, as_json)


@data.command("get")
def get(
    name: Annotated[str, typer.Argument(help="cifar-fs or fc100.")],
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Download a dataset (CIFAR-100 through torchvision, md5-checked) and build it."""
    from fewshot_bench.datasets import download_dataset

    _describe(download_dataset(name, replace=replace), as_json)


def _describe(dataset: Dataset, as_json: bool) -> None:
    from fewshot_bench.paths import datasets_folder

    splits = {name: {"classes": len(split.class_names), "images": len(split)} for name, split in dataset.splits.items()}
    folder = datasets_folder() / dataset.name
    if as_json:
        facts = {"dataset": dataset.name, "fingerprint": dataset.fingerprint, "folder": str(folder), "splits": splits}
        typer.echo(json.dumps(facts | {"recipe": dict(dataset.recipe)}, indent=1))
        return
    for name, counts in splits.items():
        typer.echo(f"{name:<11}{counts['classes']:>4} classes {counts['images']:>8,} images")
    typer.echo(f"fingerprint {dataset.fingerprint}")
    typer.echo(f"stored in   {folder}")
    typer.echo(f"next        fewshot-bench run --dataset {dataset.name}")
