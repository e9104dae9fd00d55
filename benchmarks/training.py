"""Time training on the base split against the network alone: how much of it do the images and their views cost?

    python benchmarks/training.py
    python benchmarks/training.py --device cuda --precision bf16
    python benchmarks/training.py --only resnet12 jitter

The training takes images from a split of noise, makes two random views of each and learns from them, as
`fewshot-bench train` does; the network alone learns from the views of one batch, again and again. Repeats alternate
between the two, after one warm-up of each; medians are reported. Every row is printed as soon as it is known.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import timm
import torch
from finetune_device import flops_per_step, matmul_rate

import fewshot_bench.backbones.networks  # noqa: F401  # for timm to know them
from fewshot_bench.backbones.backbone import Preprocessing
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.devices import tf32_on
from fewshot_bench.training.batches import SampleLoader
from fewshot_bench.training.classification import Classification
from fewshot_bench.training.learner import Learner
from fewshot_bench.training.objective import Computing
from fewshot_bench.training.recipe import AugmentationName, PrecisionName, Recipe

AUGMENTATIONS: tuple[AugmentationName, ...] = ("autoaugment", "jitter", "affine", "none")
CLASSES = 64


@dataclass(frozen=True)
class Network:
    """A network of timm's or of the project's.

    Attributes:
        label: for the table.
        name: timm's.
        image_size: of the images, in pixels.
        input_size: to which they are resized.
        batch: images per step on a GPU and on a CPU.
    """

    label: str
    name: str
    image_size: int
    input_size: int
    batch: tuple[int, int]

    @property
    def options(self) -> dict[str, Any]:
        """What timm needs to know; convolutions take images of any size."""
        return {} if self.name.startswith("efficientnet") else {"img_size": self.input_size}


NETWORKS = {
    "conv4": Network("Conv4, 32 px", "conv4_64", 32, 32, (1024, 64)),
    "resnet12": Network("ResNet-12, 32 px", "resnet12", 32, 32, (512, 8)),
    "resnet12-84": Network("ResNet-12, 84 px", "resnet12", 84, 84, (256, 4)),
    "lite0": Network("EfficientNet-Lite0, 32 to 128 px", "efficientnet_lite0", 32, 128, (256, 16)),
    "vit-b": Network("ViT-B/16, 32 to 224 px", "vit_base_patch16_224", 32, 224, (128, 2)),
}
_ON_CPU = ("conv4", "resnet12", "lite0")


@dataclass(frozen=True)
class Rates:
    """What one training does, in images per second; each is two views.

    Attributes:
        network: its label.
        augmentation: of the views.
        precision: of the network.
        batch: images per step.
        images: where they come from: "CPU", "GPU" if the split stays there, or "thread".
        training: with everything.
        alone: of the network, from views that are there already.
        views: of gathering images and making views, without a network.
        flops: of one image, in two views, forward and backward.
        matmul_rate: FLOP/s of a large product in the precision of the network.
    """

    network: str
    augmentation: str
    precision: str
    batch: int
    images: str
    training: float
    alone: float
    views: float
    flops: float
    matmul_rate: float

    @property
    def share_of_matmul(self) -> float:
        """The training's rate in units of the large product's."""
        return self.training * self.flops / self.matmul_rate

    @property
    def share(self) -> float:
        """The training's rate as a share of the network's."""
        return self.training / self.alone


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "bf16", "fp16"])
    parser.add_argument(
        "--only", nargs="+", default=[], choices=[*NETWORKS, *AUGMENTATIONS], help="networks or augmentations"
    )
    parser.add_argument("--loss", default="ce", choices=["ce", "ce+schane", "ce+supcon", "ce+simclr"])
    parser.add_argument("--batch", type=int, help="images per step; by default what suits network and device")
    parser.add_argument("--steps", type=int, help="in each repeat; by default 20 on a GPU and 2 on a CPU")
    parser.add_argument("--repeats", type=int, default=3, help="alternating repeats; medians are reported")
    parser.add_argument("--minutes", type=float, default=10, help="nothing new begins after that")
    parser.add_argument("--threads", type=int, help="threads of torch; its default otherwise")
    arguments = parser.parse_args(argv)
    until, device = time.monotonic() + 60 * arguments.minutes, torch.device(arguments.device)
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    is_gpu = device.type == "cuda"
    names = [name for name in arguments.only if name in NETWORKS] or (NETWORKS if is_gpu else _ON_CPU)
    augmentations = [name for name in AUGMENTATIONS if name in arguments.only] or AUGMENTATIONS
    print(_heading(device, arguments), flush=True)
    print(table_head(), flush=True)
    for precision in arguments.precision:
        for name in names:
            network = NETWORKS[name]
            for augmentation in augmentations:
                for ahead in (None, 2) if is_gpu else (None,):
                    if time.monotonic() > until:
                        print(f"\nStopped after {arguments.minutes:g} minutes.")
                        return
                    rates = training_rates(
                        network,
                        augmentation,
                        precision,
                        device,
                        loss=arguments.loss,
                        batch=arguments.batch or network.batch[0 if is_gpu else 1],
                        steps=arguments.steps or (20 if is_gpu else 2),
                        repeats=arguments.repeats,
                        ahead=ahead,
                    )
                    print(table_line(rates), flush=True)


def table_head() -> str:
    """The head of the Markdown table of `table_line`."""
    return (
        "| network | views | precision | batch | images from | training, images/s | network alone, images/s | share | "
        "views alone, images/s | TFLOP/s | of matmul |\n"
        "| --- | --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )


def table_line(rates: Rates) -> str:
    """One row of the Markdown table."""
    return (
        f"| {rates.network} | {rates.augmentation} | {rates.precision} | {rates.batch:,} | {rates.images} | "
        f"{rates.training:,.0f} | {rates.alone:,.0f} | {rates.share:.0%} | {rates.views:,.0f} | "
        f"{rates.training * rates.flops / 1e12:,.3g} | {rates.share_of_matmul:.1%} |"
    )


def training_rates(
    network: Network,
    augmentation: AugmentationName,
    precision: PrecisionName,
    device: torch.device,
    *,
    batch: int,
    steps: int,
    repeats: int = 3,
    loss: str = "ce",
    ahead: int | None = None,
) -> Rates:
    """Measure one training, with random weights on noise.

    Args:
        network: what is trained.
        augmentation: of the views.
        precision: of the network.
        device: where.
        batch: images per step.
        steps: in each repeat.
        repeats: the median is taken.
        loss: of the training.
        ahead: batches that a thread gathers ahead; None leaves it to the training, which keeps a split of this size on
            a GPU.
    """
    split = _noise(batch * steps, network.image_size)
    recipe = Recipe(loss=loss, epochs=10_000, batch_size=batch, augmentation=augmentation, precision=precision)
    normalise = Preprocessing(network.input_size, (0.5,) * 3, (0.25,) * 3)
    backbone = timm.create_model(network.name, num_classes=0, **network.options)
    learner = Learner(backbone, split, recipe, normalise, device, Computing())
    classification = learner.objective
    assert isinstance(classification, Classification)
    if ahead is not None:
        learner.encoder.loader = SampleLoader(split, device, ahead=ahead)
    views = classification.views(learner.encoder.loader.load(torch.arange(batch)))

    def train() -> None:
        for samples in classification.batches(0):
            learner.step(samples)

    def learn_alone() -> None:
        for _ in range(steps):
            learner.learn(partial(classification.gradients_of, views))

    def view_alone() -> None:
        for samples in classification.batches(0):
            classification.views(samples)

    seconds = _medians((train, learn_alone, view_alone), repeats, device)
    training, alone, viewing = (batch * steps / each for each in seconds)
    images = "CPU" if device.type == "cpu" else "GPU" if ahead is None else "thread"
    flops = flops_per_step(backbone, CLASSES, 2, network.input_size)
    rate = _matmul_rate(device, _products(network, precision, device))
    return Rates(network.label, augmentation, precision, batch, images, training, alone, viewing, flops, rate)


_matmul_rate = cache(matmul_rate)


def _products(network: Network, precision: PrecisionName, device: torch.device) -> str:
    """What products are computed in: half precision, float32, or TF32 in convolutions on a GPU by torch's default."""
    if precision != "float32":
        return "bf16"
    is_tf32 = "vit" not in network.name and tf32_on(device).convolutions
    return "tf32" if is_tf32 else "float32"


def _medians(works: Sequence[Callable[[], None]], repeats: int, device: torch.device) -> Iterator[float]:
    """Median seconds of each of some works, which take turns."""
    times = [[_seconds(work, device) for work in works] for _ in range(repeats + 1)][1:]
    return (statistics.median(seconds) for seconds in zip(*times, strict=True))


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    _finish(device)
    began = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - began


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _noise(images: int, size: int) -> ImageSplit:
    pixels = np.random.default_rng(0).integers(256, size=(images, size, size, 3), dtype=np.uint8)
    sizes = tuple(len(part) for part in np.array_split(np.arange(images), min(CLASSES, images)))
    return ImageSplit("noise", "base", pixels, tuple(f"class {label}" for label in range(len(sizes))), sizes, "noise")


def _heading(device: torch.device, arguments: argparse.Namespace) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"Training with {arguments.loss} on {name}; median of {arguments.repeats} alternating repeats. torch "
        f"{torch.__version__}, Python {platform.python_version()}; {torch.get_num_threads()} threads, {cores} cores.\n"
    )


if __name__ == "__main__":
    main()
