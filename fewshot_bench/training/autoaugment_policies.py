"""The policies of AutoAugment, and which operation they choose for an image.

They are those of Cubuk et al. (2019, "AutoAugment: Learning Augmentation Strategies from Data"), as torchvision has
them: each sub-policy is two operations in order, each with a probability and one of ten magnitudes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, TypeAlias

import torch
import torchvision
from torch import Tensor
from torchvision.transforms import AutoAugmentPolicy

Choice: TypeAlias = tuple[str, float, int | None]
Policy: TypeAlias = tuple[tuple[Choice, Choice], ...]

CIFAR10_POLICY: Policy = tuple(torchvision.transforms.AutoAugment(AutoAugmentPolicy.CIFAR10).policies)
IMAGENET_POLICY: Policy = tuple(torchvision.transforms.AutoAugment(AutoAugmentPolicy.IMAGENET).policies)

STEPS = 2
SMALL_IMAGE = 64
EXACT_SUM = 1 << 24
"""Whole numbers up to here are exact in float32."""
_LEVELS = 10


class Operation(NamedTuple):
    """An operation and its strength.

    Attributes:
        name: as in AutoAugment's policies.
        magnitude: in the unit of the operation, signed; 0 if it has none.
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
        [10]; None for an operation without magnitudes.
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
    """Whether an operation is used with both signs."""
    return name not in ("Posterize", "Solarize", "AutoContrast", "Equalize", "Invert")


class Table(NamedTuple):
    """What one step of a policy does.

    Attributes:
        operations: the different ones.
        probabilities: of each sub-policy, float32 [P].
        operations_of: of each sub-policy with the opposite and the own sign, places in `operations`, int64 [P, 2].
    """

    operations: list[Operation]
    probabilities: Tensor
    operations_of: Tensor

    def chosen(self, choices: Tensor, step: int) -> Tensor:
        """Choose an operation for each image.

        Args:
            choices: sub-policy, then whether and with which sign for each step, float32 [B, 5] in [0, 1), on the device
                of the table.
            step: of the table.

        Returns:
            Places in `operations`, -1 for images that are not changed, int64 [B].
        """
        # In float64 the product stays below the number of sub-policies for every float32 below 1.
        sub_policies = (choices[:, 0].double() * len(self.probabilities)).long()
        happens, is_turned = choices[:, 1 + 2 * step], choices[:, 2 + 2 * step] <= 0.5
        chosen = self.operations_of.index_select(0, sub_policies).gather(1, is_turned.long()[:, None])[:, 0]
        return torch.where(happens <= self.probabilities.index_select(0, sub_policies), chosen, -1)


@lru_cache(maxsize=32)
def table_of(policy: Policy, step: int, height: int, width: int) -> Table:
    """The table of a policy's first (0) or second (1) operations on images of a size, on the CPU."""
    both_signs = [_operations(*sub_policy[step], height, width) for sub_policy in policy]
    different = sorted({operation for signs in both_signs for operation in signs})
    probabilities = torch.tensor([sub_policy[step][1] for sub_policy in policy])
    return Table(different, probabilities, torch.tensor([[different.index(o) for o in signs] for signs in both_signs]))


def _operations(
    name: str, _probability: float, level: int | None, height: int, width: int
) -> tuple[Operation, Operation]:
    """The operation of a policy's entry with its magnitude, and with the opposite one."""
    spaced = magnitudes(name, height, width)
    magnitude = 0.0 if spaced is None or level is None else float(spaced[level])
    return Operation(name, magnitude), Operation(name, -magnitude if is_signed(name) else magnitude)
