"""What uneven queries cost transductive methods: the same methods on balanced and on Dirichlet(2) queries.

    python benchmarks/dirichlet.py                     # CIFAR-FS novel split, efficientnet_lite0 at 128 pixels
    python benchmarks/dirichlet.py --only pt-map --episodes 3000
    python benchmarks/dirichlet.py --synthetic         # made-up embeddings, nothing to import

Every episode has 75 queries. In balanced episodes each class has 15 of them; in the others their numbers follow a
Dirichlet distribution with alpha = 2, as in Veilleux et al. (2021). The classes and the support sets are drawn in the
same way, so an inductive method should not care. alpha-TIM runs Adam in the span of the episode's images, which is ten
times faster; its alpha is 2 at one shot and 7 at more, as published.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from adaptation import _cifar_fs, _synthetic
from numpy.typing import NDArray

from fewshot_bench.adaptation import ADAPTATIONS, EmbeddedSplit, EmbeddingAdaptation
from fewshot_bench.engine.classify import classify
from fewshot_bench.episodes import Protocol, draw
from fewshot_bench.units import rate_text

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "centroid": ("centroid", {}),
    "logistic": ("logistic", {}),
    "bd-cspn": ("bd-cspn", {}),
    "laplacian-shot": ("laplacian-shot", {}),
    "label-propagation": ("label-propagation", {}),
    "entropy": ("entropy", {}),
    "tim": ("tim", {}),
    "tim, equal weights": ("tim", {"cross_entropy_weight": 1.0, "conditional_entropy_weight": 1.0}),
    "alpha-tim": ("tim", {"coordinates": "span"}),
    "pt-map": ("pt-map", {}),
    "pt-map, balanced=false": ("pt-map", {"balanced": False}),
    "ilpc": ("ilpc", {}),
}
ALPHA_OF_TIM = {1: 2.0, 5: 7.0}  # as published, by shots
ALPHA = 2.0


def main() -> None:
    """Parse the arguments, classify, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(METHODS), help="this method; can be repeated")
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--synthetic", action="store_true", help="made-up embeddings instead of CIFAR-FS")
    arguments = parser.parse_args()
    embeddings, class_sizes, source = _synthetic() if arguments.synthetic else _cifar_fs()
    print(f"{source}; 5-way, {arguments.episodes:,} episodes; mean accuracy in %, ± 95% over episodes.\n")
    print("| shots | method | balanced | Dirichlet(2) | change, points | episodes/s |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |", flush=True)
    raw = EmbeddedSplit(torch.from_numpy(embeddings), len(embeddings))
    for name in arguments.only or METHODS:
        method, settings = METHODS[name]
        for shot in arguments.shots:
            alpha = {"alpha": ALPHA_OF_TIM.get(shot, 7.0)} if name == "alpha-tim" else {}
            adaptation = ADAPTATIONS[method].factory(**settings, **alpha)
            assert isinstance(adaptation, EmbeddingAdaptation)
            split = raw.with_features(adaptation.features)
            start = time.perf_counter()
            even, uneven = (
                _accuracies(adaptation, split, class_sizes, shot, arguments.episodes, sampler)
                for sampler in ("standard", "dirichlet")
            )
            rate = 2 * arguments.episodes / (time.perf_counter() - start)
            print(
                f"| {shot} | {name} | {_mean(even)} | {_mean(uneven)} | {100 * (uneven.mean() - even.mean()):+.1f} | "
                f"{rate_text(rate)} |",
                flush=True,
            )


def _accuracies(
    adaptation: EmbeddingAdaptation, split: EmbeddedSplit, sizes: Sequence[int], shot: int, episodes: int, sampler: Any
) -> NDArray[np.float64]:
    """The accuracy of every episode, [E]."""
    alpha = ALPHA if sampler == "dirichlet" else None
    protocol = Protocol("cifar-fs", shot=shot, episodes=episodes, runs=1, sampler=sampler, alpha=alpha)
    accuracies = []
    for group in draw(protocol, sizes, 0, np.arange(episodes)):
        predictions = classify(adaptation, split, group)
        accuracies.append((predictions == group.truth).mean(axis=1))
    return np.concatenate(accuracies)


def _mean(accuracy: NDArray[np.float64]) -> str:
    half = 1.96 * accuracy.std(ddof=1) / len(accuracy) ** 0.5
    return f"{100 * accuracy.mean():.1f} ± {100 * half:.1f}"


if __name__ == "__main__":
    main()
