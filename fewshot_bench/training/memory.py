"""Whether a batch fits into memory, before the operating system kills the process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fewshot_bench.errors import StudyError
from fewshot_bench.training.optimisation import autocast
from fewshot_bench.training.recipe import PrecisionName

_MEMINFO = Path("/proc/meminfo")
_VIEWS = 2
COPIES_OF_A_WEIGHT = 4
"""Copies of a weight in training: itself, its gradient, and two moments of Adam."""


def refuse_batches_that_do_not_fit(backbone: nn.Module, four_images: Tensor, batch_size: int) -> None:
    """Refuse a batch whose activations need more memory than is free.

    With EfficientNet-Lite0 at 224 pixels the measured peak is 2 to 7% above this estimate.

    Args:
        backbone: on any device; it is not changed.
        four_images: its inputs, [4, C, S, S], on the device where it will be trained.
        batch_size: images per step, each in two views.

    Raises:
        StudyError: the activations of one step need more memory than is free.
    """
    free = free_bytes(four_images.device)
    per_image = step_bytes_per_image(backbone, four_images)
    if free is None or batch_size * per_image <= free:
        return
    raise StudyError(
        f"training on batches of {batch_size:,} images in two views needs about {batch_size * per_image / 1e9:,.0f} GB;"
        f" {free / 1e9:,.0f} GB are free on {four_images.device.type}. Use --base-batch {_fitting(free, per_image)} or"
        " less, a smaller --image-size, or fewshot-bench train, which adds up the gradients of smaller parts."
    )


def fitting_micro_batch(
    backbone: nn.Module, four_images: Tensor, batch_size: int, *, precision: PrecisionName = "float32"
) -> int:
    """How many images' activations fit into memory beside the weights, each image in two views.

    Args:
        backbone: on any device; it is not changed.
        four_images: its inputs, [4, C, S, S], on the device where it will be trained.
        batch_size: images per step.
        precision: of the training.

    Returns:
        `batch_size` if it fits or the free memory is unknown; otherwise a power of two that fits.

    Raises:
        StudyError: not even one image fits.
    """
    free = free_bytes(four_images.device)
    if free is None:
        return batch_size
    weights = sum(parameter.nbytes for parameter in backbone.parameters())
    needed_for_weights = COPIES_OF_A_WEIGHT * weights
    left = free - needed_for_weights
    per_image = _VIEWS * activation_bytes(backbone, four_images, precision=precision)
    if batch_size * per_image <= 0.9 * left:
        return batch_size
    if per_image > 0.9 * left:
        raise StudyError(
            f"training needs about {(needed_for_weights + per_image) / 1e9:,.1f} GB for one image in two views; "
            f"{free / 1e9:,.1f} GB are free on {four_images.device.type}. Use a smaller --image-size or backbone."
        )
    return min(batch_size, _power_of_two(0.9 * left / per_image))


def step_bytes_per_image(backbone: nn.Module, four_images: Tensor) -> float:
    """Bytes that a training step keeps for each image of its batch, in two views."""
    return _VIEWS * activation_bytes(backbone, four_images)


def activation_bytes(backbone: nn.Module, four_images: Tensor, *, precision: PrecisionName = "float32") -> float:
    """Bytes per image that a training step keeps for its backward pass.

    The difference between four images and two leaves out the weights, which are kept once.

    Args:
        backbone: on any device; it is not changed.
        four_images: its inputs, [4, C, S, S].
        precision: of the network.
    """
    probe = copy.deepcopy(backbone).to(four_images.device).train()
    # Dropout must not change the caller's random numbers.
    devices = [four_images.device] if four_images.device.type == "cuda" else []
    forked = torch.random.fork_rng(devices=devices)
    with forked, torch.enable_grad(), autocast(precision, four_images.device):
        # Cloned, because a slice keeps the whole tensor.
        four, two = (kept_bytes(partial(probe, images)) for images in (four_images, four_images[:2].clone()))
    return (four - two) / 2


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None if the system does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not _MEMINFO.is_file():
        return None
    available = [line.split()[1] for line in _MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(available[0]) * 1024 if available else None


def kept_bytes(run: Callable[[], object]) -> int:
    """Bytes kept for the backward pass of a forward pass, each storage once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Holding the tensor keeps its address from being reused.
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _fitting(free: int, per_image: float) -> int:
    """The largest power of two that fits with a tenth to spare, at least 2."""
    return max(2, _power_of_two(0.9 * free / per_image))


def _power_of_two(most: float) -> int:
    """The largest that is not above a number, at least 1."""
    return 1 << (max(1, int(most)).bit_length() - 1)
