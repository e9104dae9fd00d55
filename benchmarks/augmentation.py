"""Time AutoAugment of batches: torchvision image by image, Kornia, and ours.

    python benchmarks/augmentation.py --threads 1
    python benchmarks/augmentation.py --device cuda

All give uint8 images that were cropped with padding, mirrored and changed by a sub-policy of Cubuk et al. (2019).
torchvision draws one sub-policy per call, so that each image needs a call of its own; it runs on the first few images
of large batches. Kornia (optional) draws one sub-policy per call too and is called once for the batch: all images
meet the same one, which is not what a training wants and is shown as what a batched library costs. Its time includes
the way from uint8 to float and back. Repeats alternate between the three; medians are reported. One call is not
timed before, for kernels and caches.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from fewshot_bench.training.autoaugment import AutoAugment
from fewshot_bench.training.autoaugment_policies import SMALL_IMAGE
from fewshot_bench.units import rate_text

BATCHES = {32: (10, 100, 1_000, 10_000), 84: (10, 100, 1_000, 10_000), 224: (10, 100, 1_000)}
Augment = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    parser.add_argument("--threads", type=int, help="threads of torch; its default otherwise")
    parser.add_argument("--repeats", type=int, default=5, help="alternating repeats; medians are reported")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(BATCHES), choices=list(BATCHES))
    parser.add_argument("--torchvision", type=int, default=200, help="images that torchvision runs on, at most")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    print(_heading(arguments))
    print(
        "| image | batch | torchvision, one by one | Kornia, one sub-policy | ours | ours is faster than torchvision |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in arguments.sizes:
        for count in BATCHES[size]:
            images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8).to(arguments.device)
            print(_row(images, arguments.repeats, arguments.torchvision), flush=True)


def _heading(arguments: argparse.Namespace) -> str:
    packages = ("torch", "torchvision", *(["kornia"] if find_spec("kornia") else []))
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return (
        f"AutoAugment with crop and flip on {name}, images per second; median of {arguments.repeats} alternating "
        f"repeats, torchvision on {arguments.torchvision} images at most.\n"
        f"{versions}, Python {platform.python_version()}; {torch.get_num_threads()} threads of torch, "
        f"{os.cpu_count()} cores ({platform.machine()}).\n"
    )


def _row(images: Tensor, repeats: int, most: int) -> str:
    count, size = len(images), images.shape[-1]
    some = images[:most]
    contenders: dict[str, tuple[Augment, Tensor]] = {
        "torchvision": (_one_by_one(size), some),
        "ours": (_ours(size), images),
    }
    if find_spec("kornia"):
        contenders["kornia"] = (_kornia(size), images)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, (augment, batch) in contenders.items():
            seconds = _seconds(augment, batch)
            if repeat:
                rates[name].append(len(batch) / seconds)
    median = {name: statistics.median(values) for name, values in rates.items()}
    kornia = rate_text(median["kornia"]) if "kornia" in median else "not installed"
    return (
        f"| {size} | {count:,} | {rate_text(median['torchvision'])} | {kornia} | {rate_text(median['ours'])} | "
        f"{median['ours'] / median['torchvision']:.1f} times |"
    )


def _seconds(augment: Augment, images: Tensor) -> float:
    _finish(images)
    began = time.perf_counter()
    augment(images)
    _finish(images)
    return time.perf_counter() - began


def _finish(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def _ours(size: int) -> Augment:
    augmentation = AutoAugment(size)
    return lambda images: augmentation(images, torch.rand(len(images), augmentation.numbers))


def _one_by_one(size: int) -> Augment:
    is_small = size <= SMALL_IMAGE
    policy = v2.AutoAugmentPolicy.CIFAR10 if is_small else v2.AutoAugmentPolicy.IMAGENET
    crop = v2.RandomCrop(size, padding=size // 8)
    augment = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.AutoAugment(policy)])
    return lambda images: torch.stack([augment(image) for image in images])


def _kornia(size: int) -> Augment:
    from kornia.augmentation import AugmentationSequential, RandomCrop, RandomHorizontalFlip
    from kornia.augmentation.auto import AutoAugment as KorniaAutoAugment

    policy = KorniaAutoAugment("cifar10" if size <= SMALL_IMAGE else "imagenet")
    parts: list[Any] = [RandomCrop((size, size), padding=size // 8), RandomHorizontalFlip(), policy]
    augment = AugmentationSequential(*parts)
    return lambda images: (augment(images.float() / 255) * 255).round().clamp(0, 255).to(torch.uint8)


if __name__ == "__main__":
    main()
