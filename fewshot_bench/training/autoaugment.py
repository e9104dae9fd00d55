"""AutoAugment of a batch: a sub-policy for each image, one call of torchvision for all images of the same operation.

The policies are those of Cubuk et al. (2019, "AutoAugment: Learning Augmentation Strategies from Data"), as torchvision
has them: each sub-policy is two operations in order, each with a probability and one of ten magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import AutoAugmentPolicy
from torchvision.transforms.v2 import functional

from fewshot_bench.training.randomness import check_uniform

Choice: TypeAlias = tuple[str, float, int | None]
Policy: TypeAlias = tuple[tuple[Choice, Choice], ...]

CIFAR10_POLICY: Policy = tuple(torchvision.transforms.AutoAugment(AutoAugmentPolicy.CIFAR10).policies)
IMAGENET_POLICY: Policy = tuple(torchvision.transforms.AutoAugment(AutoAugmentPolicy.IMAGENET).policies)

_LEVELS = 10
_EXACT_SUM = 1 << 24


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


def apply(operation: Operation, images: Tensor) -> Tensor:
    """What `torchvision.transforms.v2.AutoAugment` makes of each image with that operation.

    Args:
        operation: one for all images.
        images: uint8 [B, 1 or 3, H, W]; not changed, but perhaps returned.

    Returns:
        uint8 [B, C, H, W].
    """
    change = _CHANGES[operation.name]
    # Contrast blends with the mean of the image, summed in float32. Where the sum is not exact its order matters, and
    # torch's order depends on the size of the batch.
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


def crop_and_flip(images: Tensor, uniform: Tensor, padding: int) -> Tensor:
    """Pad with black, crop the old size at a random place, and flip half of the images.

    The same pixels as torchvision's `RandomCrop(size, padding=padding)` and `RandomHorizontalFlip()`.

    Args:
        images: uint8 [B, C, H, W].
        uniform: place of the crop in y and in x, and whether to flip, float32 [B, 3] in [0, 1).
        padding: pixels on each side.

    Returns:
        uint8 [B, C, H, W], contiguous, a copy.
    """
    height, width = images.shape[-2:]
    top, left = (uniform[:, :2] * (2 * padding + 1)).long().clamp(max=2 * padding)[..., None].unbind(1)
    across = torch.arange(width, device=images.device)
    columns = left + torch.where(uniform[:, 2:] < 0.5, across.flip(0), across)
    rows = top + torch.arange(height, device=images.device)
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    # One gather, 3 µs for an image of 32 x 32. Windows by unfold take 6 µs; they win by a quarter from 200 pixels on.
    padded = pad(images.contiguous(), (padding,) * 4).flatten(2)
    return padded.gather(2, pixels.flatten(1)[:, None].expand(-1, images.shape[1], -1)).view(images.shape)


SMALL_IMAGE = 64
_STEPS = 2
# Values at once. On a CPU the float32 copies of torchvision's operations should stay in the cache; all 1,000 images of
# 32 x 32 at once take up to five times as long.
_AT_ONCE = {"cpu": 1 << 19}
_AT_ONCE_ELSEWHERE = 1 << 26


class Group(NamedTuple):
    """Images with the same operation and magnitude.

    Attributes:
        operation: None for images that are not changed.
        images: positions in the batch, [G].
    """

    operation: Operation | None
    images: NDArray[np.int64]


class AutoAugment:
    """Padded random crop, horizontal flip, and a sub-policy of Cubuk et al. (2019), drawn anew for each image.

    Args:
        image_size: the smaller of H and W. Up to 64 pixels the policy is the one found for CIFAR-10, above the one
            for ImageNet; the crop's padding is an eighth of it.
    """

    numbers = 4 + 2 * _STEPS

    def __init__(self, image_size: int) -> None:
        self.policy = CIFAR10_POLICY if image_size <= SMALL_IMAGE else IMAGENET_POLICY
        self.padding = image_size // 8

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augment every image by its own numbers.

        Args:
            images: uint8 [B, 1 or 3, H, W], on any device.
            uniform: crop in y and in x, flip, sub-policy, then whether and with which sign for each of its two
                operations, float32 [B, 8] in [0, 1). Best on the CPU, where images are grouped; fetching them from a
                GPU waits for all of its work.

        Returns:
            uint8 [B, C, H, W], on the device of the images.

        Raises:
            ShapeError: the numbers do not belong to the images.
        """
        check_uniform(images, uniform, self.numbers)
        views = self._cropped(images, uniform[:, :3])
        choices = uniform[:, 3:].cpu().numpy()
        place = np.arange(len(images))  # of the view of image b
        for step in range(_STEPS):
            groups = grouped(self.policy, step, choices, *images.shape[-2:])
            views = _in_groups(views, [Group(operation, place[rows]) for operation, rows in groups])
            place[np.concatenate([rows for _, rows in groups])] = np.arange(len(images))
        return views.index_select(0, _moved(torch.from_numpy(place), images.device))

    def _cropped(self, images: Tensor, uniform: Tensor) -> Tensor:
        count, places = _images_at_once(images), _moved(uniform, images.device)
        parts = zip(torch.split(images, count), torch.split(places, count), strict=True)
        return torch.cat([crop_and_flip(part, part_places, self.padding) for part, part_places in parts])


def _in_groups(images: Tensor, groups: list[Group]) -> Tensor:
    """The images after their operations, in the order of the groups."""
    # Images are gathered, never scattered: on a CPU torch gathers with memcpy and scatters byte by byte, which takes
    # twenty times as long.
    everything = _moved(torch.from_numpy(np.concatenate([rows for _, rows in groups])), images.device)
    changed = []
    for (operation, _), group in zip(groups, torch.split(everything, [len(rows) for _, rows in groups]), strict=True):
        for part in torch.split(group, _images_at_once(images)):
            chosen = images.index_select(0, part)
            changed.append(chosen if operation is None else apply(operation, chosen))
    return torch.cat(changed)


def grouped(policy: Policy, step: int, choices: NDArray[np.float32], height: int, width: int) -> list[Group]:
    """Group the images of a batch by their operation.

    Args:
        policy: the sub-policies.
        step: 0 for their first operations, 1 for their second.
        choices: sub-policy, then whether and with which sign for each step, [B, 5] in [0, 1).
        height: of the images.
        width: of the images.

    Returns:
        The groups, with every image in one; only the first, without an operation, may be empty.
    """
    table = _table(policy, step, height, width)
    # In float64 the product stays below the number of sub-policies for every float32 below 1.
    chosen = (choices[:, 0].astype(np.float64) * len(policy)).astype(np.int64)
    happens, turns = choices[:, 1 + 2 * step], choices[:, 2 + 2 * step] <= 0.5
    operation_of = np.where(
        happens <= table.probabilities[chosen], table.operations_of[chosen, turns.astype(np.int64)], -1
    )
    order = np.argsort(operation_of, kind="stable")
    first, *others = np.split(order, np.searchsorted(operation_of[order], np.arange(len(table.operations))))
    groups = [Group(operation, rows) for operation, rows in zip(table.operations, others, strict=True) if len(rows)]
    return [Group(None, first), *groups]


class _Table(NamedTuple):
    """The distinct operations of one step; for each sub-policy its probability, and its operation with + and with -."""

    operations: list[Operation]
    probabilities: NDArray[np.float32]
    operations_of: NDArray[np.int64]


@lru_cache(maxsize=32)
def _table(policy: Policy, step: int, height: int, width: int) -> _Table:
    both_signs = [_operations(*sub_policy[step], height, width) for sub_policy in policy]
    different = sorted({operation for signs in both_signs for operation in signs})
    probabilities = np.array([sub_policy[step][1] for sub_policy in policy], dtype=np.float32)
    return _Table(different, probabilities, np.array([[different.index(o) for o in signs] for signs in both_signs]))


def _operations(
    name: str, _probability: float, level: int | None, height: int, width: int
) -> tuple[Operation, Operation]:
    """The operation of a policy's entry with its magnitude, and with the opposite one."""
    spaced = magnitudes(name, height, width)
    magnitude = 0.0 if spaced is None or level is None else float(spaced[level])
    return Operation(name, magnitude), Operation(name, -magnitude if is_signed(name) else magnitude)


def _images_at_once(images: Tensor) -> int:
    values = _AT_ONCE.get(images.device.type, _AT_ONCE_ELSEWHERE)
    return max(1, values // max(1, images[:1].numel()))


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On that device, without waiting for a GPU."""
    return tensor.to(device, non_blocking=device.type == "cuda")
