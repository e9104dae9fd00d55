"""Whether a batch fits into memory, asked before the operating system answers by killing the process."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from fewshot_bench.errors import StudyError

_MEMINFO = Path("/proc/meminfo")
_VIEWS = 2


def refuse_batches_that_do_not_fit(backbone: nn.Module, four_images: Tensor, batch_size: int) -> None:
    """Compare what a backbone keeps for its backward pass with the memory that is free.

    Measured with EfficientNet-Lite0 at 224 pixels, the peak is 2 to 7% above what this counts.

    Args:
        backbone: on any device; it is left as it is.
        four_images: what it takes as input, [4, C, S, S], on the device where it will be trained.
        batch_size: images per step, each in two views.

    Raises:
        StudyError: the activations of one step need more memory than is free.
    """
    free = free_bytes(four_images.device)
    per_image = _VIEWS * activation_bytes(backbone, four_images)
    if free is None or batch_size * per_image <= free:
        return
    raise StudyError(
        f"training on batches of {batch_size:,} images in two views needs about {batch_size * per_image / 1e9:,.0f} GB;"
        f" {free / 1e9:,.0f} GB are free on {four_images.device.type}. Use --base-batch {_fitting(free, per_image)} or"
        " less, or a smaller --image-size."
    )


def activation_bytes(backbone: nn.Module, four_images: Tensor) -> float:
    """Bytes per image that a training step keeps for its backward pass.

    The difference between four images and two leaves out the weights, which are kept once per step.
    """
    probe = copy.deepcopy(backbone).to(four_images.device).train()
    # Dropout draws random numbers, which must not be missing later.
    devices = [four_images.device] if four_images.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        # Cloned, because a part of a tensor keeps the whole of it.
        return (_kept_bytes(probe, four_images) - _kept_bytes(probe, four_images[:2].clone())) / 2


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device, or None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not _MEMINFO.is_file():
        return None
    available = [line.split()[1] for line in _MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(available[0]) * 1024 if available else None


def _kept_bytes(network: nn.Module, images: Tensor) -> int:
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # The tensor itself is held, or another could be given the same address.
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _fitting(free: int, per_image: float) -> int:
    """The largest power of two that fits with a tenth to spare, at least 2."""
    return max(2, 1 << (int(0.9 * free / per_image).bit_length() - 1))
