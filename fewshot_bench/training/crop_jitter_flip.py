"""Padded random crop, colour jitter and horizontal flip of a batch, each image by its own amounts.

The augmentation of MetaOptNet (Lee et al., 2019) and of RFS (Tian et al., 2020): `RandomCrop(32, padding=4)`,
`ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)` and `RandomHorizontalFlip()` of torchvision, whose pixels
these are, image by image.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import torch
from torch import Tensor

from fewshot_bench.training.crop_and_flip import crop_and_flip
from fewshot_bench.training.randomness import check_uniform

_STRENGTH = 0.4
_GRAY = (0.2989, 0.587, 0.114)


class CropJitterFlip:
    """Crops, jitters and flips.

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
        uniform = uniform.to(images.device)
        return jittered(crop_and_flip(images, uniform[:, :3], self.padding), uniform[:, 3:])


def jittered(images: Tensor, uniform: Tensor) -> Tensor:
    """Change brightness, contrast and saturation by factors from 0.6 to 1.4, in one of six orders.

    Args:
        images: uint8 [B, 1 or 3, H, W].
        uniform: the three factors, and the order, [B, 4] in [0, 1).

    Returns:
        uint8 [B, C, H, W].
    """
    factors = 1 + _STRENGTH * (2 * uniform[:, :3] - 1)
    orders = torch.tensor(list(permutations(range(len(_CHANGES)))), device=images.device)
    order = orders[(uniform[:, 3] * len(orders)).long().clamp(max=len(orders) - 1)]
    for turn in range(len(_CHANGES)):
        # Every change of every image, and one of them kept: to gather those that share an order would be fewer changes,
        # but on a GPU it waits until it is known which these are.
        now, changed = order[:, turn].view(-1, 1, 1, 1), images
        for number, change in enumerate(_CHANGES):
            changed = torch.where(now == number, change(images, factors[:, number].view(-1, 1, 1, 1)), changed)
        images = changed
    return images


def _brightness(images: Tensor, factors: Tensor) -> Tensor:
    return _blend(images, torch.zeros_like(factors), factors)


def _contrast(images: Tensor, factors: Tensor) -> Tensor:
    # A sum of whole numbers, exact in float64 whatever the batch.
    means = _gray(images).double().mean(dim=(1, 2, 3), keepdim=True).float()
    return _blend(images, means, factors)


def _saturation(images: Tensor, factors: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blend(images, _gray(images), factors)


def _gray(images: Tensor) -> Tensor:
    """Brightness of each pixel, whole numbers in float32, [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().unbind(1)
    # Products and sums one by one: fused, they round by where in a vector register a pixel lies.
    gray: Tensor = red * _GRAY[0] + green * _GRAY[1] + blue * _GRAY[2]
    return gray.floor().unsqueeze(1)


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    """Factors * images + (1 - factors) * others, cut to the range of pixels."""
    return (images * factors + others * (1 - factors)).clamp(0, 255).to(torch.uint8)


_CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_brightness, _contrast, _saturation)
