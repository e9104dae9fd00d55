"""Two random views of every image of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms import v2

from fewshot_bench.training.recipe import AugmentationName

Augmentation = Callable[[Tensor], Tensor]

SMALL_IMAGE = 64
# Chosen on the validation split of glyphs, where a quarter, half and three quarters of the rotation, shear and
# scale were tried too: with those, contrastive losses collapse the base classes and are worse on new ones.
MAX_ROTATION = math.radians(30)
MAX_SHEAR = 0.4
MAX_SHIFT = 0.15
MAX_LOG_SCALE = 0.4


def choose_augmentation(name: AugmentationName, *, channels: int, image_size: int) -> Augmentation:
    """The augmentation of a name, from uint8 [B, C, H, W] to the same shape and type.

    Args:
        name: "auto" is AutoAugment for colour images and affine for gray ones.
        channels: C.
        image_size: the smaller of H and W, which decides AutoAugment's policy and the crop's padding.
    """
    if name == "auto":
        name = "autoaugment" if channels == 3 else "affine"
    if name == "autoaugment":
        return autoaugment(image_size)
    return random_affine if name == "affine" else torch.Tensor.clone


def two_views(images: Tensor, augmentation: Augmentation) -> Tensor:
    """Augment every image twice.

    Args:
        images: uint8 [B, C, H, W].
        augmentation: makes one view of each image.

    Returns:
        uint8 [2B, C, H, W]: the first views of all images, then the second.
    """
    return torch.cat([augmentation(images), augmentation(images)])


def autoaugment(image_size: int) -> Augmentation:
    """Padded random crop, horizontal flip, and a policy of Cubuk et al. (2019), drawn anew for each image.

    Args:
        image_size: up to 64 pixels the policy is the one found for CIFAR-10, above the one for ImageNet.
    """
    is_small = image_size <= SMALL_IMAGE
    policy = v2.AutoAugmentPolicy.CIFAR10 if is_small else v2.AutoAugmentPolicy.IMAGENET
    flip_and_colour = v2.Compose([v2.RandomHorizontalFlip(), v2.AutoAugment(policy)])

    def augment(images: Tensor) -> Tensor:
        crop = v2.RandomCrop(images.shape[-2:], padding=image_size // 8)
        return torch.stack([flip_and_colour(crop(image)) for image in images])

    return augment


def random_affine(images: Tensor) -> Tensor:
    """Rotate, scale, shear and shift every image by its own random amounts.

    Args:
        images: uint8 [B, C, H, W].

    Returns:
        uint8 [B, C, H, W]; what comes in from outside repeats the border.
    """
    # One grid_sample for the batch. torchvision's RandomAffine draws one transform per call, and a call per image
    # costs more than the training step of a small network; it would win where its many options are needed.
    transforms = _random_transforms(len(images)).to(images.device)
    grid = affine_grid(transforms, list(images.shape), align_corners=False)
    moved = grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8)


def _random_transforms(count: int) -> Tensor:
    """Maps from output to input coordinates, each half an image long, [B, 2, 3]."""
    angle, log_scale, shear, shift_x, shift_y = torch.rand(5, count) * 2 - 1
    angle, scale, shear = angle * MAX_ROTATION, (log_scale * MAX_LOG_SCALE).exp(), shear * MAX_SHEAR
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [cos, shear * cos - sin, shift_x * 2 * MAX_SHIFT, sin, shear * sin + cos, shift_y * 2 * MAX_SHIFT]
    return torch.stack(rows, dim=-1).view(count, 2, 3)
