"""Which classes are in which episode, from what a cell records: no images are needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.episodes.drawing import episode_classes
from fewshot_bench.outcomes import ProtocolCard


def classes_of_episodes(
    protocol: ProtocolCard, class_sizes: Sequence[int], run: NDArray[np.int64], episode: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The classes of some episodes.

    Args:
        protocol: what fixes the episodes.
        class_sizes: images per class of the split, in canonical order, [C].
        run: of each episode, [E].
        episode: its number within the run, [E].

    Returns:
        Class numbers, -1 where an episode has fewer, [E, N].

    Raises:
        EpisodeError: the sizes are not those of a split that has such episodes, or another version drew them.
    """
    classes = np.empty((len(run), protocol.way), dtype=np.int64)
    for number in np.unique(run):
        rows = run == number
        classes[rows] = episode_classes(protocol, class_sizes, int(number), episode[rows])
    return classes
