"""Gaussian classes, images of them, episodes and nearest centroid: what the simulations of intervals and verdicts draw.

A class has a centre and a spread of its own; an image of it is a point around that centre. Several methods see the same
images with features of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.episodes import sample_indices

QUERIES = 15
SHARE_OF_CLASSES = 0.1
"""On how many classes a method with a sparse gain is better."""
REPAIRED = 0.25
"""Share of the images of such a class that it always gets right; the mean, where shares vary."""

Features = NDArray[np.float32]
Images = NDArray[np.int32]
Hits = NDArray[np.bool_]
Floats = NDArray[np.float64]
Result = TypeVar("Result")


def normal(generator: np.random.Generator, *shape: int) -> Features:
    """Standard normal numbers of a shape."""
    return generator.standard_normal(shape, dtype=np.float32)


def spreads(generator: np.random.Generator, classes: int, spread_sd: float = 0.25) -> Features:
    """Spread of the images of each class around its centre, [C, 1, 1]; their logarithm has a standard deviation."""
    return np.asarray(np.exp(np.float32(spread_sd) * normal(generator, classes, 1, 1)), dtype=np.float32)


def scattered(generator: np.random.Generator, centres: Features, spread: Features, images: int) -> Features:
    """Images around the centres of their classes, [C, 1, D] -> [C * I, D]."""
    classes, _, dimensions = centres.shape
    return (centres + spread * normal(generator, classes, images, dimensions)).reshape(-1, dimensions)


def with_noise(generator: np.random.Generator, features: Features, sd: float) -> Features:
    """The features with noise of their own on every image."""
    return features + np.float32(sd) * normal(generator, *features.shape)


def repaired_images(generator: np.random.Generator, gains: Floats, images: int) -> Hits:
    """Which images are always classified correctly, [C * I]; gains are their shares in each class, [C]."""
    return np.asarray(generator.random((len(gains), images)) < gains[:, None]).ravel()


def episodes_of(sizes: Sequence[int], *, way: int, shot: int, seed: int, episodes: int) -> Images:
    """Episodes of the project's own sampler, [E, N, K + Q], support first."""
    return sample_indices(
        sizes, dataset="gaussian", split="novel", way=way, shot=shot, query=QUERIES, seed=seed, run=0,
        numbers=np.arange(episodes),
    )  # fmt: skip


def in_canonical_order(images: Images) -> Images:
    """The classes of every episode in the same order, [E, C, K + Q]; for episodes that have all classes."""
    return np.take_along_axis(images, np.argsort(images[:, :, 0], axis=1)[:, :, None], axis=1)


def hits(features: Features, images: Images, shot: int) -> Hits:
    """Which queries nearest centroid by Euclidean distance classifies correctly, [E, N, Q]; images [E, N, K + Q]."""
    episodes, way, _ = images.shape
    centroids = features[images[:, :, :shot]].mean(axis=2)
    queries = features[images[:, :, -QUERIES:]].reshape(episodes, way * QUERIES, -1)
    scores = queries @ centroids.transpose(0, 2, 1) - (centroids**2).sum(axis=-1)[:, None] / 2
    predictions = scores.argmax(axis=-1).reshape(episodes, way, QUERIES)
    return np.asarray(predictions == np.arange(way)[:, None])


def accuracies(features: Features, images: Images, shot: int) -> Floats:
    """Accuracy of nearest centroid on each episode, [E]."""
    return np.asarray(hits(features, images, shot).mean(axis=(1, 2)))


def replicates(work: Callable[[int], Result], count: int, processes: int = 1) -> list[Result]:
    """What the work gives for the numbers of all replicates, in order."""
    if processes == 1:
        return list(map(work, range(count)))
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(work, range(count), chunksize=5))
