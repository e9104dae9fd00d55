"""`fewshot-bench sweep`: a grid of hyper-parameters on the validation split, and its best configuration.

With `--jobs N`, N processes run the same command, and each takes the points that no other holds, by leases.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_bench._io.resuming import note_saved
from fewshot_bench._io.toml import value_of
from fewshot_bench.cli.options import JsonOption, SetOption, TrustCodeOption, assignment, words
from fewshot_bench.cli.output import print_json, stdout_console
from fewshot_bench.cli.processes import workers
from fewshot_bench.cli.study_options import (
    chosen_fields,
    listed_names,
    takes_fields,
    typed_arguments,
    typed_fields,
    validated_study,
)
from fewshot_bench.errors import StudyError, is_debugging
from fewshot_bench.study.study import NamedHyperParameters, Study

if TYPE_CHECKING:
    from fewshot_bench._io.locations import Location
    from fewshot_bench.progress import Progress
    from fewshot_bench.study import Axis, Grid, Study, Sweep, SweepResult
    from fewshot_bench.study.sweep import Point

_TEXTS = {
    "losses": "Loss of the adaptation if it trains, otherwise of the base-split training.",
    "adaptations": "The adaptation (fewshot-bench ls adaptations).",
    "base_losses": "Train on the base split first with this loss; or none. Default, if not pretrained: ce if the "
    "adaptation trains, otherwise --loss.",
}


@takes_fields(
    Study,
    NamedHyperParameters,
    without=("split", "baseline", "recipe", "protocol"),
    defaults={"shots": "1", "episodes": 600, "runs": 1, "losses": "ce+schane"},
    texts=_TEXTS,
)
def sweep(
    context: typer.Context,
    *,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            rich_help_panel="Method",
            help="An axis of the grid: lambda, tau, reading, image_size, ... or what --set takes. Repeatable. Default: "
            "the paper's lambda and tau.",
        ),
    ] = None,
    set_: SetOption = None,
    jobs: Annotated[
        int, typer.Option(min=1, rich_help_panel="Computing", help="Processes that divide the points.")
    ] = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", rich_help_panel="Computing", help="Only part I of N of the points, e.g. 1/4 to 4/4."
        ),
    ] = None,
    trust_code: TrustCodeOption = False,
    name: Annotated[
        str | None, typer.Option(rich_help_panel="Output", help="Folder of the sweep in RESULTS/sweeps.")
    ] = None,
    worker: Annotated[str | None, typer.Option(hidden=True, rich_help_panel="Computing")] = None,
    memory_share: Annotated[float, typer.Option(hidden=True, rich_help_panel="Computing")] = 1.0,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Try a grid of hyper-parameters on the validation split, and write the best to a file for `run --setting`.

    The novel split is never touched. The same command, here or on another machine at the same time, resumes.
    """
    from fewshot_bench.cli.progress_bars import ProgressBars
    from fewshot_bench.progress import SILENT

    study, axes = _study(context), _grid(context, grid)
    from fewshot_bench.study import plan_sweep  # after the names have been checked
    from fewshot_bench.study.admission import admit_checkpoints
    from fewshot_bench.study.sweep_run import conclude, unfinished_points, work_through

    with ProgressBars() as progress:
        if trust_code:
            admit_checkpoints(study.checkpoints or ())
        if worker is not None:  # one of the processes of --jobs, which computes on this device
            study = study.model_copy(update={"device": worker})
            _limit_memory(worker, memory_share)
        planned = plan_sweep(study, axes, name=name, progress=progress)
        points = _part(planned.distinct_points(), shard)
        arguments = typed_arguments(context)
        if worker is not None:
            work_through(planned, points, progress=SILENT, arguments=arguments[:-4])
            return
        if jobs > 1:
            work_in_processes(arguments, planned, points, jobs, progress)
        else:
            work_through(planned, points, progress=progress, arguments=arguments)
    missing = unfinished_points(planned) if shard is not None else 0
    if missing:
        total = len(planned.distinct_points())
        if as_json:
            print_json({"shard": shard, "points": len(points), "missing": missing})
            return
        typer.echo(f"shard {shard}: its {len(points)} points are complete, {total - missing} of all {total}.")
        typer.echo("next         the other shards; then the same command without --shard for the table")
        return
    _report(planned, conclude(planned), as_json)


def _study(context: typer.Context) -> Study:
    from fewshot_bench.errors import StudyError

    fields = chosen_fields(context)
    backbones = listed_names(fields, "backbone")
    if len(backbones) > 1:
        raise StudyError(
            f"a sweep varies the settings of one method: --backbone takes one name, not {len(backbones)}. "
            "Run a sweep for each of them."
        )
    return validated_study({**fields, "split": "validation", "fractions": None})


def _grid(context: typer.Context, texts: list[str] | None) -> Grid:
    """The grid of `--grid`, or the paper's; raises StudyError if another option fixes an axis."""
    from fewshot_bench.errors import StudyError
    from fewshot_bench.study import PAPER_GRID, Grid

    grid = Grid(tuple(_axis(text) for text in texts)) if texts else PAPER_GRID
    typed = typed_fields(context)
    fixed = {field.rstrip("_") for field in typed} | set(typed.get("hyper_parameters", {}))
    for axis in grid.axes:
        if axis.name in fixed:
            raise StudyError(
                f"{axis.name} is an axis of the grid, and another option fixes it. Leave that option out, or name the "
                "other axes with --grid."
            )
    return grid


def _axis(text: str) -> Axis:
    from fewshot_bench.study import Axis

    name, values = assignment(text, "--grid", "VALUE,VALUE,...")
    return Axis(name, tuple(value_of(word) for word in words(values)))


def _part(points: list[Any], shard: str | None) -> list[Any]:
    """Every N-th point from the I-th on: neighbours take equally long and so go to different shards."""
    from fewshot_bench.study import Shard

    if shard is None:
        return points
    part = Shard.read(shard)
    return points[part.number - 1 :: part.count]


def _report(planned: Sweep, result: SweepResult, as_json: bool) -> None:
    """Draw the picture, print the table or JSON, and name the files."""
    from fewshot_bench.report import NoPictureError, draw_sweep, leaderboard_records, print_sweep

    task = f"{planned.dataset} (validation split) {planned.study.way}-way"
    pictures: list[Location] = []
    try:
        pictures = draw_sweep(result.frame, f"{task}\n{planned.name}", planned.folder / "sweep")
    except NoPictureError as error:
        typer.echo(str(error), err=True)
    if as_json:
        content = {
            **result.best.model_dump(),
            "points": leaderboard_records(result.frame),
            "csv": str(result.csv),
            "setting": str(result.best_path),
            "pictures": [str(picture) for picture in pictures],
        }
        print_json(content)
        return
    from fewshot_bench.study.sweep import text_of

    print_sweep(result.frame, task, stdout_console())
    seconds = result.best.budget["seconds"]
    typer.echo(f"chosen       {text_of(result.best.chosen)}  ({len(planned.points)} points, {seconds:.0f} s)")
    typer.echo(f"table        {result.csv}")
    if pictures:
        typer.echo(f"picture      {pictures[0]}  and .png")
    typer.echo(f"best         {result.best_path}")
    trust = " --trust-code" if result.best.names_code() else ""
    typer.echo(f"next         fewshot-bench run --setting {result.best_path}{trust}")


_PAUSE = 0.5  # seconds between two looks at what is finished


def work_in_processes(
    arguments: Sequence[str], sweep: Sweep, points: Sequence[Point], jobs: int, progress: Progress
) -> None:
    """Complete distinct points in up to `jobs` processes; raises StudyError with a failed worker's sentence."""
    from fewshot_bench.study.sweep_run import finished_point

    where = devices(sweep.study.device, min(jobs, len(points)))
    of_each = [["--worker", device, "--memory-share", str(1 / where.count(device))] for device in where]
    threads = str(max(1, (os.cpu_count() or 1) // max(1, len(where))))  # they share the cores, and the memory
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with (
        workers(arguments, of_each, environment=environment) as started,
        progress.step(f"sweep {sweep.name}, {len(started)} processes", len(points)) as step,
    ):
        pending = list(points)
        while any(worker.exit_code is None for worker in started):
            unfinished = [point for point in pending if finished_point(sweep, point) is None]
            step.advance(len(pending) - len(unfinished))
            if len(unfinished) < len(pending):
                note_saved()
            pending = unfinished
            time.sleep(_PAUSE)
        step.advance(len(pending))
        for worker in started:
            if worker.exit_code:
                if is_debugging():
                    typer.echo(worker.words(), err=True)
                raise StudyError(_reason(worker.exit_code, worker.words()))


def devices(device: str, jobs: int) -> list[str]:
    """A device per process: the GPUs in turn for "auto" on a machine with several."""
    if device == "auto":
        import torch

        if torch.cuda.device_count() > 1:
            return [f"cuda:{number % torch.cuda.device_count()}" for number in range(jobs)]
    return [device] * jobs


def _limit_memory(device: str, share: float) -> None:
    import torch

    from fewshot_bench.devices import chosen_device, limit_to_share

    limit_to_share(share, torch.device(chosen_device(device)))


def _reason(code: int, text: str) -> str:
    """Why a worker failed, in its own words if it had any."""
    lines = text.strip().splitlines()
    if code < 0 or not lines:
        return (
            f"a process of the sweep was ended by signal {-code}, perhaps because memory ran out. Finished points are "
            "stored; run the same command again with fewer --jobs."
        )
    return lines[-1].removeprefix("error: ")
