"""Work through a study: every cell of its grid, from images to stored outcomes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from fewshot_bench.datasets import Dataset, OwnOptions, is_named, known_dataset
from fewshot_bench.engine.device import chosen_device
from fewshot_bench.engine.engine import Engine
from fewshot_bench.engine.local import LocalEngine
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.study.admission import admit_fields
from fewshot_bench.study.changed_code import changed_code
from fewshot_bench.study.fitting import fitting_protocols
from fewshot_bench.study.method_groups import expanded
from fewshot_bench.study.method_run import MethodRun
from fewshot_bench.study.methods import planned_adaptations
from fewshot_bench.study.named_stages import Networks
from fewshot_bench.study.planned_methods import planned_methods
from fewshot_bench.study.provenance import PeakMemory, command_line
from fewshot_bench.study.recording import record_of
from fewshot_bench.study.shard import Shard
from fewshot_bench.study.stages import PlannedStage, planned_stages
from fewshot_bench.study.study import Study
from fewshot_bench.study.study_result import StudyResult, failures_of, result_of
from fewshot_bench.study.until import run_until, stopping_rule

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
