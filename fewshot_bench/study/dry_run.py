"""Find out what a plan is going to do and what it will take, without training, storing or fetching anything."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from fewshot_bench._io.locations import cache_folder
from fewshot_bench.backbones import Backbone, BaseHead, TaskHead
from fewshot_bench.datasets import Dataset, ImageSplit
from fewshot_bench.datasets.catalogue import BENCHMARKS, is_stand_in, stand_in_dataset
from fewshot_bench.devices import chosen_device, free_bytes
from fewshot_bench.engine.classify import protocol_card
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.cell import whole_task
from fewshot_bench.progress import SILENT, Progress, Step
from fewshot_bench.report import resolve_method
from fewshot_bench.study.base_stage import checkpoint_path, from_checkpoint
from fewshot_bench.study.chunks import missing_episodes
from fewshot_bench.study.cost_model import CostModel
from fewshot_bench.study.estimates import (
    NO_TIME,
    CellEstimate,
    Estimates,
    Machine,
    WorkEstimate,
    disk_space,
    outcome_bytes,
)
from fewshot_bench.study.measurements import ChunkTime, Measurements, View, network_bytes
from fewshot_bench.study.methods import expand_groups, planned_adaptations
from fewshot_bench.study.networks import Backbones, Network, is_fetched, missing_teachers, resolve_networks
from fewshot_bench.study.plan import StudyPlan, located
from fewshot_bench.study.provenance import PeakMemory, changed_code, weights_note, weights_record
from fewshot_bench.study.resolved import ResolvedMethod, ResolvedStudy, open_study_dataset, resolve_study
from fewshot_bench.study.scheduler import is_failure, reason_of
from fewshot_bench.study.study import Study
from fewshot_bench.study.train import refuse_unnamed_images
from fewshot_bench.training import Recipe, batch_norms
from fewshot_bench.units import bytes_text

AFTER_TRAINING = "after training"
NOT_FETCHED = "after its weights are fetched"
NO_IMAGES = "once its images are here"


def estimate(plan: StudyPlan, *, machine: Machine | None = None, progress: Progress = SILENT) -> Estimates:
    """The cells of a plan, which episodes are stored, and what the rest takes.

    A few images are embedded, a few steps trained and a few chunks of episodes computed, to be timed; nothing of it is
    kept. A problem that keeps the plan from running is listed, and the rest is estimated all the same.

    For another machine nothing is timed, and this machine's caches do not count: memory is judged, and operations are
    counted. The images of a benchmark need not be here.

    Args:
        plan: what would be run.
        machine: where it would be run; this one by default.
        progress: shown one unit per study.

    Raises:
        StudyError: this machine has no such device.
        OSError: the folder of the results cannot be written to.
    """
    dry_run = _DryRun(plan, machine)
    with progress.step("dry run", len(plan.studies)) as step:
        for study, place in zip(plan.studies, plan.places, strict=True):
            with dry_run.noting(place):
                dry_run.add_study(study, step)
            step.advance()
    return dry_run.estimates()


@dataclass(frozen=True)
class _KnownNetwork:
    """A network with as much of its future weights as is known.

    Attributes:
        network: of the study.
        backbone: to measure with; its weights need not be the study's.
        unknown: why the weights that it will have are not known yet; empty where these are they.
        identity: tells the weights that it will have from all others.
    """

    network: Network
    backbone: Backbone
    unknown: str
    identity: str


class _DryRun:
    """Collects the estimates, study by study; what studies share is counted once."""

    def __init__(self, plan: StudyPlan, machine: Machine | None) -> None:
        self._plan, self._machine = plan, machine
        self._device = "cpu" if machine is not None else chosen_device(plan.studies[0].device)
        self._store = OutcomeStore(plan.results / "outcomes")
        self._store.check_folder()
        self._backbones = Backbones(fetches=False)
        self._measurements = Measurements(self._device) if machine is None else CostModel(machine)
        self._memory = PeakMemory(self._device)
        self._bytes_before = self._memory.of_study()
        self._needed_bytes = 0
        self._names: dict[str, list[str]] = {}
        self._cells: dict[tuple[str, str, str], CellEstimate] = {}
        self._work: dict[tuple[str, ...], WorkEstimate] = {}
        self._problems: dict[str, None] = {}
        self._notes: dict[str, None] = {}

    @contextmanager
    def noting(self, place: str) -> Iterator[None]:
        """Keep what is wrong with a study, and continue."""
        try:
            with located(place):
                yield
        except FewshotBenchError as error:
            self._problems[str(error)] = None

    def add_study(self, study: Study, step: Step) -> None:
        """Estimate one study; raises FewshotBenchError if it could not be run."""
        if study.until_ci is not None:
            self._notes["until_ci may stop sooner: episodes, times and space are the most that there can be."] = None
        planned_adaptations(expand_groups(study)[0])
        refuse_unnamed_images(study)
        if not is_fetched(study):
            self._notes[
                f"the weights of {study.backbone_name} come from the Hugging Face hub and are not on this machine; "
                "they are fetched when the study runs. Estimates are of the same network with random weights."
            ] = None
        try:
            dataset = self._dataset(study)
        except FewshotBenchError:
            self._add_without_images(study)
            raise
        resolved = resolve_study(study, dataset=dataset, backbones=self._backbones)
        self._notes |= dict.fromkeys(resolved.left_out)
        for network in resolved.networks:
            known = self._known(network, resolved.study, dataset)
            self._add_weights_note(study, known.backbone)
            for teacher in missing_teachers(study, dataset, self._backbones, network):
                self._add_training(self._known(teacher, resolved.study, dataset), dataset, step)
            self._add_training(known, dataset, step)
            for method in resolved.methods_of(network):
                self._names.setdefault(study.dataset, []).append(method.name)
                step.advance(0, method.name)
                self._add_method(resolved, method, known)

    def _dataset(self, study: Study) -> Dataset:
        """The images of a study; for another machine, black ones if they are not here, as many as catalogued."""
        try:
            return open_study_dataset(study)
        except FewshotBenchError:
            if self._machine is None or study.dataset not in BENCHMARKS or not BENCHMARKS[study.dataset].splits:
                raise
        stand_in = stand_in_dataset(study.dataset)
        images = sum(len(split) for split in stand_in.splits.values())
        size = next(iter(stand_in.splits.values())).images.shape[1]
        self._notes[
            f"the images of {study.dataset} are not on this machine; it is estimated with as many as the catalogue "
            f"says, {images:,} of {size} x {size} pixels."
        ] = None
        return stand_in

    def _add_without_images(self, study: Study) -> None:
        """Cells of a dataset that is not here."""
        expanded, left_out = expand_groups(study)
        self._notes |= dict.fromkeys(left_out)
        tasks = [(protocol_card(each, "").task, each.runs * each.episodes) for each in study.protocols()]
        if study.is_whole:  # how many images there are is not known
            tasks = [(whole_task(study.dataset, study.split), 0)]
        for network in resolve_networks(expanded, None, self._backbones):
            self._add_weights_note(study, network.start())
            for adaptation in planned_adaptations(expanded):
                method = ResolvedMethod.of(network, adaptation, expanded)
                name = method.name
                self._names.setdefault(study.dataset, []).append(name)
                for task, episodes in tasks:
                    known = episodes if episodes > 0 else None
                    self._cells[task, name, ""] = CellEstimate(
                        task, name, known, None, NO_IMAGES, is_transductive=method.adaptation.is_transductive
                    )

    def _add_weights_note(self, study: Study, backbone: Backbone) -> None:
        if note := weights_note(weights_record(study.weights, backbone)):
            self._notes[note] = None

    def _known(self, network: Network, study: Study, dataset: Dataset) -> _KnownNetwork:
        """A network after its base stage if that has been done, before it otherwise."""
        unknown = "" if network.is_checkpoint or is_fetched(study) else NOT_FETCHED
        if is_stand_in(dataset):
            unknown = NO_IMAGES
        backbone = network.start()
        if network.recipe is None:
            return _KnownNetwork(network, backbone, unknown, backbone.weights)
        images = network.images(dataset)
        path = checkpoint_path(backbone, images[0], network.recipe, images[1])
        if path.is_file() and self._machine is None and not network.checkpoint:
            trained = from_checkpoint(copy.deepcopy(backbone), images[0], network.recipe, images[1])
            if trained is not None:
                return _KnownNetwork(network, trained, "", trained.weights)
        return _KnownNetwork(
            network, _with_untrained_heads(backbone, network.recipe, images[0]), unknown or AFTER_TRAINING, path.stem
        )

    def _add_training(self, known: _KnownNetwork, dataset: Dataset, step: Step) -> None:
        """Time a few steps of a network's base stage, unless that has been done."""
        recipe, backbone = known.network.recipe, known.backbone
        if recipe is None or not known.unknown:
            return
        base = known.network.images(dataset)[0]
        step.advance(0, f"training {backbone.name} with {recipe.loss}")
        needs = self._measurements.training(base, backbone, recipe, is_base_stage=not known.network.checkpoint)
        self._needed_bytes = max(self._needed_bytes, needs.memory)
        batch = recipe.images_per_step(len(base))
        seconds, operations = needs.per_image.times(recipe.epochs * recipe.images_per_epoch(len(base)))
        self._work["training", known.identity] = WorkEstimate(
            "training",
            f"{backbone.name} on {base.dataset} {base.name}: {known.network.stage}",
            recipe.epochs * math.ceil(recipe.images_per_epoch(len(base)) / batch),
            seconds,
            network_bytes(backbone),
            f"steps of {needs.timed:,} images" + (f", not of {batch:,}" if needs.timed < batch else ""),
            operations,
            needs.micro_batch if needs.micro_batch < batch else None,
        )
        if needs.problem:
            self._problems[needs.problem] = None
        elif needs.micro_batch < batch and batch_norms(backbone.network):
            self._notes[
                f"{backbone.name} has batch normalisation, which takes its statistics from micro-batches of "
                f"{needs.micro_batch:,} images here, not from {batch:,}. The checkpoint records their size."
            ] = None

    def _add_method(self, resolved: ResolvedStudy, method: ResolvedMethod, known: _KnownNetwork) -> None:
        """Count the stored episodes of a method's cells, and time the others."""
        planned = resolved.cells(method.card(known.backbone), {})
        self._notes |= dict.fromkeys(changed_code(self._store, [cell for cell, _ in planned]))
        stored = [None if known.unknown else self._stored(cell, protocol) for cell, protocol in planned]
        wanted = [protocol.runs * protocol.episodes for protocol in resolved.protocols]
        missing = [whole - (done or 0) for whole, done in zip(wanted, stored, strict=True)]
        times: Sequence[ChunkTime | None] = [None] * len(planned)
        if any(missing):
            times = self._timed(resolved, method, known)
        for (cell, _), whole, done, rest, timed in zip(planned, wanted, stored, missing, times, strict=True):
            operations = None
            seconds, size = (None, None) if rest else (NO_TIME, 0)
            if timed is not None:
                seconds, operations = timed.per_episode.times(rest)
                size = outcome_bytes(cell, rest, timed.chunk)
                self._needed_bytes = max(self._needed_bytes, timed.per_episode.memory)
            task, is_transductive = cell.protocol.task, method.adaptation.is_transductive
            self._cells[task, method.name, known.identity] = CellEstimate(
                task, method.name, whole, done, known.unknown, seconds, size, is_transductive, operations
            )

    def _stored(self, cell: Cell, protocol: Protocol) -> int:
        missing = sum(len(numbers) for numbers in missing_episodes(self._store, cell, protocol))
        return protocol.runs * protocol.episodes - missing

    def _timed(
        self, resolved: ResolvedStudy, method: ResolvedMethod, known: _KnownNetwork
    ) -> Sequence[ChunkTime | None]:
        """The times of a method's protocols, whose embeddings are counted; none where it cannot be tried."""
        try:
            views, ready, times = self._measurements.method(resolved, known.backbone, method.adaptation)
            for view in views:
                self._add_view(view, known)
        except Exception as error:
            if not is_failure(error):
                raise
            self._problems[f"{method.name} could not be tried: {reason_of(error)}"] = None
            return [None] * len(resolved.protocols)
        if ready.seconds is not None:
            self._work["ready", method.name, known.identity] = WorkEstimate(
                "preparing", method.name, 1, ready.seconds, 0, "all of it"
            )
        return times

    def _add_view(self, view: View, known: _KnownNetwork) -> None:
        """Embeddings that are not in the cache."""
        backbone, split = known.backbone, view.split
        if self._machine is None and not known.unknown and view.is_kept(backbone, self._device):
            return
        image = self._measurements.image(view, backbone)
        seconds, operations = image.times(len(split))
        self._needed_bytes = max(self._needed_bytes, image.memory)
        memory = None if self._machine is None else self._machine.memory
        if memory is not None and image.memory > memory:
            self._problems[
                f"embedding with {backbone.name} needs about {bytes_text(image.memory)}, and the device has "
                f"{bytes_text(memory)}. Use a smaller --image-size or backbone."
            ] = None
        stage = f"/{known.network.stage}" if known.network.stage else ""
        description = f"{split.dataset} {split.name} by {backbone.name}{stage}{', ' + view.name if view.name else ''}"
        self._work["view", known.identity, split.fingerprint, view.name] = WorkEstimate(
            "embeddings",
            description,
            len(split),
            seconds,
            4 * len(split) * backbone.embedding_size,
            f"{image.timed:,} images",
            operations,
        )

    def estimates(self) -> Estimates:
        """Everything that was found out."""
        for dataset, baseline in self._plan.baselines.items():
            if self._names.get(dataset):
                with self.noting(f"baseline of {dataset}"):
                    resolve_method(self._names[dataset], baseline)
        if not self._problems:  # a study that could not be resolved has methods too
            with self.noting("labels of outputs"):
                self._plan.check_labels(self._names)
        cells, work = list(self._cells.values()), list(self._work.values())
        if self._machine is None:
            peak = max(self._memory.of_study(), self._bytes_before + self._needed_bytes)
            free = free_bytes(torch.device(self._device))
        else:
            peak, free = self._needed_bytes, self._machine.memory
        results = disk_space(self._plan.results, sum(cell.bytes or 0 for cell in cells))
        cache = disk_space(cache_folder(), sum(part.bytes for part in work))
        if self._machine is not None:  # whose disks are not these
            results, cache = replace(results, free=None), replace(cache, free=None)
        return Estimates(
            name=self._plan.name,
            device=self._device,
            cells=cells,
            work=work,
            missing=list(self._problems),
            notes=list(self._notes),
            results=results,
            cache=cache,
            peak_bytes=peak,
            free_bytes=free,
            machine=self._machine,
        )


def _with_untrained_heads(backbone: Backbone, recipe: Recipe, split: ImageSplit) -> Backbone:
    """The backbone with the heads that its training will give it, untrained."""
    base_head = BaseHead.untrained(backbone.embedding_size, split.class_names)
    if not recipe.learns_by_gradient_steps:
        return replace(backbone, base_head=base_head)
    moving = [] if recipe.objective == "anil" else [name for name, _ in backbone.network.named_parameters()]
    return replace(backbone, task_head=TaskHead.untrained(recipe.way, backbone.embedding_size, moving))
