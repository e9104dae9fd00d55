"""The largest episodes, cells and studies, for all who plan, draw, store and read them."""

from __future__ import annotations

LARGEST_WAY = 65_535
"""Classes of an episode: positions are stored in two bytes, with one value left for "no query"."""

LARGEST_SIZE = 1_000_000
"""Shots, and queries per class."""

LARGEST_TASK = 2_000_000
"""Images of an episode, counting all places that the sampler has for queries."""

MOST_CLASSES = 1 << 18
"""Classes of a split."""

LARGEST_CLASS = 1 << 20
"""Images of a class, as the sampler numbers them."""

LARGEST_SEED = 1 << 128
"""The largest absolute value of a seed."""

MOST_RUNS = 1 << 15
"""Runs of a cell; parts store the number of a run in two bytes."""

MOST_EPISODES = 10_000_000
"""Episodes of a cell, all runs together."""

LARGEST_EPISODE = 999_999_998
"""The largest number of an episode; names of parts have nine digits for the number after it."""

MOST_CELLS = 10_000
"""Cells of a study, and points of a grid."""

MOST_DRAWN = 1 << 25
"""Images of all episodes drawn at once."""

MOST_WORDS = 1 << 24
"""Random words of one episode: one per class of the split, and N times the size of the largest class."""


WHOLE_SAMPLER = "whole"
"""The sampler whose episodes are the images of a split, one query each, classified among all classes."""


def task_size(way: int, shot: int, query: int, sampler: str) -> int:
    """Images that an episode has room for; uneven queries may all be of one class, a whole split has one query each."""
    if sampler == WHOLE_SAMPLER:
        return 1
    return way * (shot + (way * query if sampler == "dirichlet" else query))
