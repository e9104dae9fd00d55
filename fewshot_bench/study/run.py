"""Work through several studies that share a results folder, as one: checked as a whole before the first begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from fewshot_bench.datasets import Dataset
from fewshot_bench.errors import FewshotBenchError, UnknownNameError
from fewshot_bench.outcomes import Cell
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.report import resolve_method
from fewshot_bench.study.check_plan import check_plan, located
from fewshot_bench.study.execute import StudyResult, labels_by_name, run_known_study
from fewshot_bench.study.plan import StudyPlan
from fewshot_bench.study.study import Study


@dataclass(frozen=True)
class PlanResult:
    """What the studies of a plan have done.

    Attributes:
        datasets: the images that were used, by name.
        cells: of all studies, each once, in the order of the studies.
        baselines: label of the method that the others are tested against, by protocol fingerprint; protocols with one
            method have none.
        results: of each study that came to an end.
        broken: the studies that did not: where each is described, its number of episodes per method, and why.
        seconds: wall time of all.
        asked_names: what the studies call methods that are stored under other names, by these.
    """

    datasets: Mapping[str, Dataset]
    cells: list[Cell]
    baselines: dict[str, str]
    results: list[StudyResult]
    broken: list[tuple[str, int, str]]
    seconds: float
    asked_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def failures(self) -> list[tuple[str, int, str]]:
        """The methods that failed on episodes: name, number of episodes, first reason."""
        return [failure for result in self.results for failure in result.failures] + self.broken

    @property
    def left_out(self) -> list[str]:
        """The adaptations of groups that could not run there, each with the reason, once."""
        return list(dict.fromkeys(sentence for result in self.results for sentence in result.left_out))

    @property
    def missing(self) -> int:
        """Episodes that are not stored and did not fail: those of other shards."""
        return sum(result.missing for result in self.results)

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

    Everything a user can get wrong in any of them is found before the first second is spent on training. A study that
    breaks off all the same does not keep the others from running.

    Args:
        plan: what to run.
        progress: shown the stages of every study.
        run: runs one study; `run_known_study` by default.
        arguments: of the command line that asks for it, to be recorded.

    Raises:
        FewshotBenchError: see `run_study`, of all studies; one that is described in a file is named by its line.
        OSError: the folder of the results cannot be written to.
    """
    started = time.perf_counter()
    run = run or partial(run_known_study, progress=progress, arguments=arguments)
    if len(plan.studies) > 1 or plan.baselines or plan.outputs.labels:  # one study checks itself, but for these
        for record in check_plan(plan, progress):
            record.write()
    results: list[StudyResult] = []
    broken: list[tuple[str, int, str]] = []
    typed: dict[str, str] = {}
    for number, (study, place) in enumerate(zip(plan.studies, plan.places, strict=True), start=1):
        try:
            with located(place):
                # Which method is the baseline is decided among the methods of all studies, below.
                results.append(run(study.model_copy(update={"baseline": None})))
        except FewshotBenchError as error:
            if number == len(plan.studies) and not results:
                raise
            broken.append((place, _episodes(study), str(error)))
        else:
            typed[results[-1].dataset.name] = study.dataset
    cells = list({cell.key: cell for result in results for cell in result.cells}.values())
    named = {name: plan.baselines.get(dataset) for name, dataset in typed.items()}
    datasets = {result.dataset.name: result.dataset for result in results}
    empty = {key for result in results for key in result.without_outcomes}
    asked_names = {stored: asked for result in results for stored, asked in result.asked_names.items()}
    baselines = _baselines([cell for cell in cells if cell.key not in empty], named, asked_names)
    seconds = time.perf_counter() - started
    return PlanResult(datasets, cells, baselines, results, broken, seconds, asked_names)


def _episodes(study: Study) -> int:
    """Of each method of a study, as far as it says so itself."""
    return sum(max(0, protocol.runs * protocol.episodes) for protocol in study.protocols())


def _baselines(
    cells: Sequence[Cell], named: Mapping[str, str | None], asked_names: Mapping[str, str]
) -> dict[str, str]:
    """The label of the method that was named for a dataset, or of its first method, by protocol."""
    baselines = {}
    for protocol in dict.fromkeys(cell.protocol.fingerprint for cell in cells):
        same = [cell for cell in cells if cell.protocol.fingerprint == protocol]
        labels = labels_by_name(same, asked_names)
        wanted = named.get(same[0].protocol.dataset)
        if len(labels) > 1:
            baselines[protocol] = same[0].method.label
        if wanted is not None:
            with suppress(UnknownNameError):  # checked before: it has failed
                baselines[protocol] = labels[resolve_method(labels, wanted)]
    return baselines
