"""The standard sampler: every episode draws its classes and images anew from the whole split.

Any episode can be drawn alone, in any order, on any machine: it gives every class and every image a raw word as its
key, and takes the smallest keys.

The words do not depend on K, Q or the number of episodes: episode i at 5 shots has the classes, the queries
and the support images of episode i at 1 shot, and four more support images per class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.episodes.random_words import NEVER, random_key, raw_words, smallest
from fewshot_bench.errors import EpisodeError
from fewshot_bench.limits import LARGEST_CLASS, MOST_CLASSES, MOST_WORDS

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
    for some, classes, keys in keyed_episodes(sizes, random_key(dataset, split, seed), way, run, numbers):
        ranked = smallest(keys, query + shot)
        # Queries take the first keys, so that they stay the same when K grows.
        support_first = np.concatenate([ranked[..., query:], ranked[..., :query]], axis=-1)
        episodes[some] = support_first + offsets[classes][..., None]
    return episodes


def keyed_episodes(
    sizes: NDArray[np.int64], key: NDArray[np.uint64], way: int, run: int, numbers: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.uint64]]]:
    """The classes of episodes and the keys of their images, some episodes at a time.

    Args:
        sizes: images per class, [C].
        key: as `random_key` makes it.
        way: N.
        run: number of the run.
        numbers: episode numbers, [E].

    Yields:
        Which of the episodes, their classes [e, N], and the keys of the images of each class, [e, N, S], where S is
        the size of the largest class; `NEVER` where a class has fewer.
    """
    words_per_episode = len(sizes) + way * int(sizes.max())
    chunk = max(1, _WORDS_AT_ONCE // words_per_episode)
    for start in range(0, len(numbers), chunk):
        some = slice(start, start + chunk)
        words = raw_words(key, run, numbers[some], words_per_episode)
        classes = smallest(words[:, : len(sizes)], way)
        keys = words[:, len(sizes) :].reshape(len(words), way, -1)
        absent = np.arange(keys.shape[2]) >= sizes[classes][..., None]
        if absent.any():
            keys[absent] = NEVER
        yield some, classes, keys


def sample_classes(
    classes: int, key: NDArray[np.uint64], way: int, run: int, numbers: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The classes of episodes alone, which take few words, [E, N].

    Args:
        classes: C, how many the split has.
        key: as `random_key` makes it.
        way: N.
        run: number of the run.
        numbers: episode numbers, [E].
    """
    chosen = np.empty((len(numbers), way), dtype=np.int64)
    chunk = max(1, _WORDS_AT_ONCE // classes)
    for start in range(0, len(numbers), chunk):
        some = slice(start, start + chunk)
        chosen[some] = smallest(raw_words(key, run, numbers[some], classes), way)
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
    """See that every class has room for K + Q images, and that there are N of them.

    Raises:
        EpisodeError: it has not, or a task would be empty.
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
