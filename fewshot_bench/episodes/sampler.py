"""Draw episodes as pure functions of (dataset name, split, seed, run, episode number).

NumPy promises that the raw words of a bit generator never change, and no such thing of `Generator` methods.
So each episode reads raw 64-bit words of Philox (Salmon et al., 2011, "Parallel random numbers: as easy as
1, 2, 3") at a counter of its own, gives every class and every image a word as its key, and takes the smallest
keys. Any episode can be drawn alone, in any order, on any machine.

The words do not depend on K, Q or the number of episodes: episode i at 5 shots has the classes, the queries
and the support images of episode i at 1 shot, and four more support images per class.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.episodes.protocol import SAMPLER_VERSION, Protocol
from fewshot_bench.errors import EpisodeError

# The low bits of a key hold the position it belongs to: keys are unique, and a partial sort of plain integers
# gives the positions without argsort, which is three times slower. 44 random bits remain.
_POSITION_BITS = 20
_POSITION_MASK = np.uint64((1 << _POSITION_BITS) - 1)
_WORDS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Episodes:
    """Some episodes of one run.

    Attributes:
        protocol: the protocol they belong to.
        dataset_fingerprint: fingerprint of the dataset they index.
        run: number of the run, from 0.
        numbers: which episodes of the run, [E].
        images: image indices within the split, support first, int32 [E, N, K + Q].
    """

    protocol: Protocol
    dataset_fingerprint: str
    run: int
    numbers: NDArray[np.int64]
    images: NDArray[np.int32]

    @property
    def support(self) -> NDArray[np.int32]:
        """Image indices of the support sets, [E, N, K]."""
        return self.images[:, :, : self.protocol.shot]

    @property
    def query(self) -> NDArray[np.int32]:
        """Image indices of the queries, [E, N, Q]."""
        return self.images[:, :, self.protocol.shot :]

    def __len__(self) -> int:
        return len(self.numbers)


def sample_episodes(
    split: ImageSplit,
    protocol: Protocol,
    run: int = 0,
    numbers: Sequence[int] | NDArray[np.int64] | None = None,
) -> Episodes:
    """Draw episodes of one run of a protocol from a split.

    Args:
        split: the images; its dataset and split names are part of the random key.
        protocol: way, shot, query and seed.
        run: number of the run, from 0.
        numbers: which episodes, [E]; all of the protocol's by default.

    Raises:
        EpisodeError: the protocol is for another split, or the split has too few classes or images.
    """
    if (protocol.dataset, protocol.split) != (split.dataset, split.name):
        raise EpisodeError(
            f"the protocol is for the {protocol.split} split of {protocol.dataset}, but the images are the "
            f"{split.name} split of {split.dataset}."
        )
    chosen = np.arange(protocol.episodes) if numbers is None else np.asarray(numbers, dtype=np.int64)
    images = sample_indices(
        split.class_sizes,
        dataset=split.dataset,
        split=split.name,
        way=protocol.way,
        shot=protocol.shot,
        query=protocol.query,
        seed=protocol.seed,
        run=run,
        numbers=chosen,
        class_names=split.class_names,
    )
    return Episodes(protocol, split.dataset_fingerprint, run, chosen, images)


def sample_indices(
    class_sizes: Sequence[int],
    *,
    dataset: str,
    split: str,
    way: int,
    shot: int,
    query: int,
    seed: int,
    run: int,
    numbers: NDArray[np.int64],
    class_names: Sequence[str] | None = None,
) -> NDArray[np.int32]:
    """Draw the image indices of episodes from the class sizes alone.

    Args:
        class_sizes: images per class, in canonical order, [C].
        dataset: name that goes into the random key.
        split: name that goes into the random key.
        way: N.
        shot: K.
        query: Q.
        seed: any integer.
        run: number of the run, from 0.
        numbers: episode numbers, [E].
        class_names: names for error messages, [C].

    Returns:
        Image indices within the split, support first, int32 [E, N, K + Q].

    Raises:
        EpisodeError: the split has too few classes, or a class too few images.
    """
    sizes = np.asarray(class_sizes, dtype=np.int64)
    _check(sizes, dataset, split, way, shot, query, class_names)
    key = _key(dataset, split, seed)
    words_per_episode = len(sizes) + way * int(sizes.max())
    chunk = max(1, _WORDS_AT_ONCE // words_per_episode)
    episodes = np.empty((len(numbers), way, shot + query), dtype=np.int32)
    for start in range(0, len(numbers), chunk):
        some = numbers[start : start + chunk]
        words = _words(key, run, some, words_per_episode)
        episodes[start : start + chunk] = _choose(words, sizes, way, shot, query)
    return episodes


def _key(dataset: str, split: str, seed: int) -> NDArray[np.uint64]:
    name = json.dumps(["fewshot-bench episodes", SAMPLER_VERSION, dataset, split, seed])
    return np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u8").astype(np.uint64)


def _words(key: NDArray[np.uint64], run: int, numbers: NDArray[np.int64], words_per_episode: int) -> NDArray[np.uint64]:
    """Raw words of the episodes, [E, words]; the counter is (block, episode, run, 0)."""
    words = np.empty((len(numbers), words_per_episode), dtype=np.uint64)
    counter = np.zeros(4, dtype=np.uint64)
    counter[2] = run
    for row, number in enumerate(numbers):
        counter[1] = number
        words[row] = np.random.Philox(key=key, counter=counter).random_raw(words_per_episode)
    return words


def _choose(words: NDArray[np.uint64], sizes: NDArray[np.int64], way: int, shot: int, query: int) -> NDArray[np.int32]:
    classes = _smallest(words[:, : len(sizes)], way)
    keys = words[:, len(sizes) :].reshape(len(words), way, -1)
    absent = np.arange(keys.shape[2]) >= sizes[classes][..., None]
    if absent.any():
        keys[absent] = np.iinfo(np.uint64).max
    ranked = _smallest(keys, query + shot)
    offsets = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    # Queries take the first keys, so that they stay the same when K grows.
    support_first = np.concatenate([ranked[..., query:], ranked[..., :query]], axis=-1)
    images: NDArray[np.int32] = (support_first + offsets[classes][..., None]).astype(np.int32)
    return images


def _smallest(keys: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """Positions of the `count` smallest keys along the last axis, smallest first."""
    tagged = (keys & ~_POSITION_MASK) | np.arange(keys.shape[-1], dtype=np.uint64)
    smallest = np.partition(tagged, count - 1, axis=-1)[..., :count]
    smallest.sort(axis=-1)
    return (smallest & _POSITION_MASK).astype(np.int64)


def _check(
    sizes: NDArray[np.int64],
    dataset: str,
    split: str,
    way: int,
    shot: int,
    query: int,
    class_names: Sequence[str] | None,
) -> None:
    for value, name, least in ((way, "way", 2), (shot, "shot", 1), (query, "query", 1)):
        if value < least:
            raise EpisodeError(f"an episode needs a {name} of {least} or more, not {value}.")
    if way > len(sizes):
        raise EpisodeError(
            f"{split} split of {dataset} has {len(sizes)} classes; {way}-way episodes need {way}. "
            f"Use --way {len(sizes)} or fewer."
        )
    if sizes.max() > 1 << _POSITION_BITS:
        raise EpisodeError(f"a class of {dataset} has {sizes.max():,} images; the sampler takes up to 1,048,576.")
    small = np.flatnonzero(sizes < shot + query)
    if len(small):
        named = ", ".join(f"'{class_names[label]}'" if class_names else f"number {label}" for label in small[:5])
        few, many = sizes[small].min(), sizes[small].max()
        found = f"class {named} of the {split} split of {dataset} has {few} images"
        if len(small) > 1:
            counts = f"{few}" if few == many else f"{few} to {many}"
            named += ", ..." if len(small) > 5 else ""
            found = f"{len(small)} classes of the {split} split of {dataset} have {counts} images ({named})"
        raise EpisodeError(
            f"{found}; {shot} shots and {query} queries need {shot + query}. Use fewer shots or queries, or leave such "
            f"classes of your own images out with --min-images {shot + query}."
        )
