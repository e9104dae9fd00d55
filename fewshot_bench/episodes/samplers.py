"""The samplers: which images are in an episode, from the class sizes alone.

The standard sampler draws every episode anew from the whole split: every class and every image gets a raw random word
as its key, and the smallest keys are taken. So any episode can be drawn alone, in any order, on any machine. The words
do not depend on K, Q or the number of episodes: episode i at 5 shots has the classes, queries and support images of
episode i at 1 shot, and four more support images per class. The other samplers start from the same classes.

NumPy promises that the raw words of a bit generator never change, but not so for `Generator` methods. So everything is
drawn from raw words of Philox (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3"), each episode at a
counter of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.episodes.protocol import SAMPLER_VERSION, Protocol
from fewshot_bench.errors import EpisodeError
from fewshot_bench.limits import LARGEST_CLASS, MOST_CLASSES, MOST_WORDS

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


_WORDS_AT_ONCE = 1 << 21


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
    """Draw the image indices of standard episodes from the class sizes alone.

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
    check_sizes(sizes, dataset, split, way, shot, query, class_names)
    offsets = first_rows(sizes)
    episodes = np.empty((len(numbers), way, shot + query), dtype=np.int32)
    for rows, classes, keys in keyed_episodes(sizes, random_key(dataset, split, seed), way, run, numbers):
        ranked = smallest(keys, query + shot)
        # Queries take the first keys, so that they stay the same when K grows.
        support_first = np.concatenate([ranked[..., query:], ranked[..., :query]], axis=-1)
        episodes[rows] = support_first + offsets[classes][..., None]
    return episodes


def keyed_episodes(
    sizes: NDArray[np.int64], key: NDArray[np.uint64], way: int, run: int, numbers: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.uint64]]]:
    """The classes of episodes and the keys of their images, some episodes at a time.

    Yields:
        Which of the episodes, their classes [e, N], and the keys of the images of each class, [e, N, S] for the size S
        of the largest class; `NEVER` beyond the end of a class.
    """
    words_per_episode = len(sizes) + way * int(sizes.max())
    chunk = max(1, _WORDS_AT_ONCE // words_per_episode)
    for start in range(0, len(numbers), chunk):
        rows = slice(start, start + chunk)
        words = raw_words(key, run, numbers[rows], words_per_episode)
        classes = smallest(words[:, : len(sizes)], way)
        keys = words[:, len(sizes) :].reshape(len(words), way, -1)
        absent = np.arange(keys.shape[2]) >= sizes[classes][..., None]
        if absent.any():
            keys[absent] = NEVER
        yield rows, classes, keys


def sample_classes(
    classes: int, key: NDArray[np.uint64], way: int, run: int, numbers: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The classes of episodes alone, which take few words, [E, N], of a split with C classes."""
    chosen = np.empty((len(numbers), way), dtype=np.int64)
    chunk = max(1, _WORDS_AT_ONCE // classes)
    for start in range(0, len(numbers), chunk):
        rows = slice(start, start + chunk)
        chosen[rows] = smallest(raw_words(key, run, numbers[rows], classes), way)
    return chosen


def first_rows(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first image of each class, [C]."""
    return np.concatenate([[0], np.cumsum(sizes)])[:-1]


def check_sizes(
    sizes: NDArray[np.int64],
    dataset: str,
    split: str,
    way: int,
    shot: int,
    query: int,
    class_names: Sequence[str] | None = None,
) -> None:
    """Check that there are N classes, and K + Q images in every class.

    Raises:
        EpisodeError: there are fewer, or a task would be empty.
    """
    for value, name, least in ((way, "way", 2), (shot, "shot", 1), (query, "query", 1)):
        if value < least:
            raise EpisodeError(f"an episode needs a {name} of {least} or more, not {value}.")
    if way > len(sizes):
        raise EpisodeError(
            f"{split} split of {dataset} has {len(sizes)} classes; {way}-way episodes need {way}. "
            f"Use --way {len(sizes)} or fewer."
        )
    if len(sizes) > MOST_CLASSES:
        raise EpisodeError(f"{dataset} has {len(sizes):,} classes; the sampler takes up to {MOST_CLASSES:,}.")
    if sizes.max() > LARGEST_CLASS:
        raise EpisodeError(
            f"a class of {dataset} has {sizes.max():,} images; the sampler takes up to {LARGEST_CLASS:,}."
        )
    if int(sizes.sum()) > np.iinfo(np.int32).max:
        raise EpisodeError(
            f"{split} split of {dataset} has {sizes.sum():,} images; the sampler takes up to 2,147,483,647."
        )
    if len(sizes) + way * int(sizes.max()) > MOST_WORDS:
        raise EpisodeError(
            f"{way:,}-way episodes of classes of up to {sizes.max():,} images take too much memory to draw. Use --way "
            f"{max(2, (MOST_WORDS - len(sizes)) // int(sizes.max())):,} or fewer."
        )
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


_BALL = 1000  # alpha has three decimals


def dirichlet_episodes(
    sizes: NDArray[np.int64], protocol: Protocol, run: int, numbers: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Draw episodes with uneven queries: how many of the N * Q are of each class follows a Dirichlet distribution.

    Veilleux et al. (2021, "Realistic evaluation of transductive few-shot learning") draw proportions from a symmetric
    Dirichlet distribution, with alpha = 2, and round them. Here each query is of a class drawn with such proportions,
    so the numbers are Dirichlet-multinomial: the same mean, and the variance of the multinomial draw on top. A Pólya
    urn gives these numbers without the proportions (Blackwell and MacQueen, 1973): it begins with alpha balls of each
    class, and every drawn ball goes back with another of its class. That takes whole numbers alone, on which all
    machines agree, as they might not on quantiles of gamma variates.

    Args:
        sizes: images per class, [C], at least K + Q each.
        protocol: way, shot, query, alpha and seed.
        run: number of the run, from 0.
        numbers: episode numbers, [E].

    Returns:
        Image indices within the split, support first, int32 [E, N, K + N * Q]; -1 after the last query of a class.
    """
    way, shot, columns = protocol.way, protocol.shot, protocol.query_columns
    key, offsets = random_key(protocol.dataset, protocol.split, protocol.seed), first_rows(sizes)
    episodes = np.full((len(numbers), way, shot + columns), -1, dtype=np.int32)
    for rows, classes, keys in keyed_episodes(sizes, key, way, run, numbers):
        words = raw_words(key, run, numbers[rows], columns, EXTRAS)
        counts = urn_counts(words, protocol.sampler_settings["alpha"], sizes[classes] - shot)
        ranked = smallest(keys, min(shot + columns, keys.shape[2])) + offsets[classes][..., None]
        supported = counts[..., None] + np.arange(shot)
        episodes[rows, :, :shot] = np.take_along_axis(ranked, supported, axis=2)
        asked = np.arange(min(columns, ranked.shape[2]))
        queries = np.where(asked < counts[..., None], ranked[..., : len(asked)], -1)
        episodes[rows, :, shot : shot + len(asked)] = queries
    return episodes


def urn_counts(words: NDArray[np.uint64], alpha: float, capacity: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw balls of each class from Pólya urns; a class that has given all of its images leaves the urn.

    Args:
        words: one per draw, uint64 [E, M]; the bias of their remainders is below 1e-10.
        alpha: balls of each class at the beginning, in thousandths.
        capacity: the most that each class can give, [E, N], M or more in all.

    Returns:
        How often each class was drawn, int64 [E, N], M in all.
    """
    rows = np.arange(len(words))
    counts = np.zeros(capacity.shape, dtype=np.int64)
    weight = np.full(capacity.shape, round(_BALL * alpha), dtype=np.uint64)
    weight[capacity == 0] = 0
    for ticket in words.T:
        up_to = weight.cumsum(axis=1, dtype=np.uint64)
        drawn = (up_to <= (ticket % up_to[:, -1])[:, None]).sum(axis=1)
        counts[rows, drawn] += 1
        weight[rows, drawn] += np.uint64(_BALL)
        weight[rows, drawn] *= counts[rows, drawn] < capacity[rows, drawn]
    return counts


@lru_cache(maxsize=8)
def disjoint_run(class_sizes: tuple[int, ...], protocol: Protocol) -> NDArray[np.int32]:
    """Draw all episodes without re-use of images, together because each depends on those before it.

    Lafargue et al. (2024, "Oops, I Sampled it Again: Reinterpreting Confidence Intervals in Few-Shot Learning") call
    the interval over such tasks *open*: it also covers which images the split happens to hold, because no two tasks
    share an image. It is wider, and there are few tasks.

    The images of each class are shuffled once. An episode takes N classes, evenly among those that still have K + Q
    images, and the next K + Q images of each. The run ends when fewer than N classes are left.

    Args:
        class_sizes: images per class, [C], at least K + Q each.
        protocol: way, shot, query and seed.

    Returns:
        Image indices within the split, support first, int32 [E, N, K + Q], read-only.

    Raises:
        EpisodeError: the split has too many images.
    """
    sizes = np.asarray(class_sizes, dtype=np.int64)
    if len(sizes) * int(sizes.max()) > MOST_WORDS:
        raise EpisodeError(
            f"disjoint tasks divide all images of a split at once; {len(sizes):,} classes of up to {sizes.max():,} "
            "images are too many. Use another --sampler."
        )
    per_class, way = protocol.shot + protocol.query, protocol.way
    key = random_key(protocol.dataset, protocol.split, protocol.seed)
    order = _shuffled(sizes, key)
    left = sizes // per_class
    rows = np.arange(per_class)
    episodes: list[NDArray[np.int32]] = []
    for number in range(int(left.sum()) // way):
        if np.count_nonzero(left) < way:
            break
        # The keys of the classes are those of the standard sampler: until a class is used up, so are the classes.
        (keys,) = raw_words(key, 0, np.array([number]), len(sizes))
        classes = smallest(np.where(left > 0, keys, NEVER), way)
        first = (sizes[classes] // per_class - left[classes]) * per_class
        episodes.append(order[classes[:, None], first[:, None] + rows])
        left[classes] -= 1
    drawn = np.stack(episodes) if episodes else np.empty((0, way, per_class), np.int32)
    drawn.setflags(write=False)
    return drawn


def _shuffled(sizes: NDArray[np.int64], key: NDArray[np.uint64]) -> NDArray[np.int32]:
    """The images of each class in random order, int32 [C, S]; places beyond the end of a class come last."""
    largest = int(sizes.max())
    keys = raw_words(key, 0, np.arange(len(sizes)), largest, EXTRAS)
    keys[np.arange(largest) >= sizes[:, None]] = NEVER
    return (smallest(keys, largest) + first_rows(sizes)[:, None]).astype(np.int32)


def shapes(protocol: Protocol, run: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Way and shot of episodes of varied size, [E, 2].

    Triantafillou et al. (2020, "Meta-Dataset") judge methods on tasks of many sizes. Theirs depend on the sizes of the
    classes and have uneven support sets; here way and shot are drawn evenly and independently. Episode i is the
    standard episode i of the largest way and shot, cut by `cut`.
    """
    words = raw_words(random_key(protocol.dataset, protocol.split, protocol.seed), run, numbers, 2, EXTRAS)
    settings = protocol.sampler_settings
    least = np.array([settings["least_way"], settings["least_shot"]], dtype=np.int64)
    choices = np.array([protocol.way, protocol.shot], dtype=np.int64) - least + 1
    return least + (words % choices.astype(np.uint64)).astype(np.int64)


def cut(images: NDArray[np.int32], way: int, shot: int, largest_shot: int) -> NDArray[np.int32]:
    """The first classes of episodes [E, N, K + Q], with their first support images and all queries."""
    kept = images[:, :way]
    return np.concatenate([kept[..., :shot], kept[..., largest_shot:]], axis=2)
