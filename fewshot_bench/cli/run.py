"""`fewshot-bench run`: from images to a leaderboard with paired tests."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_bench._io.text import printable
from fewshot_bench.cli.options import JsonOption, SetOption, TrustCodeOption
from fewshot_bench.cli.output import print_json
from fewshot_bench.cli.processes import WrittenProgress, workers
from fewshot_bench.cli.study_options import (
    ProbeOption,
    describes_study,
    field_option,
    planned_study,
    takes_fields,
    typed_arguments,
)
from fewshot_bench.study.study import NamedHyperParameters, Options, Study, option
from fewshot_bench.units import bytes_text

if TYPE_CHECKING:
    from fewshot_bench.engine.engine import Engine
    from fewshot_bench.progress import Progress
    from fewshot_bench.study.estimates import CellEstimate, DiskSpace, Estimates
    from fewshot_bench.study.plan import StudyPlan
    from fewshot_bench.study.run import PlanResult

_FIRST_STUDY = "quickstart"
"""The preset that `run` without a description of a study runs."""

_PLAIN_NAMES = {"base-ce/centroid": "CE", "base-ce+schane@lambda=0.3,tau=0.1/centroid": "CE + SCHaNe"}
"""What its tables and answers call its methods; a user's changes to the preset would give them other names."""

_SOME_FAILED = 1
"""Exit code of a study that ran to its end, where episodes failed."""

_CANNOT_RUN = 2
"""Exit code of a dry run that found what keeps the study from running."""

_RAY_OPTIONS = ("ray_address", "workers", "cpus_per_worker", "gpus_per_worker", "ray_wait")


# fmt: off  # one field, one line: to be read as a table
class RunOptions(Options):
    """The options of `run` that do not describe a study."""

    setting: str | None = option(None, "best.toml of a sweep: use what it chose.", "method", metavar="FILE")
    engine: str = option("local", "One process or many; same results.", "computing", metavar="local|ray")
    ray_address: str | None = option(
        None, "Ray cluster, or auto on its machines. Default: a new one.", "computing", metavar="HOST:PORT"
    )
    workers: int | None = option(None, "Ray workers. Default: as many as fit.", "computing", ge=1)
    cpus_per_worker: int | None = option(None, "Cores and threads per Ray worker. Default: 1.", "computing", ge=1)
    gpus_per_worker: float | None = option(None, "GPUs per Ray worker. Default: 1 if there are any.", "computing", ge=0)
    ray_wait: float | None = option(None, "Seconds to wait for room on a Ray node. Default: 60.", "computing", ge=0)
    shard: str | None = option(None, "Only part I of N, e.g. 1/4 to 4/4 on four machines.", "computing", metavar="I/N")
    dry_run: bool = option(False, "Show what is stored and missing, and the time it takes.", "computing")
    memory: str | None = option(
        None, "With --dry-run: memory of another device that would run it.", "computing", metavar="80GB"
    )
    flops: float | None = option(None, "With --dry-run: operations per second of that device, e.g. 4e14.", "computing")
    fresh: bool = option(False, "Start over in a new folder: RESULTS-2, ...", "output")


# fmt: on


@takes_fields(Study, NamedHyperParameters, RunOptions)
def run(
    context: typer.Context,
    study: Annotated[
        str | None,
        typer.Argument(help="A study file or a preset (fewshot-bench ls studies) instead of options."),
    ] = None,
    *,
    set_: SetOption = None,
    base_set: Annotated[list[str] | None, field_option("base_settings", metavar="FIELD=VALUE")] = None,
    probe: ProbeOption = None,
    trust_code: TrustCodeOption = False,
    worker: Annotated[int | None, typer.Option(hidden=True, rich_help_panel="Computing")] = None,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Run a study: embed, sample episodes, adapt, store every outcome, test, and write leaderboard.csv and report.html.

    Without STUDY and options: Conv4 trained on glyphs with CE and CE+SCHaNe (preset quickstart).
    """
    from fewshot_bench._io.resuming import resume_arguments

    fresh, shard, dry_run = options["fresh"], options["shard"], options["dry_run"]
    setting = None if options["setting"] is None else Path(options["setting"])
    machine = _other_machine(options)
    _check_engine(options)

    def announce(lines: Sequence[str]) -> None:
        for line in [] if dry_run or worker is not None else lines:
            typer.echo(printable(line), err=True)

    if study is None and not describes_study(context, RunOptions):
        plan = planned_study(context, _FIRST_STUDY, setting, announce=announce)
        plan = replace(plan, outputs=plan.outputs.model_copy(update={"labels": _PLAIN_NAMES}))
    else:
        plan = planned_study(context, study, setting, announce=announce, trusts_code=trust_code)
    if worker is not None:
        _train_ahead(plan, worker)
        return
    from fewshot_bench.study import free_folder, new_results_folder  # after the names have been checked

    if fresh and shard is not None:
        raise typer.BadParameter("--fresh takes a folder of its own for every shard; name one with --results instead.")
    with ExitStack() as made:
        if fresh:
            folder = free_folder(plan.results) if dry_run else made.enter_context(new_results_folder(plan.results))
            plan = plan.into(folder)
            # For the record of every cell and the resume command.
            context.find_root().obj[:] = resume_arguments(typed_arguments(context), plan.results)
        if dry_run:
            _dry_run(plan, as_json, machine)
        else:
            _work(context, plan, shard, as_json)


def _work(context: typer.Context, plan: StudyPlan, shard: str | None, as_json: bool) -> None:
    """Run the studies and show their results; exit code 1 if episodes failed."""
    from fewshot_bench.cli.progress_bars import ProgressBars

    part = None
    if shard is not None:
        from fewshot_bench.study import Shard  # imports torch

        part = Shard.read(shard)
    asked = {**context.params, "device": plan.studies[0].device}
    with ProgressBars() as progress, _chosen_engine(asked, progress) as computing:
        from fewshot_bench.study import run_plan  # imports torch, which an unknown engine should not wait for

        arguments = typed_arguments(context)
        helpers = partial(_helpers, arguments, progress)
        result = run_plan(plan, progress=progress, arguments=arguments, engine=computing, shard=part, helpers=helpers)
    if result.missing:
        _show_shard(shard, result, as_json)
    else:
        _report(plan, result, as_json)
    if result.failures:
        _show_failures(result)
        raise typer.Exit(_SOME_FAILED)


def _helpers(arguments: Sequence[str], progress: Progress, count: int) -> AbstractContextManager[object]:
    """Processes of the same command that train base stages ahead."""
    of_each = [["--worker", str(number)] for number in range(1, count + 1)]
    return workers(arguments, of_each, progress=progress)


def _train_ahead(plan: StudyPlan, number: int) -> None:
    """Train, as a helper, the base stages that no process trains yet."""
    from fewshot_bench.study.run import resolve_plan
    from fewshot_bench.study.training_ahead import train_ahead

    train_ahead(resolve_plan(plan), number, WrittenProgress())


@contextmanager
def _chosen_engine(options: Mapping[str, Any], progress: Progress) -> Iterator[Engine | None]:
    """The engine that options name; None for this process. What it starts ends with the context.

    Args:
        options: parameters of the command: `engine`, `device`, `ray_address`, `workers`, ...
        progress: shows that the command waits for workers.

    Raises:
        StudyError: Ray is not installed, or its cluster cannot be reached or has no room.
    """
    if options["engine"] == "local":
        yield None
        return
    from fewshot_bench.engine.ray_engine import RayEngine

    given = {name: options[name] for name in _RAY_OPTIONS if options[name] is not None}
    names = {"ray_address": "address", "ray_wait": "patience"}
    wanted = RayEngine(device=options["device"], **{names.get(name, name): given[name] for name in given})
    with ExitStack() as opened:
        with progress.step("waiting for workers", 0):
            engine = opened.enter_context(wanted)
        yield engine


def _check_engine(options: Mapping[str, Any]) -> None:
    """See that there is such an engine, and that it has the options; a mistake does not wait for torch."""
    if options["engine"] not in ("local", "ray"):
        raise typer.BadParameter(f"--engine takes local or ray, not '{options['engine']}'.")
    given = next((name for name in _RAY_OPTIONS if options[name] is not None), None)
    if given is not None and options["engine"] == "local":
        raise typer.BadParameter(f"--{given.replace('_', '-')} is for --engine ray.")


def _show_shard(shard: str | None, result: PlanResult, as_json: bool) -> None:
    """Say that a shard is done, and others are not."""
    if as_json:
        failed = sum(count for _, count, _ in result.failures)
        print_json({"shard": shard, "missing": result.missing, "failed": failed})
        return
    typer.echo(f"shard {shard}: its episodes are stored; {result.missing:,} of other shards are not.")
    typer.echo("next         the other shards; then the same command without --shard for the table")


def _other_machine(options: Mapping[str, Any]) -> dict[str, Any]:
    """Memory in bytes and operations per second of the machine that a dry run judges a plan for; empty for this one.

    Raises:
        typer.BadParameter: the options come without --dry-run, or the rate is not a positive number.
        CacheError: the memory is not a size.
    """
    from fewshot_bench.cache import parse_bytes

    given = {name: options[name] for name in ("memory", "flops") if options[name] is not None}
    if given and not options["dry_run"]:
        raise typer.BadParameter(f"--{next(iter(given))} is for --dry-run, which judges a plan for another machine.")
    if "memory" in given:
        given["memory"] = parse_bytes(given["memory"], "--memory")
    if "flops" in given and not 1 <= given["flops"] < math.inf:
        raise typer.BadParameter(f"--flops takes operations per second such as 4e14, not {given['flops']:g}.")
    return given


def _dry_run(plan: StudyPlan, as_json: bool, machine: dict[str, Any]) -> None:
    """Print what the studies would do and need, on this machine or another; exit code 2 if something is missing."""
    from fewshot_bench.cli.progress_bars import ProgressBars
    from fewshot_bench.study.dry_run import estimate
    from fewshot_bench.study.estimates import Machine

    with ProgressBars() as progress:
        estimates = estimate(plan, machine=Machine(**machine) if machine else None, progress=progress)
    show_estimates(estimates, as_json)
    if estimates.missing:
        raise typer.Exit(_CANNOT_RUN)


def _show_failures(result: PlanResult) -> None:
    """Print which methods failed on how many episodes, and the first reason."""
    shown = {cell.method.name: cell.method.marked_name for cell in result.cells}
    for name, count, reason in result.failures:
        typer.echo(f"failed       {count:,} episodes of {shown.get(name, name)}: {printable(reason)}", err=True)
    typer.echo("             Stored results were not changed. The same command tries these again.", err=True)


def _show_notes(result: PlanResult) -> None:
    """Print how weights files were read, which methods were skipped, and which are stored under other names."""
    from fewshot_bench.study.provenance import weights_note

    notes = [*result.left_out, *(weights_note(cell.provenance) for cell in result.cells)]
    notes += [
        f"{asked} is stored as {stored}: the weights and settings are the same. Its results continue under that name."
        for stored, asked in result.asked_names.items()
    ]
    for note in dict.fromkeys(filter(None, notes)):
        typer.echo(printable(f"note: {note}"), err=True)


def _report(plan: StudyPlan, result: PlanResult, as_json: bool) -> None:
    """Write the outputs, print this study's part of the leaderboard, and say where everything is."""
    from fewshot_bench.cli.data import report_notes
    from fewshot_bench.cli.leaderboard import show, show_answers
    from fewshot_bench.datasets.dataset import preprocessing_line
    from fewshot_bench.report import rows_of_cells, with_labels
    from fewshot_bench.report.leaderboard_rows import MEASURED
    from fewshot_bench.study.plan import labels_of, write_outputs

    gc.collect()
    gc.freeze()  # statsmodels collects garbage in every correction of p values; what is here by now stays to the end
    frame, places, why_no_figures = write_outputs(
        plan.outputs, plan.results, result.cells, result.baselines, result.asked_names
    )
    for dataset in result.datasets.values():
        report_notes(dict(dataset.preprocessing))
    _show_notes(result)
    if why_no_figures:
        typer.echo(why_no_figures, err=True)
    rows = rows_of_cells(frame, result.cells)
    measured = set(rows.loc[rows["source"] == MEASURED, "method"])
    methods = [name for name in dict.fromkeys(cell.method.name for cell in result.cells) if name in measured]
    labelled = with_labels(frame, labels_of(plan.outputs, result.cells, result.asked_names))
    show(rows, as_json, labelled=rows_of_cells(labelled, result.cells), whole=frame)
    if as_json:
        return
    for dataset in result.datasets.values():
        typer.echo(f"dataset      {dataset.name}: {preprocessing_line(dict(dataset.preprocessing))}")
    row = "test image" if all(cell.protocol.is_whole for cell in result.cells) else "episode"
    typer.echo(
        f"outcomes     {plan.results / 'outcomes'}  ({result.seconds:.0f} s, peak memory "
        f"{result.peak_bytes / 2**30:.1f} GiB, one row per {row})"
    )
    for kind, place in places.items():
        hint = "  (open it, or: fewshot-bench report --open)" if kind == "report" else ""
        typer.echo(f"{kind:<12} {place}{hint}")
    if len(methods) > 1:
        others = rows[rows["method"].isin(methods[1:])]
        best = others.sort_values("mean", ascending=False, kind="stable")["method"].iloc[0]
        typer.echo(f"next         fewshot-bench compare '{best}' '{methods[0]}'")
    else:
        typer.echo("next         run another method on the same episodes, then: fewshot-bench compare A B")
    typer.echo("             fewshot-bench ls adaptations    fewshot-bench run --help")
    show_answers(labelled, rows)


_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def show_estimates(estimates: Estimates, as_json: bool) -> None:
    """Print the estimates of a plan, as tables or as JSON."""
    if as_json:
        print_json(estimates.as_dict())
        return
    _show_cells(estimates)
    _show_work(estimates)
    _show_totals(estimates)
    for note in estimates.notes:
        typer.echo(f"note         {printable(note)}")
    for missing in estimates.missing:
        typer.echo(f"missing      {printable(missing)}")
    if estimates.missing:
        typer.echo("             The study cannot run before this is fixed.")


def _show_cells(estimates: Estimates) -> None:
    """One line per method below its task."""
    from fewshot_bench.outcomes import marked

    names = {cell.method: marked(cell.method, cell.is_transductive) for cell in estimates.cells}
    width = max(map(len, names.values()), default=0)
    for task in dict.fromkeys(cell.task for cell in estimates.cells):
        typer.echo(task)
        for cell in estimates.cells:
            if cell.task == task:
                typer.echo(f"  {printable(names[cell.method]):<{width}}  {_cell(cell)}")


def _cell(cell: CellEstimate) -> str:
    episodes = "as many episodes as there are" if cell.episodes is None else f"{cell.episodes:,} episodes"
    stored = f"{cell.done:,} stored" if cell.done is not None else f"stored: known {cell.why}" if cell.why else ""
    time = "" if cell.seconds is None or not cell.left else f"the rest {_time_range(cell.seconds)}"
    if cell.operations is not None and cell.seconds is not None and cell.left and cell.seconds.high < 1:
        time = "the rest less than 1 s"
    return ", ".join(part for part in (episodes, stored, time) if part)


def _show_work(estimates: Estimates) -> None:
    """One line for each work that comes before the episodes, unless it is ready within a second."""
    for work in estimates.work:
        if work.kind == "preparing" and work.seconds is not None and work.seconds.high < 1:
            continue
        units = {"training": "steps", "embeddings": "images"}.get(work.kind)
        count = f", {work.units:,} {units}" if units else ""
        size = f", {bytes_text(work.bytes)}" if work.bytes else ""
        source = f"timed on {work.measured}" if work.operations is None else f"{work.operations:.2g} operations"
        seconds = f"({source})" if work.seconds is None else f"{_time_range(work.seconds)} ({source})"
        parts = "" if work.micro_batch is None else f", in micro-batches of {work.micro_batch:,} images"
        typer.echo(f"{work.kind:<12} {printable(work.what)}{count}: {seconds}{parts}{size}")


def _show_totals(estimates: Estimates) -> None:
    left = sum(cell.left or 0 for cell in estimates.cells)
    machine = estimates.machine
    where = f"{left:,} episodes left, one process on {estimates.device if machine is None else 'one device'}"
    if estimates.cells and not left and not estimates.seconds.high:
        typer.echo("time         nothing is left to be computed")
    elif estimates.is_whole:
        typer.echo(f"time         {_time_range(estimates.seconds)}: {where}")
    elif estimates.seconds.high:
        typer.echo(f"time         {_time_range(estimates.seconds)} for what could be timed, which is not all: {where}")
    else:
        typer.echo(f"time         not known: {where}")
    if machine is not None:
        rate = "without --flops no time is given" if machine.flops is None else f"at {machine.flops:.3g} per second"
        typer.echo(
            f"             (an estimate: operations are counted, {rate}; nothing was timed. Products, convolutions"
        )
        typer.echo("             and attention count; reading, augmenting and storing do not)")
    elif estimates.seconds.high:
        typer.echo(
            "             (the fastest and the slowest of a few short measurements; other work on this machine, or"
        )
        typer.echo("             episodes that are harder than these, can make it half or twice as long)")
    has = "are free" if machine is None else "on the device"
    free = "" if estimates.free_bytes is None else f"; {bytes_text(estimates.free_bytes)} {has}"
    typer.echo(f"memory       about {bytes_text(estimates.peak_bytes)}{free}")
    is_known = all(cell.bytes is not None for cell in estimates.cells)
    _show_space("outcomes", estimates.results, "at most" if is_known else "not known for all cells: at least")
    _show_space("cache", estimates.cache, "about" if is_known else "at least")


def _show_space(name: str, space: DiskSpace, bound: str) -> None:
    free = "" if space.free is None else f"; {bytes_text(space.free)} are free"
    warning = "  NOT ENOUGH" if space.free is not None and space.needed > space.free else ""
    typer.echo(f"{name:<12} {bound} {bytes_text(space.needed)} more in {space.place}{free}{warning}")


def _time_range(seconds: tuple[float, float]) -> str:
    """From the fastest to the slowest, e.g. "3 to 4 min"."""
    low, high = map(_duration, seconds)
    if low == high:
        return f"about {low}"
    (number, unit), (_, other) = low.split(), high.split()
    return f"{number} to {high}" if unit == other else f"{low} to {high}"


def _duration(seconds: float) -> str:
    for size, unit in ((_DAY, "days"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 or seconds == 0 else f"{seconds:.2g} s"
