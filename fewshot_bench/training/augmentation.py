"""Random views of images, as functions of the images and of random numbers that are given."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fewshot_bench.training.affine import RandomAffine
from fewshot_bench.training.autoaugment import AutoAugment
from fewshot_bench.training.crop_jitter_flip import CropJitterFlip
from fewshot_bench.training.randomness import check_uniform
from fewshot_bench.training.recipe import AugmentationName

AUGMENTATION_VERSION = 2
"""Raised when the same numbers give another view; part of the cache keys of what is made from views."""


class Augmentation(Protocol):
    """Makes one view of each image of a batch."""

    @property
    def numbers(self) -> int:
        """Uniform numbers it takes for each image."""

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Make the views.

        Args:
            images: uint8 [B, C, H, W], on any device.
            uniform: float32 [B, numbers] in [0, 1), best on the CPU.

        Returns:
            uint8 [B, C, H, W], on the device of the images; view b depends on images[b] and uniform[b] only.

        Raises:
            ShapeError: the numbers do not belong to the images.
        """


class Unchanged:
    """Every view is the image."""

    numbers = 0

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """A copy of uint8 [B, C, H, W]; uniform is float32 [B, 0]."""
        check_uniform(images, uniform, self.numbers)
        return images.clone()


def choose_augmentation(name: AugmentationName, *, channels: int, image_size: int) -> Augmentation:
    """The augmentation of a name.

    Args:
        name: "auto" is AutoAugment for colour images and affine for gray ones.
        channels: C.
        image_size: the smaller of H and W, which decides AutoAugment's policy and the padding of crops.
    """
    if name == "auto":
        name = "autoaugment" if channels == 3 else "affine"
    if name == "autoaugment":
        return AutoAugment(image_size)
    if name == "jitter":
        return CropJitterFlip(image_size)
    return RandomAffine() if name == "affine" else Unchanged()


def two_views(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Augment every image twice, with PyTorch's global random numbers of the CPU.

    Args:
        images: uint8 [B, C, H, W].
        augmentation: makes one view of each image.

    Returns:
        uint8 [2B, C, H, W]: the first views of all images, then the second.
    """
    # Drawn as [numbers, B]: so it always was, and base training gives the weights that it gave before.
    views = [augmentation(images, torch.rand(augmentation.numbers, len(images)).T) for _ in range(2)]
    return torch.cat(views)
