"""Random views of images, as functions of the images and of given random numbers; each image has its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from fewshot_bench.devices import to_device
from fewshot_bench.training.autoaugment import AutoAugment, crop_and_flip
from fewshot_bench.training.randomness import check_uniform
from fewshot_bench.training.recipe import AugmentationName

# Chosen on the validation split of glyphs. With smaller rotations, shears and scales contrastive losses collapse the
# base classes and are worse on new ones.
MAX_ROTATION = math.radians(30)
MAX_SHEAR = 0.4
MAX_SHIFT = 0.15
MAX_LOG_SCALE = 0.4


class RandomAffine:
    """Rotate, scale, shear and shift every image; the border is repeated outside of it."""

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
            return images.clone()  # affine_grid refuses empty batches
        # torchvision's RandomAffine draws one transform per call, and a call per image costs more than the training
        # step of a small network; it would win where its many options are needed.
        transforms = to_device(_transforms(uniform), images.device)
        grid = affine_grid(transforms, list(images.shape), align_corners=False)
        moved = grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        return moved.round().clamp(0, 255).to(torch.uint8)


def _transforms(uniform: Tensor) -> Tensor:
    """Maps from output to input coordinates, in units of half an image, [B, 2, 3]."""
    angle, log_scale, shear, shift_x, shift_y = uniform.T.contiguous() * 2 - 1
    angle, scale, shear = angle * MAX_ROTATION, (log_scale * MAX_LOG_SCALE).exp(), shear * MAX_SHEAR
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [cos, shear * cos - sin, shift_x * 2 * MAX_SHIFT, sin, shear * sin + cos, shift_y * 2 * MAX_SHIFT]
    return torch.stack(rows, dim=-1).view(len(uniform), 2, 3)


_STRENGTH = 0.4
_GRAY = (0.2989, 0.587, 0.114)


class CropJitterFlip:
    """Crops, jitters and flips, as MetaOptNet (Lee et al., 2019) and RFS (Tian et al., 2020) do.

    The pixels are those of torchvision's `RandomCrop(32, padding=4)`, `ColorJitter(brightness=0.4, contrast=0.4,
    saturation=0.4)` and `RandomHorizontalFlip()`.

    Args:
        image_size: the smaller of H and W; the crop's padding is an eighth of it.
    """

    numbers = 7

    def __init__(self, image_size: int) -> None:
        self.padding = image_size // 8

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augment every image by its own numbers.

        Args:
            images: uint8 [B, 1 or 3, H, W], on any device.
            uniform: crop in y and in x, flip, factors of brightness, contrast and saturation, and their order, float32
                [B, 7] in [0, 1).

        Returns:
            uint8 [B, C, H, W], on the device of the images.

        Raises:
            ShapeError: the numbers do not belong to the images.
        """
        check_uniform(images, uniform, self.numbers)
        uniform = to_device(uniform, images.device)
        return jittered(crop_and_flip(images, uniform[:, :3], self.padding), uniform[:, 3:])


def jittered(images: Tensor, uniform: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of uint8 [B, C, H, W] by 0.6 to 1.4, in one of six orders."""
    factors = 1 + _STRENGTH * (2 * uniform[:, :3] - 1)
    orders = to_device(torch.tensor(list(permutations(range(len(_CHANGES))))), images.device)
    order = orders[(uniform[:, 3] * len(orders)).long().clamp(max=len(orders) - 1)]
    for turn in range(len(_CHANGES)):
        # Every change is made to every image, and one of them kept. Gathering the images of one order would make fewer
        # changes, but a GPU would have to be waited for.
        now, changed = order[:, turn].view(-1, 1, 1, 1), images
        for number, change in enumerate(_CHANGES):
            changed = torch.where(now == number, change(images, factors[:, number].view(-1, 1, 1, 1)), changed)
        images = changed
    return images


def _brightness(images: Tensor, factors: Tensor) -> Tensor:
    return _blend(images, torch.zeros_like(factors), factors)


def _contrast(images: Tensor, factors: Tensor) -> Tensor:
    # A sum of whole numbers is exact in float64.
    means = _gray(images).double().mean(dim=(1, 2, 3), keepdim=True).float()
    return _blend(images, means, factors)


def _saturation(images: Tensor, factors: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blend(images, _gray(images), factors)


def _gray(images: Tensor) -> Tensor:
    """Brightness of each pixel, whole numbers in float32, [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().unbind(1)
    # Not fused: fused products and sums round differently by the place of a pixel in a vector register.
    gray: Tensor = red * _GRAY[0] + green * _GRAY[1] + blue * _GRAY[2]
    return gray.floor().unsqueeze(1)


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    """Factors * images + (1 - factors) * others, clipped to the range of pixels."""
    return (images * factors + others * (1 - factors)).clamp(0, 255).to(torch.uint8)


_CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_brightness, _contrast, _saturation)

AUGMENTATION_VERSION = 2
"""Raised when the same numbers give another view; part of the cache keys of views."""


class Augmentation(Protocol):
    """Makes one view of each image of a batch."""

    @property
    def numbers(self) -> int:
        """Uniform numbers per image."""

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
    if name in ("autoaugment", "autoaugment-policy"):
        return AutoAugment(image_size, crops=name == "autoaugment")
    if name == "jitter":
        return CropJitterFlip(image_size)
    return RandomAffine() if name == "affine" else Unchanged()


def random_views(
    images: Tensor, augmentation: Augmentation, *, count: int = 2, share: Tensor | None = None, batch_size: int = 0
) -> Tensor:
    """V views of each image by PyTorch's global random numbers.

    Args:
        images: uint8 [B, C, H, W].
        augmentation: makes a view of each.
        count: V.
        share: positions of these images in a batch that several processes share; each draws the numbers of all.
        batch_size: images of that batch.

    Returns:
        uint8 [VB, C, H, W], the first views first.
    """
    # Drawn on the CPU, as [numbers, B], on which the weights of base training depend.
    drawn, own = (len(images), slice(None)) if share is None else (batch_size, share)
    numbers = [torch.rand(augmentation.numbers, drawn).T[own] for _ in range(count)]
    if images.device.type == "cpu":
        return torch.cat([augmentation(images, uniform) for uniform in numbers])
    # Launching kernels takes a GPU as long as running them: one call for all.
    return augmentation(torch.cat([images] * count), torch.cat(numbers))
