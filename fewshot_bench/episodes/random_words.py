"""Raw 64-bit random words, one stream per episode, and choices made with them.

NumPy promises that the raw words of a bit generator never change, but not so for `Generator` methods. So everything is
drawn from raw words of Philox (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3"), each episode at a
counter of its own.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.episodes.protocol import SAMPLER_VERSION
from fewshot_bench.limits import LARGEST_CLASS

# The low bits of a key hold its position: keys are unique, and a partial sort of integers gives the positions, three
# times faster than argsort. 44 random bits remain.
_POSITION_MASK = np.uint64(LARGEST_CLASS - 1)
NEVER = np.uint64(np.iinfo(np.uint64).max)
"""The key of places that must not be chosen."""
TASKS, EXTRAS = 0, 1
"""Streams of words: keys of classes and images, and everything else that a sampler draws."""


def random_key(dataset: str, split: str, seed: int) -> NDArray[np.uint64]:
    """The key of Philox for the episodes of a split, uint64 [2]."""
    name = json.dumps(["fewshot-bench episodes", SAMPLER_VERSION, dataset, split, seed])
    return np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u8").astype(np.uint64)


def raw_words(
    key: NDArray[np.uint64], run: int, numbers: NDArray[np.int64], count: int, stream: int = TASKS
) -> NDArray[np.uint64]:
    """The first words of episodes, uint64 [E, count]; the counter of Philox is (block, episode, run, stream)."""
    words = np.empty((len(numbers), count), dtype=np.uint64)
    counter = np.zeros(4, dtype=np.uint64)
    counter[2], counter[3] = run, stream
    for row, number in enumerate(numbers):
        counter[1] = number
        words[row] = np.random.Philox(key=key, counter=counter).random_raw(count)
    return words


def smallest(keys: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """Positions of the `count` smallest keys along the last axis, smallest first."""
    tagged = (keys & ~_POSITION_MASK) | np.arange(keys.shape[-1], dtype=np.uint64)
    chosen = np.partition(tagged, count - 1, axis=-1)[..., :count]
    chosen.sort(axis=-1)
    return (chosen & _POSITION_MASK).astype(np.int64)
