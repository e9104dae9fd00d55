"""Which classes are in which episode, from what a cell records: no images are needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.episodes import sample_indices
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
        Class numbers, [E, N].
    """
    ends = np.cumsum(class_sizes)
    classes = np.empty((len(run), protocol.way), dtype=np.int64)
    for number in np.unique(run):
        rows = run == number
        images = sample_indices(
            class_sizes,
            dataset=protocol.dataset,
            split=protocol.split,
            way=protocol.way,
            shot=protocol.shot,
            query=protocol.query,
            seed=protocol.seed,
            run=int(number),
            numbers=episode[rows],
        )
        classes[rows] = np.searchsorted(ends, images[:, :, 0], side="right")
    return classes
