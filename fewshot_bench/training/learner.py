"""A network that is being trained: one step at a time, and everything that the next step depends on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewshot_bench.backbones.backbone import checked_embeddings
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.errors import StudyError
from fewshot_bench.losses import LOSSES, loss_function, reading_of
from fewshot_bench.losses.precision import at_least_float32
from fewshot_bench.plugins import plugin_errors
from fewshot_bench.training.augment import choose_augmentation, two_views
from fewshot_bench.training.gradients import (
    Batch,
    Measured,
    Network,
    cached_gradients,
    gradients_at_once,
    summed_gradients,
)
from fewshot_bench.training.optimisation import build_optimizer, build_schedule, optimizer_tensors, restore_optimizer
from fewshot_bench.training.precision import autocast, gradient_scaler
from fewshot_bench.training.recipe import Recipe
from fewshot_bench.training.reproducibility import random_state, set_random_state

Normalise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Computing:
    """How a training is computed, which changes its result by rounding at most, but for batch norm.

    Attributes:
        micro_batch: images whose activations are kept at the same time; None for the whole batch. The gradients
            are those of the whole batch, but the statistics of a batch norm are of a micro-batch.
        is_compiled: whether the network is compiled by torch.compile.
    """

    micro_batch: int | None = None
    is_compiled: bool = False

    def __post_init__(self) -> None:
        """Refuse a micro-batch of nothing.

        Raises:
            StudyError: it is less than one image.
        """
        if self.micro_batch is not None and self.micro_batch < 1:
            raise StudyError(f"a micro-batch should hold 1 image or more, not {self.micro_batch}.")


class Learner:
    """A copy of a backbone with a head, and the optimiser, schedule and random numbers of its training."""

    def __init__(
        self,
        backbone: nn.Module,
        split: ImageSplit,
        recipe: Recipe,
        normalise: Normalise,
        device: torch.device,
        computing: Computing,
    ) -> None:
        self.split, self.recipe, self.normalise, self.device = split, recipe, normalise, device
        self.labels = torch.from_numpy(split.labels)
        height, width, channels = split.images.shape[1:]
        self.augmentation = choose_augmentation(recipe.augmentation, channels=channels, image_size=min(height, width))
        # channels_last: up to twice the images per second on CPUs, and what the images' memory order is anyway.
        self.backbone = copy.deepcopy(backbone).to(device).to(memory_format=torch.channels_last)
        self.head = nn.Sequential(
            nn.Dropout(recipe.dropout), nn.Linear(self._embedding_size(), len(split.class_sizes))
        ).to(device)
        self.steps_per_epoch = math.ceil(len(split) / recipe.batch_size)
        self.optimizer = build_optimizer(recipe, [self.backbone, self.head])
        self.schedule = build_schedule(recipe, self.optimizer, recipe.epochs * self.steps_per_epoch)
        self.scaler = gradient_scaler(recipe.precision, device)
        self._micro_batch = computing.micro_batch or recipe.batch_size
        self._forward = torch.compile(self.backbone) if computing.is_compiled else self.backbone
        self._network = Network(
            self._encode, self._classify, self._loss(), self._backward, list(self.backbone.buffers()), device
        )
        self.backbone.train()
        self.head.train()

    def batches(self) -> Iterator[Tensor]:
        """The images of one epoch in random order; sizes differ by one at most.

        Equal parts keep all images without a last batch so small that its noise would count as a full step.
        """
        yield from torch.randperm(len(self.split)).tensor_split(self.steps_per_epoch)

    def step(self, rows: Tensor, epoch: int) -> Measured:
        """Learn from one batch of images.

        Args:
            rows: which images, [B].
            epoch: its number, for a message.

        Raises:
            StudyError: the loss is no finite number.
        """
        self.optimizer.zero_grad(set_to_none=True)
        measured = self._gradients(rows, partial(self._refuse_divergence, epoch=epoch))
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # A step that fp16 had to leave out, because its scale was too large, does not count for the schedule.
        if self.scaler.get_scale() >= scale:
            self.schedule.step()
        return measured

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def tensors(self) -> dict[str, Tensor]:
        """Weights, moments and random numbers by name."""
        random = {f"random.{name}": value for name, value in random_state(self.device).items()}
        return weights_of(self.backbone, self.head) | optimizer_tensors(self.optimizer) | random

    def position(self) -> dict[str, Any]:
        """What else the next step depends on, as plain data: the schedule's and the scaler's numbers."""
        return {
            "rates": [{"lr": group["lr"]} for group in self.optimizer.param_groups],
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        """Go on from where another learner of the same recipe was.

        Args:
            tensors: from `tensors`.
            position: from `position`.

        Raises:
            KeyError, RuntimeError, ValueError: they are of another training.
        """
        load_weights(self.backbone, self.head, tensors)
        restore_optimizer(self.optimizer, tensors, position["rates"])
        self.schedule.load_state_dict(position["schedule"])
        self.scaler.load_state_dict(position["scaler"])
        set_random_state({name: tensors[f"random.{name}"] for name in random_state(self.device)}, self.device)

    def _gradients(self, rows: Tensor, refuse: Callable[[float], None]) -> Measured:
        views = two_views(self._images(rows), self.augmentation).to(self.device)
        labels, images = self.labels[rows].repeat(2).to(self.device), rows.repeat(2).to(self.device)
        batch = Batch(views, labels, images)
        if len(batch) <= self._micro_batch:
            return gradients_at_once(self._network, batch, refuse)
        compares_views = LOSSES[self.recipe.loss].facts.get("is_contrastive", True)
        in_parts = cached_gradients if compares_views else summed_gradients
        return in_parts(self._network, batch, self._micro_batch, refuse)

    def _encode(self, views: Tensor) -> Tensor:
        with autocast(self.recipe.precision, self.device), plugin_errors(self.backbone, "forward"):
            embeddings: Tensor = self._forward(self.normalise(views))
        return at_least_float32(embeddings)

    def _classify(self, embeddings: Tensor) -> Tensor:
        with autocast(self.recipe.precision, self.device):
            logits: Tensor = self.head(embeddings)
        return at_least_float32(logits)

    def _loss(self) -> Callable[..., Tensor]:
        recipe, loss = self.recipe, loss_function(self.recipe.loss)
        settings: dict[str, Any] = {"lambda_": recipe.lambda_, "tau": recipe.tau}
        settings["reading"] = reading_of(recipe.loss, recipe.reading)
        if recipe.label_smoothing:  # a loss of the user's own need not know it
            settings["label_smoothing"] = recipe.label_smoothing
            if "label_smoothing" not in signature(loss).parameters:
                raise StudyError(f"the loss {recipe.loss} takes no label_smoothing; leave it at 0.")
        return partial(loss, **settings)

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def _images(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self.split.images[rows.numpy()])).permute(0, 3, 1, 2)

    @torch.no_grad()
    def _embedding_size(self) -> int:
        with plugin_errors(self.backbone, "forward"):
            embeddings = self.backbone.eval()(self.normalise(self._images(torch.arange(2)).to(self.device)))
        return int(checked_embeddings(embeddings, self.backbone, 2).shape[1])

    def _refuse_divergence(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise StudyError(
                f"training with {self.recipe.loss} gave the loss {loss} in epoch {epoch + 1}; it should stay finite. "
                f"Use a learning rate below {self.recipe.learning_rate:g}."
            )


def weights_of(backbone: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    """The tensors of a backbone and its head, `backbone.*` and `head.*`."""
    parts = {"backbone": backbone, "head": head}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}


def load_weights(backbone: nn.Module, head: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put what `weights_of` gave back into modules of the same kind."""
    for part, module in (("backbone.", backbone), ("head.", head)):
        module.load_state_dict(
            {name.removeprefix(part): value for name, value in weights.items() if name.startswith(part)}
        )
