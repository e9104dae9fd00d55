"""AutoAugment of a batch: a sub-policy for each image, one call of torchvision for all images of the same operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.v2 import functional

from fewshot_bench.devices import to_device
from fewshot_bench.training.autoaugment_on_gpu import OperationsOnGpu
from fewshot_bench.training.autoaugment_policies import (
    CIFAR10_POLICY,
    EXACT_SUM,
    IMAGENET_POLICY,
    SMALL_IMAGE,
    STEPS,
    Operation,
    Policy,
    table_of,
)
from fewshot_bench.training.randomness import check_uniform


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
    if operation.name == "Contrast" and 255 * images.shape[-1] * images.shape[-2] > EXACT_SUM:
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


# Values at once. On a CPU the float32 copies of torchvision's operations should stay in the cache; all 1,000 images of
# 32 x 32 at once take up to five times as long.
_AT_ONCE = {"cpu": 1 << 19}
_AT_ONCE_ELSEWHERE = 1 << 24


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
        crops: whether the crop and the flip come before the sub-policy; their random numbers are drawn either way.
    """

    numbers = 4 + 2 * STEPS

    def __init__(self, image_size: int, *, crops: bool = True) -> None:
        self.crops = crops
        self.policy = CIFAR10_POLICY if image_size <= SMALL_IMAGE else IMAGENET_POLICY
        self.padding = image_size // 8
        self._on_gpu: dict[tuple[object, ...], list[OperationsOnGpu]] = {}

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Augment every image by its own numbers.

        Args:
            images: uint8 [B, 1 or 3, H, W], on any device.
            uniform: crop in y and in x, flip, sub-policy, then whether and with which sign for each of its two
                operations, float32 [B, 8] in [0, 1), on the CPU or the device of the images.

        Returns:
            uint8 [B, C, H, W], on the device of the images.

        Raises:
            ShapeError: the numbers do not belong to the images.
        """
        check_uniform(images, uniform, self.numbers)
        if images.device.type == "mps":  # it has no float64
            return self(images.cpu(), uniform.cpu()).to(images.device)
        if images.device.type != "cpu":
            return self._without_groups(images, to_device(uniform, images.device))
        views = torch.cat([self._placed(part, numbers) for part, numbers in _parts(images, uniform[:, :3])])
        place = np.arange(len(images))  # of the view of image b
        for step in range(STEPS):
            groups = grouped(self.policy, step, uniform[:, 3:], *images.shape[-2:])
            views = _in_groups(views, [Group(operation, place[rows]) for operation, rows in groups])
            place[np.concatenate([rows for _, rows in groups])] = np.arange(len(images))
        return views.index_select(0, torch.from_numpy(place))

    def _placed(self, images: Tensor, uniform: Tensor) -> Tensor:
        return crop_and_flip(images, uniform, self.padding) if self.crops else images

    def _without_groups(self, images: Tensor, uniform: Tensor) -> Tensor:
        """On a GPU: groups would take hundreds of small kernels, and their sizes are known to the host only."""
        size = (images.shape[-2], images.shape[-1], images.device)
        if size not in self._on_gpu:
            self._on_gpu[size] = [
                OperationsOnGpu(table_of(self.policy, step, *size[:2]), step, *size) for step in range(STEPS)
            ]
        changed = [images[:0]]
        for part, numbers in _parts(images, uniform):
            views = self._placed(part, numbers[:, :3])
            for change in self._on_gpu[size]:
                views = change(views, numbers[:, 3:])
            changed.append(views)
        return torch.cat(changed)


def _parts(images: Tensor, uniform: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Images and their numbers, as many at once as is fast and fits into memory."""
    count = _images_at_once(images)
    return zip(torch.split(images, count), torch.split(uniform, count), strict=True)


def _in_groups(images: Tensor, groups: list[Group]) -> Tensor:
    """The images after their operations, in the order of the groups."""
    # Images are gathered, never scattered: on a CPU torch gathers with memcpy and scatters byte by byte, which takes
    # twenty times as long.
    everything = torch.from_numpy(np.concatenate([rows for _, rows in groups]))
    changed = []
    for (operation, _), group in zip(groups, torch.split(everything, [len(rows) for _, rows in groups]), strict=True):
        for part in torch.split(group, _images_at_once(images)):
            chosen = images.index_select(0, part)
            changed.append(chosen if operation is None else apply(operation, chosen))
    return torch.cat(changed)


def grouped(policy: Policy, step: int, choices: Tensor, height: int, width: int) -> list[Group]:
    """Group the images of a batch by their operation.

    Args:
        policy: the sub-policies.
        step: 0 for their first operations, 1 for their second.
        choices: sub-policy, then whether and with which sign for each step, on the CPU, [B, 5] in [0, 1).
        height: of the images.
        width: of the images.

    Returns:
        The groups, with every image in one; only the first, without an operation, may be empty.
    """
    table = table_of(policy, step, height, width)
    operation_of = table.chosen(choices, step).numpy()
    order = np.argsort(operation_of, kind="stable")
    first, *others = np.split(order, np.searchsorted(operation_of[order], np.arange(len(table.operations))))
    groups = [Group(operation, rows) for operation, rows in zip(table.operations, others, strict=True) if len(rows)]
    return [Group(None, first), *groups]


def _images_at_once(images: Tensor) -> int:
    values = _AT_ONCE.get(images.device.type, _AT_ONCE_ELSEWHERE)
    return max(1, values // max(1, images[:1].numel()))
