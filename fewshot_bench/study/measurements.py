"""What the studies of a plan take on this machine: a few images, training steps and chunks of episodes, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot_bench.adaptation import Adaptation, Features, Finetune, Probe
from fewshot_bench.backbones import Backbone, embed, embeddings_file
from fewshot_bench.datasets import ImageSplit
from fewshot_bench.engine.engine import Chunk, LocalEngine
from fewshot_bench.episodes import Protocol
from fewshot_bench.losses import LOSSES
from fewshot_bench.objectives import objective_of
from fewshot_bench.progress import SILENT
from fewshot_bench.study.base_stage import four_inputs, micro_batch_or_problem
from fewshot_bench.study.estimates import Estimated, TimeRange
from fewshot_bench.study.probes import OnProbe, ProbeImages, unfitted_probe
from fewshot_bench.study.resolved import ResolvedStudy
from fewshot_bench.study.workers import (
    ClassifierBuilder,
    MethodWorker,
    PreparedEmbeddings,
    augmented_view,
    name_of_view,
)
from fewshot_bench.training import Recipe, StepMemory, seeded_randomness
from fewshot_bench.training.learner import Learner
from fewshot_bench.training.objective import Computing
from fewshot_bench.training.optimisation import COPIES_OF_A_WEIGHT
from fewshot_bench.training.randomness import limited_threads
from fewshot_bench.training.recipe import AugmentationName

T = TypeVar("T")
_ENOUGH = 0.4  # seconds that a measurement should take, for the clock and the caches
_PATIENCE = 8.0  # seconds after which it is not repeated
_MOST_IMAGES = 2048
_FEW_IMAGES = 4
_TIMES = 3
_EPOCHS = 3  # of fine-tuning
_EPOCHS_OF_A_SCHEDULE = 50
_SHARE_OF_FREE_MEMORY = 0.4
_FORWARD_PASSES_MORE = 4 / 3
"""A forward pass more, where a step is a forward pass and a backward pass of two."""
_NOT_FOR_TIME = ("lambda_", "tau", "reading", "stop_gradient", "anchors")


@dataclass(frozen=True)
class View:
    """Embeddings that a method needs.

    Attributes:
        split: of these images.
        augmentation: that makes the view; None for plain images.
        name: of the view in the cache; empty for plain images.
    """

    split: ImageSplit
    augmentation: AugmentationName | None
    name: str

    def is_kept(self, backbone: Backbone, device: str) -> bool:
        """Whether they are in the cache."""
        return embeddings_file(self.split, backbone, self.name, device).is_file()


@dataclass(frozen=True)
class ChunkTime:
    """What one episode of a protocol takes, and how many episodes the study stores together."""

    per_episode: Estimated
    chunk: int


@dataclass(frozen=True)
class TrainingNeeds:
    """What one training on the base split takes.

    Attributes:
        per_image: of a step, for each image of its batch.
        timed: images in the batch that was timed; 0 where nothing was timed.
        memory: bytes for a micro-batch, weights and moments.
        problem: why it does not fit; empty where it does.
        micro_batch: images whose activations are in memory at once.
    """

    per_image: Estimated
    timed: int
    memory: int
    problem: str
    micro_batch: int


class Measurements:
    """Measures what the studies of a plan need, each kind once."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._known: dict[Hashable, Any] = {}

    def _once(self, key: Hashable, measure: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = measure()
        value: T = self._known[key]
        return value

    def image(self, view: View, backbone: Backbone) -> Estimated:
        """Seconds to embed one image of a view."""
        split, augmentation = view.split, view.augmentation
        augment = None if augmentation is None else augmented_view(split, 0, 1, augmentation)

        def embed_some(count: int) -> None:
            embed(first_images(split, count), backbone, device=self.device, augment=augment, use_cache=False)

        key = ("image", network_key(backbone), split.images.shape[1:], augmentation)
        return self._once(key, lambda: per_unit(embed_some, min(_MOST_IMAGES, len(split)), first=8))

    def method(
        self, resolved: ResolvedStudy, backbone: Backbone, adaptation: Adaptation
    ) -> tuple[list[View], Estimated, list[ChunkTime]]:
        """The embeddings that a method needs, what getting ready with them takes, and the time of each protocol.

        Methods that differ in lambda, tau or reading take the same time.
        """
        key = self._key_of_method(resolved, backbone, adaptation)
        return self._once(key, lambda: _time_method(resolved, backbone, adaptation, self.device))

    @staticmethod
    def _key_of_method(resolved: ResolvedStudy, backbone: Backbone, adaptation: Adaptation) -> Hashable:
        """What decides how long a method takes."""
        settings = {name: str(value) for name, value in asdict(adaptation).items() if name not in _NOT_FOR_TIME}
        images = (resolved.dataset.fingerprint, resolved.study.split)
        network = network_key(backbone)
        return ("method", network, *images, type(adaptation), *sorted(settings.items()), *resolved.protocols)

    def training(
        self, split: ImageSplit, backbone: Backbone, recipe: Recipe, *, is_base_stage: bool = True
    ) -> TrainingNeeds:
        """What a training takes; those that differ in lambda, tau, reading, seed or epochs take the same per step.

        The network is trained for a few steps, on a smaller batch where memory is short. `is_base_stage`
        decides which micro-batches it may take, see `micro_batch_or_problem`.
        """
        kind = (recipe.loss, recipe.images_per_step(len(split)), recipe.precision, recipe.views)
        of_objective = (recipe.objective, recipe.episodic_head, recipe.way, recipe.shot)
        key = ("training", network_key(backbone), split.fingerprint, is_base_stage, *kind, *of_objective)
        return self._once(key, lambda: self._training(split, backbone, recipe, is_base_stage))

    def _training(self, split: ImageSplit, backbone: Backbone, recipe: Recipe, is_base_stage: bool) -> TrainingNeeds:
        batch, device = recipe.images_per_step(len(split)), torch.device(self.device)
        four = four_inputs(backbone, split, self.device)
        step_memory = StepMemory.measured(backbone.network, four, precision=recipe.precision, views=recipe.views)
        micro_batch, problem = micro_batch_or_problem(
            backbone, step_memory, batch, least=recipe.least_images_at_once, is_base_stage=is_base_stage
        )
        free = step_memory.free
        most = batch if free is None else min(batch, max(2, int(_SHARE_OF_FREE_MEMORY * free / step_memory.per_image)))
        longer = replace(recipe, epochs=max(recipe.epochs, _EPOCHS_OF_A_SCHEDULE))  # or the schedule ends too soon
        has_teacher = recipe.objective == "distillation"  # which need not be trained yet
        if has_teacher:
            longer = replace(longer, objective="classification", teacher=None)
        with limited_threads(recipe.threads), seeded_randomness(recipe.seed, self.device):
            whole_tasks = recipe.learns_from_tasks and most < batch
            computing = Computing(micro_batch=max(recipe.images_per_task, most) if whole_tasks else None)
            arguments = (backbone.network, split, longer, backbone.preprocessing, device, computing)
            learner = Learner(*arguments, objective_of(longer))
            order = torch.randperm(len(split))

            def step(count: int) -> object:
                return learner.step(learner.encoder.loader.load(order[:count]))

            if recipe.learns_from_tasks:
                with closing(learner.objective.batches(0)) as batches:
                    tasks = next(batches)
                time = per_unit(lambda count: learner.step(tasks), batch, first=batch)
            else:
                time = per_unit(step, min(most, len(split)), first=2)
        if has_teacher:
            time = replace(time, seconds=time.times(_FORWARD_PASSES_MORE)[0])
        if micro_batch < batch and LOSSES[recipe.loss].facts.get("is_contrastive", True):
            time = replace(time, seconds=time.times(_FORWARD_PASSES_MORE)[0])
        memory = int(micro_batch * step_memory.per_image) + COPIES_OF_A_WEIGHT * network_bytes(backbone)
        return TrainingNeeds(time, time.timed, memory, problem, micro_batch)


def per_unit(act: Callable[[int], object], most: int, *, first: int = 1) -> Estimated:
    """Time something that is done to several at once: a few more each time, until it takes long enough.

    Args:
        act: does it to a number of them.
        most: of them.
        first: number to begin with; that round only warms up if it is quick.

    Returns:
        Seconds for one.
    """
    count, seconds = min(first, most), _seconds(act, min(first, most))
    while seconds < _ENOUGH and count < most:
        count = min(most, 4 * count)
        seconds = _seconds(act, count)
    rounds = [seconds]
    while len(rounds) < _TIMES and sum(rounds) < _PATIENCE:
        rounds.append(_seconds(act, count))
    return Estimated(TimeRange(min(rounds) / count, max(rounds) / count), timed=count)


def _seconds(act: Callable[[int], object], count: int) -> float:
    _synchronize()
    began = time.perf_counter()
    act(count)
    _synchronize()
    return time.perf_counter() - began


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _time_method(
    resolved: ResolvedStudy, backbone: Backbone, adaptation: Adaptation, device: str
) -> tuple[list[View], Estimated, list[ChunkTime]]:
    builder = MeasuredBuilder(resolved, backbone, LocalEngine(device), SILENT)
    make = builder.worker_factory(adaptation)  # makes up embeddings, which is not to be timed
    began = time.perf_counter()
    worker = make()
    ready = time.perf_counter() - began

    def timed(protocol: Protocol) -> ChunkTime:
        chunk = min(resolved.study.chunk or worker.chunk(protocol), protocol.episodes)
        if not isinstance(adaptation, Finetune) or adaptation.epochs <= _EPOCHS:
            return ChunkTime(_per_episode(worker, protocol, chunk), chunk)
        short, longer = (builder.worker_factory(replace(adaptation, epochs=epochs))() for epochs in (1, _EPOCHS))
        once = _per_episode(short, protocol, chunk)
        first, several = once.seconds, _per_episode(longer, protocol, once.timed, first=once.timed).seconds
        assert first is not None
        assert several is not None
        more = (adaptation.epochs - 1) / (_EPOCHS - 1)
        low = first.low + max(0.0, several.low - first.low) * more
        high = first.high + max(0.0, several.high - first.low) * more
        return ChunkTime(Estimated(TimeRange(low, high), timed=once.timed), chunk)

    return builder.views, Estimated(TimeRange(ready, ready)), [timed(protocol) for protocol in resolved.protocols]


def _per_episode(worker: MethodWorker, protocol: Protocol, most: int, *, first: int = 1) -> Estimated:
    return per_unit(lambda count: worker(Chunk(protocol, 0, np.arange(count), count)), most, first=first)


class MeasuredBuilder(ClassifierBuilder):
    """Makes classifiers on made-up embeddings where none are in the cache, and lists the views that it needed.

    Made-up embeddings lie around a centre for each class, so that adaptations that stop early have something to do.
    For features that are roots they are 0 or more, where those of the network are.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.views: list[View] = []
        self._takes_roots = False

    def _shared(self, features: Features, *arguments: Any, **settings: Any) -> PreparedEmbeddings:
        self._takes_roots = features == "power"
        return super()._shared(features, *arguments, **settings)

    def _view(self, view: int, seed: int, augmentation: AugmentationName) -> NDArray[np.float32]:
        name = name_of_view(seed, view, augmentation) if view else ""
        self.views.append(View(self._split, augmentation if view else None, name))
        if self.views[-1].is_kept(self._backbone, self._device):
            return super()._view(view, seed, augmentation)
        size, classes = self._backbone.embedding_size, len(self._split.class_sizes)
        centres = np.random.default_rng(0).standard_normal((classes, size))
        made = np.random.default_rng(view).standard_normal((len(self._split), size), dtype=np.float32)
        made += centres.astype(np.float32)[self._split.labels]
        return np.abs(made) if self._takes_roots and self._lowest_embedding() >= 0 else made

    def _probe(self, adaptation: Probe) -> OnProbe:
        images = ProbeImages.of(self._resolved.dataset, adaptation)
        self.views += [View(split, None, "") for split in images.splits]
        probe = unfitted_probe(adaptation, images, self._backbone.embedding_size)
        return OnProbe(adaptation.name, probe, self._view(0, 0, "auto"))

    def _lowest_embedding(self) -> float:
        """The lowest number in the embeddings of a few images."""
        few = first_images(self._split, min(_FEW_IMAGES, len(self._split)))
        return float(embed(few, self._backbone, device=self._device, use_cache=False).min())

    def _center(self) -> NDArray[np.float32]:
        self.views.append(View(self._base_split("features=cl2"), None, ""))
        return np.zeros(self._backbone.embedding_size, dtype=np.float32)

    def _base_covariance(self, features: Features, center: NDArray[np.float32] | None) -> NDArray[np.float32]:
        self.views.append(View(self._base_split("covariance=base"), None, ""))
        return np.eye(self._backbone.embedding_size, dtype=np.float32)


def first_images(split: ImageSplit, count: int) -> ImageSplit:
    """The first images of a split, as one class."""
    return replace(split, images=split.images[:count], class_sizes=(count,), class_names=("",), image_names=None)


def network_bytes(backbone: Backbone) -> int:
    """Bytes of everything that a checkpoint of a backbone holds."""
    return sum(tensor.nbytes for tensor in backbone.network.state_dict().values())


def network_key(backbone: Backbone) -> tuple[str, str]:
    """What decides how fast a network is."""
    return backbone.name, str(sorted(backbone.preprocessing.as_dict().items()))
