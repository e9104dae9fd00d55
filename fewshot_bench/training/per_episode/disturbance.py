"""Other weights than a network has, to see what depends on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def whole_products() -> Iterator[None]:
    """Compare in full single precision: TF32, which cuDNN takes by default, rounds more than a comparison allows."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def disturbed(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A weight with enough noise that whatever it does shows, also where it starts at zero as adapters do."""
    noise = torch.randn(weight.shape, generator=generator).to(weight)
    return weight + 0.1 * noise * (weight.abs().mean() + 0.1)
