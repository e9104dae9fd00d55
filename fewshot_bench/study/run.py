"""Run studies: every cell of each of them, from images to stored outcomes.

The studies of a plan share a results folder. All of them are resolved, and so checked, before the first one begins.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial

from fewshot_bench._io.notebooks import html_rows
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.backbones import Backbone
from fewshot_bench.datasets import Dataset
from fewshot_bench.devices import chosen_device
from fewshot_bench.engine.engine import Engine, LocalEngine
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import FewshotBenchError, StudyError, UnknownNameError, show_traceback
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.report import resolve_method
from fewshot_bench.statistics import look
from fewshot_bench.study.admission import admit_fields
from fewshot_bench.study.chunks import Shard, missing_episodes
from fewshot_bench.study.networks import Backbones, Network
from fewshot_bench.study.plan import StudyPlan, located
from fewshot_bench.study.provenance import PeakMemory, changed_code, command_line
from fewshot_bench.study.resolved import ResolvedStudy, Rule, resolve_study
from fewshot_bench.study.scheduler import MethodRun, is_failure, reason_of
from fewshot_bench.study.study import Study
from fewshot_bench.study.train import train_recipes
from fewshot_bench.study.training_ahead import helpers_that_pay
from fewshot_bench.study.workers import ClassifierBuilder

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class StudyResult:
    """What a study has done.

    Attributes:
        dataset: the images that were used.
        cells: the cells of the grid, all complete but for the episodes that failed.
        baseline: label of the method that the others are tested against; None if there is only one.
        seconds: wall time of the whole study.
        peak_bytes: the most memory it took: on a GPU for tensors, on a CPU for the whole process.
        failures: the methods that failed on episodes: name, number of episodes, first reason.
        missing: episodes that are not stored and did not fail: those of other shards.
        without_outcomes: keys of the cells without any stored outcome.
        asked_names: what the study calls a method that is stored under another name, by that name.
        left_out: adaptations of a group that cannot run there, each with the reason in one sentence.

    >>> import fewshot_bench as fb
    >>> result = fb.run_study(fb.Study(checkpoints=("glyphs-conv4",), episodes=100))  # doctest: +SKIP
    >>> result.failed, [cell.method.name for cell in result.cells]  # doctest: +SKIP
    (0, ['conv4_32/base-ce@epochs=2/centroid', 'conv4_32/base-ce@epochs=2/centroid'])
    """

    dataset: Dataset
    cells: list[Cell]
    baseline: str | None
    seconds: float
    peak_bytes: int = 0
    failures: tuple[tuple[str, int, str], ...] = ()
    missing: int = 0
    without_outcomes: frozenset[str] = frozenset()
    asked_names: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __repr__(self) -> str:
        failed = f", {self.failed:,} episodes failed" if self.failed else ""
        return f"<StudyResult: {len(self.cells):,} cells on {self.dataset.name} in {self.seconds:.0f} s{failed}>"

    def _repr_html_(self) -> str:
        rows = [(cell.method.marked_name, cell.protocol.task, cell.key) for cell in self.cells]
        return html_rows(f"Study of {self.dataset.name}", ("method", "tasks", "cell"), rows)

    @property
    def failed(self) -> int:
        """How many episodes failed."""
        return sum(count for _, count, _ in self.failures)


@checked_arguments
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

    >>> import fewshot_bench as fb
    >>> study = fb.Study(checkpoints=("glyphs-conv4",), adaptations=("centroid", "ridge"), episodes=100)
    >>> fb.run_study(study)  # doctest: +SKIP
    <StudyResult: 4 cells on glyphs in 10 s>
    """
    admit_fields(study.model_dump())
    resolved = resolve_study(study, progress=progress)
    if train_recipes([study], progress=progress):
        resolved = resolve_study(study, progress=progress)
    return run_resolved(resolved, progress=progress, arguments=arguments, engine=engine, shard=shard)


def run_resolved(
    resolved: ResolvedStudy,
    *,
    progress: Progress = SILENT,
    arguments: Sequence[str] = (),
    engine: Engine | None = None,
    shard: Shard | None = None,
) -> StudyResult:
    """Run a resolved study; no code is imported for it. See `run_study`.

    Raises:
        FewshotBenchError, OSError: see `run_study`.
    """
    if resolved.rule is not None and shard is not None:
        raise StudyError("--until-ci looks at all episodes, and --shard has a part of them. Leave one of the two out.")
    store = OutcomeStore(resolved.study.results / "outcomes")
    store.check_folder()
    engine = engine or LocalEngine(chosen_device(resolved.study.device))
    return _StudyRun(resolved, store, engine, progress, arguments, shard).run()


@dataclass(frozen=True)
class _StudyRun:
    """A study that is running; see `run_study` for the attributes."""

    resolved: ResolvedStudy
    store: OutcomeStore
    engine: Engine
    progress: Progress
    arguments: Sequence[str]
    shard: Shard | None

    def run(self) -> StudyResult:
        """Train each network, run its methods, and say what came of them."""
        started, memory = time.perf_counter(), PeakMemory(self.engine.device)
        resolved, rule, store = self.resolved, self.resolved.rule, self.store
        failures: list[tuple[str, int, str]] = []
        runs: list[MethodRun] = []
        command = command_line(self.arguments) if self.arguments else ""
        with resolved.record.at_work(command, is_all=self.shard is None), ExitStack() as workers:
            for network in resolved.networks:
                try:
                    backbone = network.trained(resolved.dataset, self.engine, self.progress)
                except Exception as error:
                    if not is_failure(error):
                        raise
                    show_traceback(error)
                    names = [method.name for method in resolved.methods_of(network)]
                    failures += [(name, resolved.episodes, reason_of(error)) for name in names]
                    continue
                for method in self._method_runs(network, backbone):
                    runs.append(method)
                    workers.callback(method.forget)
                    cells = [cell for cell, _ in method.planned]
                    for sentence in changed_code(store, cells):
                        _LOG.warning("note: %s", sentence)
                    memory.note()
                    resolved.record.cells_known([_renamed(cell, method.asked_name) for cell in cells])
                    if rule is None:
                        method.run(method.planned)
                        method.forget()
            if rule is not None:
                planned = [method.planned for method in runs]
                run_until(rule, [method.run for method in runs], planned, store, self.progress)
            failures += [(method.name, method.failed, method.reason) for method in runs if method.failed]
            result = self._result(runs, failures)
        peak = max([memory.of_study(), *(method.peak_bytes for method in runs)])
        return replace(result, seconds=time.perf_counter() - started, peak_bytes=peak)

    def _method_runs(self, network: Network, backbone: Backbone) -> Iterator[MethodRun]:
        """The methods of a trained network, whose adaptations share its embeddings."""
        resolved, store, engine = self.resolved, self.store, self.engine
        builder = ClassifierBuilder(resolved, backbone, engine, self.progress)
        provenance = resolved.provenance(backbone, engine, self.arguments)
        shown = self.progress if resolved.rule is None else SILENT
        for method in resolved.methods_of(network):
            planned = resolved.cells(self._stored_name(method.card(backbone)), provenance)
            make = partial(builder.worker_factory, method.adaptation)
            chunk = resolved.study.chunk
            yield MethodRun(make, planned, store, engine, shown, chunk, self.shard, asked_name=method.name)

    def _stored_name(self, card: MethodCard) -> MethodCard:
        """A method under the name that it is stored under, if it is: a file of the same weights may be renamed."""
        # Other protocols are searched only for a file of weights, which is often renamed: it reads every description.
        keys = [cell.key for cell, _ in self.resolved.cells(card, {})]
        names = self.store.names_of(card, keys if self.resolved.study.weights is None else None)
        return card if not names or card.name in names else replace(card, name=names[0])

    def _result(self, runs: Sequence[MethodRun], failures: list[tuple[str, int, str]]) -> StudyResult:
        """What the study has done, with early failures recorded; raises StudyError if no method has outcomes."""
        planned = [pair for run in runs for pair in run.planned]
        cells = [cell for cell, _ in planned]
        stored = [cell for cell in cells if self.store.done(cell)]
        if failures and not stored:
            raise StudyError(failures[0][2])
        for run in runs:
            run.record_not_begun()
        asked_names = {run.name: run.asked_name for run in runs if run.asked_name != run.name}
        missing = 0
        if self.shard is not None:
            missing = sum(self._missing(*pair) - self._missing(*pair, self.shard) for pair in planned)
        return StudyResult(
            self.resolved.dataset,
            cells,
            _baseline(self.resolved.study.baseline, cells, stored, asked_names),
            seconds=0.0,
            failures=tuple(failures),
            missing=missing,
            without_outcomes=frozenset(cell.key for cell in cells) - {cell.key for cell in stored},
            asked_names=asked_names,
            left_out=self.resolved.left_out,
        )

    def _missing(self, cell: Cell, protocol: Protocol, shard: Shard | None = None) -> int:
        return sum(len(numbers) for numbers in missing_episodes(self.store, cell, protocol, shard))


def _renamed(cell: Cell, name: str) -> Cell:
    return replace(cell, method=replace(cell.method, name=name))


def _labels_by_name(cells: Sequence[Cell], asked_names: Mapping[str, str]) -> dict[str, str]:
    """Labels of methods by what the study calls them, the first of each name."""
    return {asked_names.get(cell.method.name, cell.method.name): cell.method.label for cell in reversed(cells)}


def _baseline(
    named: str | None, cells: Sequence[Cell], stored: Sequence[Cell], asked_names: Mapping[str, str]
) -> str | None:
    """The label of the method that a user named, or of the first of several, where it has outcomes."""
    labels = _labels_by_name(stored, asked_names)
    if named is not None:
        return labels.get(resolve_method(_labels_by_name(cells, asked_names), named))
    return stored[0].method.label if len(labels) > 1 else None


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


Helpers = Callable[[int], AbstractContextManager[object]]
"""Starts that many processes which call `train_ahead` with the same studies, each with its number."""


def run_plan(
    plan: StudyPlan,
    *,
    progress: Progress = SILENT,
    arguments: Sequence[str] = (),
    engine: Engine | None = None,
    shard: Shard | None = None,
    helpers: Helpers | None = None,
) -> PlanResult:
    """Run the studies of a plan one after the other; code that they name must have been admitted. See `run_study`.

    Everything a user can get wrong in any of them is found before the first second is spent on training. A study that
    fails later does not keep the others from running.

    Args:
        plan: the studies.
        progress: shown one unit per episode, and those of the stages before.
        arguments: of the command line that asks for it, to be recorded.
        engine: who computes; this process on the studies' device by default.
        shard: the part of every run to compute.
        helpers: starts processes that train base stages ahead; by default they train one after the other.

    Raises:
        FewshotBenchError: see `run_study`, of all studies; one that is described in a file is named by its line.
        OSError: the folder of the results cannot be written to.
    """
    started = time.perf_counter()
    studies = resolve_plan(plan, progress)
    if train_recipes(plan.studies, progress=progress):
        studies = resolve_plan(plan, progress)
    engine = engine or LocalEngine(chosen_device(plan.studies[0].device))
    if len(studies) > 1:
        for resolved in studies:
            resolved.record.write()
    results: list[StudyResult] = []
    broken: list[tuple[str, int, str]] = []
    count = 0 if helpers is None else helpers_that_pay(studies, engine)
    with nullcontext() if helpers is None or not count else helpers(count):
        for resolved, place in zip(studies, plan.places, strict=True):
            try:
                with located(place):
                    results.append(
                        run_resolved(resolved, progress=progress, arguments=arguments, engine=engine, shard=shard)
                    )
            except FewshotBenchError as error:
                if resolved is studies[-1] and not results:
                    raise
                broken.append((place, resolved.episodes, str(error)))
    named = {}
    for resolved, study in zip(studies, plan.studies, strict=True):
        named[resolved.dataset.name] = plan.baselines.get(study.dataset)
    cells = list({cell.key: cell for result in results for cell in result.cells}.values())
    empty = {key for result in results for key in result.without_outcomes}
    asked_names = {stored: asked for result in results for stored, asked in result.asked_names.items()}
    baselines = _baselines([cell for cell in cells if cell.key not in empty], named, asked_names)
    datasets = {result.dataset.name: result.dataset for result in results}
    return PlanResult(datasets, cells, baselines, results, broken, time.perf_counter() - started, asked_names)


def resolve_plan(plan: StudyPlan, progress: Progress = SILENT) -> list[ResolvedStudy]:
    """Resolve the studies of a plan, with their networks, and find what is wrong in any of them.

    Datasets are opened, networks are made, and weights may be fetched; nothing is trained, embedded or written.

    Raises:
        FewshotBenchError: see `resolve_study`; or no method has the name of the baseline or of a label.
        OSError: the folder of the results cannot be written to.
    """
    OutcomeStore(plan.results / "outcomes").check_folder()
    studies, backbones = [], Backbones()
    names: dict[str, list[str]] = {}
    for study, place in zip(plan.studies, plan.places, strict=True):
        with located(place):
            # Which method is the baseline is decided among the methods of all studies.
            study = study.model_copy(update={"baseline": None})
            studies.append(resolve_study(study, backbones=backbones, progress=progress))
            names.setdefault(study.dataset, []).extend(method.name for method in studies[-1].methods)
    for dataset, baseline in plan.baselines.items():
        with located(f"baseline of {dataset}" if plan.name else ""):
            resolve_method(names[dataset], baseline)
    with located("labels of outputs"):
        plan.check_labels(names)
    return studies


def _baselines(
    cells: Sequence[Cell], named: Mapping[str, str | None], asked_names: Mapping[str, str]
) -> dict[str, str]:
    """The label of the method that was named for a dataset, or of its first method, by protocol."""
    baselines = {}
    for protocol in dict.fromkeys(cell.protocol.fingerprint for cell in cells):
        same = [cell for cell in cells if cell.protocol.fingerprint == protocol]
        labels = _labels_by_name(same, asked_names)
        wanted = named.get(same[0].protocol.dataset)
        if len(labels) > 1:
            baselines[protocol] = same[0].method.label
        if wanted is not None:
            with suppress(UnknownNameError):  # checked before: it has failed
                baselines[protocol] = labels[resolve_method(labels, wanted)]
    return baselines


_ANY_WIDTH = 1e9


def run_until(
    rule: Rule,
    methods: Sequence[Callable[[Sequence[tuple[Cell, Protocol]]], None]],
    cells: Sequence[Sequence[tuple[Cell, Protocol]]],
    store: OutcomeStore,
    progress: Progress = SILENT,
) -> None:
    """Run the methods of a study, protocol by protocol, until the rule is met.

    Args:
        rule: when to stop.
        methods: functions that run the missing episodes of some of their cells.
        cells: of each method, one per protocol, with the protocol.
        store: of the outcomes.
        progress: shows one stage per protocol, with the widest interval so far.
    """
    for same_protocol in zip(*cells, strict=True):
        protocol = same_protocol[0][1]
        with progress.step(f"{protocol.way}-way {protocol.shot}-shot until ±{rule.half_width:g}", 0) as step:
            before, running = 0, list(zip(methods, same_protocol, strict=True))
            for episodes in rule.looks():
                reached = min(episodes, protocol.episodes)
                for run, (cell, _) in running:
                    run([(cell, replace(protocol, episodes=reached))])
                running = [(run, pair) for run, pair in running if store.done(pair[0])]  # not those that always fail
                widths = [_half_width(store, cell, reached, protocol.runs) for _, (cell, _) in running]
                widest = max(widths, default=0.0)
                step.advance(reached - before, f"±{widest:.2f} after {reached:,} per run")
                before = reached
                if reached < episodes or widest <= rule.half_width:
                    break


def _half_width(store: OutcomeStore, cell: Cell, episodes: int, runs: int) -> float:
    """Half the width of a method's interval over the first episodes of its runs, in points; infinite if too few."""
    stored = store.read(cell, with_predictions=False)
    counted = stored[(stored["episode"] < episodes) & (stored["run"] < runs)]
    seen = look(counted["accuracy"].to_numpy(), _ANY_WIDTH)
    return 100 * seen.half_width if seen.enough else math.inf
