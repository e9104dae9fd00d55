"""Which classes and images are in which episode, from what a cell records: the images themselves are not needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.episodes.drawing import draw_groups, episode_classes
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.limits import MOST_DRAWN
from fewshot_bench.outcomes import ProtocolCard
from fewshot_bench.outcomes.claimed import NO_CLASSES, SEPARATOR
from fewshot_bench.statistics.data_interval import ABSENT


@dataclass(frozen=True, eq=False)
class ClaimedClasses:
    """The classes that files claim of some episodes.

    Attributes:
        numbers: of the classes of each episode, [E, N]; None where they are not known.
        names: of the classes, by number, [C].
        why_not: why they are not known; empty where they are.
    """

    numbers: NDArray[np.int64] | None = None
    names: Sequence[str] = ()
    why_not: str = ""


NO_CLAIMED_CLASSES = "no classes are known of claimed episodes"
TOO_MANY_CLASSES = "there are too many classes to look at in claimed episodes"
CONTRADICTING_CLASSES = "methods claim different classes of the same episodes"


def claimed_classes(
    rows: Sequence[NDArray[np.int64]], texts: Sequence[NDArray[np.object_]], episodes: int, way: int
) -> ClaimedClasses:
    """Put together what methods claim of the classes of some episodes.

    Args:
        rows: which of the episodes each method has, [A] of [e].
        texts: their classes as they are stored, "" where unknown, [A] of [e].
        episodes: E.
        way: N.
    """
    known = np.full(episodes, NO_CLASSES, dtype=object)
    for mine, own in zip(rows, texts, strict=True):
        there = known[mine]
        if ((there != own) & (there != NO_CLASSES) & (own != NO_CLASSES)).any():
            return ClaimedClasses(why_not=CONTRADICTING_CLASSES)
        known[mine] = np.where(own == NO_CLASSES, there, own)
    if (known == NO_CLASSES).any():
        return ClaimedClasses(why_not=NO_CLAIMED_CLASSES)
    if episodes * way > MOST_DRAWN:
        return ClaimedClasses(why_not=TOO_MANY_CLASSES)
    named = np.array([name for text in known for name in text.split(SEPARATOR)], dtype=object)
    numbers, names = pd.factorize(named, sort=True)
    return ClaimedClasses(numbers.reshape(episodes, way).astype(np.int64), tuple(names))


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


def images_of_episodes(
    protocol: ProtocolCard, class_sizes: Sequence[int], run: NDArray[np.int64], episode: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The classes and images of some episodes.

    Args:
        protocol: what fixes the episodes.
        class_sizes: images per class of the split, in canonical order, [C].
        run: of each episode, [E].
        episode: its number within the run, [E].

    Returns:
        Class numbers in ascending order, then -1 where an episode has fewer, [E, N]; and the image numbers of each
        class, then -1 where a class has fewer, [E, N, K + Q].

    Raises:
        EpisodeError: the sizes are not those of a split that has such episodes, or another version drew them.
    """
    ends, drawn = np.cumsum(class_sizes), Protocol.of(protocol)
    groups = []
    for number in np.unique(run):
        rows = np.flatnonzero(run == number)
        for some, found in draw_groups(drawn, class_sizes, int(number), episode[rows]):
            classes = np.searchsorted(ends, found[:, :, 0], side="right")
            order = np.argsort(classes, axis=1)
            in_order = np.take_along_axis(found, order[:, :, None], axis=1)
            groups.append((rows[some], np.take_along_axis(classes, order, axis=1), in_order))
    shape = [len(run), *np.max([found.shape[1:] for _, _, found in groups], axis=0)]
    every_class, every_image = np.full(shape[:2], ABSENT), np.full(shape, ABSENT)
    for rows, classes, found in groups:
        every_class[rows, : classes.shape[1]] = classes
        every_image[rows, : found.shape[1], : found.shape[2]] = found
    return every_class, every_image
