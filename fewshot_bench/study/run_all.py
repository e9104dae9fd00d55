"""Work through several studies that share a results folder, as one: checked as a whole before the first begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fewshot_bench.datasets import Dataset
from fewshot_bench.episodes import sample_by_shape
from fewshot_bench.errors import ComparisonError, FewshotBenchError, StudyError, UnknownNameError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.report import resolve_method
from fewshot_bench.study.execute import StudyResult, chosen_device, opened_dataset, run_study
from fewshot_bench.study.methods import method_name, planned_adaptations
from fewshot_bench.study.plan import StudyPlan
from fewshot_bench.study.stages import backbone_of_hub, planned_stages
from fewshot_bench.study.study import Study
from fewshot_bench.study.until import stopping_rule


@dataclass(frozen=True)
class PlanResult:
    """What the studies of a plan have done.

    Attributes:
        datasets: the images that were used, by name.
        cells: of all studies, each once, in the order of the studies.
        baselines: label of the method that the others are tested against, by protocol fingerprint; protocols with one
            method have none.
        results: of each study.
        seconds: wall time of all.
    """

    datasets: Mapping[str, Dataset]
    cells: list[Cell]
    baselines: dict[str, str]
    results: list[StudyResult]
    seconds: float

    @property
    def peak_bytes(self) -> int:
        """The most memory that one of the studies took."""
        return max(result.peak_bytes for result in self.results)


def run_plan(
    plan: StudyPlan,
    *,
    progress: Progress = SILENT,
    run: Callable[[Study], StudyResult] | None = None,
    arguments: Sequence[str] = (),
) -> PlanResult:
    """Run the studies of a plan one after the other.

    Everything a user can get wrong in any of them is found before the first second is spent on training.

    Args:
        plan: what to run.
        progress: shown the stages of every study.
        run: runs one study; `run_study` by default.
        arguments: of the command line that asks for it, to be recorded.

    Raises:
        FewshotBenchError: see `run_study`; where a study is described in a file, the message begins with the line.
        OSError: the folder of the results cannot be written to.
    """
    started = time.perf_counter()
    run = run or partial(run_study, progress=progress, arguments=arguments)
    check_plan(plan, progress)
    results = []
    for study, place in zip(plan.studies, plan.places, strict=True):
        # Which method is the baseline is decided among the methods of all studies, below.
        results.append(at_place(place, partial(run, study.model_copy(update={"baseline": None}))))
    cells = list({cell.key: cell for result in reversed(results) for cell in reversed(result.cells)}.values())[::-1]
    names = {result.dataset.name: study.dataset for study, result in zip(plan.studies, results, strict=True)}
    return PlanResult(
        {result.dataset.name: result.dataset for result in results},
        cells,
        _baselines(cells, {name: plan.baselines.get(typed) for name, typed in names.items()}),
        results,
        time.perf_counter() - started,
    )


@contextmanager
def located(place: str) -> Iterator[None]:
    """Say of an error where in a file the study is that has it.

    Args:
        place: such as "study.toml, line 12"; nothing is said where it is empty.

    Raises:
        FewshotBenchError: as it was raised, or a StudyError that begins with the place.
    """
    try:
        yield
    except FewshotBenchError as error:
        if not place:
            raise
        raise StudyError(f"{place}: {error}") from error


def check_plan(plan: StudyPlan, progress: Progress = SILENT) -> None:
    """Find what is wrong in any study of a plan, without computing anything.

    Datasets are opened, networks are made, and weights may be fetched; nothing is trained, embedded or written.

    Raises:
        FewshotBenchError: a name is unknown, the data is absent, the protocol does not fit the split, or no method is
            called like the baseline.
        OSError: the folder of the results cannot be written to.
    """
    OutcomeStore(plan.results / "outcomes").check_folder()
    names: dict[str, list[str]] = {}
    networks = Networks()
    for study, place in zip(plan.studies, plan.places, strict=True):
        with located(place):
            names.setdefault(study.dataset, []).extend(_checked_methods(study, networks, progress))
    for dataset, baseline in plan.baselines.items():
        with located(f"baseline of {dataset}" if plan.name else ""):
            resolve_method(names[dataset], baseline)


def _checked_methods(study: Study, networks: Networks, progress: Progress) -> list[str]:
    """The names of a study's methods, where nothing is wrong with it."""
    stopping_rule(study)
    chosen_device(study.device)
    adaptations = planned_adaptations(study)
    dataset = opened_dataset(study, progress)
    fitting_protocols(study.model_copy(update={"dataset": dataset.name}), dataset.split(study.split))
    return [
        method_name(stage.base.backbone or study.backbone_name, stage.settings, stage.base.stage, adaptation)
        for stage in networks.stages(study, dataset)
        for adaptation in adaptations
    ]


class Networks:
    """The networks that studies start from, the last one kept: those of a file mostly share theirs."""

    def __init__(self) -> None:
        self._kept: tuple[object, list[PlannedStage]] | None = None

    def stages(self, study: Study, dataset: Dataset) -> list[PlannedStage]:
        """The base stages of a study, as `planned_stages` has them, on one network that is not to be trained."""
