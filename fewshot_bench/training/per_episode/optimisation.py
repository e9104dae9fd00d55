"""The optimiser of stacked weights and the course of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fewshot_bench.training.per_episode.recipe import EpisodeRecipe


def stacked_optimizer(
    recipe: EpisodeRecipe, trained: Mapping[str, Tensor], decayed: frozenset[str], device: torch.device
) -> torch.optim.Optimizer:
    """Adam over the weights of all episodes at once.

    Adam works element by element, so each episode's weights go exactly where they would go alone.

    Args:
        recipe: optimizer, learning rate and weight decay.
        trained: stacked leaf tensors by name.
        decayed: names of those that are decayed, matrices and filters.
        device: of the tensors.
    """
    groups = [
        {"params": [w for name, w in trained.items() if name in decayed], "weight_decay": recipe.weight_decay},
        {"params": [w for name, w in trained.items() if name not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    if device.type == "cuda":
        # A tensor, so that a captured step sees the learning rate change.
        rate = torch.tensor(recipe.learning_rate, device=device)
        return kind(groups, lr=rate, fused=True, capturable=True)
    # One fused pass over the weights, instead of a dozen.
    return kind(groups, lr=recipe.learning_rate, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use that learning rate from the next step on."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Start from the beginning, with the same tensors in the same places."""
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()


def learning_rate(recipe: EpisodeRecipe, step: int, steps: int, steps_per_epoch: int) -> float:
    """The learning rate of a step.

    Args:
        recipe: its highest value, warm-up and schedule.
        step: from 0.
        steps: of the whole training.
        steps_per_epoch: warm-up is given in epochs.
    """
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2
