"""Views: of the same shape and type, different from each other, and made the way the images ask for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from fewshot_bench.training import choose_augmentation, seeded_randomness, two_views
from fewshot_bench.training.augment import random_affine


def batch(channels: int, size: int = 28, count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", ["auto", "autoaugment", "affine"])
@pytest.mark.parametrize("channels", [1, 3])
def test_views_keep_shape_and_type_and_differ_from_each_other(name: Any, channels: int) -> None:
    images = batch(channels)
    augmentation = choose_augmentation(name, channels=channels, image_size=28)
    views = two_views(images, augmentation)
    assert views.shape == (12, channels, 28, 28)
    assert views.dtype == torch.uint8
    assert all(not torch.equal(first, second) for first, second in zip(views[:6], views[6:], strict=True))


def test_none_changes_nothing() -> None:
    images = batch(1)
    augmentation = choose_augmentation("none", channels=1, image_size=28)
    assert torch.equal(two_views(images, augmentation), torch.cat([images, images]))


def test_images_that_are_not_square_keep_their_shape() -> None:
    images = batch(3)[:, :, :20]
    assert two_views(images, choose_augmentation("auto", channels=3, image_size=20)).shape == (12, 3, 20, 28)
    assert random_affine(images).shape == (6, 3, 20, 28)


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> list[v2.AutoAugmentPolicy]:
    """The policy of every use of torchvision's AutoAugment."""
    used: list[v2.AutoAugmentPolicy] = []
    original = v2.AutoAugment.forward

    def spy(self: v2.AutoAugment, *inputs: Any) -> Any:
        used.append(self.policy)
        return original(self, *inputs)

    monkeypatch.setattr(v2.AutoAugment, "forward", spy)
    return used


@pytest.mark.parametrize(("size", "policy"), [(32, "cifar10"), (64, "cifar10"), (84, "imagenet")])
def test_colour_images_meet_autoaugment_once_per_image_and_view(
    policies: list[v2.AutoAugmentPolicy], size: int, policy: str
) -> None:
    two_views(batch(3, size), choose_augmentation("auto", channels=3, image_size=size))
    assert [used.value for used in policies] == [policy] * 12


def test_gray_images_do_not_meet_autoaugment(policies: list[v2.AutoAugmentPolicy]) -> None:
    two_views(batch(1), choose_augmentation("auto", channels=1, image_size=28))
    assert policies == []


def test_affine_moves_every_image_by_its_own_amount() -> None:
    images = torch.zeros(8, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 10:18, 12:15] = 255
    with seeded_randomness(0):
        moved = random_affine(images)
    assert len({view.numpy().tobytes() for view in moved}) == 8
    ink = moved.float().sum((1, 2, 3)) / images.float().sum((1, 2, 3))
    assert ((ink > 0.3) & (ink < 3)).all()


def test_affine_leaves_a_flat_image_flat() -> None:
    flat = torch.full((4, 1, 28, 28), 93, dtype=torch.uint8)
    assert torch.equal(random_affine(flat), flat)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_depend_on_the_seed_alone(channels: int) -> None:
    images = batch(channels)
    augmentation = choose_augmentation("auto", channels=channels, image_size=28)
    views = []
    for seed in (0, 0, 1):
        with seeded_randomness(seed):
            views.append(two_views(images, augmentation))
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
