"""Crops and flips with torchvision's pixels."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from fewshot_bench.training.autoaugment import crop_and_flip


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    channels=st.sampled_from([1, 3]),
    padding=st.integers(0, 5),
    seed=st.integers(0, 1 << 30),
)
def test_pixels_are_those_of_pad_crop_and_horizontal_flip(
    height: int, width: int, channels: int, padding: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (5, channels, height, width), generator=generator, dtype=torch.uint8)
    tops, lefts = torch.randint(2 * padding + 1, (2, 5), generator=generator)
    flips = torch.rand(5, generator=generator) < 0.5
    # The middle of the stretch of numbers that stands for each place.
    places = (torch.stack([tops, lefts], 1) + 0.5) / (2 * padding + 1)
    views = crop_and_flip(images, torch.cat([places, torch.where(flips, 0.2, 0.8)[:, None]], 1), padding)
    for image, top, left, flip, view in zip(images, tops, lefts, flips, views, strict=True):
        expected = functional.crop(functional.pad(image, [padding]), int(top), int(left), height, width)
        assert torch.equal(view, functional.horizontal_flip(expected) if flip else expected)


def test_the_ends_of_the_range_are_the_corners() -> None:
    images = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    nearly_one = 1 - 2**-24
    first = crop_and_flip(images, torch.tensor([[0.0, 0.0, nearly_one]]), 2)
    last = crop_and_flip(images, torch.tensor([[nearly_one, nearly_one, nearly_one]]), 2)
    assert torch.equal(first[0, 0, 2:, 2:], images[0, 0, :2, :2])
    assert torch.equal(last[0, 0, :2, :2], images[0, 0, 2:, 2:])
    assert first.sum() == images[0, 0, :2, :2].sum()
    assert last.sum() == images[0, 0, 2:, 2:].sum()


def test_every_place_is_as_likely_and_half_are_mirrored() -> None:
    images = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    images[0, 0, 4, 4] = 1
    count, padding = 40_000, 4
    uniform = torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
    where = crop_and_flip(images.expand(count, -1, -1, -1), uniform, padding).flatten(1).long().argmax(1)
    hits = torch.bincount(where, minlength=81).double()
    assert ((hits - count / 81) ** 2 / (count / 81)).sum() < 80 + 5 * 160**0.5
    lopsided = torch.arange(2, dtype=torch.uint8).expand(count, 1, 1, 2)
    mirrored = crop_and_flip(lopsided, uniform, 0)[:, 0, 0, 0].double().mean()
    assert abs(mirrored - 0.5) < 5 * 0.5 / count**0.5
