"""A network in training: its objective, its optimiser, and the steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_bench.backbones.blocks import last_blocks
from fewshot_bench.backbones.drop_block import set_drop_rate
from fewshot_bench.backbones.networks import ResNet12
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.errors import StudyError
from fewshot_bench.training.batches import Samples
from fewshot_bench.training.classification import Classification
from fewshot_bench.training.objective import Computing, Encoder, Measured, Normalise, ObjectiveFactory
from fewshot_bench.training.randomness import random_state, set_random_state
from fewshot_bench.training.recipe import Recipe
from fewshot_bench.training.scheduled_optimizer import ScheduledOptimizer

_AVERAGE = "average."


class Learner:
    """A copy of a backbone with its objective, and the optimiser, schedule and random numbers of its training.

    Attributes:
        steps_taken: so far, on which DropBlock's rate depends.
        average: of the weights; None where they are the result themselves.
    """

    def __init__(
        self,
        backbone: nn.Module,
        split: ImageSplit,
        recipe: Recipe,
        normalise: Normalise,
        device: torch.device,
        computing: Computing,
        objective: ObjectiveFactory = Classification,
    ) -> None:
        self.recipe, self.device, self.processes = recipe, device, computing.processes
        # Up to twice the images per second on CPUs, and the memory order of the images anyway.
        self.backbone = copy.deepcopy(backbone).to(device).to(memory_format=torch.channels_last)
        if recipe.drop_block:
            _drop_in_blocks(self.backbone, recipe)
        if recipe.dropout_place == "network":
            _drop_in_network(self.backbone, recipe.dropout)
        self._frozen = _freeze_in_front(self.backbone, recipe)
        self.steps_taken = 0
        self.encoder = Encoder(self.backbone, split, recipe, normalise, device, computing)
        self.objective = objective(self.encoder)
        self.head, self.steps_per_epoch = self.objective.head, self.objective.steps_per_epoch
        steps = recipe.epochs * self.steps_per_epoch
        self.optimizer = ScheduledOptimizer(recipe, [self.backbone, self.head], steps, device)
        self.average = MovingAverage(recipe.ema, self.backbone, self.head) if recipe.ema else None
        self.train()

    def train(self) -> None:
        """Put backbone and head into training mode; normalisations of frozen blocks keep their statistics."""
        self.backbone.train()
        self.head.train()
        for module in self._frozen:
            module.eval()

    def step(self, samples: Samples) -> Measured:
        """Learn from one batch of images, without waiting for a GPU; the loss may be infinite or NaN."""
        return self.learn(lambda backward: self.objective.gradients(samples, backward))

    def learn(self, gradients: Callable[[Callable[[Tensor], None]], Measured]) -> Measured:
        """Update the weights once by the gradients that a function adds, given how to add those of a loss."""
        self.optimizer.zero_grad()
        self.steps_taken += 1
        if self.recipe.drop_block:
            rise = min(1.0, self.steps_taken / self.recipe.drop_block_steps)
            set_drop_rate(self.backbone, self.recipe.drop_block * rise)
        measured = gradients(self.optimizer.backward)
        if self.processes is not None:
            self.processes.reduce_gradients(self.backbone.parameters(), self.head.parameters())
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.backbone, self.head)
        return measured

    def tensors(self) -> dict[str, Tensor]:
        """Weights, moments and random numbers by name."""
        random = {f"random.{name}": value for name, value in random_state(self.device).items()}
        average = {} if self.average is None else self.average.tensors()
        return weights_of(self.backbone, self.head) | self.optimizer.tensors() | random | average

    def restore(self, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        """Continue from the `tensors` and the position of the `optimizer` of another learner of the same recipe.

        Raises:
            KeyError, RuntimeError, ValueError: they are of another training.
        """
        load_weights(self.backbone, self.head, tensors)
        self.optimizer.restore(tensors, position)
        if self.average is not None:
            self.average.restore(tensors)
        set_random_state({name: tensors[f"random.{name}"] for name in random_state(self.device)}, self.device)


class MovingAverage:
    """An exponential moving average of the weights of a training (Polyak and Juditsky, 1992), after every step.

    Running statistics are averaged too, as timm does; counters are copied.

    Args:
        decay: share of the average that a step keeps.
        backbone: whose weights the average begins with.
        head: trained with it.
    """

    def __init__(self, decay: float, backbone: nn.Module, head: nn.Module) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in weights_of(backbone, head).items()}

    @torch.no_grad()
    def update(self, backbone: nn.Module, head: nn.Module) -> None:
        """Move towards the present weights."""
        for name, value in weights_of(backbone, head).items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - self.decay)
            else:
                self.weights[name].copy_(value)

    @contextmanager
    def installed(self, backbone: nn.Module, head: nn.Module) -> Iterator[None]:
        """Put the average in the place of the weights for a while."""
        kept = {name: value.detach().clone() for name, value in weights_of(backbone, head).items()}
        load_weights(backbone, head, self.weights)
        try:
            yield
        finally:
            load_weights(backbone, head, kept)

    def tensors(self) -> dict[str, Tensor]:
        """The average by name, for the state of a training."""
        return {_AVERAGE + name: value for name, value in self.weights.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from `tensors`; raises KeyError or RuntimeError for another training's."""
        for name, value in self.weights.items():
            value.copy_(tensors[_AVERAGE + name])


def _freeze_in_front(backbone: nn.Module, recipe: Recipe) -> list[nn.Module]:
    """Freeze the blocks that a recipe does not tune.

    Returns:
        The modules all of whose parameters are frozen, which stay in evaluation mode.
    """
    if recipe.tuned_blocks is None:
        return []
    tuned = last_blocks(backbone, recipe.tuned_blocks)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in tuned)
    return [
        module
        for module in backbone.modules()
        if (parameters := list(module.parameters())) and not any(each.requires_grad for each in parameters)
    ]


def _drop_in_blocks(backbone: nn.Module, recipe: Recipe) -> None:
    if not isinstance(backbone, ResNet12):
        raise StudyError(f"drop_block belongs to resnet12; {type(backbone).__name__} has none. Leave it at 0.")
    backbone.drop_in_blocks(recipe.drop_block, recipe.drop_block_size)


def _drop_in_network(backbone: nn.Module, rate: float) -> None:
    layers = [module for module in backbone.modules() if isinstance(module, nn.Dropout)]
    if not layers:
        raise StudyError(f"{type(backbone).__name__} has no dropout layers. Leave dropout_place at head.")
    for layer in layers:
        layer.p = rate


def weights_of(backbone: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    """The tensors of a backbone and its head, `backbone.*` and `head.*`."""
    parts = {"backbone": backbone, "head": head}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}


def load_weights(backbone: nn.Module, head: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights by `weights_of` into modules of the same kind."""
    for part, module in (("backbone.", backbone), ("head.", head)):
        module.load_state_dict(
            {name.removeprefix(part): value for name, value in weights.items() if name.startswith(part)}
        )
