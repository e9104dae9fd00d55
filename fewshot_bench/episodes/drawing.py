"""Which sampler draws what: image indices, classes and the number of episodes, from the class sizes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.episodes.dirichlet import dirichlet_episodes
from fewshot_bench.episodes.disjoint import disjoint_run
from fewshot_bench.episodes.protocol import SAMPLERS_DEFAULT, Protocol, ProtocolFields
from fewshot_bench.episodes.random_words import random_key
from fewshot_bench.episodes.standard import check_sizes, sample_classes, sample_indices
from fewshot_bench.episodes.varied import cut, shapes
from fewshot_bench.errors import EpisodeError
from fewshot_bench.limits import MOST_DRAWN, task_size


def draw_groups(
    protocol: Protocol,
    class_sizes: Sequence[int],
    run: int,
    numbers: NDArray[np.int64],
    class_names: Sequence[str] | None = None,
) -> list[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """Draw episodes, those of one shape together.

    Args:
        protocol: way, shot, query, seed and sampler.
        class_sizes: images per class, in canonical order, [C].
        run: number of the run, from 0.
        numbers: which episodes, [E].
        class_names: names for error messages, [C].

    Returns:
        For each group the positions of its episodes among `numbers`, and their `Episodes.images`.

    Raises:
        EpisodeError: the split has too few classes or images, or not that many episodes.
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
    cuts = [cut(images[some], way, shot, protocol.shot) for some, (way, shot) in zip(groups, found, strict=True)]
    return list(zip(groups, cuts, strict=True)) or [(everything, images)]


def episode_classes(
    fields: ProtocolFields, class_sizes: Sequence[int], run: int, numbers: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The classes of episodes, without images and without drawing any where that can be.

    Args:
        fields: a protocol, or what stored outcomes say of it.
        class_sizes: images per class of the split, in canonical order, [C].
        run: number of the run, from 0.
        numbers: which episodes, [E].

    Returns:
        Position of each class in the canonical order, [E, N], the first being class 0 of the predictions; -1 where the
        sampler varies the way and an episode has fewer.

    Raises:
        EpisodeError: the split has too few classes or images, or not that many episodes.
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


def settled(protocol: Protocol, class_sizes: Sequence[int], class_names: Sequence[str] | None = None) -> Protocol:
    """The protocol with the number of its episodes, which depends on the class sizes where no image is in two tasks.

    Args:
        protocol: perhaps without that number.
        class_sizes: images per class, [C].
        class_names: names for error messages, [C].

    Raises:
        EpisodeError: more are asked for than there are, or the split has too few classes or images.
    """
    _checked(protocol, class_sizes, class_names)
    if protocol.sampler != "disjoint":
        return protocol
    there = len(disjoint_run(tuple(class_sizes), _without_count(protocol)))
    if protocol.episodes == SAMPLERS_DEFAULT:
        return replace(protocol, episodes=there)
    if protocol.episodes > there:
        raise EpisodeError(_too_many(protocol, there, f"{protocol.episodes:,} were asked for"))
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


def _too_many(protocol: Protocol, there: int, finding: str) -> str:
    return (
        f"the {protocol.split} split of {protocol.dataset} has images for {there:,} disjoint episodes of "
        f"{protocol.way} classes, {protocol.shot} shots and {protocol.query} queries; {finding}. "
        f"Use --episodes {there} or fewer, or leave it out."
    )


def _without_count(protocol: Protocol) -> Protocol:
    """What decides the episodes, so that what is drawn once is found again."""
    return replace(protocol, episodes=SAMPLERS_DEFAULT)


def _checked(
    protocol: Protocol, class_sizes: Sequence[int], class_names: Sequence[str] | None = None
) -> NDArray[np.int64]:
    sizes = np.asarray(class_sizes, dtype=np.int64)
    way, shot, query = protocol.way, protocol.shot, protocol.query
    check_sizes(sizes, protocol.dataset, protocol.split, way, shot, query, class_names)
    return sizes
