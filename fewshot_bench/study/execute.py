"""Work through a study: every cell of its grid, from images to stored outcomes.

What a study is going to do, written down before it is done: see `fewshot_bench.outcomes.study_log`.

The protocols of a study, once it is certain that a split can give their episodes.

What a study has done, from what its methods did.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from fewshot_bench.adaptation import Adaptation
from fewshot_bench.datasets import Dataset, ImageSplit, OwnOptions, is_named, known_dataset
from fewshot_bench.datasets.dataset import left_out_lines
from fewshot_bench.engine.adapt import protocol_card
from fewshot_bench.engine.engine import Engine, chosen_device
from fewshot_bench.engine.local import LocalEngine
from fewshot_bench.episodes import Protocol, sample_by_shape
from fewshot_bench.errors import EpisodeError, StudyError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.study_log import PlannedCell, StudyRecord
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.report import resolve_method
from fewshot_bench.study.admission import admit_fields
from fewshot_bench.study.chunks import Shard, missing_episodes
from fewshot_bench.study.method_groups import expanded
from fewshot_bench.study.methods import method_name, planned_adaptations
from fewshot_bench.study.networks import NamedStage, Networks, PlannedStage, planned_stages
from fewshot_bench.study.planned_methods import planned_methods
from fewshot_bench.study.provenance import PeakMemory, changed_code, command_line, study_record
from fewshot_bench.study.scheduler import MethodRun
from fewshot_bench.study.stopping import run_until, stopping_rule
from fewshot_bench.study.study import Study


def record_of(
    study: Study, dataset: Dataset, stages: Sequence[NamedStage], adaptations: Sequence[Adaptation]
) -> StudyRecord:
    """The record of a study; nothing is written yet.

    Args:
        study: of one dataset.
        dataset: that.
        stages: of its backbones.
        adaptations: what is done after each of them.
    """
    cells = [
        PlannedCell(
            dataset.name,
            protocol_card(protocol, dataset.fingerprint).task,
            method_name(*stage, adaptation),
            protocol.runs,
            protocol.episodes,
            adaptation.is_transductive,
        )
        for stage in stages
        for adaptation in adaptations
        for protocol in study.protocols(dataset.split(study.split).class_sizes)
    ]
    return StudyRecord(study.results, tuple(cells), study_record(study), study.until_ci is not None)


_MOST_LINES = 3


def fitting_protocols(study: Study, dataset: Dataset) -> list[Protocol]:
    """One protocol per number of shots.

    Args:
        study: what is asked for.
        dataset: of whose split.

    Raises:
        EpisodeError: the split has too few classes, images or episodes; the message names the classes, and what was
            left out of the user's own images, which may be why.
    """
    images = dataset.split(study.split)
    try:
        for protocol in study.protocols():
            sample_by_shape(images, protocol, numbers=np.arange(0))
        return study.protocols(images.class_sizes)
    except EpisodeError as error:
        lines = left_out_lines(dataset.preprocessing)
        if not lines:
            raise
        raise EpisodeError(f"{error} What was left out: {'; '.join(lines[:_MOST_LINES])}.") from error


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
        asked_names: what the study calls a method that is stored under another name, by that name.
        left_out: adaptations of a group that cannot run there, each with the reason in one sentence.
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
    asked_names: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """How many episodes failed."""
        return sum(count for _, count, _ in self.failures)


def failures_of(
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


def result_of(
    study: Study,
    dataset: Dataset,
    methods: Sequence[MethodRun],
    store: OutcomeStore,
    failures: tuple[tuple[str, int, str], ...],
    seconds: float,
    peak: int,
    shard: Shard | None,
) -> StudyResult:
    """What is told of a study that came to its end; failures that came before the first episode are recorded now.

    Raises:
        StudyError: no method has any outcome.
    """
    planned = [one for method in methods for one in method.planned]
    cells = [cell for cell, _ in planned]
    with_outcomes = [cell for cell in cells if store.done(cell)]
    if failures and not with_outcomes:
        raise StudyError(failures[0][2])
    for method in methods:
        method.record_not_begun()
    missing = 0
    if shard is not None:
        missing = sum(_count(store, *one) - _count(store, *one, shard) for one in planned)
    empty = frozenset(cell.key for cell in cells) - {cell.key for cell in with_outcomes}
    asked = {method.name: method.asked_name for method in methods if method.asked_name != method.name}
    baseline = _baseline(study, cells, with_outcomes, asked)
    return StudyResult(dataset, cells, baseline, seconds, peak, failures, shard, missing, empty, asked)


def _count(store: OutcomeStore, cell: Cell, protocol: Protocol, shard: Shard | None = None) -> int:
    """How many episodes of a cell are missing."""
    return sum(len(numbers) for numbers in missing_episodes(store, cell, protocol, shard))


def labels_by_name(cells: Sequence[Cell], asked_names: Mapping[str, str]) -> dict[str, str]:
    """Labels of methods by what the study calls them, the first of each name."""
    return {asked_names.get(cell.method.name, cell.method.name): cell.method.label for cell in reversed(cells)}


def _baseline(study: Study, cells: list[Cell], with_outcomes: list[Cell], asked_names: Mapping[str, str]) -> str | None:
    """The label of the method that a user named, or of the first of several; nothing is tested against no outcomes."""
    labels, there = labels_by_name(cells, asked_names), labels_by_name(with_outcomes, asked_names)
    if study.baseline is not None:
        return there.get(resolve_method(labels, study.baseline))
    return with_outcomes[0].method.label if len(there) > 1 else None


_LOG = logging.getLogger(__name__)


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
        study: what to run. It should be your own: code that it names as `module:callable` is imported.
        progress: shown one unit per episode, and those of the stages before.
        arguments: of the command line that asks for it, to be recorded.
        engine: who computes; this process on the study's device by default.
        shard: the part of every run to compute.

    Raises:
        FewshotBenchError: a name is unknown, the data is absent, the protocol does not fit the split, or no episode
            at all could be computed.
        OSError: the folder of the results cannot be written to.
    """
    admit_fields(study.model_dump())
    return run_known_study(study, progress=progress, arguments=arguments, engine=engine, shard=shard)


def run_known_study(
    study: Study,
    *,
    progress: Progress = SILENT,
    arguments: Sequence[str] = (),
    engine: Engine | None = None,
    shard: Shard | None = None,
) -> StudyResult:
    """Run a study that may come from a file: of the code that it names only what has been admitted is run.

    Args:
        study: what to run.
        progress: see `run_study`, as for the others.
        arguments: likewise.
        engine: likewise.
        shard: likewise.

    Raises:
        FewshotBenchError: see `run_study`; or it names code that nobody has admitted.
        OSError: the folder of the results cannot be written to.
    """
    started = time.perf_counter()
    planned_adaptations(expanded(study)[0])  # what is wrong with them is said before any images are read
    dataset = opened_dataset(study, progress)
    study, left_out = expanded(study.model_copy(update={"dataset": dataset.name}), dataset)
    adaptations = planned_adaptations(study)
    images = dataset.split(study.split)
    fitting_protocols(study, dataset)  # refuses what does not fit, and names the classes
    rule = stopping_rule(study)
    if rule is not None and shard is not None:
        raise StudyError("--until-ci looks at all episodes, and --shard has a part of them. Leave one of the two out.")
    store = OutcomeStore(study.results / "outcomes")
    store.check_folder()
    engine = engine or LocalEngine(chosen_device(study.device))
    memory = PeakMemory(engine.device)
    networks = Networks()
    record = record_of(study, dataset, networks.stages(study, dataset), adaptations)
    stages = planned_stages(study, dataset, networks.taken(study, dataset))
    methods: list[MethodRun] = []
    failed: list[tuple[PlannedStage, str]] = []
    with record.at_work(command_line(arguments) if arguments else "", is_all=shard is None), ExitStack() as opened:
        for method in planned_methods(
            study, dataset, stages, adaptations, store, engine, progress, arguments, shard, failed
        ):
            methods.append(method)
            for sentence in changed_code(store, [cell for cell, _ in method.planned]):
                _LOG.warning("note: %s", sentence)
            opened.callback(method.forget)
            memory.note()
            record.cells_known([_as_asked(cell, method.asked_name) for cell, _ in method.planned])
            if rule is None:
                method.run(method.planned)
                method.forget()
        if rule is not None:
            run_until(rule, [method.run for method in methods], [method.planned for method in methods], store, progress)
        peak = max([memory.of_study(), *(method.peak_bytes for method in methods)])
        seconds = time.perf_counter() - started
        failures = failures_of(study, images, adaptations, methods, failed)
        return replace(result_of(study, dataset, methods, store, failures, seconds, peak, shard), left_out=left_out)


def _as_asked(cell: Cell, name: str) -> Cell:
    """A cell under the name that the study plans it under."""
    return replace(cell, method=replace(cell.method, name=name))


def opened_dataset(study: Study, progress: Progress) -> Dataset:
    """The study's dataset, by its name or from where the user's own images lie.

    Raises:
        StudyError: own images are to be divided, but the dataset has official splits.
    """
    options = study.own_options
    if is_named(study.dataset) and options != OwnOptions(seed=study.seed):
        raise StudyError(
            f"{study.dataset} has its splits already; --split FRACTIONS, --min-images, --class-depth and --layout are "
            "for own images by path. To keep another division under a name: fewshot-bench data import NAME --from PATH "
            "--split FRACTIONS"
        )
    return known_dataset(study.dataset, own=options, progress=progress)
