"""What makes a training the same every time, without a trace in the caller's random numbers and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded_randomness(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Draw PyTorch's random numbers from a seed, then go on as if nothing had been drawn.

    A generator passed around would be cleaner, but dropout, initialisation and torchvision's transforms take none.

    Args:
        seed: any integer.
        device: its numbers are seeded too, beside the CPU's.
    """
    device = torch.device(device)
    gpus = [_index(device)] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        # torch.manual_seed would also seed the devices that are not put back.
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Compute on that many CPU threads, then on as many as before.

    Args:
        threads: None leaves them as they are.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
