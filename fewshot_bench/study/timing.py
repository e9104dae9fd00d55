"""How long the parts of a study take, measured on a few of each: images, training steps, chunks of episodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot_bench.adaptation import Adaptation, Features, Finetune
from fewshot_bench.backbones import Backbone, embed, embeddings_file
from fewshot_bench.datasets import ImageSplit
from fewshot_bench.engine.engine import Chunk
from fewshot_bench.engine.local import LocalEngine
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.progress import SILENT
from fewshot_bench.study.base_stage import four_inputs
from fewshot_bench.study.estimates import TimeRange
from fewshot_bench.study.resolved import ResolvedStudy
from fewshot_bench.study.workers import ClassifierBuilder, MethodWorker, augmented_view, name_of_view
from fewshot_bench.training import Recipe, refuse_batches_that_do_not_fit, seeded_randomness
from fewshot_bench.training.learner import Computing, Learner
from fewshot_bench.training.memory import COPIES_OF_A_WEIGHT, free_bytes, step_bytes_per_image
from fewshot_bench.training.randomness import limited_threads
from fewshot_bench.training.recipe import AugmentationName

_ENOUGH = 0.4  # seconds that a measurement should take, for the clock and the caches
_PATIENCE = 8.0  # seconds after which it is not repeated
_MOST_IMAGES = 2048
_TIMES = 3
_ENOUGH_EPOCHS = 50


def per_unit(act: Callable[[int], object], most: int, *, first: int = 1) -> tuple[TimeRange, int]:
    """Time something that is done to several at once: a few more each time, until it takes long enough.

    Args:
        act: does it to that many.
        most: never more than these.
        first: to begin with; that round only warms up if it is quick.

    Returns:
        Seconds for one, and how many were done at once at last.
    """
    count, seconds = min(first, most), _seconds(act, min(first, most))
    while seconds < _ENOUGH and count < most:
        count = min(most, 4 * count)
        seconds = _seconds(act, count)
    rounds = [seconds]
    while len(rounds) < _TIMES and sum(rounds) < _PATIENCE:
        rounds.append(_seconds(act, count))
    return TimeRange(min(rounds) / count, max(rounds) / count), count


def _seconds(act: Callable[[int], object], count: int) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    act(count)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def seconds_per_image(
    split: ImageSplit, backbone: Backbone, device: str, augmentation: AugmentationName | None
) -> tuple[TimeRange, int]:
    """What it takes to embed one image, and how many were embedded at once to find out.

    Args:
        split: some of whose images are embedded; nothing is kept.
        backbone: the network.
        device: a torch device.
        augmentation: what makes a view of them first; None for plain images.
    """
    augment = None if augmentation is None else augmented_view(split, 0, 1, augmentation)

    def some(count: int) -> None:
        part = replace(split, images=split.images[:count], class_sizes=(count,), class_names=("",), image_names=None)
        embed(part, backbone, device=device, augment=augment, use_cache=False)

    return per_unit(some, min(_MOST_IMAGES, len(split)), first=8)


def seconds_per_trained_image(
    split: ImageSplit, backbone: Backbone, recipe: Recipe, device: str, *, most: int
) -> tuple[TimeRange, int]:
    """What a training step takes per image, and the size of the batch that told; a batch may be smaller than asked for.

    Args:
        split: the base split.
        backbone: a copy of it is trained for a few steps, and forgotten.
        recipe: of the training.
        device: a torch device.
        most: images that fit into a batch.
    """
    longer = replace(recipe, epochs=max(recipe.epochs, _ENOUGH_EPOCHS))  # or the schedule might end before the timing
    with limited_threads(recipe.threads), seeded_randomness(recipe.seed, device):
        learner = Learner(backbone.network, split, longer, backbone.preprocessing, torch.device(device), Computing())
        order = torch.randperm(len(split))
        return per_unit(lambda count: learner.step(order[:count], 0), min(most, len(split)), first=2)


_EPOCHS = 3


@dataclass(frozen=True)
class View:
    """Embeddings that a method needs.

    Attributes:
        split: of these images.
        augmentation: what makes the view; None for plain images.
        name: of the view in the cache; empty for plain images.
    """

    split: ImageSplit
    augmentation: AugmentationName | None
    name: str

    def is_kept(self, backbone: Backbone, device: str) -> bool:
        """Whether they are in the cache."""
        return embeddings_file(self.split, backbone, self.name, device).is_file()


class MeasuredBuilder(ClassifierBuilder):
    """Makes classifiers on made-up embeddings where none are in the cache, and notes which were asked for.

    Made-up embeddings lie around a centre for each class, so that adaptations that stop early have something to do.
    """

    def __init__(self, resolved: ResolvedStudy, backbone: Backbone, device: str) -> None:
        super().__init__(resolved, backbone, LocalEngine(device), SILENT)
        self.views: list[View] = []

    def _view(self, view: int, seed: int, augmentation: AugmentationName) -> NDArray[np.float32]:
        name = name_of_view(seed, view, augmentation) if view else ""
        asked = View(self._split, augmentation if view else None, name)
        self.views.append(asked)
        if asked.is_kept(self._backbone, self._device):
            return super()._view(view, seed, augmentation)
        generator = np.random.default_rng(view)
        size, classes = self._backbone.embedding_size, len(self._split.class_sizes)
        centres = np.random.default_rng(0).standard_normal((classes, size))
        made = generator.standard_normal((len(self._split), size), dtype=np.float32)
        made += centres.astype(np.float32)[self._split.labels]
        return made

    def _center(self) -> NDArray[np.float32]:
        self.views.append(View(self._base_split("features=cl2"), None, ""))
        return np.zeros(self._backbone.embedding_size, dtype=np.float32)

    def _base_covariance(self, features: Features, center: NDArray[np.float32] | None) -> NDArray[np.float32]:
        self.views.append(View(self._base_split("covariance=base"), None, ""))
        return np.eye(self._backbone.embedding_size, dtype=np.float32)


@dataclass(frozen=True)
class ChunkTime:
    """What one episode of a protocol takes.

    Attributes:
        per_episode: seconds.
        timed: episodes in each chunk that was timed.
        chunk: episodes in each chunk of the study.
        is_extrapolated: whether a few epochs were timed and the others added.
    """

    per_episode: TimeRange
    timed: int
    chunk: int
    is_extrapolated: bool = False


def time_method(
    resolved: ResolvedStudy, backbone: Backbone, adaptation: Adaptation, device: str
) -> tuple[list[View], TimeRange, list[ChunkTime]]:
    """The embeddings that a method needs, the seconds to get ready with them, and the time of each protocol."""
    builder = MeasuredBuilder(resolved, backbone, device)
    make = builder.worker_factory(adaptation)  # makes up embeddings, which is not to be timed
    began = time.perf_counter()
    worker = make()
    ready = time.perf_counter() - began

    def timed(protocol: Protocol) -> ChunkTime:
        chunk = min(resolved.study.chunk or worker.chunk(protocol), protocol.episodes)
        if not isinstance(adaptation, Finetune) or adaptation.epochs <= _EPOCHS:
            return ChunkTime(*_episodes(worker, protocol, chunk), chunk)
        short, longer = (builder.worker_factory(replace(adaptation, epochs=epochs))() for epochs in (1, _EPOCHS))
        first, count = _episodes(short, protocol, chunk)
        several, _ = _episodes(longer, protocol, count, first=count)
        more = (adaptation.epochs - 1) / (_EPOCHS - 1)
        low = first.low + max(0.0, several.low - first.low) * more
        high = first.high + max(0.0, several.high - first.low) * more
        return ChunkTime(TimeRange(low, high), count, chunk, is_extrapolated=True)

    return builder.views, TimeRange(ready, ready), [timed(protocol) for protocol in resolved.protocols]


def _episodes(worker: MethodWorker, protocol: Protocol, most: int, *, first: int = 1) -> tuple[TimeRange, int]:
    return per_unit(lambda count: worker(Chunk(protocol, 0, np.arange(count), count)), most, first=first)


T = TypeVar("T")
_OF_FREE_MEMORY = 0.4
_NOT_FOR_TIME = ("lambda_", "tau", "reading")


@dataclass(frozen=True)
class TrainingNeeds:
    """What one training on the base split takes.

    Attributes:
        per_image: seconds of a step for each image of its batch.
        timed: images in the batch that was timed.
        memory: bytes for the whole batch, weights and moments.
        problem: why the batch does not fit; empty where it does.
    """

    per_image: TimeRange
    timed: int
    memory: int
    problem: str


class Measurements:
    """Measures what is asked for, each kind once."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._known: dict[Hashable, Any] = {}

    def once(self, key: Hashable, measure: Callable[[], T]) -> T:
        """What was measured under a key, or is measured now."""
        if key not in self._known:
            self._known[key] = measure()
        value: T = self._known[key]
        return value

    def image(self, view: View, backbone: Backbone) -> tuple[TimeRange, int]:
        """Seconds to embed one image of a view, and how many were embedded at once."""
        key = ("image", _network(backbone), view.split.images.shape[1:], view.augmentation)
        return self.once(key, lambda: seconds_per_image(view.split, backbone, self.device, view.augmentation))

    def method(
        self, resolved: ResolvedStudy, backbone: Backbone, adaptation: Adaptation
    ) -> tuple[list[View], TimeRange, list[ChunkTime]]:
        """See `time_method`; methods that differ in lambda, tau or reading take the same time."""
        settings = {name: str(value) for name, value in asdict(adaptation).items() if name not in _NOT_FOR_TIME}
        of_adaptation = (type(adaptation), *sorted(settings.items()))
        images = (resolved.dataset.fingerprint, resolved.study.split)
        key = ("method", _network(backbone), *images, *of_adaptation, *resolved.protocols)
        return self.once(key, lambda: time_method(resolved, backbone, adaptation, self.device))

    def training(self, split: ImageSplit, backbone: Backbone, recipe: Recipe) -> TrainingNeeds:
        """What a training takes; those that differ in lambda, tau, reading, seed or epochs take the same per step."""
        key = ("training", _network(backbone), split.fingerprint, recipe.loss, recipe.batch_size)
        return self.once(key, lambda: self._training(split, backbone, recipe))

    def _training(self, split: ImageSplit, backbone: Backbone, recipe: Recipe) -> TrainingNeeds:
        batch = min(recipe.batch_size, len(split))
        four = four_inputs(backbone, split, self.device)
        per_image = step_bytes_per_image(backbone.network, four)
        free = free_bytes(torch.device(self.device))
        problem = ""
        try:
            refuse_batches_that_do_not_fit(backbone.network, four, batch)
        except StudyError as error:
            problem = str(error)
        most = batch if free is None else min(batch, max(2, int(_OF_FREE_MEMORY * free / per_image)))
        seconds, timed = seconds_per_trained_image(split, backbone, recipe, self.device, most=most)
        memory = int(batch * per_image) + COPIES_OF_A_WEIGHT * network_bytes(backbone)
        return TrainingNeeds(seconds, timed, memory, problem)


def network_bytes(backbone: Backbone) -> int:
    """Bytes of everything that a checkpoint of a backbone holds."""
    return sum(tensor.nbytes for tensor in backbone.network.state_dict().values())


def _network(backbone: Backbone) -> tuple[str, str]:
    """What decides how fast a network is."""
    return backbone.name, str(sorted(backbone.preprocessing.as_dict().items()))
