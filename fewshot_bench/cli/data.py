"""`fewshot-bench data`: import, download, list and check datasets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fewshot_bench.cli.options import JsonOption, command_group
from fewshot_bench.cli.output import print_json
from fewshot_bench.cli.study_options import field_option

if TYPE_CHECKING:
    from fewshot_bench.datasets import Dataset
    from fewshot_bench.datasets.check import Diagnosis
    from fewshot_bench.datasets.own_folders import Layout

data = command_group("Import, download, list and check datasets.")

ReplaceOption = Annotated[bool, typer.Option("--replace", help="Replace a stored dataset whose pixels differ.")]
_MOST_LINES = 20


class FitChoice(str, Enum):
    """How an image of another shape becomes square."""

    squash = "squash"
    crop = "crop"


class FilterChoice(str, Enum):
    """Pillow's filters for resizing."""

    lanczos = "lanczos"
    bicubic = "bicubic"
    bilinear = "bilinear"
    box = "box"


@data.command("import")
def import_(
    name: Annotated[str, typer.Argument(help="A benchmark (see: data ls), or a name for images of your own.")],
    source: Annotated[
        str, typer.Option("--from", help="Folder, archive, table (.csv, .tsv, .parquet), hf:NAME or torchvision:NAME.")
    ],
    size: Annotated[int | None, typer.Option(min=8, max=1024, help="Side of the stored images in pixels.")] = None,
    fit: Annotated[
        FitChoice | None, typer.Option(help="squash changes the aspect ratio; crop keeps the centre.")
    ] = None,
    interpolation: Annotated[FilterChoice | None, typer.Option(help="Filter for resizing.")] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Divide your own classes into base, validation, novel: 0.6,0.2,0.2."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of that division.")] = 0,
    least_images: Annotated[int, field_option("least_images")] = 1,
    class_depth: Annotated[int | None, field_option("class_depth")] = None,
    layout: Annotated[str, field_option("layout")] = "auto",
    root: Annotated[str | None, field_option("root")] = None,
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build a dataset from your files; their layout is recognised."""
    from fewshot_bench.cli.progress_bars import ProgressBars
    from fewshot_bench.datasets import OwnOptions, import_dataset, import_own_images
    from fewshot_bench.datasets.importing import check_is_free_for_own_images, is_benchmark
    from fewshot_bench.datasets.own_images import with_fractions

    if not source.strip():
        raise typer.BadParameter("--from is empty; give a folder or a file.")
    chosen: dict[str, Any] = {
        "fit": fit.value if fit else None,
        "interpolation": interpolation.value if interpolation else None,
    }
    own = OwnOptions(least_images=least_images, class_depth=class_depth, layout=cast("Layout", layout), root=root)
    if is_benchmark(name):
        if split is not None or own != OwnOptions():
            raise typer.BadParameter(
                "--split, --min-images, --class-depth, --layout and --root are for your own images; "
                f"{name} has official splits."
            )
        with ProgressBars() as progress:
            dataset = import_dataset(name, Path(source), size=size, **chosen, replace=replace, progress=progress)
    else:
        check_is_free_for_own_images(name)
        own = dataclasses.replace(own, size=size, **{key: value for key, value in chosen.items() if value})
        own = own if split is None else with_fractions(own, split, seed)
        with ProgressBars() as progress:
            dataset = import_own_images(name, source, own, replace_stored=replace, progress=progress)
    _describe(dataset, as_json)


@data.command("get")
def get(
    name: Annotated[str, typer.Argument(help="A benchmark; see: data ls.")],
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="You have read the dataset's terms of use and accept them.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the downloaded files after the import.")] = False,
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Download a dataset from its public link, check it, and build it; an interrupted download resumes."""
    from fewshot_bench.cli.progress_bars import ProgressBars
    from fewshot_bench.datasets.importing import download_dataset

    with ProgressBars() as progress:
        dataset = download_dataset(
            name, accepts_terms=accept_terms, keep_files=keep, replace=replace, progress=progress
        )
    _describe(dataset, as_json)


@data.command("ls")
def ls(as_json: JsonOption = False) -> None:
    """List all datasets with their state and size."""
    from fewshot_bench.datasets.check import dataset_rows
    from fewshot_bench.units import bytes_text

    rows = dataset_rows()
    if as_json:
        print_json(rows)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        size = bytes_text(row["bytes"]) if row["bytes"] else ""
        images = f"{row['images']:,} images" if row["images"] else ""
        line = f"{row['name']:<{width}}  {row['state']:<8}  {size:>9}  {images:>16}  {row['recipe']}"
        typer.echo(line.rstrip())


@data.command("check")
def check(
    subject: Annotated[str | None, typer.Argument(help="A dataset's name, or a path. Default: everything.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every stored byte and compare.")] = False,
    class_depth: Annotated[int | None, field_option("class_depth")] = None,
    layout: Annotated[str, field_option("layout")] = "auto",
    root: Annotated[str | None, field_option("root")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is stored, what is missing, the terms of use, and the next command."""
    from fewshot_bench.datasets import OwnOptions
    from fewshot_bench.datasets.catalogue import DATASETS
    from fewshot_bench.datasets.check import check_dataset, check_everything, check_place
    from fewshot_bench.datasets.own_images import looks_like_a_place
    from fewshot_bench.datasets.store import is_stored
    from fewshot_bench.errors import DatasetError

    own = OwnOptions(class_depth=class_depth, layout=cast("Layout", layout), root=root)
    is_place = (
        subject is not None and subject not in DATASETS and not is_stored(subject) and looks_like_a_place(subject)
    )
    if own != OwnOptions() and not is_place:
        raise typer.BadParameter("--class-depth, --layout and --root are for images of your own by path.")
    if subject is None:
        diagnoses = check_everything(deep=deep)
    elif is_place:
        diagnoses = [check_place(subject, own)]
    else:
        diagnoses = [check_dataset(subject, deep=deep)]
    if as_json:
        facts = [
            {"subject": diagnosis.subject, **diagnosis.facts, "next": diagnosis.next_commands}
            for diagnosis in diagnoses
        ]
        print_json(facts if subject is None else facts[0])
    else:
        for diagnosis in diagnoses:
            _print(diagnosis)
    damaged = [each.subject for each in diagnoses if each.is_damaged]
    if damaged:
        raise DatasetError(f"{len(damaged)} of {len(diagnoses)} datasets are damaged: {', '.join(damaged)}.")


def _print(diagnosis: Diagnosis) -> None:
    typer.echo(diagnosis.subject)
    headings = [*(heading for heading, _ in diagnosis.findings), "next"]
    width = max(len(heading) for heading in headings)
    last = ""
    for heading, sentence in [*diagnosis.findings, *(("next", command) for command in diagnosis.next_commands)]:
        typer.echo(f"  {heading if heading != last else '':<{width}}  {sentence}")
        last = heading


def _describe(dataset: Dataset, as_json: bool) -> None:
    from fewshot_bench._io.locations import datasets_folder
    from fewshot_bench.datasets.dataset import preprocessing_line

    splits = {name: {"classes": len(split.class_names), "images": len(split)} for name, split in dataset.splits.items()}
    folder = datasets_folder() / dataset.name
    if as_json:
        facts = {"dataset": dataset.name, "fingerprint": dataset.fingerprint, "folder": str(folder), "splits": splits}
        print_json(facts | {"identity": dataset.identity, "recipe": dict(dataset.preprocessing)})
        return
    report_notes(dataset.preprocessing)
    for name, counts in splits.items():
        typer.echo(f"{name:<11}{counts['classes']:>4} classes {counts['images']:>8,} images")
    typer.echo(f"pixels      {preprocessing_line(dict(dataset.preprocessing))}")
    typer.echo(f"fingerprint {dataset.fingerprint}")
    typer.echo(f"stored in   {folder}")
    split = "" if dataset.is_few_shot else " --split test"
    typer.echo(f"next        fewshot-bench run --dataset {dataset.name}{split}")


def report_notes(preprocessing: Mapping[str, Any]) -> None:
    """Print warnings about a dataset, and what was left out of own images, to stderr."""
    from fewshot_bench.datasets.dataset import left_out_lines

    for warning in preprocessing.get("warnings", []):
        typer.echo(f"note: {warning}", err=True)
    lines = left_out_lines(preprocessing)
    for line in lines[:_MOST_LINES]:
        typer.echo(f"left out: {line}", err=True)
    if len(lines) > _MOST_LINES:
        typer.echo(f"left out: {len(lines) - _MOST_LINES} more reasons; data import --json lists all", err=True)
