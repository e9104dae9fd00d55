"""AutoAugment of a batch, a sub-policy for each image, with one call of torchvision for all that do the same."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.training.crop_and_flip import crop_and_flip
from fewshot_bench.training.image_operations import Operation, apply, is_signed, magnitudes
from fewshot_bench.training.policies import CIFAR10_POLICY, IMAGENET_POLICY, Policy
from fewshot_bench.training.randomness import check_uniform

SMALL_IMAGE = 64
_STEPS = 2
# Values at once. On a CPU the float32 copies of torchvision's operations should stay in the cache and in memory that
# the allocator reuses: with all 1,000 images of 32 x 32 at once they take up to five times as long.
_AT_ONCE = {"cpu": 1 << 19}
_AT_ONCE_ELSEWHERE = 1 << 26


class Group(NamedTuple):
    """Images that meet the same operation with the same magnitude.

    Attributes:
        operation: which; None for images that are left as they are.
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
                operations, float32 [B, 8] in [0, 1). Best on the CPU, where it is decided which images belong
                together; from a GPU they are fetched, which waits for all that the GPU has been given to do.

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
            views = _in_groups(views, [Group(operation, place[some]) for operation, some in groups])
            place[np.concatenate([some for _, some in groups])] = np.arange(len(images))
        return views.index_select(0, _moved(torch.from_numpy(place), images.device))

    def _cropped(self, images: Tensor, uniform: Tensor) -> Tensor:
        count, places = _images_at_once(images), _moved(uniform, images.device)
        parts = zip(torch.split(images, count), torch.split(places, count), strict=True)
        return torch.cat([crop_and_flip(some, their_places, self.padding) for some, their_places in parts])


def _in_groups(images: Tensor, groups: list[Group]) -> Tensor:
    """The images after their operations, in the order of the groups."""
    # Rows are gathered, never written back to where they were: on a CPU torch gathers whole images with memcpy, but
    # scatters them byte by byte, which takes twenty times as long.
    everything = _moved(torch.from_numpy(np.concatenate([some for _, some in groups])), images.device)
    changed = []
    for (operation, _), some in zip(groups, torch.split(everything, [len(some) for _, some in groups]), strict=True):
        for part in torch.split(some, _images_at_once(images)):
            chosen = images.index_select(0, part)
            changed.append(chosen if operation is None else apply(operation, chosen))
    return torch.cat(changed)


def grouped(policy: Policy, step: int, choices: NDArray[np.float32], height: int, width: int) -> list[Group]:
    """Divide a batch into the images that meet the same operation, and those that meet none.

    Args:
        policy: the sub-policies.
        step: 0 for their first operations, 1 for their second.
        choices: sub-policy, then whether and with which sign for each step, [B, 5] in [0, 1).
        height: of the images.
        width: of the images.

    Returns:
        The groups, of which at most the first, without an operation, is empty; every image is in one.
    """
    table = _table(policy, step, height, width)
    # In float64 the product stays below the number of sub-policies for every float32 below 1.
    chosen = (choices[:, 0].astype(np.float64) * len(policy)).astype(np.int64)
    happens, turns = choices[:, 1 + 2 * step], choices[:, 2 + 2 * step] <= 0.5
    which = np.where(happens <= table.probabilities[chosen], table.operations_of[chosen, turns.astype(np.int64)], -1)
    order = np.argsort(which, kind="stable")
    first, *others = np.split(order, np.searchsorted(which[order], np.arange(len(table.operations))))
    groups = [Group(operation, some) for operation, some in zip(table.operations, others, strict=True) if len(some)]
    return [Group(None, first), *groups]


class _Table(NamedTuple):
    """The different operations of one step; for each sub-policy its probability, and which it is with + and with -."""

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
    """On that device; a GPU is not waited for."""
    return tensor.to(device, non_blocking=device.type == "cuda")
