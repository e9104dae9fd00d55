"""`fewshot-bench run`: from images to a leaderboard with paired tests."""

from __future__ import annotations

import gc
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_bench._io.text import printable
from fewshot_bench.cli.options import (
    AddressOption,
    AlphaOption,
    BaselineOption,
    ClassDepthOption,
    CpusOption,
    EngineOption,
    GpusOption,
    JsonOption,
    LayoutChoice,
    LayoutOption,
    LeastImagesOption,
    LeastShotOption,
    LeastWayOption,
    ResultsOption,
    SamplerOption,
    TrustCodeOption,
    WaitOption,
    WorkersOption,
    chosen_engine,
)

if TYPE_CHECKING:
    from fewshot_bench.study.plan import StudyPlan
    from fewshot_bench.study.run import PlanResult

_SOME_FAILED = 1
"""Exit code of a study that went to its end, where episodes failed."""

_CANNOT_RUN = 2
"""Exit code of a dry run that has found what keeps the study from running."""


def run(
    context: typer.Context,
    study: Annotated[
        str | None,
        typer.Argument(help="A study file or a preset (fewshot-bench ls studies) instead of options."),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(help="See: fewshot-bench data ls; or your own images: a folder, archive or manifest, or hf:NAME."),
    ] = "glyphs",
    backbone: Annotated[
        str | None,
        typer.Option(help="See: fewshot-bench ls backbones; or timm:NAME for any timm model; e.g. conv4_64,resnet12."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights for the backbone: safetensors or state dict.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Networks of fewshot-bench train by name, e.g. mine,other; instead of --backbone and so on."),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels instead of the backbone's own.")] = None,
    interpolation: Annotated[
        str | None, typer.Option(help="bicubic, bilinear or nearest instead of the backbone's own.")
    ] = None,
    base_loss: Annotated[
        str | None,
        typer.Option(
            help="Fine-tune on the base split first, once per loss, e.g. ce,ce+schane; 'none' for no such stage. "
            "Default: both losses for backbones without pretrained weights, none for the others."
        ),
    ] = None,
    base_epochs: Annotated[int | None, typer.Option(help="Epochs of that stage instead of the recipe's.")] = None,
    base_batch: Annotated[int | None, typer.Option(help="Batch size of that stage instead of the recipe's.")] = None,
    shots: Annotated[str, typer.Option(help="Labelled images per class, e.g. 1,5.")] = "1,5",
    way: Annotated[int, typer.Option(help="Classes per episode.")] = 5,
    query: Annotated[int, typer.Option(help="Images per class to classify.")] = 15,
    episodes: Annotated[
        int, typer.Option(help="Episodes per run; of the disjoint sampler, all there are by default.")
    ] = 3000,
    until_ci: Annotated[
        float | None,
        typer.Option(help="Instead of --episodes: go on until every method's 95% CI is this narrow, ± points."),
    ] = None,
    max_episodes: Annotated[int | None, typer.Option(help="Most episodes per run with --until-ci.")] = None,
    runs: Annotated[int, typer.Option(help="Runs, each with episodes of its own; the disjoint sampler has one.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the episodes, and of a division by --split.")] = 0,
    sampler: SamplerOption = "standard",
    alpha: AlphaOption = None,
    least_way: LeastWayOption = None,
    least_shot: LeastShotOption = None,
    split: Annotated[
        str,
        typer.Option(
            help="novel, validation or test; or divide your own classes into base, validation, novel: 0.6,0.2,0.2."
        ),
    ] = "novel",
    least_images: LeastImagesOption = 1,
    class_depth: ClassDepthOption = None,
    layout: LayoutOption = LayoutChoice.auto,
    adapt: Annotated[
        str,
        typer.Option(
            help="See: fewshot-bench ls adaptations; e.g. centroid,logistic; or all-inductive, all-transductive, all: "
            "heads on frozen embeddings."
        ),
    ] = "centroid",
    choose: Annotated[
        str,
        typer.Option(
            help="Choose hyper-parameters without a validation split: support-cv, in each episode by cross-validation "
            "within its support set; ensemble, the average over the grid of values; none."
        ),
    ] = "none",
    loss: Annotated[str, typer.Option(help="Losses of adaptations that train, e.g. ce,ce+schane.")] = "ce",
    lambda_: Annotated[float, typer.Option("--lambda", help="Weight of the contrastive term.")] = 0.9,
    tau: Annotated[float, typer.Option(help="Temperature of the contrastive term.")] = 0.5,
    reading: Annotated[
        str | None, typer.Option(help="How ce+schane reads Equation 4 of its paper: in or out. Default: in.")
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            help="What finetune trains of the backbone: all, last:N blocks, norm, bias, lora[:RANK], head; or "
            "norm+last:N, bias+last:N, lora:RANK+last:N. Default: all."
        ),
    ] = None,
    bn: Annotated[
        str | None,
        typer.Option(help="Batch normalisation in finetune: frozen, support or transductive. Default: frozen."),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            help="Augmented views of each image that are made once; 0: new ones in every step of finetune, the plain "
            "images for logistic."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Precision of finetune: float32, bf16, or float64 for checking. Default: float32."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A hyper-parameter of the adaptations, e.g. --set C=10 --set metric=euclidean; with STUDY, any key of "
            "the file, e.g. --set episodes=100 --set methods.0.lambda=0.5.",
        ),
    ] = None,
    setting: Annotated[
        Path | None, typer.Option(help="Use what a sweep chose: its best.toml. Other options may add, not contradict.")
    ] = None,
    training_seed: Annotated[int, typer.Option(help="Seed of the base stage.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    chunk: Annotated[int | None, typer.Option(help="Episodes at once; never changes a result.")] = None,
    engine: EngineOption = "local",
    ray_address: AddressOption = None,
    workers: WorkersOption = None,
    cpus_per_worker: CpusOption = None,
    gpus_per_worker: GpusOption = None,
    ray_wait: WaitOption = None,
    results: ResultsOption = Path("results"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew in a new folder beside RESULTS: RESULTS-2, and so on.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only the I-th of N parts of every run, e.g. 1/4 to 4/4 on four machines."),
    ] = None,
    baseline: BaselineOption = None,
    trust_code: TrustCodeOption = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done, what is done already, and what the rest takes."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a study: embed, sample episodes, adapt, store every outcome, test, and write leaderboard.csv and report.html.

    Without STUDY and options: the built-in dataset glyphs, Conv4 trained with CE and with CE+SCHaNe.
    """
    from fewshot_bench._io.resuming import resume_arguments
    from fewshot_bench.cli.planned_study import planned_study
    from fewshot_bench.cli.study_options import typed_arguments

    plan = planned_study(context, study, setting, set_, trusts_code=trust_code)
    from fewshot_bench.study import free_folder, fresh_folder  # after the names have been looked at

    if fresh and shard is not None:
        raise typer.BadParameter("--fresh takes a folder of its own for every shard; name one with --results instead.")
    with ExitStack() as made:
        if fresh:
            folder = free_folder(plan.results) if dry_run else made.enter_context(fresh_folder(plan.results))
            plan = plan.into(folder)
            # As recorded with every cell, and told at the end.
            context.find_root().obj[:] = resume_arguments(typed_arguments(context), plan.results)
        if dry_run:
            _look_ahead(plan, as_json)
        else:
            _work(context, plan, shard, as_json)


def _work(context: typer.Context, plan: StudyPlan, shard: str | None, as_json: bool) -> None:
    """Run the studies, and say what they have found; exit code 1 where episodes failed."""
    from fewshot_bench.cli.study_options import typed_arguments
    from fewshot_bench.cli.terminal import ProgressBars
    from fewshot_bench.study import Shard

    part = None if shard is None else Shard.read(shard)
    asked = {**context.params, "device": plan.studies[0].device}
    with ProgressBars() as progress, chosen_engine(asked, progress) as computing:
        from fewshot_bench.study import run_plan  # which imports torch; not for an engine that there is not

        arguments = typed_arguments(context)
        result = run_plan(plan, progress=progress, arguments=arguments, engine=computing, shard=part)
    if result.missing:
        _tell_shard(shard, result, as_json)
    else:
        _report(plan, result, as_json)
    if result.failures:
        _tell_failures(result)
        raise typer.Exit(_SOME_FAILED)


def _tell_shard(shard: str | None, result: PlanResult, as_json: bool) -> None:
    """Say that a part is done, where others are not."""
    if as_json:
        failed = sum(count for _, count, _ in result.failures)
        typer.echo(json.dumps({"shard": shard, "missing": result.missing, "failed": failed}))
        return
    typer.echo(f"shard {shard}: its episodes are stored; {result.missing:,} of other shards are not yet.")
    typer.echo("next         the other shards; then the same command without --shard for the table")


def _look_ahead(plan: StudyPlan, as_json: bool) -> None:
    """Print what the studies are going to do and take; exit code 2 where something is missing."""
    from fewshot_bench.cli.dry_run import show_estimates
    from fewshot_bench.cli.terminal import ProgressBars
    from fewshot_bench.study.dry_run import estimate

    with ProgressBars() as progress:
        estimates = estimate(plan, progress=progress)
    show_estimates(estimates, as_json)
    if estimates.missing:
        raise typer.Exit(_CANNOT_RUN)


def _tell_failures(result: PlanResult) -> None:
    """Say which methods failed on how many episodes, and why the first did."""
    shown = {cell.method.name: cell.method.marked_name for cell in result.cells}
    for name, count, reason in result.failures:
        typer.echo(f"failed       {count:,} episodes of {shown.get(name, name)}: {printable(reason)}", err=True)
    typer.echo("             what is stored stays; the same command tries these again", err=True)


def _tell_weights(result: PlanResult) -> None:
    """Say what was taken from files of weights, and which methods are stored under other names."""
    from fewshot_bench.study.provenance import weights_note

    notes = [weights_note(cell.provenance) for cell in result.cells]
    notes += [
        f"{asked} is stored as {stored}: the weights and settings are the same. Its results go on under that name."
        for stored, asked in result.asked_names.items()
    ]
    for note in dict.fromkeys(filter(None, notes)):
        typer.echo(printable(f"note: {note}"), err=True)


def _report(plan: StudyPlan, result: PlanResult, as_json: bool) -> None:
    """Write the leaderboard and the page, print this study's part of it, and say where everything is."""
    from fewshot_bench.cli.data import report_notes
    from fewshot_bench.cli.leaderboard import show, show_answers
    from fewshot_bench.datasets.dataset import preprocessing_line
    from fewshot_bench.report import rows_of_cells
    from fewshot_bench.study.plan import write_outputs

    gc.collect()
    gc.freeze()  # statsmodels collects garbage in every correction of p values; what is here by now stays to the end
    frame, places, why_no_figures = write_outputs(
        plan.outputs, plan.results, result.cells, result.baselines, result.asked_names
    )
    for dataset in result.datasets.values():
        report_notes(dict(dataset.preprocessing))
    for sentence in result.left_out:
        typer.echo(printable(f"note: {sentence}"), err=True)
    _tell_weights(result)
    if why_no_figures:
        typer.echo(why_no_figures, err=True)
    rows = rows_of_cells(frame, result.cells)
    methods = [name for name in dict.fromkeys(cell.method.name for cell in result.cells) if name in set(rows["method"])]
    show(rows, as_json, whole=frame)
    if as_json:
        return
    for dataset in result.datasets.values():
        typer.echo(f"dataset      {dataset.name}: {preprocessing_line(dict(dataset.preprocessing))}")
    typer.echo(
        f"outcomes     {plan.results / 'outcomes'}  ({result.seconds:.0f} s, peak memory "
        f"{result.peak_bytes / 2**30:.1f} GiB, one row per episode)"
    )
    for kind, place in places.items():
        hint = "  (open it, or: fewshot-bench report --open)" if kind == "report" else ""
        typer.echo(f"{kind:<12} {place}{hint}")
    if len(methods) > 1:
        typer.echo(f"next         fewshot-bench compare '{methods[1]}' '{methods[0]}'")
    else:
        typer.echo("next         run another method on the same episodes, then: fewshot-bench compare A B")
    typer.echo("             fewshot-bench ls adaptations    fewshot-bench run --help")
    show_answers(frame, rows)
