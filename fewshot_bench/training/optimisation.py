"""The optimiser of a recipe and the course of its learning rate."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from fewshot_bench.training.recipe import Recipe


def build_optimizer(recipe: Recipe, modules: Sequence[nn.Module]) -> Optimizer:
    """Adam or AdamW over all parameters; biases and normalisations are not decayed.

    Args:
        recipe: optimizer, learning rate and weight decay.
        modules: what is trained.
    """
    parameters = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    return kind(groups, lr=recipe.learning_rate)


def build_schedule(recipe: Recipe, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning rate at every step.

    Args:
        recipe: schedule and learning rate.
        optimizer: its learning rates are changed.
        steps: of the whole training.
    """
    if recipe.schedule == "one-cycle":
        # The momentum stays: Adam's first beta is not what the short trainings from scratch gain by.
        return OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps + 1, cycle_momentum=False)
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return ConstantLR(optimizer, factor=1.0)
