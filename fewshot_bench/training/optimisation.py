"""The optimiser of a recipe, its learning-rate schedule, and its precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from fewshot_bench.training.recipe import PrecisionName, Recipe


def build_optimizer(recipe: Recipe, modules: Sequence[nn.Module]) -> Optimizer:
    """Adam or AdamW over all parameters of some modules; biases and normalisations are not decayed."""
    parameters = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    return kind(groups, lr=recipe.learning_rate)


def build_schedule(recipe: Recipe, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning rate at every step of a training of that many steps."""
    if recipe.schedule == "one-cycle":
        # The momentum stays: short trainings from scratch gain nothing by cycling Adam's first beta.
        return OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps + 1, cycle_momentum=False)
    if recipe.warmup_epochs:
        return LambdaLR(optimizer, warmed_up(recipe, steps))
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return ConstantLR(optimizer, factor=1.0)


def warmed_up(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """From a step to its share of the learning rate: a linear rise, then a constant or cosine schedule."""
    rising = max(1, min(steps - 1, round(recipe.warmup_epochs * steps / recipe.epochs)))

    def share(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        if recipe.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return share


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The moments and step counts of an optimiser, as `optimizer.PARAMETER.NAME`."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{number}.{name}": value for number, kept in state.items() for name, value in kept.items()}


def restore_optimizer(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], rates: Sequence[Mapping[str, float]]
) -> None:
    """Give an optimiser the tensors of `optimizer_tensors` and the learning rates of another of the same recipe.

    Raises:
        ValueError: they are of another optimiser.
    """
    content = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            parameter = parameters[int(number)]
            # In the parameter's memory order, so that the optimiser rounds as without a stop.
            kept = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
            state.setdefault(int(number), {})[name] = kept
    groups = zip(content["param_groups"], rates, strict=True)
    optimizer.load_state_dict({"state": state, "param_groups": [{**group, **rate} for group, rate in groups]})


_TYPES: dict[PrecisionName, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def autocast(precision: PrecisionName, device: torch.device) -> Iterator[None]:
    """Compute products and convolutions in a precision; "float32" changes nothing.

    Enter it anew for each forward pass: autocast keeps its copies of the weights until it exits, and copies made
    without gradients would cut off those of a later pass.
    """
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, _TYPES[precision]):
        yield


def gradient_scaler(precision: PrecisionName, device: torch.device) -> torch.amp.GradScaler:
    """Keeps gradients in the range of fp16 (Micikevicius et al., 2018); does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
