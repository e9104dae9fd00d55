"""In how many bits a loss computes, whatever the network does."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The same values in float32 if they are in fewer bits: a loss at a small temperature needs them."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
