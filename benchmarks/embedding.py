"""Time the embedding of images: batch sizes, memory order, gradients off, preprocessing, and the compiled network.

    python benchmarks/embedding.py --only efficientnet_lite0
    python benchmarks/embedding.py --only conv4_64 --images 512 --no-compile

Images are made up. Every way alternates with batches of the default size, "old", on the same images; medians of the
rate and of the ratio are reported. Page faults show, on a busy machine too, whether memory is used again from batch
to batch. Compiling is timed with an empty cache of its own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewshot_bench.backbones import Preprocessing, create_backbone
from fewshot_bench.backbones.backbone import BackboneRequest
from fewshot_bench.backbones.embedding_tuner import can_compile, default_batch_size
from fewshot_bench.units import rate_text

NETWORKS = {"efficientnet_lite0": (32, 128), "conv4_64": (32, 32), "resnet12": (84, 84)}
"""Sides of the images, and of the network's input."""
SIZES = (8, 16, 32, 64, 256)
MEAN = STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Way:
    """A way to embed: images at once, and what is done with a batch of uint8 images."""

    batch_size: int
    run: Callable[[Tensor], object]
    mode: Callable[[], AbstractContextManager[object]] = torch.inference_mode


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=NETWORKS, help="a network; all otherwise")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="threads of torch; its default otherwise")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    print(
        f"torch {torch.__version__}, timm {importlib.metadata.version('timm')}, Python {platform.python_version()}; "
        f"{torch.get_num_threads()} threads of torch, {os.cpu_count()} cores ({platform.machine()}), load "
        f"{os.getloadavg()[0]:.0f}; {arguments.images} images, median of {arguments.repeats} alternating repeats.\n"
    )
    print("| network | way | images/s | times old | page faults per image |\n| --- | --- | ---: | ---: | ---: |")
    for name in arguments.only or NETWORKS:
        side, size = NETWORKS[name]
        images = torch.randint(256, (arguments.images, 3, side, side), dtype=torch.uint8)
        ways, note = _ways(name, size, images, is_compiled=arguments.compile and can_compile())
        _measure(f"{name}, {size} px", ways, images, arguments.repeats, default_batch_size(size, "cpu"))
        if note:
            print(f"\n{note}\n", flush=True)


def _ways(name: str, size: int, images: Tensor, *, is_compiled: bool) -> tuple[dict[str, Way], str]:
    """The ways by name, and how long compiling took."""
    preprocess = Preprocessing(size, MEAN, STD)
    request = BackboneRequest(name, native_size=size, image_size=size)
    contiguous = create_backbone(request).network.eval()
    network = create_backbone(request).network.eval().to(memory_format=torch.channels_last)

    def channels_last(batch: Tensor) -> Tensor:
        return preprocess(batch).contiguous(memory_format=torch.channels_last)

    old = default_batch_size(size, "cpu")
    ways = {
        f"batches of {number}": Way(number, lambda b: network(channels_last(b))) for number in sorted({*SIZES, old})
    }
    ways["16, not channels last"] = Way(16, lambda batch: contiguous(preprocess(batch)))
    ways["16, no_grad for inference_mode"] = Way(16, lambda batch: network(channels_last(batch)), torch.no_grad)
    ways["16, preprocessing alone"] = Way(16, channels_last)
    if not is_compiled:
        return ways, ""
    seconds, compiled = _compiled(network, channels_last(images[:16]))
    ways["16, compiled"] = Way(16, lambda batch: compiled(channels_last(batch)))
    return ways, f"{name}: compiling took {seconds:.0f} s."


def _compiled(network: nn.Module, pixels: Tensor) -> tuple[float, Callable[[Tensor], object]]:
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        began = time.perf_counter()
        compiled: Callable[[Tensor], object] = torch.compile(network, fullgraph=True, dynamic=False)
        compiled(pixels)
        return time.perf_counter() - began, compiled


def _measure(label: str, ways: dict[str, Way], images: Tensor, repeats: int, old: int) -> None:
    """A row for each way, which alternates with the old one."""
    reference = ways[f"batches of {old}"]
    for name, way in ways.items():
        timed = [(_embedded(reference, images), _embedded(way, images)) for _ in range(repeats + 1)][1:]  # one prepares
        rate = len(images) / statistics.median(seconds for _, (seconds, _) in timed)
        times = statistics.median(before / now for (before, _), (now, _) in timed)
        faults = statistics.median(count for _, (_, count) in timed) / len(images)
        note = " (old)" if way is reference else ""
        print(f"| {label} | {name}{note} | {rate_text(rate)} | {times:.2f} | {faults:,.0f} |", flush=True)


def _embedded(way: Way, images: Tensor) -> tuple[float, int]:
    """Seconds, and page faults."""
    before, began = _page_faults(), time.perf_counter()
    with way.mode():
        for first in range(0, len(images), way.batch_size):
            way.run(images[first : first + way.batch_size])
    return time.perf_counter() - began, _page_faults() - before


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    main()
