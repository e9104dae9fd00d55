"""Tasks without re-use of images: no image of the split is in two of them.

Lafargue et al. (2024, "Oops, I Sampled it Again: Reinterpreting Confidence Intervals in Few-Shot Learning") call the
interval over such tasks *open*: it covers which images happened to be in the split, and not only which tasks were drawn
from them, because no two tasks share an image. It is wider, and there are few tasks.

The images of each class are shuffled once. An episode takes N classes, evenly among those that still have K + Q images,
and the next K + Q images of each. The run ends when fewer than N classes are left.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.random_words import EXTRAS, NEVER, random_key, raw_words, smallest
from fewshot_bench.episodes.standard import first_rows
from fewshot_bench.errors import EpisodeError
from fewshot_bench.limits import MOST_WORDS


@lru_cache(maxsize=8)
def disjoint_run(class_sizes: tuple[int, ...], protocol: Protocol) -> NDArray[np.int32]:
    """All episodes that there are; each depends on those before it, so they are drawn together.

    Args:
        class_sizes: images per class, [C], at least K + Q each.
        protocol: way, shot, query and seed.

    Returns:
        Image indices within the split, support first, int32 [E, N, K + Q], read-only.

    Raises:
        EpisodeError: the split has too many images for that.
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
    """The images of each class in random order, int32 [C, S]; what is beyond the end of a class comes last."""
    largest = int(sizes.max())
    keys = raw_words(key, 0, np.arange(len(sizes)), largest, EXTRAS)
    keys[np.arange(largest) >= sizes[:, None]] = NEVER
    return (smallest(keys, largest) + first_rows(sizes)[:, None]).astype(np.int32)
