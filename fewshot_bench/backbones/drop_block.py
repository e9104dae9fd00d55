"""DropBlock as MetaOptNet and RFS train ResNet-12 with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad

from fewshot_bench.errors import StudyError


class DropBlock(nn.Module):
    """Zeroes squares of the maps of each channel while training (Ghiasi et al., 2018).

    As in the code of MetaOptNet (Lee et al., 2019) and RFS (Tian et al., 2020): each channel of each image has its own
    squares, all of them inside the map, and the values that are kept are scaled up to the mean of before. timm's
    `DropBlock2d` lets squares reach over the border: on maps of 2x2 and squares of 2 it drops three times as much.

    Args:
        size: side of a square.

    Attributes:
        rate: expected share of values that is dropped, as long as squares do not overlap; a tensor, so that a compiled
            network need not be compiled again when it changes.
    """

    rate: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("rate", torch.tensor(0.0), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Drop squares of feature maps [B, C, h, w]; in evaluation mode they stay as they are.

        Raises:
            StudyError: the maps are smaller than a square.
        """
        if not self.training:
            return features
        height, width = features.shape[-2:]
        if min(height, width) < self.size:
            raise StudyError(
                f"DropBlock drops squares of {self.size} px, and the feature maps have {height}x{width} px. "
                f"Use drop_block_size {min(height, width)} or less, or larger images."
            )
        places = (height - self.size + 1) * (width - self.size + 1)
        probability = self.rate * (height * width / (self.size**2 * places))
        shape = (*features.shape[:2], height - self.size + 1, width - self.size + 1)
        corners = (torch.rand(shape, device=features.device) < probability).to(features.dtype)
        kept = 1 - max_pool2d(pad(corners, (self.size - 1,) * 4), self.size, stride=1)
        return features * kept * (kept.numel() / kept.float().sum().clamp_min(1)).to(features.dtype)

    def extra_repr(self) -> str:
        """The side of a square."""
        return f"size={self.size}"


def set_drop_rate(network: nn.Module, rate: float) -> None:
    """Let all `DropBlock` layers of a network drop that share of the values."""
    for module in network.modules():
        if isinstance(module, DropBlock):
            module.rate.fill_(rate)
