"""How much memory one episode's fine-tuning takes, measured on one step of one episode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewshot_bench.devices import free_bytes, is_out_of_memory, release_unused
from fewshot_bench.finetuning.trainer import EpisodeTrainer
from fewshot_bench.training.optimisation import COPIES_OF_A_WEIGHT, kept_bytes

SHARE_FOR_EPISODES = 0.8
"""Of free memory, for the episodes that train at once."""


def bytes_per_episode(trainer: EpisodeTrainer, inputs: Tensor, queries: Tensor | None = None) -> int:
    """Bytes that one more episode adds to a step: activations, inputs, weights and moments.

    Args:
        trainer: of one episode; its weights are changed.
        inputs: of one step, [1, 2B, ...].
        queries: if they take part in the training, [1, M, ...]; they are held all the time, and their own step may
            need more.
    """
    with torch.enable_grad():
        of_steps = [kept_bytes(lambda: trainer.try_step(inputs))]
        if queries is not None:
            of_steps.append(kept_bytes(lambda: trainer.try_query_step(queries)))
    # Each CUDA graph has memory of its own.
    for_backward = sum(of_steps) if trainer.device.type == "cuda" else max(of_steps)
    held = inputs.numel() * inputs.element_size()
    held += 0 if queries is None else queries.numel() * queries.element_size()
    weights = sum(weight.numel() * weight.element_size() for weight in trainer.weights.values())
    # Gradients of activations, and copies in other layouts, exist beside them for a moment: about as much again.
    copies = COPIES_OF_A_WEIGHT + (trainer.recipe.patience > 0)  # one from when the loss stopped falling
    return held + 2 * for_backward + copies * weights


def episodes_that_fit(per_episode: int, device: torch.device, *, largest: int) -> int:
    """How many episodes fit into free memory with a fifth to spare; at least one."""
    free = free_bytes(device)
    if free is None:
        return largest
    return max(1, min(largest, int(SHARE_FOR_EPISODES * free) // max(1, per_episode)))


def fit_by_halving(episodes: int, attempt: Callable[[int], Tensor]) -> tuple[int, Tensor]:
    """Attempt work with fewer and fewer episodes at once until it fits; returns how many fit, and the result."""
    while True:
        try:
            return episodes, attempt(episodes)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or episodes == 1:
                raise
        # Outside of the handler the error no longer holds the tensors it was working on.
        episodes = -(-episodes // 2)
        release_unused()
