"""Tasks whose way and shot vary: each number of classes, and each number of shots, is equally likely.

Triantafillou et al. (2020, "Meta-Dataset") argue that a method should be judged on tasks of many sizes. Theirs depend
on the sizes of the classes and have uneven support sets; here way and shot are drawn evenly and independently of each
other, and the support set is as large for every class.

Episode i is the standard episode i of the largest way and shot, cut to its first classes and their first support
images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.random_words import EXTRAS, random_key, raw_words


def shapes(protocol: Protocol, run: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Way and shot of episodes, [E, 2]."""
    words = raw_words(random_key(protocol.dataset, protocol.split, protocol.seed), run, numbers, 2, EXTRAS)
    settings = protocol.sampler_settings
    least = np.array([settings["least_way"], settings["least_shot"]], dtype=np.int64)
    choices = np.array([protocol.way, protocol.shot], dtype=np.int64) - least + 1
    return least + (words % choices.astype(np.uint64)).astype(np.int64)


def cut(images: NDArray[np.int32], way: int, shot: int, largest_shot: int) -> NDArray[np.int32]:
    """The first classes, with their first support images and all of their queries.

    Args:
        images: support first, [E, N, K + Q].
        way: how many classes to keep.
        shot: how many support images of each.
        largest_shot: K.
    """
    kept = images[:, :way]
    return np.concatenate([kept[..., :shot], kept[..., largest_shot:]], axis=2)
