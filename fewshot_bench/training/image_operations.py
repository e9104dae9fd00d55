"""AutoAugment's operations by name, with torchvision's pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

_LEVELS = 10
_EXACT_SUM = 1 << 24


class Operation(NamedTuple):
    """An operation and how strong it is.

    Attributes:
        name: as in AutoAugment's policies.
        magnitude: in the unit of the operation, signed; 0 for those that have none.
    """

    name: str
    magnitude: float


def magnitudes(name: str, height: int, width: int) -> Tensor | None:
    """The ten magnitudes of an operation, as torchvision and Cubuk et al. (2019) space them.

    Args:
        name: of the operation.
        height: of the images, for shifts.
        width: of the images, for shifts.

    Returns:
        [10]; None for an operation that has no magnitude.
    """
    if name == "Posterize":
        return (8 - torch.arange(_LEVELS) / ((_LEVELS - 1) / 4)).round()
    if name == "Solarize":
        return torch.linspace(1.0, 0.0, _LEVELS)
    highest = {
        "ShearX": 0.3,
        "ShearY": 0.3,
        "TranslateX": 150.0 / 331.0 * width,
        "TranslateY": 150.0 / 331.0 * height,
        "Rotate": 30.0,
        "Brightness": 0.9,
        "Color": 0.9,
        "Contrast": 0.9,
        "Sharpness": 0.9,
    }
    return torch.linspace(0.0, highest[name], _LEVELS) if name in highest else None


def is_signed(name: str) -> bool:
    """Whether half of the uses of an operation go the other way."""
    return name not in ("Posterize", "Solarize", "AutoContrast", "Equalize", "Invert")


def apply(operation: Operation, images: Tensor) -> Tensor:
    """What `torchvision.transforms.v2.AutoAugment` makes of each image with that operation.

    Args:
        operation: one for all images.
        images: uint8 [B, 1 or 3, H, W]; it is left as it is, but may be what is returned.

    Returns:
        uint8 [B, C, H, W].
    """
    change = _CHANGES[operation.name]
    # Contrast blends with the mean of the image, a sum of whole numbers in float32. Where it is not exact, its order
    # matters, and torch's order depends on the size of the batch.
    if operation.name == "Contrast" and 255 * images.shape[-1] * images.shape[-2] > _EXACT_SUM:
        return torch.cat([change(image, operation.magnitude) for image in torch.split(images, 1)])
    return change(images, operation.magnitude)


def _sheared(images: Tensor, x: float, y: float) -> Tensor:
    degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    sheared: Tensor = functional.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0])
    return sheared


def _shifted(images: Tensor, x: float, y: float) -> Tensor:
    shift = [int(x), int(y)]
    shifted: Tensor = functional.affine(images, angle=0.0, translate=shift, scale=1.0, shear=[0.0, 0.0])
    return shifted


_CHANGES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "ShearX": lambda images, magnitude: _sheared(images, magnitude, 0.0),
    "ShearY": lambda images, magnitude: _sheared(images, 0.0, magnitude),
    "TranslateX": lambda images, magnitude: _shifted(images, magnitude, 0.0),
    "TranslateY": lambda images, magnitude: _shifted(images, 0.0, magnitude),
    "Rotate": lambda images, magnitude: functional.rotate(images, angle=magnitude),
    "Brightness": lambda images, magnitude: functional.adjust_brightness(images, 1.0 + magnitude),
    "Color": lambda images, magnitude: functional.adjust_saturation(images, 1.0 + magnitude),
    "Contrast": lambda images, magnitude: functional.adjust_contrast(images, 1.0 + magnitude),
    "Sharpness": lambda images, magnitude: functional.adjust_sharpness(images, 1.0 + magnitude),
    "Posterize": lambda images, magnitude: functional.posterize(images, int(magnitude)),
    "Solarize": lambda images, magnitude: functional.solarize(images, 255.0 * magnitude),
    "AutoContrast": lambda images, _: functional.autocontrast(images),
    "Equalize": lambda images, _: functional.equalize(images),
    "Invert": lambda images, _: functional.invert(images),
}
