"""Find out what a plan is going to do and what it will take, without training, storing or fetching anything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from fewshot_bench.adaptation import Adaptation
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.adapt import protocol_card
from fewshot_bench.engine.device import chosen_device
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.paths import cache_folder
from fewshot_bench.progress import SILENT, Progress, Step
from fewshot_bench.report import resolve_method
from fewshot_bench.study.check_plan import located
from fewshot_bench.study.chunk_queue import missing_episodes
from fewshot_bench.study.execute import method_card, opened_dataset
from fewshot_bench.study.fitting import fitting_protocols
from fewshot_bench.study.forecast import CellForecast, Forecast, WorkForecast, room
from fewshot_bench.study.looking_ahead import Measurements, network_bytes
from fewshot_bench.study.measuring import NO_TIME
from fewshot_bench.study.methods import method_name, planned_adaptations
from fewshot_bench.study.networks_ahead import NetworkAhead, Networks, is_fetched
from fewshot_bench.study.pieces import is_failure, reason_of
from fewshot_bench.study.plan import StudyPlan
from fewshot_bench.study.provenance import PeakMemory
from fewshot_bench.study.stored_size import outcome_bytes
from fewshot_bench.study.study import Study
from fewshot_bench.study.timed_method import ChunkTime, View
from fewshot_bench.study.until import stopping_rule
from fewshot_bench.training.memory import free_bytes

_NO_IMAGES = "its images are not here"


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
        self._measured, self._networks = Measurements(self._device), Networks()
        self._memory = PeakMemory(self._device)
        self._at_first, self._for_training = self._memory.of_study(), 0
        self._cells: dict[tuple[str, str, str], CellForecast] = {}
        self._work: dict[tuple[str, ...], WorkForecast] = {}
        self._missing: dict[str, None] = {}
        self._notes: dict[str, None] = {}
        self._names: dict[str, list[str]] = {}

    @contextmanager
    def noting(self, place: str) -> Iterator[None]:
        """Keep what is wrong with a study, and go on."""
        try:
            with located(place):
                yield
        except FewshotBenchError as error:
            self._missing[str(error)] = None

    def look_at(self, study: Study, step: Step) -> None:
        """Find out about one study.

        Raises:
            FewshotBenchError: it could not be run as it is.
        """
        stopping_rule(study)
        adaptations = planned_adaptations(study)
        if not is_fetched(study):
            self._notes[
                f"the weights of {study.backbone_name} come from the Hugging Face hub and are not on this machine; "
                "they are fetched when the study runs. Times are of the same network with random weights."
            ] = None
        dataset, problem = self._dataset(study)
        if dataset is not None:
            study = study.model_copy(update={"dataset": dataset.name})
            protocols = fitting_protocols(study, dataset.split(study.split))
        else:
            protocols = study.protocols()
        names = self._names.setdefault(study.dataset, [])
        for network in self._networks.ahead(study, dataset):
            if dataset is not None:
                self._look_at_training(network, dataset, step)
            for adaptation in adaptations:
                stage = network.stage
                backbone = stage.base.backbone or study.backbone_name
                names.append(method_name(backbone, stage.settings, stage.base.stage, adaptation))
                step.advance(0, names[-1])
                if dataset is None:
                    self._add_unseen(names[-1], protocols)
                else:
                    self._look_at_method(study, dataset, network, adaptation, names[-1], protocols)
        if problem is not None:
            raise problem

    def _dataset(self, study: Study) -> tuple[Dataset | None, FewshotBenchError | None]:
        """The images; or why they are not here, which keeps nothing else from being looked at."""
        try:
            return opened_dataset(study, SILENT), None
        except FewshotBenchError as error:
            return None, error

    def _add_unseen(self, name: str, protocols: Sequence[Protocol]) -> None:
        for protocol in protocols:
            episodes = protocol.runs * protocol.episodes
            task = protocol_card(protocol, "").task
            cell = CellForecast(task, name, episodes if episodes > 0 else None, None, _NO_IMAGES)
            self._cells[task, name, ""] = cell

    def _look_at_method(
        self,
        study: Study,
        dataset: Dataset,
        network: NetworkAhead,
        adaptation: Adaptation,
        name: str,
        protocols: list[Protocol],
    ) -> None:
        stage = network.stage
        card = method_card(name, stage.backbone, stage.base, adaptation)
        cells = [Cell(card, protocol_card(protocol, dataset.fingerprint)) for protocol in protocols]
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
            self._cells[task, name, network.identity] = one

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
            self._missing[f"{name} could not be tried: {reason_of(error)}"] = None
            return [None] * len(protocols)
        self._work["ready", name, network.identity] = WorkForecast("preparing", name, 1, ready, 0, "all of it")
        return times

    def _look_at_view(self, view: View, network: NetworkAhead) -> None:
        backbone, split = network.stage.backbone, view.split
        if not network.unknown and view.is_kept(backbone, self._device):
            return
        seconds, timed = self._measured.image(view, backbone)
        stage = f"/{network.stage.base.stage}" if network.stage.base.stage else ""
        what = f"{split.dataset} {split.name} by {backbone.name}{stage}{', ' + view.name if view.name else ''}"
        self._work["view", network.identity, split.fingerprint, view.name] = WorkForecast(
            "embeddings",
            what,
            len(split),
            seconds.times(len(split)),
            4 * len(split) * backbone.embedding_size,
            f"{timed:,} images",
        )

    def _look_at_training(self, network: NetworkAhead, dataset: Dataset, step: Step) -> None:
        recipe, backbone, base = network.stage.recipe, network.stage.backbone, dataset.base
        if recipe is None or not network.unknown:
            return
        step.advance(0, f"training {backbone.name} with {recipe.loss}")
        needs = self._measured.training(base, backbone, recipe)
        self._for_training = max(self._for_training, needs.memory)
        batch = min(recipe.batch_size, len(base))
        self._work["training", network.identity] = WorkForecast(
            "training",
            f"{backbone.name} on {base.dataset} {base.name}: {network.stage.base.stage}",
            recipe.epochs * math.ceil(len(base) / batch),
            needs.per_image.times(recipe.epochs * len(base)),
            network_bytes(backbone),
            f"steps of {needs.timed:,} images" + (f", not of {batch:,}" if needs.timed < batch else ""),
        )
        if needs.problem:
            self._missing[needs.problem] = None

    def forecast(self) -> Forecast:
        """Everything that was found out."""
        for dataset, baseline in self._plan.baselines.items():
            if self._names.get(dataset):
                with self.noting(f"baseline of {dataset}"):
                    resolve_method(self._names[dataset], baseline)
        cells, work = list(self._cells.values()), list(self._work.values())
        return Forecast(
            name=self._plan.name,
            device=self._device,
            cells=cells,
            work=work,
            missing=list(self._missing),
            notes=list(self._notes),
            results=room(self._plan.results, sum(cell.bytes or 0 for cell in cells)),
            cache=room(cache_folder(), sum(one.bytes for one in work)),
            peak_bytes=max(self._memory.of_study(), self._at_first + self._for_training),
            free_bytes=free_bytes(torch.device(self._device)),
        )
