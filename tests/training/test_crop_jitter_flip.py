"""Crop, colour jitter and flip: torchvision's pixels, each image by its own amounts."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from fewshot_bench.training.augmentation import CropJitterFlip, jittered
from fewshot_bench.training.autoaugment import crop_and_flip

CHANGES = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)


def images(channels: int, count: int = 40, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (count, channels, 4, 4), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(side // 4, 2).repeat_interleave(side // 4, 3)


def numbers(count: int, of_each: int) -> Tensor:
    return torch.rand(count, of_each, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_changed_as_torchvision_changes_it(channels: int) -> None:
    given, uniform = images(channels), numbers(40, 4)
    changed = jittered(given, uniform)
    orders = list(permutations(range(3)))
    differ = []
    for image, one, drawn in zip(given, changed, uniform.tolist(), strict=True):
        expected = image
        for change in orders[int(drawn[3] * 6)]:
            expected = CHANGES[change](expected, 0.6 + 0.8 * drawn[change])
        # A product may round to the other side of a whole number; the next change may carry that on.
        assert int((one.int() - expected.int()).abs().max()) <= 2
        differ.append(float((one != expected).double().mean()))
    assert sum(differ) / len(differ) < 0.01


def test_factors_and_orders_are_those_of_color_jitter() -> None:
    theirs = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)
    assert list(theirs.brightness) == list(theirs.contrast) == list(theirs.saturation) == [0.6, 1.4]
    gray = torch.full((3, 3, 8, 8), 100, dtype=torch.uint8)  # without contrast and saturation
    factors = torch.tensor([[0.0, 0.5, 0.5, 0.0], [0.5, 0.5, 0.5, 0.0], [1 - 2**-24, 0.5, 0.5, 0.0]])
    assert jittered(gray, factors)[:, 0, 0, 0].tolist() == pytest.approx([60, 100, 140], abs=1)


def test_the_colours_change_between_the_crop_and_the_flip() -> None:
    given, uniform = images(3), numbers(40, 7)
    augmentation = CropJitterFlip(32)
    assert augmentation.padding == 4
    placed = crop_and_flip(given, uniform[:, :3], 4)
    assert torch.equal(augmentation(given, uniform), jittered(placed, uniform[:, 3:]))
    plain = uniform.clone()
    plain[:, 3:6] = 0.5
    assert int((augmentation(given, plain).int() - placed.int()).abs().max()) <= 1


def test_an_image_is_changed_the_same_in_any_company() -> None:
    given, uniform = images(3, side=28), numbers(40, 7)
    augmentation = CropJitterFlip(28)
    together = augmentation(given, uniform)
    for some in (slice(0, 1), slice(3, 10), slice(39, 40)):
        assert torch.equal(augmentation(given[some], uniform[some]), together[some])
