"""Time the measures and probes of embeddings, beside other libraries where they have the same number.

    pip install '.[test]'                              # pytorch-metric-learning and scikit-learn
    python benchmarks/embeddings.py                    # 12,000 embeddings of 1,280 numbers; five minutes on idle cores
    python benchmarks/embeddings.py --only measure     # without intervals
    python benchmarks/embeddings.py --only linear --only choice --only nearest    # probes
    python benchmarks/embeddings.py --coverage 200     # how often intervals hold the truth, instead of times

Embeddings are made up. Other libraries get fewer images where they keep all pairs in memory or fit once per image; ours
are timed on the same ones. A row appears when its number is there; a library that is not installed is left out. CPU
seconds hardly depend on what else the machine does, wall seconds do. Memory is the peak so far, beyond what the
process held before the first row.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.embeddings import (
    KNNProbe,
    LabelledEmbeddings,
    Measured,
    TrainingImages,
    chosen_linear_probe,
    compare_embeddings,
    fitted_linear_probe,
    measure,
    similarity_histograms,
)
from fewshot_bench.embeddings.class_geometry import ClassGeometry
from fewshot_bench.embeddings.embedded_classes import embedded_classes
from fewshot_bench.embeddings.linear_probe import DINOV2_C
from fewshot_bench.embeddings.spectrum import Spectrum

CLASSES, IMAGES, SIZE = 20, 600, 1280
_C, _K = 1e-3, 20
_TRIED = 20
"""Values of C of a search: the smallest ones, up to 0.06."""
Split = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Contender:
    """One way to get a number.

    Attributes:
        label: of the row.
        images: of each class, at most.
        run: embeddings and labels to a number that contenders of the same name share, or None.
    """

    label: str
    images: int
    run: Callable[[Split], float | None]


def contenders() -> dict[str, list[Contender]]:
    """Ours first, by the names that `--only` takes."""
    return {
        "measure": [
            Contender("all measures, without intervals", IMAGES, lambda split: _count(measure(*split, intervals=False)))
        ],
        "intervals": [Contender("all measures with intervals", IMAGES, lambda split: _count(measure(*split)))],
        "compare": [
            Contender("two networks, without intervals", IMAGES, _compare),
        ],
        "pairs": [
            Contender("AUC of cosines", IMAGES, _auc),
            Contender("AUC of cosines", 150, _auc),
            Contender("the same, pytorch-metric-learning and scikit-learn", 150, _auc_of_others),
        ],
        "spectrum": [
            Contender("IS, IsoScore, RankMe and participation ratio in all variants", IMAGES, _ratio),
            Contender("participation ratio alone, scikit-learn PCA", IMAGES, _ratio_of_scikit_learn),
        ],
        "classes": [
            Contender("nearest class mean and NC1", IMAGES, _nearest_mean),
            Contender("nearest class mean and NC1", 20, _nearest_mean),
            Contender("nearest class mean, scikit-learn NearestCentroid, leave one out", 20, _nearest_mean_of_others),
        ],
        "linear": [
            Contender(f"linear probe, C = {_C}", IMAGES, _linear_probe),
            Contender(f"linear probe, C = {_C}", 100, _linear_probe),
            Contender(f"the same, scikit-learn LogisticRegression, C = {_C}", 100, _logistic_of_scikit_learn),
        ],
        "choice": [
            Contender(f"linear probe, C chosen among {_TRIED}", 40, _chosen_probe),
            Contender("the same, scikit-learn LogisticRegression, each C anew", 40, _chosen_of_scikit_learn),
        ],
        "nearest": [
            Contender(f"kNN probe, k = {_K}", IMAGES, _knn_probe),
            Contender(f"the same, scikit-learn KNeighborsClassifier, k = {_K}", IMAGES, _knn_of_scikit_learn),
        ],
    }


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=contenders(), help="these rows; can be repeated")
    parser.add_argument("--images", type=int, default=IMAGES, help="of each of the 20 classes, at most")
    parser.add_argument("--size", type=int, default=SIZE, help="numbers of an embedding")
    parser.add_argument("--minutes", type=float, default=9.0, help="no row begins after that")
    parser.add_argument("--coverage", type=int, metavar="DRAWS", help="simulate intervals on small embeddings instead")
    arguments = parser.parse_args()
    print(f"numpy {np.__version__}, Python {platform.python_version()}; {_threads()}\n")
    if arguments.coverage:
        print_coverage(arguments.coverage)
        return
    embeddings, labels = made_up(arguments.images, arguments.size)
    print(
        "| what | images | wall s | CPU s | peak MB | number |\n| --- | ---: | ---: | ---: | ---: | ---: |", flush=True
    )
    held, until = _peak(), time.monotonic() + 60 * arguments.minutes
    for name, ways in contenders().items():
        for way in ways if not arguments.only or name in arguments.only else []:
            chosen = np.arange(len(labels)) % arguments.images < way.images
            if time.monotonic() < until:
                print(_row(way, (embeddings[chosen], labels[chosen]), held), flush=True)


def _row(way: Contender, split: Split, held: float) -> str:
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        number = way.run(split)
    except ImportError as error:
        return f"| {way.label} | {len(split[1]):,} | {error.name} is not installed | | | |"
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    shown = "" if number is None else f"{number:.5f}"
    return f"| {way.label} | {len(split[1]):,} | {wall:.2f} | {cpu:.2f} | {_peak() - held:,.0f} | {shown} |"


def made_up(images: int, size: int, *, seed: int = 0) -> Split:
    """Nonnegative clusters, [20 * images, D], and the class of each."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(CLASSES, 1, size)).astype(np.float32)
    noise = generator.standard_normal((CLASSES, images, size), dtype=np.float32)
    rows = np.maximum(centres + np.float32(3.7) * noise, 0).reshape(-1, size)
    return rows, np.repeat(np.arange(CLASSES), images)


def _threads() -> str:
    set_to = os.environ.get("OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{f'OMP_NUM_THREADS={set_to}, ' if set_to else ''}{cores} cores ({platform.machine()})"


def _peak() -> float:
    """Peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Ours


def _count(measured: tuple[Measured, ...]) -> None:
    assert measured


def _compare(split: Split) -> float:
    other = split[0][:, ::-1] ** 2
    return compare_embeddings(split[0], other, split[1], intervals=False)[-1].value


def _auc(split: Split) -> float:
    return similarity_histograms(*split).auc


def _ratio(split: Split) -> float:
    return Spectrum(embedded_classes(*split)).values()["participation_ratio", "raw"]


def _nearest_mean(split: Split) -> float:
    return ClassGeometry(embedded_classes(*split)).values()["ncm_accuracy", "raw"]


def _parts(split: Split) -> tuple[LabelledEmbeddings, LabelledEmbeddings]:
    """Four fifths of the images to learn from, one to choose or test on."""
    embeddings, labels = split
    is_tested = np.arange(len(labels)) % 5 == 0
    rows = (np.flatnonzero(~is_tested), np.flatnonzero(is_tested))
    learned, tested = (LabelledEmbeddings(embeddings, part, labels[part]) for part in rows)
    return learned, tested


def _linear_probe(split: Split) -> float:
    learned, tested = _parts(split)
    found = fitted_linear_probe(learned, classes=CLASSES, C=_C).log_probabilities(tested.embeddings, rows=tested.rows)
    return -float(found[np.arange(len(tested)), tested.labels].mean())


def _chosen_probe(split: Split) -> float:
    _, choice = chosen_linear_probe(*_parts(split), classes=CLASSES, candidates=DINOV2_C[:_TRIED])
    return max(accuracy for _, accuracy in choice.tried)


def _knn_probe(split: Split) -> float:
    learned, tested = _parts(split)
    probe = KNNProbe(TrainingImages(learned, classes=CLASSES), _K, None)
    found = probe.log_probabilities(tested.embeddings, rows=tested.rows).argmax(axis=1)
    return float((found == tested.labels).mean())


# The others


def _logistic_of_scikit_learn(split: Split) -> float:
    fitted, tested, truth = _fitted_by_scikit_learn(split, _C)
    return -float(fitted.predict_log_proba(tested)[np.arange(len(truth)), truth].mean())


def _chosen_of_scikit_learn(split: Split) -> float:
    found = [_fitted_by_scikit_learn(split, C) for C in DINOV2_C[:_TRIED]]
    return max(float(fitted.score(tested, truth)) for fitted, tested, truth in found)


def _fitted_by_scikit_learn(split: Split, C: float) -> tuple[Any, NDArray[np.float64], NDArray[np.int64]]:
    """Its logistic regression, the images to test it on, and their classes."""
    from sklearn.linear_model import LogisticRegression

    learned, tested = _parts(split)
    rows = split[0].astype(np.float64)
    # At the default tolerance it stops far from the optimum.
    fitted = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(rows[learned.rows], learned.labels)
    return fitted, rows[tested.rows], tested.labels


def _knn_of_scikit_learn(split: Split) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    learned, tested = _parts(split)
    fitted = KNeighborsClassifier(_K, metric="cosine", algorithm="brute").fit(split[0][learned.rows], learned.labels)
    return float(fitted.score(split[0][tested.rows], tested.labels))


def _auc_of_others(split: Split) -> float:
    import torch
    from pytorch_metric_learning.distances import CosineSimilarity
    from sklearn.metrics import roc_auc_score

    embeddings, labels = split
    cosines = CosineSimilarity()(torch.from_numpy(embeddings)).numpy()
    above = np.triu_indices(len(labels), 1)
    return float(roc_auc_score(labels[above[0]] == labels[above[1]], cosines[above]))


def _ratio_of_scikit_learn(split: Split) -> float:
    from sklearn.decomposition import PCA

    values = PCA(svd_solver="covariance_eigh").fit(split[0].astype(np.float64)).explained_variance_
    return float(values.sum() ** 2 / (values**2).sum())


def _nearest_mean_of_others(split: Split) -> float:
    from sklearn.model_selection import LeaveOneOut, cross_val_score
    from sklearn.neighbors import NearestCentroid

    return float(cross_val_score(NearestCentroid(), *split, cv=LeaveOneOut()).mean())


# Coverage


def print_coverage(draws: int) -> None:
    """Draw classes again and again from a population, and print how often intervals hold the mean of all draws."""
    settings: list[tuple[str, dict[str, Any]]] = [
        ("20 classes of 20 images, D = 64", {"classes": 20, "images": 20, "size": 64}),
        ("64 classes of 12 images in 20 groups, D = 16", {"classes": 64, "images": 12, "size": 16}),
    ]
    for title, setting in settings:
        print(f"{title}, {draws} draws\n\n| measure | mean | standard deviation | 95% intervals hold it |")
        print("| --- | ---: | ---: | ---: |")
        generator = np.random.default_rng(0)
        found = [measure(*_drawn(generator, **setting)) for _ in range(draws)]
        for rows in zip(*found, strict=True):
            values = np.array([row.value for row in rows])
            ends = np.array([[row.low, row.high] for row in rows], dtype=np.float64)
            held = ((ends[:, 0] <= values.mean()) & (values.mean() <= ends[:, 1])).mean()
            name = f"{rows[0].name}, {rows[0].variant}"
            print(f"| {name} | {values.mean():.4g} | {values.std(ddof=1):.3g} | {held:.1%} |")
        print(flush=True)


def _drawn(generator: np.random.Generator, *, classes: int, images: int, size: int) -> Split:
    """Classes that differ in their centre and their spread, with axes of different length, cut off at 0 as by ReLU."""
    axes = np.arange(1, size + 1) ** -0.5
    centres = 0.5 + generator.normal(size=(classes, 1, size)) * axes
    spreads = np.exp(0.3 * generator.normal(size=(classes, 1, 1)))
    rows = np.maximum(centres + spreads * axes * generator.normal(size=(classes, images, size)), 0) + 1e-3
    return rows.reshape(-1, size).astype(np.float32), np.repeat(np.arange(classes), images)


if __name__ == "__main__":
    main()
