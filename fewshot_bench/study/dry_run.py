"""Find out what a plan is going to do and what it will take, without training, storing or fetching anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.device import chosen_device
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.paths import cache_folder
from fewshot_bench.progress import SILENT, Progress, Step
from fewshot_bench.report import resolve_method
from fewshot_bench.study.check_plan import check_labels, located
from fewshot_bench.study.execute import opened_dataset
from fewshot_bench.study.fitting import fitting_protocols
from fewshot_bench.study.forecast import Forecast, room
from fewshot_bench.study.method_groups import expanded
from fewshot_bench.study.methods import method_name, planned_adaptations
from fewshot_bench.study.methods_ahead import MethodsAhead
from fewshot_bench.study.networks_ahead import NetworksAhead, is_fetched
from fewshot_bench.study.plan import StudyPlan
from fewshot_bench.study.provenance import PeakMemory, weights_note, weights_record
from fewshot_bench.study.study import Study
from fewshot_bench.study.until import stopping_rule
from fewshot_bench.training.memory import free_bytes


def forecast(plan: StudyPlan, *, progress: Progress = SILENT) -> Forecast:
    """Look ahead: the cells of a plan, what of them is stored, and what the rest takes.

    A few images are embedded, a few steps trained and a few chunks of episodes computed, to be timed; nothing of it is
    kept. What keeps the plan from running is said, and does not keep the rest from being looked at.

    Args:
        plan: what would be run.
        progress: shown one unit per study.

    Raises:
        StudyError: this machine has no such device.
        OSError: the folder of the results cannot be written to.
    """
    ahead = _Ahead(plan)
    with progress.step("looking ahead", len(plan.studies)) as step:
        for study, place in zip(plan.studies, plan.places, strict=True):
            with ahead.noting(place):
                ahead.look_at(study, step)
            step.advance()
    return ahead.forecast()


class _Ahead:
    """What is found out, study by study."""

    def __init__(self, plan: StudyPlan) -> None:
        self._plan, self._device = plan, chosen_device(plan.studies[0].device)
        self._store = OutcomeStore(plan.results / "outcomes")
        self._store.check_folder()
        self._networks = NetworksAhead()
        self._methods = MethodsAhead(self._store, self._device)
        self._memory = PeakMemory(self._device)
        self._at_first = self._memory.of_study()
        self._notes: dict[str, None] = {}
        self._names: dict[str, list[str]] = {}

    @contextmanager
    def noting(self, place: str) -> Iterator[None]:
        """Keep what is wrong with a study, and go on."""
        try:
            with located(place):
                yield
        except FewshotBenchError as error:
            self._methods.problems[str(error)] = None

    def look_at(self, study: Study, step: Step) -> None:
        """Find out about one study.

        Raises:
            FewshotBenchError: it could not be run as it is.
        """
        if stopping_rule(study) is not None:
            self._notes["until_ci may stop sooner: episodes, times and space are the most that there can be."] = None
        planned_adaptations(expanded(study)[0])
        if not is_fetched(study):
            self._notes[
                f"the weights of {study.backbone_name} come from the Hugging Face hub and are not on this machine; "
                "they are fetched when the study runs. Times are of the same network with random weights."
            ] = None
        dataset, problem = self._dataset(study)
        if dataset is not None:
            study = study.model_copy(update={"dataset": dataset.name})
        study, left_out = expanded(study, dataset)
        self._notes |= dict.fromkeys(left_out)
        adaptations = planned_adaptations(study)
        protocols = study.protocols() if dataset is None else fitting_protocols(study, dataset)
        names = self._names.setdefault(study.dataset, [])
        for network in self._networks.ahead(study, dataset):
            if dataset is not None:
                self._methods.look_at_training(network, dataset, step)
            for adaptation in adaptations:
                stage = network.stage
                if note := weights_note(weights_record(study.weights, stage.backbone)):
                    self._notes[note] = None
                backbone = stage.base.backbone or study.backbone_name
                names.append(method_name(backbone, stage.settings, stage.base.stage, adaptation))
                step.advance(0, names[-1])
                if dataset is None:
                    self._methods.add_unseen(names[-1], adaptation, protocols)
                else:
                    self._methods.look_at_method(study, dataset, network, adaptation, names[-1], protocols)
        if problem is not None:
            raise problem

    def _dataset(self, study: Study) -> tuple[Dataset | None, FewshotBenchError | None]:
        """The images; or why they are not here, which keeps nothing else from being looked at."""
        try:
            return opened_dataset(study, SILENT), None
        except FewshotBenchError as error:
            return None, error

    def forecast(self) -> Forecast:
        """Everything that was found out."""
        for dataset, baseline in self._plan.baselines.items():
            if self._names.get(dataset):
                with self.noting(f"baseline of {dataset}"):
                    resolve_method(self._names[dataset], baseline)
        if not self._methods.problems:  # a study that could not be looked at has methods too
            with self.noting("labels of outputs"):
                check_labels(self._plan, self._names)
        cells, work = list(self._methods.cells.values()), list(self._methods.work.values())
        return Forecast(
            name=self._plan.name,
            device=self._device,
            cells=cells,
            work=work,
            missing=list(self._methods.problems),
            notes=[*self._notes, *self._methods.notes],
            results=room(self._plan.results, sum(cell.bytes or 0 for cell in cells)),
            cache=room(cache_folder(), sum(one.bytes for one in work)),
            peak_bytes=max(self._memory.of_study(), self._at_first + self._methods.training_bytes),
            free_bytes=free_bytes(torch.device(self._device)),
        )
