"""Work through a study: every cell of its grid, from images to stored outcomes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from fewshot_bench.adaptation import Adaptation
from fewshot_bench.backbones import Backbone
from fewshot_bench.datasets import Dataset, ImageSplit, OwnOptions, is_named, open_dataset
from fewshot_bench.engine.adapt import protocol_card
from fewshot_bench.engine.device import chosen_device
from fewshot_bench.engine.engine import Engine
from fewshot_bench.engine.local import LocalEngine
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore
from fewshot_bench.paths import Place
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.report import resolve_method
from fewshot_bench.study.chunk_queue import missing_episodes
from fewshot_bench.study.classifiers import ClassifierSource
from fewshot_bench.study.fitting import fitting_protocols
from fewshot_bench.study.method_run import MethodRun
from fewshot_bench.study.methods import method_name, planned_adaptations
from fewshot_bench.study.named_stages import Networks
from fewshot_bench.study.provenance import PeakMemory, command_line, provenance
from fewshot_bench.study.recording import record_of
from fewshot_bench.study.shard import Shard
from fewshot_bench.study.stages import BaseStage, PlannedStage, study_backbones
from fewshot_bench.study.study import Study
from fewshot_bench.study.until import run_until, stopping_rule
from fewshot_bench.study.worker import WorkerRecipe
from fewshot_bench.versions import installed_versions


@dataclass(frozen=True)
class StudyResult:
    """What a study has done.

    Attributes:
        dataset: the images that were used.
        cells: the cells of the grid, all complete but for the episodes that failed.
        baseline: label of the method that the others are tested against; None if there is only one.
        seconds: wall time of the whole study.
        peak_bytes: the most memory it took: on a GPU for tensors, on a CPU for the whole process.
        failures: the methods that failed on episodes: name, number of episodes, first reason.
        shard: the part of every run that was computed; None for all of it.
        missing: episodes that are not stored and did not fail: those of other shards.
        without_outcomes: keys of the cells of which nothing is stored.
    """

    dataset: Dataset
    cells: list[Cell]
    baseline: str | None
    seconds: float
    peak_bytes: int = 0
    failures: tuple[tuple[str, int, str], ...] = ()
    shard: Shard | None = None
    missing: int = 0
    without_outcomes: frozenset[str] = frozenset()

    @property
    def failed(self) -> int:
        """How many episodes failed."""
        return sum(count for _, count, _ in self.failures)


def run_study(
    study: Study,
    *,
    progress: Progress = SILENT,
    arguments: Sequence[str] = (),
    engine: Engine | None = None,
    shard: Shard | None = None,
) -> StudyResult:
    """Run every cell of a study that is not stored yet, beside any number of processes that do the same.

    Everything a user can get wrong is checked before the first second is spent on training.

    Args:
        study: what to run.
        progress: shown one unit per episode, and those of the stages before.
        arguments: of the command line that asks for it, to be recorded.
        engine: who computes; this process on the study's device by default.
        shard: the part of every run to compute.

    Raises:
        FewshotBenchError: a name is unknown, the data is absent, the protocol does not fit the split, or no episode
            at all could be computed.
        OSError: the folder of the results cannot be written to.
    """
    started = time.perf_counter()
    adaptations = planned_adaptations(study)
    dataset = opened_dataset(study, progress)
    study = study.model_copy(update={"dataset": dataset.name})
    images = dataset.split(study.split)
    fitting_protocols(study, images)  # refuses what does not fit, and names the classes
    rule = stopping_rule(study)
    if rule is not None and shard is not None:
        raise StudyError("--until-ci looks at all episodes, and --shard has a part of them. Leave one of the two out.")
    store = OutcomeStore(study.results / "outcomes")
    store.check_folder()
    engine = engine or LocalEngine(chosen_device(study.device))
    memory = PeakMemory(engine.device)
    record = record_of(study, dataset, Networks().stages(study, dataset), adaptations)
    methods: list[MethodRun] = []
    failed: list[tuple[PlannedStage, str]] = []
    with record.at_work(command_line(arguments) if arguments else "", is_all=shard is None), ExitStack() as opened:
        for method in _planned_methods(study, dataset, adaptations, store, engine, progress, arguments, shard, failed):
            methods.append(method)
            opened.callback(method.forget)
            memory.note()
            record.cells_known([cell for cell, _ in method.planned])
            if rule is None:
                method.run(method.planned)
                method.forget()
        if rule is not None:
            run_until(rule, [method.run for method in methods], [method.planned for method in methods], store, progress)
        peak = max([memory.of_study(), *(method.peak_bytes for method in methods)])
        seconds = time.perf_counter() - started
        return _result(
            study, dataset, methods, _failures(study, images, adaptations, methods, failed), seconds, peak, shard
        )


def _planned_methods(
    study: Study,
    dataset: Dataset,
    adaptations: Sequence[Adaptation],
    store: OutcomeStore,
    engine: Engine,
    progress: Progress,
    arguments: Sequence[str],
    shard: Shard | None,
    failed: list[tuple[PlannedStage, str]],
) -> Iterator[MethodRun]:
    """The methods of a study, each after the base stage of its backbone."""
    images = dataset.split(study.split)
    protocols = study.protocols(images.class_sizes)
    rule = stopping_rule(study)
    for backbone, settings, base in study_backbones(study, dataset, engine, progress, failed):
        source = ClassifierSource(study, dataset, backbone, engine.device, progress, engine)
        told = provenance(study, backbone, engine, arguments)
        if rule is not None:
            told["stopping"] = [rule.as_record()]
        for adaptation in adaptations:
            name = method_name(base.backbone or study.backbone_name, settings, base.stage, adaptation)
            card = method_card(name, backbone, base, adaptation)
            recorded = (installed_versions(), dict(dataset.recipe), images.class_sizes, told)
            cards = [protocol_card(protocol, dataset.fingerprint) for protocol in protocols]
            planned = [(Cell(card, one, *recorded), protocol) for one, protocol in zip(cards, protocols, strict=True)]
            recipe = partial(_worker_recipe, source, adaptation, images, engine.device)
            shown = progress if rule is None else SILENT
            yield MethodRun(recipe, planned, store, engine, shown, study.chunk, shard)


def _worker_recipe(source: ClassifierSource, adaptation: Adaptation, images: ImageSplit, device: str) -> WorkerRecipe:
    return WorkerRecipe.of(source.recipe(adaptation), images, device)


def _failures(
    study: Study,
    images: ImageSplit,
    adaptations: Sequence[Adaptation],
    methods: Sequence[MethodRun],
    failed: Sequence[tuple[PlannedStage, str]],
) -> tuple[tuple[str, int, str], ...]:
    """Methods that failed on episodes, and those of a base stage that could not be done: name, number, reason."""
    of_episodes = [(method.name, method.failed, method.reason) for method in methods if method.failed]
    episodes = sum(protocol.runs * protocol.episodes for protocol in study.protocols(images.class_sizes))
    of_stages = [
        (method_name(study.backbone_name, stage.settings, stage.base.stage, adaptation), episodes, reason)
        for stage, reason in failed
        for adaptation in adaptations
    ]
    return (*of_stages, *of_episodes)


def _result(
    study: Study,
    dataset: Dataset,
    methods: Sequence[MethodRun],
    failures: tuple[tuple[str, int, str], ...],
    seconds: float,
    peak: int,
    shard: Shard | None,
) -> StudyResult:
    planned = [one for method in methods for one in method.planned]
    cells = [cell for cell, _ in planned]
    store = OutcomeStore(study.results / "outcomes")
    with_outcomes = [cell for cell in cells if store.done(cell)]
    if failures and not with_outcomes:
        raise StudyError(failures[0][2])
    for method in methods:
        method.record_not_begun()
    missing = 0
    if shard is not None:
        missing = sum(_count(store, *one) - _count(store, *one, shard) for one in planned)
    empty = frozenset(cell.key for cell in cells) - {cell.key for cell in with_outcomes}
    baseline = _baseline(study, cells, with_outcomes)
    return StudyResult(dataset, cells, baseline, seconds, peak, failures, shard, missing, empty)


def _count(store: OutcomeStore, cell: Cell, protocol: Protocol, shard: Shard | None = None) -> int:
    """How many episodes of a cell are missing."""
    return sum(len(numbers) for numbers in missing_episodes(store, cell, protocol, shard))


def fresh_folder(results: Place) -> Place:
    """The first folder beside one that does not exist yet: itself, results-2, results-3, and so on."""
    folder, number = results, 1
    while folder.exists():
        number += 1
        folder = results.with_name(f"{results.name}-{number}")
    return folder


def opened_dataset(study: Study, progress: Progress) -> Dataset:
    """The study's dataset, by its name or from where the user's own images lie.

    Raises:
        StudyError: own images are to be divided, but the dataset has official splits.
    """
    options = OwnOptions(fractions=study.fractions, seed=study.seed, least_images=study.least_images)
    if is_named(study.dataset) and (study.fractions is not None or study.least_images != 1):
        raise StudyError(
            f"{study.dataset} has its splits already; --split FRACTIONS and --min-images are for own images by path. "
            "To keep another division under a name: fewshot-bench data import NAME --from PATH --split FRACTIONS"
        )
    return open_dataset(study.dataset, own=options, progress=progress)


def method_card(name: str, backbone: Backbone, base: BaseStage, adaptation: Adaptation) -> MethodCard:
    """Everything that identifies a method."""
    return MethodCard(
        name=name,
        backbone=backbone.name,
        weights=backbone.weights,
        adaptation=adaptation.name,
        hyper_parameters={
            "preprocessing": backbone.preprocessing.as_dict(),
            "base": base.hyper_parameters,
            "adaptation": adaptation.hyper_parameters(),
        },
        is_transductive=adaptation.is_transductive,
    )


def _baseline(study: Study, cells: list[Cell], with_outcomes: list[Cell]) -> str | None:
    """The label of the method that a user named, or of the first of several; nothing is tested against no outcomes."""
    labels = {cell.method.name: cell.method.label for cell in reversed(cells)}
    there = {cell.method.name: cell.method.label for cell in reversed(with_outcomes)}
    if study.baseline is not None:
        return there.get(resolve_method(labels, study.baseline))
    return with_outcomes[0].method.label if len(there) > 1 else None
