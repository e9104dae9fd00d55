"""Draw episodes as pure functions of (dataset name, split, seed, run, episode number), whichever sampler draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.episodes.drawing import draw_groups, settled
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.errors import EpisodeError


@dataclass(frozen=True)
class Episodes:
    """Some episodes of one run, all of one shape.

    Attributes:
        protocol: the protocol they belong to.
        dataset_fingerprint: fingerprint of the dataset they index.
        run: number of the run, from 0.
        numbers: which episodes of the run, [E].
        images: image indices within the split, a row per class, support first, int32 [E, N, K + Q]; where the classes
            have different numbers of queries, [E, N, K + N * Q] with -1 after the last query of a class.
    """

    protocol: Protocol
    dataset_fingerprint: str
    run: int
    numbers: NDArray[np.int64]
    images: NDArray[np.int32]

    def __repr__(self) -> str:
        task = f"{self.protocol.dataset} {self.way}-way {self.shot}-shot"
        return f"<Episodes: {task}, {len(self.numbers):,} of run {self.run}>"

    @property
    def way(self) -> int:
        """N of these episodes."""
        return int(self.images.shape[1])

    @property
    def shot(self) -> int:
        """K of these episodes."""
        return int(self.images.shape[2]) - self.protocol.query_columns

    @property
    def support(self) -> NDArray[np.int32]:
        """Image indices of the support sets, [E, N, K]."""
        return self.images[:, :, : self.shot]

    @property
    def query(self) -> NDArray[np.int32]:
        """Image indices of the queries by class, [E, N, Q]; [E, N, N * Q] with -1 where classes have fewer."""
        return self.images[:, :, self.shot :]

    @property
    def queries(self) -> NDArray[np.int32]:
        """Image indices of the queries and nothing else, class by class, [E, M]; M is N * Q whoever has them."""
        return self.query[self.query >= 0].reshape(len(self), self.way * self.protocol.query)

    @property
    def truth(self) -> NDArray[Any]:
        """Position of the true class of each of the queries, in the smallest type for the protocol's N, [E, M]."""
        positions = np.nonzero(self.query >= 0)[1]
        kind = np.min_scalar_type(max(1, self.protocol.way) - 1)  # uint8 up to 256 classes
        return positions.astype(kind).reshape(len(self), self.way * self.protocol.query)

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
        protocol: way, shot, query, seed and sampler.
        run: number of the run, from 0.
        numbers: which episodes, [E]; all of the protocol's by default.

    Raises:
        EpisodeError: the protocol is for another split, the split has too few classes or images, or the episodes
            differ in way or shot.
    """
    groups = sample_by_shape(split, protocol, run, numbers)
    if len(groups) > 1:
        raise EpisodeError(
            f"episodes of the {protocol.sampler} sampler differ in way and shot, so they are no single array. "
            "Use sample_by_shape, which gives those of each shape."
        )
    return groups[0]


def sample_by_shape(
    split: ImageSplit,
    protocol: Protocol,
    run: int = 0,
    numbers: Sequence[int] | NDArray[np.int64] | None = None,
) -> list[Episodes]:
    """Draw episodes of one run, those of the same way and shot together.

    Args:
        split: the images; its dataset and split names are part of the random key.
        protocol: way, shot, query, seed and sampler.
        run: number of the run, from 0.
        numbers: which episodes, [E]; all of the protocol's by default.

    Returns:
        One group, or several sorted by way and shot where the sampler varies them; each in the order of `numbers`.

    Raises:
        EpisodeError: the protocol is for another split, or the split has too few classes or images.
    """
    if (protocol.dataset, protocol.split) != (split.dataset, split.name):
        raise EpisodeError(
            f"the protocol is for the {protocol.split} split of {protocol.dataset}, but the images are the "
            f"{split.name} split of {split.dataset}."
        )
    if numbers is None:
        numbers = np.arange(settled(protocol, split.class_sizes, split.class_names).episodes)
    chosen = np.asarray(numbers, dtype=np.int64)
    return draw(
        protocol, split.class_sizes, run, chosen, split.class_names, dataset_fingerprint=split.dataset_fingerprint
    )


def draw(
    protocol: Protocol,
    class_sizes: Sequence[int],
    run: int,
    numbers: NDArray[np.int64],
    class_names: Sequence[str] | None = None,
    *,
    dataset_fingerprint: str = "",
) -> list[Episodes]:
    """The same from the class sizes alone, without images.

    Args:
        protocol: way, shot, query, seed and sampler.
        class_sizes: images per class, in canonical order, [C].
        run: number of the run, from 0.
        numbers: which episodes, [E].
        class_names: names for error messages, [C].
        dataset_fingerprint: of the dataset that the indices are for.

    Returns:
        As `sample_by_shape`.

    Raises:
        EpisodeError: the split has too few classes or images, or not that many episodes.
    """
    groups = draw_groups(protocol, class_sizes, run, numbers, class_names)
    return [Episodes(protocol, dataset_fingerprint, run, numbers[some], images) for some, images in groups]
