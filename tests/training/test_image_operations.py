"""Operations: the tables, magnitudes and pixels of torchvision's AutoAugment."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from fewshot_bench.training.autoaugment import apply
from fewshot_bench.training.autoaugment_policies import (
    CIFAR10_POLICY,
    IMAGENET_POLICY,
    Operation,
    Policy,
    is_signed,
    magnitudes,
)

THEIRS: Any = v2.AutoAugment()
NAMES = sorted(THEIRS._AUGMENTATION_SPACE)
SIZES = [(32, 32), (28, 28), (84, 84), (224, 224), (20, 33)]


def operations(height: int, width: int) -> list[Operation]:
    """Every operation with every magnitude of both signs."""
    made = []
    for name in NAMES:
        spaced = magnitudes(name, height, width)
        values = [0.0] if spaced is None else spaced.tolist()
        made += [Operation(name, sign * value) for value in values for sign in ((1, -1) if is_signed(name) else (1,))]
    return made


def batch(channels: int, height: int, width: int, count: int = 9) -> Tensor:
    """Noise, and images of the kinds at which operations divide by zero or change nothing."""
    images = torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator())
    images[1] = 0
    images[2] = 255
    images[3] = 77
    images[4] = images[4] // 4 + 90
    images[5] = torch.arange(width, dtype=torch.uint8)
    return images


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(CIFAR10_POLICY, v2.AutoAugmentPolicy.CIFAR10), (IMAGENET_POLICY, v2.AutoAugmentPolicy.IMAGENET)],
)
def test_policies_are_those_of_torchvision(ours: Policy, theirs: v2.AutoAugmentPolicy) -> None:
    assert list(ours) == v2.AutoAugment(theirs)._policies


def test_policies_are_those_that_stored_trainings_used() -> None:
    digest = hashlib.sha256(repr((CIFAR10_POLICY, IMAGENET_POLICY)).encode()).hexdigest()
    assert digest.startswith("57d645d5bdee4692")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_magnitudes_are_those_of_torchvision(name: str, size: tuple[int, int]) -> None:
    spaced, signed = THEIRS._AUGMENTATION_SPACE[name]
    theirs, ours = spaced(10, *size), magnitudes(name, *size)
    assert is_signed(name) == signed
    if theirs is None:
        assert ours is None
    else:
        assert ours is not None
        assert ours.tolist() == theirs.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES[:3] + SIZES[4:])
def test_pixels_are_those_of_torchvision_for_each_image_alone(channels: int, size: tuple[int, int]) -> None:
    images = batch(channels, *size)
    for operation in operations(*size):
        views = apply(operation, images)
        for image, view in zip(images, views, strict=True):
            theirs = THEIRS._apply_image_or_video_transform(
                image, operation.name, operation.magnitude, interpolation=THEIRS.interpolation, fill=THEIRS._fill
            )
            assert torch.equal(view, theirs), operation


def test_every_operation_can_change_an_image() -> None:
    images = batch(3, 32, 32)[[0, 4]]
    changed = {operation.name for operation in operations(32, 32) if not torch.equal(apply(operation, images), images)}
    assert changed == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Sharpness", "AutoContrast"])
def test_rounding_does_not_depend_on_the_place_in_the_batch(name: str) -> None:
    """Images of 5 x 7 pixels lie across the vector registers in every possible way."""
    images = torch.randint(256, (4000, 3, 5, 7), dtype=torch.uint8, generator=generator())
    operation = Operation(name, 0.7)
    views = apply(operation, images)
    for first in range(1, 40, 3):
        assert torch.equal(apply(operation, images[first:]), views[first:])
    assert torch.equal(torch.cat([apply(operation, image) for image in torch.split(images[:500], 1)]), views[:500])


@pytest.mark.parametrize(("width", "calls"), [(256, [3]), (257, [1, 1, 1])])
def test_a_mean_that_float32_may_round_is_taken_of_one_image_at_a_time(
    width: int, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of three images of 300 x 301 at once differs from those of each alone, with two threads."""
    seen: list[int] = []
    original = functional.adjust_contrast

    def spy(images: Tensor, factor: float) -> Tensor:
        seen.append(len(images))
        contrasted: Tensor = original(images, factor)
        return contrasted

    monkeypatch.setattr(functional, "adjust_contrast", spy)
    images = batch(3, 257, width, count=6)[3:]
    views = apply(Operation("Contrast", 0.4), images)
    assert seen == calls
    assert torch.equal(views, torch.stack([original(image, 1.4) for image in images]))
