"""In how many bits a network computes: autocast, and what is needed for gradients in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fewshot_bench.training.recipe import PrecisionName

_TYPES: dict[PrecisionName, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def autocast(precision: PrecisionName, device: torch.device) -> Iterator[None]:
    """Compute products and convolutions in the bits of a precision.

    Each forward pass should enter anew: autocast keeps its copies of the weights until it is left, and copies that
    were made without gradients would cut those of a later pass off.

    Args:
        precision: "float32" changes nothing.
        device: where the tensors are.
    """
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, _TYPES[precision]):
        yield


def gradient_scaler(precision: PrecisionName, device: torch.device) -> torch.amp.GradScaler:
    """What keeps gradients in the range of fp16 (Micikevicius et al., 2018); other precisions pass through it.

    Args:
        precision: of the network.
        device: where it is trained.
    """
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
