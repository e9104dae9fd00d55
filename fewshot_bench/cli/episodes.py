"""`fewshot-bench episodes`: verify, show and freeze the tasks themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_bench.cli.options import JsonOption, command_group, numbers
from fewshot_bench.cli.output import print_json
from fewshot_bench.cli.study_options import field_option, takes_fields, typed_options
from fewshot_bench.study.study import SAMPLER_FIELDS, Study

if TYPE_CHECKING:
    from fewshot_bench.datasets.dataset import ImageSplit
    from fewshot_bench.episodes import Episodes, Protocol

episodes = command_group("Verify, show and freeze episodes.")

_FIELDS = ("dataset", "split", "way", "query", "seed", *SAMPLER_FIELDS)
_TEXTS = {"split": "base, validation or novel; test of datasets for classification."}
_WITHOUT_EFFECT = ("shot", "shots", "way", "query", "seed", "alpha", "least_way", "least_shot", "episodes", "runs")


@episodes.command()
def verify(
    locks: Annotated[
        list[Path] | None, typer.Argument(help="Lock files or folders of them. Default: the published ones.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the episodes of lock files again and compare their digests."""
    from fewshot_bench.datasets import is_available, known_dataset
    from fewshot_bench.episodes.locks import lock_files, read_lock, verify_lock
    from fewshot_bench.errors import EpisodeError

    verdicts = []
    for path in lock_files(locks):
        name = read_lock(path).protocol.dataset
        verdicts.append(verify_lock(path, known_dataset(name) if is_available(name) else None))
    if as_json:
        print_json([verdict.as_dict() for verdict in verdicts])
    else:
        for verdict in verdicts:
            typer.echo(str(verdict))
    bad = [verdict.path.name for verdict in verdicts if not verdict.is_good]
    if bad:
        raise EpisodeError(f"{len(bad)} of {len(verdicts)} lock files do not verify: {', '.join(bad)}.")


@episodes.command()
@takes_fields(Study, only=_FIELDS, texts=_TEXTS)
def show(
    context: typer.Context,
    *,
    shot: Annotated[int, typer.Option(help="Labelled images per class.")] = 1,
    run: Annotated[int, typer.Option(help="Number of the run, from 0.", min=0)] = 0,
    episode: Annotated[int, typer.Option(help="Number of the episode, from 0.", min=0)] = 0,
    png: Annotated[Path | None, typer.Option(help="Save a contact sheet in this file.")] = None,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Print the class names and image ids of one episode, and save a contact sheet of it."""
    from fewshot_bench.datasets import open_dataset
    from fewshot_bench.datasets.dataset import split_name
    from fewshot_bench.episodes import sample_episodes, whole_protocol

    images = open_dataset(options["dataset"]).split(split_name(options["split"]))
    if options["sampler"] == "whole":
        _refuse_without_effect(context)
        protocol = whole_protocol(images.dataset, images.name, images.class_sizes)
    else:
        protocol = _protocol(images.dataset, shot, options)
    drawn = sample_episodes(images, protocol, run, [episode])
    rows = _rows(images, drawn)
    if as_json:
        print_json({"protocol": protocol.name, "run": run, "episode": episode, "classes": rows})
    else:
        typer.echo(f"{protocol.name}, seed {protocol.seed}, run {run}, episode {episode}")
        for row in rows:
            typer.echo(f"{row['class']}")
            for part in ("support", "query"):
                typer.echo(f"  {part:<8}" + " ".join(row[part]))
    if png is not None:
        drawn[0].contact_sheet().save(png, format="PNG")
        typer.echo(f"contact sheet in {png}", err=as_json)


def _rows(images: ImageSplit, drawn: Episodes) -> list[dict[str, Any]]:
    """The class name and image ids of each class of one episode."""
    return [
        {
            "class": images.class_of(int((*support, *queries)[0])),
            "support": [images.image_name(int(index)) for index in support],
            "query": [images.image_name(int(index)) for index in queries if index >= 0],
        }
        for support, queries in zip(drawn.support[0], drawn.query[0], strict=True)
    ]


@episodes.command()
@takes_fields(Study, only=(*_FIELDS, "shots"), texts=_TEXTS)
def freeze(
    context: typer.Context,
    *,
    episodes: Annotated[
        int | None, field_option("episodes", text="Episodes per run. Default: 3000; disjoint: all there are.")
    ] = None,
    runs: Annotated[int | None, field_option("runs", text="Runs. Default: 3; disjoint: one.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the lock files.")] = Path("episodes"),
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Write one lock file per number of shots."""
    from fewshot_bench.datasets import open_dataset
    from fewshot_bench.episodes.locks import lock, write_lock
    from fewshot_bench.errors import EpisodeError

    if options["sampler"] == "whole":
        _refuse_without_effect(context)
        raise EpisodeError("a whole split needs no lock file: its episodes are its images, in their canonical order.")
    opened = open_dataset(options["dataset"])
    options |= {"episodes": episodes, "runs": runs}
    files = []
    for shot in numbers(options.pop("shots"), "--shots"):
        files.append(write_lock(lock(opened, _protocol(opened.name, shot, options)), out))
        if not as_json:
            typer.echo(f"wrote {files[-1]}")
    if as_json:
        print_json([{"file": str(file)} for file in files])


def _refuse_without_effect(context: typer.Context) -> None:
    typed = [name for name in typed_options(context) if name in _WITHOUT_EFFECT]
    if typed:
        raise typer.BadParameter(
            f"--{typed[0].replace('_', '-')} has no effect on --sampler whole, which takes every image of a split "
            "once. Leave it out."
        )


def _protocol(dataset: str, shot: int, options: dict[str, Any]) -> Protocol:
    """The protocol that options describe; what is None is left to the sampler.

    Raises:
        EpisodeError: a value is out of range, or does not go with the sampler.
        UnknownNameError: there is no such split or sampler.
    """
    from fewshot_bench.datasets.dataset import split_name
    from fewshot_bench.episodes import Protocol

    given = {name: value for name, value in options.items() if value is not None}
    return Protocol(**given | {"dataset": dataset, "split": split_name(given["split"]), "shot": shot})
