"""What is measured once for all the studies of a plan that need it: networks, images, steps, episodes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from fewshot_bench.adaptation import Adaptation
from fewshot_bench.backbones import Backbone
from fewshot_bench.datasets import Dataset, ImageSplit
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.study.base_stage import four_inputs
from fewshot_bench.study.measuring import (
    Span,
    seconds_per_image,
    seconds_per_trained_image,
)
from fewshot_bench.study.study import Study
from fewshot_bench.study.timed_method import ChunkTime, TimedMethod, View
from fewshot_bench.training import Recipe, refuse_batches_that_do_not_fit
from fewshot_bench.training.memory import COPIES_OF_A_WEIGHT, free_bytes, step_bytes_per_image

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

    per_image: Span
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

    def image(self, view: View, backbone: Backbone) -> tuple[Span, int]:
        """Seconds to embed one image of a view, and how many were embedded at once."""
        key = ("image", _network(backbone), view.split.images.shape[1:], view.augmentation)
        return self.once(key, lambda: seconds_per_image(view.split, backbone, self.device, view.augmentation))

    def method(
        self, study: Study, dataset: Dataset, backbone: Backbone, adaptation: Adaptation, protocols: Sequence[Protocol]
    ) -> tuple[list[View], Span, list[ChunkTime]]:
        """See `TimedMethod.measured`; methods that differ in lambda, tau or reading take the same time."""
        settings = {name: value for name, value in asdict(adaptation).items() if name not in _NOT_FOR_TIME}
        of_adaptation = (type(adaptation), *((name, str(value)) for name, value in sorted(settings.items())))
        key = ("method", _network(backbone), dataset.fingerprint, study.split, *of_adaptation, *protocols)

        def timed() -> tuple[list[View], Span, list[ChunkTime]]:
            return TimedMethod(study, dataset, backbone, adaptation, self.device).measured(list(protocols))

        return self.once(key, timed)

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
