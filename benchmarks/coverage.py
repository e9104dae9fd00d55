"""How often an interval around the mean accuracy holds the truth, when classes and images are drawn anew.

    python benchmarks/coverage.py --setting usual        # one of the settings, about ten minutes
    python benchmarks/coverage.py --replicates 100       # all of them

A replicate draws Gaussian classes from a population, and images of each; the project's sampler draws episodes from
them, and nearest centroid classifies these. So the mean accuracy of a replicate differs from the truth, the grand
mean over replicates, by the draw of classes, of images and of episodes. Coverage is how often the truth lies within the
interval that a replicate alone gives. Other methods on the same episodes give paired differences.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from coverage_candidates import CANDIDATES, Classes, Floats
from numpy.typing import NDArray

from fewshot_bench.episodes import sample_indices

SHOTS = (1, 5)
QUERIES = 15
OTHERS = ("a noisy copy", "fewer dimensions", "as good")
"""What a method is compared with: its features and noise; without a quarter of them; with another quarter instead."""

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """A population, what is drawn from it, and the tasks.

    Attributes:
        title: of its table.
        classes: C, in each replicate.
        ways: episodes are divided evenly among these.
        dimensions: of the features.
        distance: standard deviation of the class means, per dimension; 0 leaves nothing to learn.
        spread_sd: standard deviation of the logarithm of a class's own spread.
        is_even: whether every class mean has the same length, so that classes are about equally hard.
        images: per class.
        episodes: M.
    """

    title: str
    classes: int = 20
    ways: tuple[int, ...] = (5,)
    dimensions: int = 8
    distance: float = 1.0
    spread_sd: float = 0.25
    is_even: bool = False
    images: int = 600
    episodes: int = 3000


SETTINGS = {
    "usual": Setting("20 classes, 5-way"),
    "unequal": Setting("classes of very unequal difficulty", spread_sd=0.6),
    "alike": Setting("classes of almost the same difficulty", dimensions=32, distance=0.5, spread_sd=0, is_even=True),
    "chance": Setting("nothing to learn, so classes do not differ", distance=0, spread_sd=0),
    "many": Setting("160 classes, 5-way", classes=160),
    "ten-way": Setting("20 classes, 10-way", ways=(10,)),
    "varying": Setting("20 classes, 2- to 10-way", ways=tuple(range(2, 11))),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=sorted(SETTINGS), action="append", help="may be given again; default: all")
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--episodes", type=int, default=3000, help="per replicate")
    parser.add_argument("--images", type=int, default=600, help="per class")
    arguments = parser.parse_args(argv)
    print(f"numpy {np.__version__}, scipy {scipy.__version__}, Python {platform.python_version()}.")
    for name in arguments.setting or SETTINGS:
        given = vars(SETTINGS[name]) | {"episodes": arguments.episodes, "images": arguments.images}
        setting = Setting(**given)
        print(f"\n{table(setting, *simulate(setting, arguments.replicates))}", flush=True)


def simulate(setting: Setting, replicates: int) -> tuple[Floats, Floats]:
    """Means of every replicate and quantity, [R, A], and half-widths of every candidate, [R, I, A]."""
    means, widths = [], []
    began = time.perf_counter()
    for number in range(replicates):
        values, classes = replicate(setting, number)
        means.append(values.mean(axis=1))
        widths.append([candidate(values, classes, setting.classes) for candidate in CANDIDATES.values()])
        if (number + 1) % 500 == 0:
            print(f"<!-- {number + 1:,} replicates, {time.perf_counter() - began:,.0f} s -->", flush=True)
    return np.array(means), np.array(widths)


def replicate(setting: Setting, number: int) -> tuple[Floats, Classes]:
    """Draw classes, images and episodes, and classify.

    Returns:
        For each number of shots the accuracy of the method, and its differences from the others, [A, E]; and the
        classes of the episodes, [E, N], with -1 where the way is smaller than the largest.
    """
    methods = population(setting, np.random.default_rng([number, setting.classes]))
    share = math.ceil(setting.episodes / len(setting.ways))
    values, classes = [], []
    for way in setting.ways:
        images = sample_indices(
            [setting.images] * setting.classes, dataset="gaussian", split="novel", way=way, shot=max(SHOTS),
            query=QUERIES, seed=number, run=0, numbers=np.arange(share),
        )  # fmt: skip
        values.append(_quantities(methods, images))
        missing = max(setting.ways) - way
        classes.append(np.pad(images[:, :, 0] // setting.images, ((0, 0), (0, missing)), constant_values=-1))
    return np.concatenate(values, axis=1), np.concatenate(classes).astype(np.int64)


def population(setting: Setting, generator: np.random.Generator) -> list[Features]:
    """Features of the same images under the method and under each of `OTHERS`, each [C * I, D]."""
    shape = (setting.classes, setting.images, setting.dimensions)
    spread = np.exp(setting.spread_sd * generator.standard_normal((shape[0], 1, 1), dtype=np.float32))

    def draw() -> Features:
        centre = setting.distance * generator.standard_normal((shape[0], 1, shape[2]), dtype=np.float32)
        if setting.is_even:
            centre *= setting.distance * math.sqrt(shape[2]) / np.linalg.norm(centre, axis=-1, keepdims=True)
        drawn = centre + spread * generator.standard_normal(shape, dtype=np.float32)
        return np.asarray(drawn.reshape(-1, shape[2]), dtype=np.float32)

    features, kept = draw(), 3 * shape[2] // 4
    noisy = features + np.float32(0.5) * generator.standard_normal(features.shape, dtype=np.float32)
    fewer = np.ascontiguousarray(features[:, :kept])
    return [features, noisy, fewer, np.concatenate([fewer, draw()[:, kept:]], axis=1)]


def _quantities(methods: list[Features], images: NDArray[np.int32]) -> Floats:
    """Accuracy of the first method and its differences from the others, by shots, [A, E]."""
    rows: list[Floats] = []
    for shot in SHOTS:
        first, *others = (accuracies(features, images, shot) for features in methods)
        rows.extend([first, *(first - other for other in others)])
    return np.stack(rows)


def accuracies(features: Features, images: NDArray[np.int32], shot: int) -> Floats:
    """Nearest centroid by Euclidean distance on each episode, [E]; images [E, N, K + Q], support first."""
    episodes, way, _ = images.shape
    centroids = features[images[:, :, :shot]].mean(axis=2)
    queries = features[images[:, :, -QUERIES:]].reshape(episodes, way * QUERIES, -1)
    scores = queries @ centroids.transpose(0, 2, 1) - (centroids**2).sum(axis=-1)[:, None] / 2
    predictions = scores.argmax(axis=-1).reshape(episodes, way, QUERIES)
    return np.asarray((predictions == np.arange(way)[:, None]).mean(axis=(1, 2)))


def table(setting: Setting, means: Floats, widths: Floats) -> str:
    """Coverage and mean half-width of each candidate as Markdown."""
    truth = means.mean(axis=0)
    covered = 100 * (np.abs(means - truth)[:, None] <= widths).mean(axis=0)
    columns = ("shots", "quantity", "truth", "standard deviation", *CANDIDATES)
    drawn = f"{setting.images} images per class, {setting.episodes:,} episodes"
    lines = [
        f"{setting.title}: {len(means):,} replicates, {drawn}.\n",
        f"| {' | '.join(columns)} |",
        f"| ---: | --- |{' ---: |' * (len(columns) - 2)}",
    ]
    quantities = ("accuracy", *(f"difference, {other}" for other in OTHERS))
    for row, (shot, quantity) in enumerate((shot, quantity) for shot in SHOTS for quantity in quantities):
        deviation = 100 * means[:, row].std(ddof=1)
        cells = [
            "none" if np.isnan(widths[:, which, row]).all()
            else f"{covered[which, row]:.1f}% (±{100 * np.nanmean(widths[:, which, row]):.2f})"
            for which in range(len(CANDIDATES))
        ]  # fmt: skip
        lines.append(f"| {shot} | {quantity} | {100 * truth[row]:.2f} | {deviation:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
