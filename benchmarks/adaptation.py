"""Time the adaptations side by side with easyfsl and scikit-learn, on the same episodes, in one run.

    pip install '.[benchmark]'
    python benchmarks/adaptation.py                     # CIFAR-FS novel split, efficientnet_lite0 at 128 pixels
    python benchmarks/adaptation.py --synthetic         # 12,000 made-up embeddings, nothing to import
    python benchmarks/adaptation.py --all               # compare predictions on every episode; takes minutes
    python benchmarks/adaptation.py --json times.json   # the numbers beside the table

Every time is the median over the repeats and includes everything from image indices to predictions. Repeats
alternate between ours and theirs, so that a busy machine slows both. The other libraries have no batched path and
run on the first few episodes, whose number is stated; times are per 1,000 episodes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot_bench.adaptation import Centroid, EmbeddedSplit, EmbeddingAdaptation, FinetuneHead, Logistic
from fewshot_bench.engine.classify import classify
from fewshot_bench.episodes import Episodes, Protocol, sample_indices

try:
    from easyfsl.methods import Finetune, PrototypicalNetworks
    from sklearn.linear_model import LogisticRegression
except ImportError as missing:
    sys.exit(f"{missing.name} is not installed; run: pip install '.[benchmark]'")

WAY, QUERY, EPISODES = 5, 15, 3000
SYNTHETIC_CLASSES, SYNTHETIC_IMAGES, SYNTHETIC_SIZE = 20, 600, 1280
SYNTHETIC_SPREAD = 3.7
Made = TypeVar("Made")
Predict = Callable[[EmbeddedSplit, Episodes], NDArray[np.uint8]]


@dataclass(frozen=True)
class Contender:
    """Something that turns episodes into predictions.

    Attributes:
        label: its name in the table.
        features: "raw" or "l2".
        has_gram: whether it looks inner products up.
        episodes: how many of the episodes it runs on.
        predict: embeddings and episodes to predictions, [E, N * Q].
    """

    label: str
    features: str
    has_gram: bool
    episodes: int
    predict: Predict


@dataclass(frozen=True)
class Race:
    """Ours against theirs: the last contender is the reference."""

    title: str
    contenders: tuple[Contender, ...]


@dataclass(frozen=True)
class Row:
    """A line of the table; seconds are the median over the repeats."""

    shot: int
    race: str
    label: str
    episodes: int
    seconds: float
    seconds_per_1000: float
    times_faster: float
    accuracy: float
    compared: int
    different: int


def main() -> None:
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(json.dumps(_peak_memory(Path(arguments.embeddings), arguments.memory_of, arguments.episodes)))
        return
    embeddings, class_sizes, source = _synthetic() if arguments.synthetic else _cifar_fs()
    splits = _splits(embeddings)
    print(_heading(source, arguments), flush=True)
    rows: list[Row] = []
    sampling: dict[str, float] = {}
    for shot in arguments.shots:
        sampling[str(shot)], episodes = _sample(class_sizes, shot, arguments)
        for race in _races(arguments):
            rows += _run(race, splits, episodes, arguments.repeats)
            print(f"  {shot}-shot {race.title} done", file=sys.stderr, flush=True)
    gram = _gram_seconds(splits["l2", False], arguments.repeats)
    memory = _memory(embeddings, arguments.episodes)
    print(_table(rows, sampling, gram, memory))
    if arguments.json:
        content = {
            "rows": [asdict(row) for row in rows],
            "sampling_seconds": sampling,
            "gram_seconds": gram,
            "peak_mib": memory,
        }
        Path(arguments.json).write_text(json.dumps(content, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the adaptations beside easyfsl and scikit-learn.")
    parser.add_argument("--synthetic", action="store_true", help="made-up embeddings instead of CIFAR-FS")
    parser.add_argument("--repeats", type=int, default=3, help="alternating repeats; medians are reported")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="episodes of ours")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--easyfsl", type=int, default=300, help="episodes of easyfsl's PrototypicalNetworks")
    parser.add_argument("--finetune", type=int, default=10, help="episodes of easyfsl's Finetune")
    parser.add_argument("--sklearn", type=int, default=60, help="episodes of scikit-learn")
    parser.add_argument("--all", action="store_true", help="the other libraries run on all episodes")
    parser.add_argument("--threads", type=int, help="threads of torch; its default otherwise")
    parser.add_argument("--json", metavar="OUT", help="also write the numbers to this file")
    parser.add_argument("--memory-of", choices=["centroid", "logistic", "finetune-head"], help=argparse.SUPPRESS)
    parser.add_argument("--embeddings", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.all:
        arguments.easyfsl = arguments.finetune = arguments.sklearn = arguments.episodes
    return arguments


# What is classified


def _synthetic() -> tuple[NDArray[np.float32], list[int], str]:
    """Nonnegative clusters whose 5-way 1-shot accuracy is near 70%, as that of real embeddings."""
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(SYNTHETIC_CLASSES, 1, SYNTHETIC_SIZE))
    noise = generator.normal(size=(SYNTHETIC_CLASSES, SYNTHETIC_IMAGES, SYNTHETIC_SIZE))
    embeddings = np.maximum(centers + SYNTHETIC_SPREAD * noise, 0).reshape(-1, SYNTHETIC_SIZE).astype(np.float32)
    return embeddings, [SYNTHETIC_IMAGES] * SYNTHETIC_CLASSES, "synthetic clusters"


def _cifar_fs() -> tuple[NDArray[np.float32], list[int], str]:
    from fewshot_bench.backbones import BackboneRequest, create_backbone, embed
    from fewshot_bench.datasets import open_dataset

    split = open_dataset("cifar-fs").novel
    backbone = create_backbone(BackboneRequest("efficientnet_lite0", image_size=128))
    return embed(split, backbone), list(split.class_sizes), "CIFAR-FS novel split, efficientnet_lite0 at 128 pixels"


def _splits(embeddings: NDArray[np.float32]) -> dict[tuple[str, bool], EmbeddedSplit]:
    """The embeddings by (features, whether there is a Gram matrix)."""
    plain = EmbeddedSplit(torch.from_numpy(embeddings), len(embeddings))
    normalised = plain.with_features("l2")
    return {
        ("raw", False): plain,
        ("raw", True): plain.with_gram(),
        ("l2", False): normalised,
        ("l2", True): normalised.with_gram(),
    }


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


def _sample(class_sizes: list[int], shot: int, arguments: argparse.Namespace) -> tuple[float, Episodes]:
    """Median seconds of drawing the episodes, and the episodes."""
    return _median_seconds(lambda: _episodes(class_sizes, shot, arguments.episodes), arguments.repeats)


def _gram_seconds(split: EmbeddedSplit, repeats: int) -> float:
    """Median seconds of building the Gram matrix, which the rows that look products up do not contain."""
    return _median_seconds(split.with_gram, repeats)[0]


def _median_seconds(work: Callable[[], Made], repeats: int) -> tuple[float, Made]:
    """Median seconds of some work, and what it made."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        made = work()
        times.append(time.perf_counter() - start)
    return statistics.median(times), made


# Who classifies


def _races(arguments: argparse.Namespace) -> list[Race]:
    everything = arguments.episodes
    centroid = Centroid(metric="euclidean", features="raw")
    finetune = [
        contender
        for coordinates in ("span", "full")
        for contender in _ours(_finetune_head(coordinates), everything, f", {coordinates}")
        if not (coordinates == "full" and contender.has_gram)
    ]
    return [
        Race(
            "nearest centroid",
            (
                *_ours(centroid, everything),
                Contender("easyfsl PrototypicalNetworks", "raw", False, arguments.easyfsl, _easyfsl_prototypes),
            ),
        ),
        Race(
            "logistic regression",
            (
                *_ours(Logistic(), everything),
                Contender("scikit-learn LogisticRegression", "l2", False, arguments.sklearn, _sklearn),
            ),
        ),
        Race(
            "logistic regression, raw features",
            (
                *_ours(Logistic(features="raw"), everything, ", raw"),
                Contender("scikit-learn LogisticRegression, raw", "raw", False, arguments.sklearn, _sklearn),
            ),
        ),
        Race(
            "fine-tuning, 200 steps",
            (*finetune, Contender("easyfsl Finetune", "l2", False, arguments.finetune, _easyfsl_finetune)),
        ),
    ]


def _finetune_head(coordinates: str) -> FinetuneHead:
    """The settings of easyfsl's Finetune; "span" trains them in other coordinates."""
    if coordinates == "span":
        return FinetuneHead(head="cosine", scale=1.0, steps=200, learning_rate=1e-4, coordinates="span")
    return FinetuneHead(head="cosine", scale=1.0, steps=200, learning_rate=1e-4, coordinates="full")


def _ours(adaptation: EmbeddingAdaptation, episodes: int, suffix: str = "") -> tuple[Contender, Contender]:
    def predict(split: EmbeddedSplit, some: Episodes) -> NDArray[np.uint8]:
        return classify(adaptation, split, some)

    label = f"fewshot-bench {adaptation.name}{suffix}"
    return (
        Contender(label, adaptation.features, False, episodes, predict),
        Contender(f"{label}, Gram matrix", adaptation.features, True, episodes, predict),
    )


def _easyfsl_prototypes(split: EmbeddedSplit, episodes: Episodes) -> NDArray[np.uint8]:
    return _easyfsl(PrototypicalNetworks(torch.nn.Identity()), split, episodes)


def _easyfsl_finetune(split: EmbeddedSplit, episodes: Episodes) -> NDArray[np.uint8]:
    return _easyfsl(Finetune(torch.nn.Identity(), fine_tuning_steps=200), split, episodes)


def _easyfsl(method: PrototypicalNetworks | Finetune, split: EmbeddedSplit, episodes: Episodes) -> NDArray[np.uint8]:
    """An evaluation loop as easyfsl's users write it, on embeddings that are there already."""
    labels = torch.arange(WAY).repeat_interleave(episodes.protocol.shot)
    predictions = np.empty((len(episodes), WAY * QUERY), dtype=np.uint8)
    with torch.no_grad():
        for number, (support, query) in enumerate(zip(episodes.support, episodes.query, strict=True)):
            method.process_support_set(split.embeddings[torch.from_numpy(support.flatten())], labels)
            scores = method(split.embeddings[torch.from_numpy(query.flatten())])
            predictions[number] = scores.argmax(dim=-1).numpy()
    return predictions


def _sklearn(split: EmbeddedSplit, episodes: Episodes) -> NDArray[np.uint8]:
    # In double precision: given float32, scikit-learn optimises in float32 and stops far from the optimum.
    rows = split.embeddings.numpy()
    labels = np.repeat(np.arange(WAY), episodes.protocol.shot)
    predictions = np.empty((len(episodes), WAY * QUERY), dtype=np.uint8)
    for number, (support, query) in enumerate(zip(episodes.support, episodes.query, strict=True)):
        head = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(
            rows[support.flatten()].astype(np.float64), labels
        )
        predictions[number] = head.predict(rows[query.flatten()].astype(np.float64))
    return predictions


# The race


def _run(race: Race, splits: dict[tuple[str, bool], EmbeddedSplit], episodes: Episodes, repeats: int) -> list[Row]:
    times: dict[str, list[float]] = {contender.label: [] for contender in race.contenders}
    predictions: dict[str, NDArray[np.uint8]] = {}
    for contender in race.contenders:
        contender.predict(splits[contender.features, contender.has_gram], _first(episodes, 5))
    for _ in range(repeats):
        for contender in race.contenders:
            some = _first(episodes, contender.episodes)
            start = time.perf_counter()
            predictions[contender.label] = contender.predict(splits[contender.features, contender.has_gram], some)
            times[contender.label].append(time.perf_counter() - start)
    reference = race.contenders[-1]
    medians = {label: statistics.median(some) for label, some in times.items()}
    per_episode = medians[reference.label] / len(predictions[reference.label])
    return [
        _row(race, contender, medians[contender.label], per_episode, predictions, episodes.protocol.shot)
        for contender in race.contenders
    ]


def _row(
    race: Race,
    contender: Contender,
    seconds: float,
    seconds_of_reference: float,
    predictions: dict[str, NDArray[np.uint8]],
    shot: int,
) -> Row:
    own, reference = predictions[contender.label], predictions[race.contenders[-1].label]
    common = min(len(own), len(reference))
    truth = np.repeat(np.arange(WAY), QUERY)
    return Row(
        shot=shot,
        race=race.title,
        label=contender.label,
        episodes=len(own),
        seconds=seconds,
        seconds_per_1000=1000 * seconds / len(own),
        times_faster=seconds_of_reference * len(own) / seconds,
        accuracy=float((own == truth).mean()),
        compared=common * WAY * QUERY,
        different=int((own[:common] != reference[:common]).sum()),
    )


def _first(episodes: Episodes, count: int) -> Episodes:
    return Episodes(
        episodes.protocol,
        episodes.dataset_fingerprint,
        episodes.run,
        episodes.numbers[:count],
        episodes.images[:count],
    )


# Peak memory


def _memory(embeddings: NDArray[np.float32], episodes: int) -> dict[str, dict[str, float]]:
    """Peak resident MiB of a process of its own, by adaptation and number of episodes."""
    peaks: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.npy"
        np.save(path, embeddings)
        for name in ("centroid", "logistic", "finetune-head"):
            peaks[name] = {str(count): _in_subprocess(path, name, count) for count in (episodes, 3 * episodes)}
    return peaks


def _in_subprocess(path: Path, name: str, count: int) -> float:
    command = [sys.executable, __file__, "--memory-of", name, "--embeddings", str(path), "--episodes", str(count)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(answer.stdout))


def _peak_memory(path: Path, name: str, count: int) -> float:
    adaptations: dict[str, EmbeddingAdaptation] = {
        "centroid": Centroid(metric="euclidean", features="raw"),
        "logistic": Logistic(),
        "finetune-head": FinetuneHead(head="cosine", scale=1.0, steps=2, learning_rate=1e-4),
    }
    embeddings = np.load(path, allow_pickle=False)
    classes = SYNTHETIC_CLASSES
    episodes = _episodes([len(embeddings) // classes] * classes, 5, count)
    split = EmbeddedSplit(torch.from_numpy(embeddings), len(embeddings)).with_features(adaptations[name].features)
    classify(adaptations[name], split, episodes)
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


# The table


def _heading(source: str, arguments: argparse.Namespace) -> str:
    packages = ("torch", "easyfsl", "scikit-learn", "numpy")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return (
        f"{source}; {WAY}-way, {QUERY} queries per class, {arguments.episodes:,} episodes; "
        f"median of {arguments.repeats} alternating repeats.\n"
        f"{versions}, Python {platform.python_version()}; {torch.get_num_threads()} threads of torch, "
        f"{os.cpu_count()} cores ({platform.machine()}).\n"
    )


def _table(rows: list[Row], sampling: dict[str, float], gram: float, memory: dict[str, dict[str, float]]) -> str:
    lines = [
        "| shots | what | episodes timed | median s | s per 1,000 episodes | times faster | accuracy | "
        "predictions that differ |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    reference = {(row.shot, row.race): row.label for row in rows}
    for row in rows:
        is_reference = reference[row.shot, row.race] == row.label
        ratio = "1" if is_reference else f"{row.times_faster:,.1f}"
        differ = "" if is_reference else f"{row.different:,} of {row.compared:,}"
        lines.append(
            f"| {row.shot} | {row.label} | {row.episodes:,} | {row.seconds:.3f} | {row.seconds_per_1000:.3f} | "
            f"{ratio} | {row.accuracy:.2%} | {differ} |"
        )
    lines.append("")
    lines += [f"Sampling the {shot}-shot episodes: {seconds:.3f} s (median)." for shot, seconds in sampling.items()]
    lines += [f"Building the Gram matrix, once per split: {gram:.2f} s (median); the rows above do not contain it.", ""]
    lines += ["| peak memory, 5 shots | episodes | MiB |", "| --- | ---: | ---: |"]
    lines += [
        f"| {name} | {int(count):,} | {peak:,.0f} |" for name, some in memory.items() for count, peak in some.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
