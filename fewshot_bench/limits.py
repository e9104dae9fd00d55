"""What an episode, a cell and a study may have at most: the same for who plans, who draws, who stores and who reads."""

from __future__ import annotations

LARGEST_WAY = 65_535
"""Classes of an episode: a position fits into two bytes, and one value of them is left for "no query"."""

LARGEST_SIZE = 1_000_000
"""Shots, and queries per class."""

LARGEST_TASK = 2_000_000
"""Images of an episode, its queries counted as often as the sampler has room for them."""

MOST_CLASSES = 1 << 18
"""Of a split."""

LARGEST_CLASS = 1 << 20
"""Images of a class, as the sampler numbers them."""

LARGEST_SEED = 1 << 128
"""Seeds are as far from 0 on either side."""

MOST_RUNS = 1 << 15
"""Of a cell; parts store the number of a run in two bytes."""

MOST_EPISODES = 10_000_000
"""Of a cell, all runs together."""

LARGEST_EPISODE = 999_999_998
"""The number of an episode; the names of parts have nine digits for the number behind it."""

MOST_CELLS = 10_000
"""Of a study, and points of a grid."""

MOST_DRAWN = 1 << 25
"""Images of all episodes that are drawn at once."""

MOST_WORDS = 1 << 24
"""Random words that one episode takes: one for each class of the split, and N times as many as the largest class."""


def task_size(way: int, shot: int, query: int, sampler: str) -> int:
    """The images that an episode has room for; queries that are divided unevenly may all be of one class."""
    return way * (shot + (way * query if sampler == "dirichlet" else query))
