"""Find out what a plan is going to do and what it will take, without training, storing or fetching anything.

What is found out about the methods of a study, and about what comes before them.

The networks that a study would use, as far as they can be had without training or fetching anything.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from fewshot_bench._io.locations import cache_folder
from fewshot_bench.adaptation import Adaptation
from fewshot_bench.backbones import BaseHead, is_fetched_already
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.adapt import protocol_card
from fewshot_bench.engine.engine import chosen_device
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.progress import SILENT, Progress, Step
from fewshot_bench.report import resolve_method
from fewshot_bench.study.base_stage import checkpoint_path, from_checkpoint
from fewshot_bench.study.check_plan import check_labels, located
from fewshot_bench.study.chunks import missing_episodes
from fewshot_bench.study.estimates import CellForecast, Forecast, WorkForecast, outcome_bytes, room
from fewshot_bench.study.execute import fitting_protocols, opened_dataset
from fewshot_bench.study.method_groups import expanded
from fewshot_bench.study.methods import method_name, planned_adaptations
from fewshot_bench.study.networks import (
    Networks,
    PlannedStage,
    backbone_of_hub,
    backbone_settings,
    base_stages,
    planned_stages,
)
from fewshot_bench.study.plan import StudyPlan
from fewshot_bench.study.planned_methods import method_card
from fewshot_bench.study.provenance import PeakMemory, changed_code, weights_note, weights_record
from fewshot_bench.study.scheduler import is_failure, reason_of
from fewshot_bench.study.stopping import stopping_rule
from fewshot_bench.study.study import Study
from fewshot_bench.study.timing import NO_TIME, ChunkTime, Measurements, View, network_bytes
from fewshot_bench.training.memory import free_bytes

AFTER_TRAINING = "after training"
NOT_FETCHED = "after its weights are fetched"


@dataclass(frozen=True)
class NetworkAhead:
    """A network that a study would use.

    Attributes:
        stage: the network to measure with, and what is to be done to it; its weights need not be the study's.
        unknown: why the weights that it will have are not known yet; empty where these are they.
        identity: tells the weights that it will have from all others.
    """

    stage: PlannedStage
    unknown: str
    identity: str


class NetworksAhead:
    """Makes the networks of studies."""

    def __init__(self) -> None:
        self._networks = Networks()

    def ahead(self, study: Study, dataset: Dataset | None) -> Iterator[NetworkAhead]:
        """The networks of a study, each as it will be where that is known.

        Args:
            study: whose networks.
            dataset: its images; None where they are not here.

        Raises:
            FewshotBenchError: a name is unknown, or weights are missing or damaged.
        """
        if study.checkpoints is not None:
            if dataset is not None:  # whose name is a part of theirs
                for stage in planned_stages(study, dataset):
                    yield NetworkAhead(stage, "", stage.backbone.weights)
            return
        is_here = is_fetched(study)
        backbone = self._networks.backbone(study, dataset, is_stand_in=not is_here)
        unknown = "" if is_here else NOT_FETCHED
        for base, recipe in base_stages(study, backbone):
            stage = PlannedStage(backbone, backbone_settings(study, backbone), base, recipe)
            if recipe is None or dataset is None:
                yield NetworkAhead(stage, unknown, backbone.weights)
            else:
                yield _trained(stage, dataset, unknown)


def is_fetched(study: Study) -> bool:
    """Whether no hub has to be asked for the weights that a study starts from."""
    asked = backbone_of_hub(study)
    return asked is None or is_fetched_already(asked.removeprefix("timm:"))


def _trained(stage: PlannedStage, dataset: Dataset, unknown: str) -> NetworkAhead:
    """A network after its base stage if that has been done, before it otherwise."""
    assert stage.recipe is not None
    path = checkpoint_path(stage.backbone, dataset.base, stage.recipe)
    if path.is_file():
        trained = from_checkpoint(copy.deepcopy(stage.backbone), dataset.base, stage.recipe)
        if trained is not None:
            return NetworkAhead(replace(stage, backbone=trained), "", trained.weights)
    head = BaseHead.untrained(stage.backbone.embedding_size, dataset.base.class_names)
    untrained = replace(stage, backbone=replace(stage.backbone, base_head=head))
    return NetworkAhead(untrained, unknown or AFTER_TRAINING, path.stem)


_NO_IMAGES = "once its images are here"


class MethodsAhead:
    """The cells of methods, the work before them, and what keeps them from being run; each is told once.

    Attributes:
        cells: by task, name and network.
        work: by kind and what identifies it.
        problems: sentences, in the order in which they were found.
        notes: sentences that a user should hear, likewise.
        training_bytes: of memory, for the largest training.
    """

    def __init__(self, store: OutcomeStore, device: str) -> None:
        self._store, self._device, self._measured = store, device, Measurements(device)
        self.cells: dict[tuple[str, str, str], CellForecast] = {}
        self.work: dict[tuple[str, ...], WorkForecast] = {}
        self.problems: dict[str, None] = {}
        self.notes: dict[str, None] = {}
        self.training_bytes = 0

    def add_unseen(self, name: str, adaptation: Adaptation, protocols: Sequence[Protocol]) -> None:
        """Cells of a dataset that is not here.

        Args:
            name: of the method.
            adaptation: what it does.
            protocols: as many as the study asks for.
        """
        for protocol in protocols:
            episodes = protocol.runs * protocol.episodes
            task = protocol_card(protocol, "").task
            cell = CellForecast(task, name, episodes if episodes > 0 else None, None, _NO_IMAGES)
            self.cells[task, name, ""] = replace(cell, is_transductive=adaptation.is_transductive)

    def look_at_method(
        self,
        study: Study,
        dataset: Dataset,
        network: NetworkAhead,
        adaptation: Adaptation,
        name: str,
        protocols: list[Protocol],
    ) -> None:
        """Count what is stored of a method's cells, and time what is not.

        Args:
            study: that the method belongs to.
            dataset: its images.
            network: its backbone.
            adaptation: what it does.
            name: of the method.
            protocols: of the study.
        """
        stage = network.stage
        card = method_card(name, stage.backbone, stage.base, adaptation)
        cells = [Cell(card, protocol_card(protocol, dataset.fingerprint)) for protocol in protocols]
        self.notes |= dict.fromkeys(changed_code(self._store, cells))
        stored = [self._stored(cell, one, network) for cell, one in zip(cells, protocols, strict=True)]
        everything = [one.runs * one.episodes for one in protocols]
        left = [whole - (done or 0) for whole, done in zip(everything, stored, strict=True)]
        times: Sequence[ChunkTime | None] = [None] * len(protocols)
        if any(left):
            times = self._timed(study, dataset, network, adaptation, name, protocols)
        for cell, whole, done, rest, timed in zip(cells, everything, stored, left, times, strict=True):
            task, seconds, size = cell.protocol.task, NO_TIME if not rest else None, 0 if not rest else None
            if timed is not None:
                seconds, size = timed.per_episode.times(rest), outcome_bytes(cell, rest, timed.chunk)
            one = CellForecast(task, name, whole, done, network.unknown, seconds, size)
            self.cells[task, name, network.identity] = replace(one, is_transductive=adaptation.is_transductive)

    def _stored(self, cell: Cell, protocol: Protocol, network: NetworkAhead) -> int | None:
        if network.unknown:
            return None
        missing = sum(len(numbers) for numbers in missing_episodes(self._store, cell, protocol))
        return protocol.runs * protocol.episodes - missing

    def _timed(
        self,
        study: Study,
        dataset: Dataset,
        network: NetworkAhead,
        adaptation: Adaptation,
        name: str,
        protocols: list[Protocol],
    ) -> Sequence[ChunkTime | None]:
        """The times of a method, whose embeddings are noted; none where it cannot be tried."""
        backbone = network.stage.backbone
        try:
            views, ready, times = self._measured.method(study, dataset, backbone, adaptation, protocols)
            for view in views:
                self._look_at_view(view, network)
        except Exception as error:
            if not is_failure(error):
                raise
            self.problems[f"{name} could not be tried: {reason_of(error)}"] = None
            return [None] * len(protocols)
        self.work["ready", name, network.identity] = WorkForecast("preparing", name, 1, ready, 0, "all of it")
        return times

    def _look_at_view(self, view: View, network: NetworkAhead) -> None:
        backbone, split = network.stage.backbone, view.split
        if not network.unknown and view.is_kept(backbone, self._device):
            return
        seconds, timed = self._measured.image(view, backbone)
        stage = f"/{network.stage.base.stage}" if network.stage.base.stage else ""
        what = f"{split.dataset} {split.name} by {backbone.name}{stage}{', ' + view.name if view.name else ''}"
        self.work["view", network.identity, split.fingerprint, view.name] = WorkForecast(
            "embeddings",
            what,
            len(split),
            seconds.times(len(split)),
            4 * len(split) * backbone.embedding_size,
            f"{timed:,} images",
        )

    def look_at_training(self, network: NetworkAhead, dataset: Dataset, step: Step) -> None:
        """Time a few steps of a network's base stage, unless that has been done.

        Args:
            network: that would be trained.
            dataset: on the base split of this.
            step: told what is being timed.
        """
        recipe, backbone = network.stage.recipe, network.stage.backbone
        if recipe is None or not network.unknown:
            return
        base = dataset.base
        step.advance(0, f"training {backbone.name} with {recipe.loss}")
        needs = self._measured.training(base, backbone, recipe)
        self.training_bytes = max(self.training_bytes, needs.memory)
        batch = min(recipe.batch_size, len(base))
        self.work["training", network.identity] = WorkForecast(
            "training",
            f"{backbone.name} on {base.dataset} {base.name}: {network.stage.base.stage}",
            recipe.epochs * math.ceil(len(base) / batch),
            needs.per_image.times(recipe.epochs * len(base)),
            network_bytes(backbone),
            f"steps of {needs.timed:,} images" + (f", not of {batch:,}" if needs.timed < batch else ""),
        )
        if needs.problem:
            self.problems[needs.problem] = None


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
