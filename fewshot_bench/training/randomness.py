"""Random numbers as a pure function of a key and counters, with the same bits on every device.

Numbers from a generator depend on what was drawn before. Here number j of episode e in step s is a function of
(key of e, s, j), so episodes can be trained together with any others, in any order and place. The second half of the
file seeds torch's own generators without changing the caller's.

The function is SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators"): word j of
the state h is mix(h + (j + 1) * GAMMA). Each counter c replaces the state by its word c. Philox (Salmon et al., 2011)
would allow a proof of disjoint streams, but needs 64-bit products with 128-bit results, which torch does not have; with
hashed keys streams overlap about once in 200,000 studies of 3,000 episodes, 100 steps and 1,000 numbers per step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.devices import device_index
from fewshot_bench.errors import ShapeError

KEY_VERSION = 1
GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_FLOAT_BITS = 24


def keyed_uniform(keys: Tensor, counters: Sequence[int | Tensor], count: int) -> Tensor:
    """Uniform numbers; number j of episode e depends on keys[e], the counters and j only.

    Args:
        keys: one per episode, int64 [E], on any device.
        counters: tell the draws of an episode apart, such as step, stream and view. Whole numbers from 0, or 0-dim
            int64 tensors, which may change between replays of a CUDA graph.
        count: numbers per episode; the first numbers do not depend on it.

    Returns:
        Multiples of 2^-24 in [0, 1), float32 [E, count], on the device of the keys.

    Raises:
        ShapeError: the keys are not int64 [E].
    """
    if keys.dtype != torch.int64 or keys.ndim != 1:
        raise ShapeError(f"keys should be int64 [E]; these are {keys.dtype} {list(keys.shape)}. Use episode_keys.")
    state = keys
    for counter in counters:
        state = _mix(state + _times_gamma(counter + 1))
    words = _mix(state[:, None] + _times_gamma(torch.arange(1, count + 1, device=keys.device)))
    return _high_bits(words, _FLOAT_BITS).to(torch.float32) * 2.0**-_FLOAT_BITS


def episode_keys(seed: int, run: int, numbers: NDArray[np.int64]) -> Tensor:
    """The keys of episodes, int64 [E] on the CPU: hashes of a seed, the number of the run, and their numbers in it."""
    return _hashed("fewshot-bench episode", [seed, run], numbers)


def image_keys(seed: int, numbers: NDArray[np.int64]) -> Tensor:
    """The keys of the images of a split, int64 [I] on the CPU: hashes of a seed and their positions."""
    return _hashed("fewshot-bench image", [seed], numbers)


def check_uniform(images: Tensor, uniform: Tensor, numbers: int) -> None:
    """Raise ShapeError unless random numbers are float32 [B, numbers], for B images of an augmentation."""
    if uniform.shape != (len(images), numbers) or uniform.dtype != torch.float32:
        raise ShapeError(
            f"this augmentation of {len(images)} images takes uniform numbers float32 {[len(images), numbers]}; "
            f"these are {uniform.dtype} {list(uniform.shape)}."
        )


def _hashed(name: str, parts: list[int], numbers: NDArray[np.int64]) -> Tensor:
    texts = (json.dumps([name, KEY_VERSION, *parts, int(number)]) for number in numbers)
    digests = b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in texts)
    return torch.from_numpy(np.frombuffer(digests, dtype="<i8").astype(np.int64))


def _mix(words: Tensor) -> Tensor:
    """SplitMix64's permutation of the 64-bit words (its variant 13 of Stafford)."""
    words = (words ^ _high_bits(words, 34)) * _signed(_MULTIPLIERS[0])
    words = (words ^ _high_bits(words, 37)) * _signed(_MULTIPLIERS[1])
    return words ^ _high_bits(words, 33)


def _high_bits(words: Tensor, bits: int) -> Tensor:
    """The highest bits as a number: a logical shift, from torch's arithmetic shift and a mask."""
    return (words >> (64 - bits)) & ((1 << bits) - 1)


def _times_gamma(counter: int | Tensor) -> int | Tensor:
    """The product modulo 2^64; products of int64 tensors wrap on their own."""
    return counter * _signed(GAMMA) if isinstance(counter, Tensor) else _signed(counter * GAMMA)


def _signed(word: int) -> int:
    """The int64 with the same low 64 bits."""
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)


RandomState = dict[str, Tensor]
"""The state of PyTorch's generators by device type, each uint8 [bytes]."""


@contextmanager
def seeded_randomness(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Draw PyTorch's random numbers of the CPU and a device from a seed, then restore the caller's generators.

    Passing a generator around would be cleaner, but dropout, initialisation and torchvision's transforms take none.
    """
    device = torch.device(device)
    gpus = [device_index(device)] if device.type == "cuda" else []
    with kept_random_numbers(device):
        # torch.manual_seed would also seed devices that are not restored.
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield


def random_state(device: torch.device) -> RandomState:
    """The state of the generators of the CPU and, if it is another, of a device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Restore the generators to a state by `random_state`; those that it does not name are left alone."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def same_random_numbers(state: RandomState, device: torch.device) -> Iterator[None]:
    """Draw the random numbers that follow a state, then restore the caller's generators."""
    with kept_random_numbers(device):
        set_random_state(state, device)
        yield


@contextmanager
def kept_random_numbers(device: torch.device) -> Iterator[None]:
    """Restore the caller's generators afterwards."""
    with torch.random.fork_rng(devices=[device_index(device)] if device.type == "cuda" else []):
        yield


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Compute on that many CPU threads, None for as many as now; then restore the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
