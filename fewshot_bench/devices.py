"""Copies to a GPU that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; the host does not wait for a GPU.

    A copy from ordinary memory waits until the GPU has finished all work before it, `non_blocking` or not; a copy from
    pinned memory is queued. PyTorch keeps the pinned memory until the copy is done, so not for replays of a CUDA graph.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
