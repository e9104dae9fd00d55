"""Twelve fixed classes of real photos: how far apart are the differences that disjoint sets of photos give?

    fewshot-bench data import cifar-fs --from cifar100.zip     # once
    python benchmarks/fixed_classes.py

Each set has other photos of the same twelve classes of CIFAR-100, and every episode has all twelve. Logistic regression
is compared with nearest centroid on each set alone. The scatter of the differences over the sets is what an interval
for other photos of these classes has to cover.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy
from coverage_candidates import Drawn, shipped, task
from gaussian_classes import QUERIES, Floats, episodes_of, in_canonical_order
from numpy.typing import NDArray

from fewshot_bench.adaptation import Centroid, EmbeddingAdaptation, Logistic
from fewshot_bench.backbones import BackboneRequest, create_backbone, embed
from fewshot_bench.datasets import import_dataset, open_dataset
from fewshot_bench.episodes import Episodes, Protocol
from fewshot_bench.errors import DatasetError
from fewshot_bench.evaluation.evaluate import evaluate

CLASSES = 12
SETS = ((30, 20), (60, 10))
"""Photos per class, and how many disjoint sets of them."""
SHOTS = (1, 5)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments, embed, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1000, help="per set")
    arguments = parser.parse_args(argv)
    embeddings = embedded_photos()
    if embeddings is None:
        sys.exit("CIFAR-FS is not imported, and FEWSHOT_BENCH_CIFAR_ZIP names no file to import it from.")
    print(f"numpy {np.__version__}, scipy {scipy.__version__}, Python {platform.python_version()}.")
    print(f"{CLASSES} classes, efficientnet_lite0 at 128 pixels, {arguments.episodes:,} episodes per set.\n")
    columns = (
        "photos per class", "disjoint sets", "shots", "difference", "± scatter of the sets", "± images", "± episodes",
        "sets whose interval over images holds the mean of all sets", "over episodes",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{' ---: |' * len(columns)}", flush=True)
    for photos, sets in SETS:
        for shot in SHOTS:
            drawn = [
                one_set(embeddings[:, number * photos : (number + 1) * photos], shot, arguments.episodes, number)
                for number in range(sets)
            ]
            print(row(drawn, photos, shot), flush=True)


def embedded_photos() -> NDArray[np.float32] | None:
    """Embeddings of the first classes of the novel split of CIFAR-FS, [C, I, D]; None where it is not there."""
    try:
        split = open_dataset("cifar-fs").novel
    except DatasetError:
        beside = Path(__file__).parents[2] / "shared" / "data" / "cifar100.zip"
        source = Path(os.environ.get("FEWSHOT_BENCH_CIFAR_ZIP", beside))
        if not source.is_file():
            return None
        split = import_dataset("cifar-fs", source).novel
    found = embed(split, create_backbone(BackboneRequest("efficientnet_lite0", image_size=128)))
    return np.asarray(found.reshape(len(split.class_sizes), -1, found.shape[1])[:CLASSES])


def one_set(photos: NDArray[np.float32], shot: int, episodes: int, seed: int) -> Drawn:
    """Logistic regression minus nearest centroid on one set of photos, [C, I, D]."""
    classes, per_class, _ = photos.shape
    images = in_canonical_order(
        episodes_of([per_class] * classes, way=classes, shot=shot, seed=seed, episodes=episodes)
    )
    protocol = Protocol("photos", way=classes, shot=shot, query=QUERIES, episodes=episodes, runs=1)
    drawn = Episodes(protocol, "photos", 0, np.arange(episodes), images)
    embeddings = np.ascontiguousarray(photos.reshape(classes * per_class, -1))

    def accuracy(adaptation: EmbeddingAdaptation) -> Floats:
        return evaluate(adaptation, embeddings, drawn).outcomes.accuracy

    difference = accuracy(Logistic()) - accuracy(Centroid())
    return Drawn(difference[None], images[:, :, 0].astype(np.int64) // per_class, classes, images)


def row(sets: Sequence[Drawn], photos: int, shot: int) -> str:
    """What the sets say together, in percentage points."""
    means = 100 * np.array([drawn.values.mean() for drawn in sets])
    over_images, over_episodes = (100 * np.array([of(drawn) for drawn in sets])[:, :, 0] for of in (shipped, task))
    halves, held = [], []
    for ends in (over_images, over_episodes):
        halves.append(float((ends[:, 1] - ends[:, 0]).mean()) / 2)
        held.append(int(((ends[:, 0] <= means.mean()) & (means.mean() <= ends[:, 1])).sum()))
    scatter = 1.96 * means.std(ddof=1)
    cells = [f"{photos}", f"{len(sets)}", f"{shot}", f"{means.mean():+.2f}", f"{scatter:.2f}"]
    return f"| {' | '.join([*cells, *(f'{half:.2f}' for half in halves), *(f'{count}' for count in held)])} |"


if __name__ == "__main__":
    main()
