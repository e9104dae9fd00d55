"""Time the adaptations side by side with easyfsl and scikit-learn, on the same episodes, in one process.

    pip install '.[benchmark]'
    python benchmarks/adaptation.py                          # CIFAR-FS novel split, efficientnet_lite0 at 128 pixels
    python benchmarks/adaptation.py --only ridge --only svm  # some of the methods
    python benchmarks/adaptation.py --synthetic              # 12,000 made-up embeddings, nothing to import
    python benchmarks/adaptation.py --seconds 10             # more episodes for everybody
    python benchmarks/adaptation.py --device cuda --alone    # on a GPU, without the other libraries
    python benchmarks/adaptation.py --memory                 # peak memory of each method, twice as many episodes beside

A time covers everything from image indices to predictions. Repeats alternate between ours and theirs, so that a busy
machine slows both; the table shows medians. Every contender runs on as many episodes as fit into its share of the time.
The other libraries work on one episode after another.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.adaptation import ADAPTATIONS, EmbeddedSplit, EmbeddingAdaptation, Features
from fewshot_bench.engine.classify import classify
from fewshot_bench.episodes import Episodes, Protocol, sample_indices
from fewshot_bench.units import rate_text

try:
    from easyfsl import methods as easyfsl
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.semi_supervised import LabelSpreading
    from sklearn.svm import LinearSVC
except ImportError as error:
    _ABSENT = error.name
else:
    _ABSENT = None

WAY, QUERY, EPISODES, FEWEST = 5, 15, 3000, 3
SYNTHETIC_CLASSES, SYNTHETIC_IMAGES, SYNTHETIC_SIZE = 20, 600, 1280
SYNTHETIC_SPREAD = 3.7
Answer = Callable[[Tensor, Tensor, Tensor], Tensor | NDArray[Any]]
"""Support embeddings [N * K, D], their labels and query embeddings [M, D] to predictions [M]."""


@dataclass(frozen=True)
class Race:
    """One of our methods against another implementation of it.

    Attributes:
        method: name of the adaptation.
        label: of the row; the method's name and the settings that matter.
        settings: hyper-parameters.
        reference: name of the other implementation; empty where there is none.
        answer: what it does with one episode.
        shots: at which it can run.
        known: episodes/s of an implementation that is not here, by shots.
    """

    method: str
    label: str
    settings: dict[str, Any] = field(default_factory=dict)
    reference: str = ""
    answer: Answer | None = None
    shots: tuple[int, ...] = (1, 5)
    known: dict[int, float] = field(default_factory=dict)


def races() -> list[Race]:
    """All of them, in the order of the table."""
    return [
        Race(
            "centroid",
            "centroid, Euclidean",
            {"metric": "euclidean"},
            "easyfsl PrototypicalNetworks",
            _easyfsl("PrototypicalNetworks"),
        ),
        Race("logistic", "logistic", {}, "scikit-learn LogisticRegression", _sklearn_logistic),
        Race("ridge", "ridge", {}, "scikit-learn RidgeClassifier", _sklearn_ridge),
        Race("svm", "svm", {}, "scikit-learn LinearSVC, Crammer and Singer", _sklearn_svm),
        Race("knn", "knn", {}, "scikit-learn KNeighborsClassifier", _sklearn_neighbours),
        Race(
            "lda",
            "lda, shrinkage 0.5",
            {"shrinkage": 0.5},
            "scikit-learn LinearDiscriminantAnalysis",
            _sklearn_lda,
            shots=(5,),
        ),
        Race("matching", "matching", {}),
        Race(
            "finetune-head",
            "finetune-head, 200 steps, full coordinates",
            {"head": "cosine", "scale": 1.0, "steps": 200, "learning_rate": 1e-4, "coordinates": "full"},
            "easyfsl Finetune",
            _easyfsl("Finetune", fine_tuning_steps=200),
        ),
        Race("baseline++", "baseline++", {}),
        Race(
            "bd-cspn",
            "bd-cspn, settings of easyfsl",
            {"temperature": 1.0, "weighting": "images", "shift": "prototypes"},
            "easyfsl BDCSPN",
            _easyfsl("BDCSPN"),
        ),
        Race(
            "laplacian-shot",
            "laplacian-shot, settings of easyfsl",
            {"laplacian_weight": 0.7, "knn": 2, "weighting": "images", "temperature": 1.0, "shift": "prototypes"},
            "easyfsl LaplacianShot",
            _easyfsl("LaplacianShot"),
        ),
        Race("label-propagation", "label-propagation", {}, "scikit-learn LabelSpreading", _sklearn_spreading),
        Race(
            "tim",
            "tim, gradient descent, 50 steps",
            {
                "solver": "gd",
                "steps": 50,
                "metric": "cosine",
                "temperature": 10.0,
                "conditional_entropy_weight": 0.1,
                "cross_entropy_weight": 1.0,
            },
            "easyfsl TIM, 50 steps",
            _easyfsl("TIM", fine_tuning_steps=50),
        ),
        Race("tim", "tim, ADM, 150 iterations", {}, known={1: 12.9, 5: 10.1}),
        Race(
            "entropy",
            "entropy, settings of easyfsl",
            {"head": "distance", "updates": "joint", "temperature": 1.0},
            "easyfsl TransductiveFinetuning",
            _easyfsl("TransductiveFinetuning"),
        ),
        Race(
            "pt-map",
            "pt-map, settings of easyfsl",
            {"centering": "none", "alpha": 0.2, "steps": 10},
            "easyfsl PTMAP",
            _easyfsl("PTMAP", power_factor=1.0),  # its features have had their power transform
        ),
        Race("ilpc", "ilpc", {}),
    ]


def main() -> None:
    """Parse the arguments, race, print."""
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(json.dumps(_peak_memory(arguments.embeddings, arguments.memory_of, arguments.episodes)))
        return
    if _ABSENT and not arguments.alone:
        sys.exit(f"{_ABSENT} is not installed; run: pip install '.[benchmark]', or add --alone")
    chosen = [race for race in races() if not arguments.only or race.method in arguments.only]
    unknown = sorted(set(arguments.only) - {race.method for race in races()})
    if unknown:
        sys.exit(f"unknown method {unknown[0]}; known: {', '.join(dict.fromkeys(r.method for r in races()))}.")
    embeddings, class_sizes, source = _synthetic(arguments.images) if arguments.synthetic else _cifar_fs()
    print(_heading(source, arguments), flush=True)
    if arguments.memory:
        _print_memory(embeddings, chosen, arguments.episodes)
        return
    print("| shots | what | episodes timed | episodes/s | times faster | accuracy | predictions that differ |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    raw = EmbeddedSplit(torch.from_numpy(embeddings).to(arguments.device), len(embeddings))
    splits = Splits(raw)
    until = time.monotonic() + 60 * arguments.minutes
    for race in chosen:
        for shot in arguments.shots:
            if shot in race.shots and time.monotonic() < until:
                for line in _run(race, splits, _episodes(class_sizes, shot, arguments.episodes), arguments):
                    print(line, flush=True)
    print(f"\nThe Gram matrix is built once per split and kind of features: {splits.gram_seconds:.1f} s.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this method; can be repeated")
    parser.add_argument("--synthetic", action="store_true", help="made-up embeddings instead of CIFAR-FS")
    parser.add_argument("--images", type=int, default=SYNTHETIC_IMAGES, help="of each of the made-up classes")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1; others than the CPU need --alone")
    parser.add_argument("--alone", action="store_true", help="without easyfsl and scikit-learn")
    parser.add_argument("--minutes", type=float, default=math.inf, help="nothing new begins after that")
    parser.add_argument("--repeats", type=int, default=3, help="alternating repeats; medians are reported")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contender in each repeat, about")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="that a contender runs on at most")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--threads", type=int, help="threads of torch; its default otherwise")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of times")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--embeddings", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device != "cpu" and not arguments.alone:
        parser.error(f"the other libraries compute on the CPU: add --alone to --device {arguments.device}.")
    return arguments


# What is classified


def _synthetic(images: int = SYNTHETIC_IMAGES) -> tuple[NDArray[np.float32], list[int], str]:
    """Nonnegative clusters whose 5-way 1-shot accuracy is near 70%, as that of real embeddings."""
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(SYNTHETIC_CLASSES, 1, SYNTHETIC_SIZE))
    noise = generator.normal(size=(SYNTHETIC_CLASSES, images, SYNTHETIC_SIZE))
    embeddings = np.maximum(centers + SYNTHETIC_SPREAD * noise, 0).reshape(-1, SYNTHETIC_SIZE).astype(np.float32)
    return embeddings, [images] * SYNTHETIC_CLASSES, "synthetic clusters"


def _cifar_fs() -> tuple[NDArray[np.float32], list[int], str]:
    from fewshot_bench.backbones import BackboneRequest, create_backbone, embed
    from fewshot_bench.datasets import open_dataset

    split = open_dataset("cifar-fs").novel
    backbone = create_backbone(BackboneRequest("efficientnet_lite0", image_size=128))
    return embed(split, backbone), list(split.class_sizes), "CIFAR-FS novel split, efficientnet_lite0 at 128 pixels"


class Splits:
    """The embeddings with each kind of features, and with its Gram matrix; made when first asked for.

    Only the last one is kept, since a Gram matrix of 12,000 images takes 576 MB.
    """

    def __init__(self, raw: EmbeddedSplit) -> None:
        self.raw, self.gram_seconds = raw, 0.0
        self._features, self._plain, self._with_gram = "", raw, raw

    def plain(self, features: Features) -> EmbeddedSplit:
        """The split with features, without a Gram matrix."""
        if features != self._features:
            self._features = features
            self._plain = self.raw.with_features(features)
            start = time.perf_counter()
            self._with_gram = self._plain.with_gram()
            self.gram_seconds = time.perf_counter() - start
        return self._plain

    def with_gram(self, features: Features) -> EmbeddedSplit:
        """The split with features and the inner products of all images."""
        self.plain(features)
        return self._with_gram


def _episodes(class_sizes: list[int], shot: int, count: int) -> Episodes:
    protocol = Protocol("cifar-fs", way=WAY, shot=shot, query=QUERY, episodes=count)
    numbers = np.arange(count)
    images = sample_indices(
        class_sizes,
        dataset=protocol.dataset,
        split=protocol.split,
        way=WAY,
        shot=shot,
        query=QUERY,
        seed=protocol.seed,
        run=0,
        numbers=numbers,
    )
    return Episodes(protocol, "benchmark", 0, numbers, images)


def _first(episodes: Episodes, count: int) -> Episodes:
    return Episodes(
        episodes.protocol,
        episodes.dataset_fingerprint,
        episodes.run,
        episodes.numbers[:count],
        episodes.images[:count],
    )


# The other implementations: one episode each


def _easyfsl(method: str, **settings: Any) -> Answer:
    made: list[Any] = []

    def answer(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        if not made:
            made.append(getattr(easyfsl, method)(backbone=torch.nn.Identity(), **settings))
        made[0].process_support_set(support, labels)
        predicted: Tensor = made[0](query).argmax(dim=-1)
        return predicted

    return answer


def _sklearn(make: Callable[[Tensor], Any]) -> Answer:
    # In double precision: given float32, scikit-learn optimises in float32 and stops far from the optimum.
    def answer(support: Tensor, labels: Tensor, query: Tensor) -> NDArray[Any]:
        fitted = make(labels).fit(support.double().numpy(), labels.numpy())
        predicted: NDArray[Any] = fitted.predict(query.double().numpy())
        return predicted

    return answer


def _sklearn_spreading_of(support: Tensor, labels: Tensor, query: Tensor) -> NDArray[Any]:
    rows = torch.cat([support, query]).double().numpy()
    known = np.concatenate([labels.numpy(), np.full(len(query), -1)])
    fitted = LabelSpreading(kernel="rbf", gamma=20.0, alpha=0.2, max_iter=1000).fit(rows, known)
    predicted: NDArray[Any] = fitted.transduction_[len(support) :]
    return predicted


_sklearn_logistic = _sklearn(lambda _: LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000))
_sklearn_ridge = _sklearn(lambda _: RidgeClassifier(alpha=1.0, fit_intercept=False))
_sklearn_svm = _sklearn(
    lambda _: LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=1.0, tol=1e-4, max_iter=100_000)
)
_sklearn_neighbours = _sklearn(lambda _: KNeighborsClassifier(1))
_sklearn_lda = _sklearn(lambda _: LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5))
_sklearn_spreading = _sklearn_spreading_of


# The race


def _run(race: Race, splits: Splits, episodes: Episodes, arguments: argparse.Namespace) -> Iterator[str]:
    """The lines of the table about one method at one number of shots."""
    adaptation = ADAPTATIONS[race.method].factory(**race.settings)
    assert isinstance(adaptation, EmbeddingAdaptation)
    plain, with_gram = splits.plain(adaptation.features), splits.with_gram(adaptation.features)
    contenders: dict[str, Callable[[Episodes], NDArray[Any]]] = {
        race.label: lambda some: classify(adaptation, plain, some),
        f"{race.label}, Gram matrix": lambda some: classify(adaptation, with_gram, some),
    }
    if race.answer is not None and not arguments.alone:
        answer, split = race.answer, plain
        contenders[race.reference] = lambda some: _one_by_one(answer, split, some)
    counts = {label: _count(predict, episodes, arguments.seconds) for label, predict in contenders.items()}
    times: dict[str, list[float]] = {label: [] for label in contenders}
    predictions: dict[str, NDArray[Any]] = {}
    for _ in range(arguments.repeats):
        for label, predict in contenders.items():
            some = _first(episodes, counts[label])
            start = time.perf_counter()
            predictions[label] = predict(some)
            times[label].append((time.perf_counter() - start) / len(some))
    rates = {label: 1 / statistics.median(some) for label, some in times.items()}
    shot = episodes.protocol.shot
    known = None if arguments.alone else race.known.get(shot)  # measured on a CPU
    slowest = rates.get(race.reference, known or 0.0)
    truth = np.repeat(np.arange(WAY), QUERY)
    for label, predicted in predictions.items():
        other = predictions.get(race.reference)
        common = 0 if other is None or label == race.reference else min(len(predicted), len(other))
        different = int((predicted[:common] != other[:common]).sum()) if other is not None else 0
        yield (
            f"| {shot} | {label} | {len(predicted):,} | {rate_text(rates[label])} | "
            f"{f'{rates[label] / slowest:,.1f}' if slowest and label != race.reference else ''} | "
            f"{(predicted == truth).mean():.2%} | {f'{different:,} of {common * len(truth):,}' if common else ''} |"
        )
    if known:
        yield f"| {shot} | its authors' code, measured apart | | {known} | 1 | | |"


def _count(predict: Callable[[Episodes], NDArray[Any]], episodes: Episodes, seconds: float) -> int:
    """How many episodes a contender does in that time, from a few that also warm it up."""
    predict(_first(episodes, FEWEST))
    count = FEWEST
    while count < len(episodes):
        start = time.perf_counter()
        predict(_first(episodes, count))
        passed = time.perf_counter() - start
        if passed > seconds / 8:
            return int(np.clip(count * seconds / passed, FEWEST, len(episodes)))
        count *= 8
    return len(episodes)


def _one_by_one(answer: Answer, split: EmbeddedSplit, episodes: Episodes) -> NDArray[np.uint8]:
    """An evaluation loop as users of the other libraries write it, on embeddings that are there already."""
    labels = torch.arange(WAY).repeat_interleave(episodes.protocol.shot)
    predictions = np.empty((len(episodes), WAY * QUERY), dtype=np.uint8)
    with torch.no_grad():
        for number, (support, query) in enumerate(zip(episodes.support, episodes.query, strict=True)):
            rows = split.embeddings[torch.from_numpy(support.flatten())]
            predictions[number] = np.asarray(answer(rows, labels, split.embeddings[torch.from_numpy(query.flatten())]))
    return predictions


# Peak memory


def _print_memory(embeddings: NDArray[np.float32], chosen: list[Race], episodes: int) -> None:
    """Peak resident MiB of a process of its own for each method, at 5 shots."""
    print(f"| peak memory, 5 shots, MiB | {episodes:,} episodes | {2 * episodes:,} episodes |")
    print("| --- | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.npy"
        np.save(path, embeddings)
        for name in dict.fromkeys(race.method for race in chosen):
            peaks = [_in_subprocess(path, name, count) for count in (episodes, 2 * episodes)]
            print(f"| {name} | {peaks[0]:,.0f} | {peaks[1]:,.0f} |", flush=True)


def _in_subprocess(path: Path, name: str, count: int) -> float:
    command = [sys.executable, __file__, "--memory-of", name, "--embeddings", str(path), "--episodes", str(count)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(answer.stdout))


def _peak_memory(path: Path, name: str, count: int) -> float:
    adaptation = ADAPTATIONS[name].factory()
    assert isinstance(adaptation, EmbeddingAdaptation)
    embeddings = np.load(path, allow_pickle=False)
    classes = SYNTHETIC_CLASSES
    episodes = _episodes([len(embeddings) // classes] * classes, 5, count)
    split = EmbeddedSplit(torch.from_numpy(embeddings), len(embeddings)).with_features(adaptation.features)
    classify(adaptation, split, episodes)
    return _peak_mebibytes()


def _peak_mebibytes() -> float:
    """Peak resident memory of this process.

    On Linux ru_maxrss starts at the peak of the parent, which is larger here; VmHWM starts at zero.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024
    import resource

    # Bytes on macOS, kibibytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _heading(source: str, arguments: argparse.Namespace) -> str:
    packages = ("torch", "numpy") if arguments.alone else ("torch", "easyfsl", "scikit-learn", "numpy")
    device = torch.device(arguments.device)
    name = f" on {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return (
        f"{source}{name}; {WAY}-way, {QUERY} queries per class, at most {arguments.episodes:,} episodes; "
        f"median of {arguments.repeats} alternating repeats.\n"
        f"{versions}, Python {platform.python_version()}; {torch.get_num_threads()} threads of torch, "
        f"{os.cpu_count()} cores ({platform.machine()}).\n"
    )


if __name__ == "__main__":
    main()
