"""Drawing episodes as a pure function of dataset name, split, seed, run and episode number, by any sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.episodes.protocol import SAMPLERS_DEFAULT, Protocol, ProtocolFields
from fewshot_bench.episodes.samplers import (
    check_sizes,
    cut,
    dirichlet_episodes,
    disjoint_run,
    random_key,
    sample_classes,
    sample_indices,
    shapes,
)
from fewshot_bench.errors import EpisodeError
from fewshot_bench.limits import MOST_DRAWN, task_size


def draw_groups(
    protocol: Protocol,
    class_sizes: Sequence[int],
    run: int,
    numbers: NDArray[np.int64],
    class_names: Sequence[str] | None = None,
) -> list[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """Draw the image indices of episodes, those of one shape together; arguments and errors as for `draw`.

    Returns:
        For each group the positions of its episodes among `numbers`, and their `Episodes.images`.
    """
    sizes = _checked(protocol, class_sizes, class_names)
    size = task_size(protocol.way, protocol.shot, protocol.query, protocol.sampler)
    if len(numbers) * size > MOST_DRAWN:
        raise EpisodeError(
            f"{len(numbers):,} episodes of {size:,} images each are too many to draw at once: at most "
            f"{MOST_DRAWN // size:,} of them are possible."
        )
    everything = np.arange(len(numbers))
    if protocol.sampler == "disjoint":
        return [(everything, _disjoint(protocol, class_sizes, run, numbers))]
    if protocol.sampler == "dirichlet":
        return [(everything, dirichlet_episodes(sizes, protocol, run, numbers))]
    images = sample_indices(
        class_sizes,
        dataset=protocol.dataset,
        split=protocol.split,
        way=protocol.way,
        shot=protocol.shot,
        query=protocol.query,
        seed=protocol.seed,
        run=run,
        numbers=numbers,
    )
    if protocol.sampler == "standard":
        return [(everything, images)]
    found, member = np.unique(shapes(protocol, run, numbers), axis=0, return_inverse=True)
    groups = [np.flatnonzero(member.reshape(-1) == number) for number in range(len(found))]
    cuts = [cut(images[rows], way, shot, protocol.shot) for rows, (way, shot) in zip(groups, found, strict=True)]
    return list(zip(groups, cuts, strict=True)) or [(everything, images)]


def episode_classes(
    fields: ProtocolFields, class_sizes: Sequence[int], run: int, numbers: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The classes of episodes, without drawing images where possible; arguments and errors as for `draw`.

    Returns:
        Position of each class in the canonical order, [E, N], beginning with class 0 of the predictions; -1 where the
        sampler varies the way and an episode has fewer classes.
    """
    protocol = fields if isinstance(fields, Protocol) else Protocol.of(fields)
    sizes = _checked(protocol, class_sizes)
    if protocol.sampler == "disjoint":
        images = _disjoint(protocol, class_sizes, run, numbers)
        return np.searchsorted(np.cumsum(sizes), images[:, :, 0], side="right")
    key = random_key(protocol.dataset, protocol.split, protocol.seed)
    classes = sample_classes(len(sizes), key, protocol.way, run, numbers)
    if protocol.sampler == "varied":
        classes[np.arange(protocol.way) >= shapes(protocol, run, numbers)[:, :1]] = -1
    return classes


def resolved_protocol(
    protocol: Protocol, class_sizes: Sequence[int], class_names: Sequence[str] | None = None
) -> Protocol:
    """The protocol with its number of episodes, which the class sizes [C] decide for disjoint tasks.

    Raises:
        EpisodeError: it asks for more than there are, or the split has too few classes or images.
    """
    _checked(protocol, class_sizes, class_names)
    if protocol.sampler != "disjoint":
        return protocol
    available = len(disjoint_run(tuple(class_sizes), _without_count(protocol)))
    if protocol.episodes == SAMPLERS_DEFAULT:
        return replace(protocol, episodes=available)
    if protocol.episodes > available:
        raise EpisodeError(_too_many(protocol, available, f"{protocol.episodes:,} were asked for"))
    return protocol


def _disjoint(
    protocol: Protocol, class_sizes: Sequence[int], run: int, numbers: NDArray[np.int64]
) -> NDArray[np.int32]:
    drawn = disjoint_run(tuple(class_sizes), _without_count(protocol))
    if run != 0:
        raise EpisodeError(f"disjoint tasks use the images of a split once: there is run 0 of them, and no run {run}.")
    if len(numbers) and int(numbers.max()) >= len(drawn):
        raise EpisodeError(_too_many(protocol, len(drawn), f"there is no episode {int(numbers.max()):,}"))
    return drawn[numbers]


def _too_many(protocol: Protocol, available: int, finding: str) -> str:
    return (
        f"the {protocol.split} split of {protocol.dataset} has images for {available:,} disjoint episodes of "
        f"{protocol.way} classes, {protocol.shot} shots and {protocol.query} queries; {finding}. "
        f"Use --episodes {available} or fewer, or leave it out."
    )


def _without_count(protocol: Protocol) -> Protocol:
    """The protocol without its number of episodes, so that a cached run is found again."""
    return replace(protocol, episodes=SAMPLERS_DEFAULT)


def _checked(
    protocol: Protocol, class_sizes: Sequence[int], class_names: Sequence[str] | None = None
) -> NDArray[np.int64]:
    sizes = np.asarray(class_sizes, dtype=np.int64)
    way, shot, query = protocol.way, protocol.shot, protocol.query
    check_sizes(sizes, protocol.dataset, protocol.split, way, shot, query, class_names)
    return sizes


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
        """Image indices of the queries alone, class by class, [E, M] with M = N * Q."""
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
    """Draw episodes of one run of a protocol whose episodes have one shape; arguments as for `sample_by_shape`.

    Raises:
        EpisodeError: the protocol is for another split, the split has too few classes or images, or the episodes
            differ in way or shot.
    """
    groups = sample_by_shape(split, protocol, run, numbers)
    if len(groups) > 1:
        raise EpisodeError(
            f"episodes of the {protocol.sampler} sampler differ in way and shot and do not fit into one array. "
            "Use sample_by_shape, which gives those of each shape."
        )
    return groups[0]


def sample_by_shape(
    split: ImageSplit,
    protocol: Protocol,
    run: int = 0,
    numbers: Sequence[int] | NDArray[np.int64] | None = None,
) -> list[Episodes]:
    """Draw episodes of one run of a protocol from a split, those of the same way and shot together.

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
        numbers = np.arange(resolved_protocol(protocol, split.class_sizes, split.class_names).episodes)
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
    """Draw episodes from the class sizes alone, without images.

    Args:
        protocol: way, shot, query, seed and sampler.
        class_sizes: images per class, in canonical order, [C].
        run: number of the run, from 0.
        numbers: which episodes, [E].
        class_names: names for error messages, [C].
        dataset_fingerprint: of the dataset that the indices are for.

    Returns:
        One group per shape, as `sample_by_shape`.

    Raises:
        EpisodeError: the split has too few classes or images, or not that many episodes.
    """
    groups = draw_groups(protocol, class_sizes, run, numbers, class_names)
    return [Episodes(protocol, dataset_fingerprint, run, numbers[rows], images) for rows, images in groups]
