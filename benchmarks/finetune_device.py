"""What a device can do, and what is used of it: products, views, floating-point operations, memory."""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fewshot_bench.devices import peak_bytes
from fewshot_bench.training.augmentation import choose_augmentation

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def flops_per_step(
    network: nn.Module, way: int, views: int, size: int | Sequence[int], tuned: Sequence[str] | None = None
) -> int:
    """Forward and backward pass of one episode in the plain network, counted without computing anything.

    Args:
        network: what is run in a step.
        way: N.
        views: of a step.
        size: pixels of an image's side, or the shape of one input of the network.
        tuned: names of the trained parameters; None for all.
    """
    probe = copy.deepcopy(network).to("meta")
    for name, parameter in probe.named_parameters():
        parameter.requires_grad_(tuned is None or name in tuned)
    shape = (3, size, size) if isinstance(size, int) else size
    with FlopCounterMode(display=False) as counter:
        embeddings = probe(torch.empty(views, *shape, device="meta"))
        logits = nn.Linear(embeddings.shape[-1], way, device="meta")(embeddings)
        torch.autograd.backward(logits.sum())
    return int(counter.get_total_flops())


def matmul_rate(device: torch.device, products: str) -> float:
    """FLOP/s of a large product; median of five."""
    size = 4096 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if products == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if products == "tf32" else "highest")
    per_call = 20 if device.type == "cuda" else 1
    try:
        times = [_seconds(lambda: [left @ right for _ in range(per_call)], device) for _ in range(6)][1:]
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * size**3 * per_call / statistics.median(times)


def augmentation_rate(size: int, device: torch.device) -> float:
    """Views per second of AutoAugment in the batches in which an episode's views are made."""
    augmentation = choose_augmentation("auto", channels=3, image_size=size)
    count = (4096 if size <= 84 else 1024) if device.type == "cuda" or size <= 32 else 256
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, device=device)
    uniform = torch.rand(count, augmentation.numbers)
    return count / statistics.median([_seconds(lambda: augmentation(images, uniform), device) for _ in range(4)][1:])


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    began = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - began


def wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def give_back_memory(device: torch.device) -> None:
    """Free what nobody holds any more, so that the next measurement can have it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    """Forget how much memory was needed before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        with suppress(OSError):  # then the peak is that of the process so far
            _CLEAR_REFS.write_text("5")


def peak(device: torch.device) -> int:
    """Bytes: tensors on a GPU, the whole process on a CPU."""
    if device.type == "cuda" or not _STATUS.is_file():
        return peak_bytes(device)
    # Unlike getrusage's, this one can be reset.
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
