"""Other weights than a network has, to see what depends on them."""

from __future__ import annotations

import torch
from torch import Tensor


def disturbed(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A weight with enough noise that whatever it does shows, also where it starts at zero as adapters do."""
    noise = torch.randn(weight.shape, generator=generator).to(weight)
    return weight + 0.1 * noise * (weight.abs().mean() + 0.1)
