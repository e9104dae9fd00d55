"""`fewshot-bench episodes`: verify, show and freeze the tasks themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fewshot_bench.cli.options import JsonOption, command_group, numbers
from fewshot_bench.cli.study_options import field_option

episodes = command_group("Verify, show and freeze episodes.")


@episodes.command()
def verify(
    locks: Annotated[
        list[Path] | None, typer.Argument(help="Lock files or folders of them; the published ones by default.")
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
        dataset = known_dataset(name) if is_available(name) else None
        verdicts.append(verify_lock(path, dataset))
    if as_json:
        typer.echo(json.dumps([verdict.as_dict() for verdict in verdicts], indent=1))
    else:
        for verdict in verdicts:
            typer.echo(str(verdict))
    bad = [verdict.path.name for verdict in verdicts if not verdict.is_good]
    if bad:
        raise EpisodeError(f"{len(bad)} of {len(verdicts)} lock files do not verify: {', '.join(bad)}.")


@episodes.command()
def show(
    dataset: Annotated[str, typer.Option(help="See: fewshot-bench ls datasets.")] = "glyphs",
    split: Annotated[str, typer.Option(help="base, validation or novel.")] = "novel",
    way: Annotated[int, typer.Option(help="Classes per episode.")] = 5,
    shot: Annotated[int, typer.Option(help="Labelled images per class.")] = 1,
    query: Annotated[int, typer.Option(help="Images per class to classify.")] = 15,
    seed: Annotated[int, typer.Option(help="Seed of the episodes.")] = 0,
    sampler: Annotated[str, field_option("sampler")] = "standard",
    alpha: Annotated[float | None, field_option("alpha")] = None,
    least_way: Annotated[int | None, field_option("least_way")] = None,
    least_shot: Annotated[int | None, field_option("least_shot")] = None,
    run: Annotated[int, typer.Option(help="Number of the run, from 0.", min=0)] = 0,
    episode: Annotated[int, typer.Option(help="Number of the episode, from 0.", min=0)] = 0,
    png: Annotated[Path | None, typer.Option(help="Save a contact sheet here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print one episode's class names and image ids, and save a contact sheet of it."""
    from fewshot_bench.datasets import open_dataset
    from fewshot_bench.datasets.dataset import split_name
    from fewshot_bench.episodes import Protocol, sample_episodes
    from fewshot_bench.episodes.contact_sheet import contact_sheet
    from fewshot_bench.episodes.protocol import sampler_name

    images = open_dataset(dataset).split(split_name(split))
    protocol = Protocol(
        images.dataset,
        images.name,
        way,
        shot,
        query,
        seed=seed,
        sampler=sampler_name(sampler),
        alpha=alpha,
        least_way=least_way,
        least_shot=least_shot,
    )
    drawn = sample_episodes(images, protocol, run, [episode])
    rows = [
        {
            "class": images.class_of(int(support[0])),
            "support": [images.image_name(int(index)) for index in support],
            "query": [images.image_name(int(index)) for index in queries if index >= 0],
        }
        for support, queries in zip(drawn.support[0], drawn.query[0], strict=True)
    ]
    if as_json:
        typer.echo(json.dumps({"protocol": protocol.name, "run": run, "episode": episode, "classes": rows}, indent=1))
    else:
        typer.echo(f"{protocol.name}, seed {seed}, run {run}, episode {episode}")
        for row in rows:
            typer.echo(f"{row['class']}")
            for part in ("support", "query"):
                typer.echo(f"  {part:<8}" + " ".join(row[part]))
    if png is not None:
        contact_sheet(images, drawn).save(png, format="PNG")
        typer.echo(f"contact sheet in {png}", err=as_json)


@episodes.command()
def freeze(
    dataset: Annotated[str, typer.Option(help="See: fewshot-bench ls datasets.")] = "glyphs",
    split: Annotated[str, typer.Option(help="base, validation or novel.")] = "novel",
    way: Annotated[int, typer.Option(help="Classes per episode.")] = 5,
    shots: Annotated[str, typer.Option(help="Labelled images per class, e.g. 1,5.")] = "1,5",
    query: Annotated[int, typer.Option(help="Images per class to classify.")] = 15,
    episodes: Annotated[
        int | None,
        typer.Option(help="Episodes per run. Default: 3000; of the disjoint sampler all there are.", min=1),
    ] = None,
    runs: Annotated[int | None, typer.Option(help="Runs. Default: 3; the disjoint sampler has one.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the episodes.")] = 0,
    sampler: Annotated[str, field_option("sampler")] = "standard",
    alpha: Annotated[float | None, field_option("alpha")] = None,
    least_way: Annotated[int | None, field_option("least_way")] = None,
    least_shot: Annotated[int | None, field_option("least_shot")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the lock files.")] = Path("episodes"),
) -> None:
    """Write one lock file per number of shots."""
    from fewshot_bench.datasets import open_dataset
    from fewshot_bench.datasets.dataset import split_name
    from fewshot_bench.episodes import Protocol
    from fewshot_bench.episodes.locks import lock, write_lock
    from fewshot_bench.episodes.protocol import SAMPLERS_DEFAULT, sampler_name

    opened = open_dataset(dataset)
    for shot in numbers(shots, "--shots"):
        protocol = Protocol(
            opened.name,
            split_name(split),
            way,
            shot,
            query,
            SAMPLERS_DEFAULT if episodes is None else episodes,
            SAMPLERS_DEFAULT if runs is None else runs,
            seed,
            sampler=sampler_name(sampler),
            alpha=alpha,
            least_way=least_way,
            least_shot=least_shot,
        )
        typer.echo(f"wrote {write_lock(lock(opened, protocol), out)}")
