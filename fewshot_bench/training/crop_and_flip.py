"""Padded random crop and horizontal flip of a batch, each image by its own amounts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def crop_and_flip(images: Tensor, uniform: Tensor, padding: int) -> Tensor:
    """Pad with black, cut the old size out at a random place, and mirror half of the images.

    The same pixels as torchvision's `RandomCrop(size, padding=padding)` and `RandomHorizontalFlip()`.

    Args:
        images: uint8 [B, C, H, W].
        uniform: where to cut in y and in x, and whether to mirror, float32 [B, 3] in [0, 1).
        padding: pixels on each side.

    Returns:
        uint8 [B, C, H, W], contiguous, in memory of its own.
    """
    height, width = images.shape[-2:]
    top, left = (uniform[:, :2] * (2 * padding + 1)).long().clamp(max=2 * padding)[..., None].unbind(1)
    across = torch.arange(width, device=images.device)
    columns = left + torch.where(uniform[:, 2:] < 0.5, across.flip(0), across)
    rows = top + torch.arange(height, device=images.device)
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    # One gather, 3 µs for an image of 32 x 32. Windows of the padded images by unfold take no index of the size of
    # the images and 6 µs; they win for images of 200 pixels and more, by a quarter.
    padded = pad(images.contiguous(), (padding,) * 4).flatten(2)
    return padded.gather(2, pixels.flatten(1)[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
