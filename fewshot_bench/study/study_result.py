"""What a study has done, from what its methods did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fewshot_bench.adaptation import Adaptation
from fewshot_bench.datasets import Dataset, ImageSplit
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.report import resolve_method
from fewshot_bench.study.chunk_queue import missing_episodes
from fewshot_bench.study.method_run import MethodRun
from fewshot_bench.study.methods import method_name
from fewshot_bench.study.shard import Shard
from fewshot_bench.study.stages import PlannedStage
from fewshot_bench.study.study import Study


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
