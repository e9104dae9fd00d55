"""What makes a training the same every time, without a trace in the caller's random numbers and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

RandomState = dict[str, Tensor]
"""The state of PyTorch's generators by device type, each uint8 [bytes]."""


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
    with kept_random_numbers(device):
        # torch.manual_seed would also seed the devices that are not put back.
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield


def random_state(device: torch.device) -> RandomState:
    """Where the random numbers of the CPU and of a device are.

    Args:
        device: the CPU, or a GPU whose generator counts too.
    """
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Go on from where the random numbers were; generators that the state does not name stay as they are.

    Args:
        state: from `random_state`.
        device: as there.
    """
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def same_random_numbers(state: RandomState, device: torch.device) -> Iterator[None]:
    """Draw the random numbers that were drawn from a state on, then go on as if nothing had been drawn."""
    with kept_random_numbers(device):
        set_random_state(state, device)
        yield


@contextmanager
def kept_random_numbers(device: torch.device) -> Iterator[None]:
    """Whatever is drawn meanwhile, go on as if nothing had been."""
    with torch.random.fork_rng(devices=[_index(device)] if device.type == "cuda" else []):
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
