"""How much memory one episode's fine-tuning takes, measured on one step of one episode."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fewshot_bench.finetuning.trainer import EpisodeTrainer
from fewshot_bench.training.memory import COPIES_OF_A_WEIGHT, free_bytes, kept_bytes

_STATUS = Path("/proc/self/status")


def bytes_per_episode(trainer: EpisodeTrainer, inputs: Tensor, queries: Tensor | None = None) -> int:
    """Bytes that one more episode adds to a step: what the backward pass needs, inputs, weights and moments.

    Args:
        trainer: of one episode; its weights are changed.
        inputs: of one step, [1, 2B, ...].
        queries: where they take part in the training, [1, M, ...]: they are held all the time, and their step, which
            never runs beside the other, may need more.
    """
    with torch.enable_grad():
        for_backward = kept_bytes(lambda: trainer.try_step(inputs))
        if queries is not None:
            for_backward = max(for_backward, kept_bytes(lambda: trainer.try_query_step(queries)))
    held = inputs.numel() * inputs.element_size()
    held += 0 if queries is None else queries.numel() * queries.element_size()
    weights = sum(weight.numel() * weight.element_size() for weight in trainer.weights.values())
    # Gradients of activations live beside them for a moment: what the largest layers need once more.
    return held + for_backward + for_backward // 2 + COPIES_OF_A_WEIGHT * weights


def episodes_that_fit(per_episode: int, device: torch.device, *, largest: int) -> int:
    """How many episodes fit into the memory that is free, with a fifth of it to spare; at least one."""
    free = free_bytes(device)
    if free is None:
        return largest
    return max(1, min(largest, int(0.8 * free) // max(1, per_episode)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the system, has refused to give more memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def halved_until_it_fits(episodes: int, attempt: Callable[[int], Tensor]) -> tuple[int, Tensor]:
    """Try with fewer episodes at once until the memory is enough.

    Args:
        episodes: at once, to begin with.
        attempt: does the work with that many at once.

    Returns:
        How many at once it took, and what the attempt gave.
    """
    while True:
        try:
            return episodes, attempt(episodes)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or episodes == 1:
                raise
        # Out of the handler, where the error no longer holds what it was working on.
        episodes = -(-episodes // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def peak_bytes(device: torch.device) -> int:
    """The most memory so far: on a GPU what tensors took, on a CPU the whole process; 0 where the system is silent."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.is_file():  # getrusage on Linux starts with the peak of the process that started this one
        peaks = [line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        if peaks:
            return int(peaks[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows does not say
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
