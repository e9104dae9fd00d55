"""Rotation, scale, shear and shift, each image by its own amounts."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from fewshot_bench.training.randomness import check_uniform

# Chosen on the validation split of glyphs, where a quarter, half and three quarters of the rotation, shear and
# scale were tried too: with those, contrastive losses collapse the base classes and are worse on new ones.
MAX_ROTATION = math.radians(30)
MAX_SHEAR = 0.4
MAX_SHIFT = 0.15
MAX_LOG_SCALE = 0.4


class RandomAffine:
    """Rotate, scale, shear and shift every image; what comes in from outside repeats the border."""

    numbers = 5

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Move every image by its own amounts.

        Args:
            images: uint8 [B, C, H, W].
            uniform: angle, log scale, shear, shift in x and in y, float32 [B, 5] in [0, 1).

        Returns:
            uint8 [B, C, H, W].

        Raises:
            ShapeError: the numbers do not belong to the images.
        """
        check_uniform(images, uniform, self.numbers)
        if not len(images):
            return images.clone()  # affine_grid refuses batches of none
        # One grid_sample for the batch. torchvision's RandomAffine draws one transform per call, and a call per image
        # costs more than the training step of a small network; it would win where its many options are needed.
        transforms = _transforms(uniform).to(images.device, non_blocking=images.is_cuda)
        grid = affine_grid(transforms, list(images.shape), align_corners=False)
        moved = grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        return moved.round().clamp(0, 255).to(torch.uint8)


def _transforms(uniform: Tensor) -> Tensor:
    """Maps from output to input coordinates, each half an image long, [B, 2, 3]."""
    angle, log_scale, shear, shift_x, shift_y = uniform.T.contiguous() * 2 - 1
    angle, scale, shear = angle * MAX_ROTATION, (log_scale * MAX_LOG_SCALE).exp(), shear * MAX_SHEAR
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [cos, shear * cos - sin, shift_x * 2 * MAX_SHIFT, sin, shear * sin + cos, shift_y * 2 * MAX_SHIFT]
    return torch.stack(rows, dim=-1).view(len(uniform), 2, 3)
