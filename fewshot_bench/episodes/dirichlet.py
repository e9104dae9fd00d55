"""Uneven queries: how many of an episode's N * Q queries are of each class follows a Dirichlet distribution.

Veilleux et al. (2021, "Realistic evaluation of transductive few-shot learning") draw proportions from a symmetric
Dirichlet distribution, with alpha = 2, and round them so that they sum to the number of queries. Here each query is of
a class drawn with those proportions, so that the numbers are Dirichlet-multinomial: the same mean, and a variance that
is larger by that of the multinomial draw.

The proportions themselves are never made. A Pólya urn gives the same numbers (Blackwell and MacQueen, 1973): it begins
with alpha balls of each class, and every ball that is drawn goes back with another one of its class. That takes whole
numbers alone, so that every machine agrees, where logarithms or quantiles of gamma variates would not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.random_words import EXTRAS, random_key, raw_words, smallest
from fewshot_bench.episodes.standard import first_rows, keyed_episodes

_BALL = 1000  # alpha has three decimals


def dirichlet_episodes(
    sizes: NDArray[np.int64], protocol: Protocol, run: int, numbers: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Draw episodes whose classes are those of the standard sampler.

    The images of a class are in the order of their keys: its queries first, then its K support images.

    Args:
        sizes: images per class, [C], at least K + Q each.
        protocol: way, shot, query, alpha and seed.
        run: number of the run, from 0.
        numbers: episode numbers, [E].

    Returns:
        Image indices within the split, support first, int32 [E, N, K + N * Q]; -1 after the last query of a class.
    """
    way, shot, columns = protocol.way, protocol.shot, protocol.query_columns
    key, offsets = random_key(protocol.dataset, protocol.split, protocol.seed), first_rows(sizes)
    episodes = np.full((len(numbers), way, shot + columns), -1, dtype=np.int32)
    for some, classes, keys in keyed_episodes(sizes, key, way, run, numbers):
        words = raw_words(key, run, numbers[some], columns, EXTRAS)
        counts = urn_counts(words, protocol.sampler_settings["alpha"], sizes[classes] - shot)
        ranked = smallest(keys, min(shot + columns, keys.shape[2])) + offsets[classes][..., None]
        supported = counts[..., None] + np.arange(shot)
        episodes[some, :, :shot] = np.take_along_axis(ranked, supported, axis=2)
        asked = np.arange(min(columns, ranked.shape[2]))
        queries = np.where(asked < counts[..., None], ranked[..., : len(asked)], -1)
        episodes[some, :, shot : shot + len(asked)] = queries
    return episodes


def urn_counts(words: NDArray[np.uint64], alpha: float, capacity: NDArray[np.int64]) -> NDArray[np.int64]:
    """Balls of each class that are drawn from Pólya urns.

    A class that has given all of its images leaves the urn; where none can run out, the numbers are
    Dirichlet-multinomial.

    Args:
        words: one per draw, uint64 [E, M]; that a remainder of 64 bits is not exactly even shifts no probability by
            more than 1e-10.
        alpha: balls of each class at the beginning, in thousandths.
        capacity: the most that each class can give, [E, N], M or more in all.

    Returns:
        How often each class was drawn, int64 [E, N], M in all.
    """
    rows = np.arange(len(words))
    counts = np.zeros(capacity.shape, dtype=np.int64)
    weight = np.full(capacity.shape, round(_BALL * alpha), dtype=np.uint64)
    weight[capacity == 0] = 0
    for ticket in words.T:
        up_to = weight.cumsum(axis=1, dtype=np.uint64)
        drawn = (up_to <= (ticket % up_to[:, -1])[:, None]).sum(axis=1)
        counts[rows, drawn] += 1
        weight[rows, drawn] += np.uint64(_BALL)
        weight[rows, drawn] *= counts[rows, drawn] < capacity[rows, drawn]
    return counts
