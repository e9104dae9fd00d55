"""Views: of the same shape and type, different from each other, and made the way the images ask for."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewshot_bench.errors import ShapeError
from fewshot_bench.training import choose_augmentation, random_views, seeded_randomness
from fewshot_bench.training.augmentation import RandomAffine
from fewshot_bench.training.autoaugment import AutoAugment
from fewshot_bench.training.autoaugment_policies import CIFAR10_POLICY, IMAGENET_POLICY


def batch(channels: int, size: int = 28, count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, size, 28), generator=generator, dtype=torch.uint8)


def uniform(count: int, numbers: int, seed: int = 0) -> Tensor:
    return torch.rand(count, numbers, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["auto", "autoaugment", "jitter", "affine"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 20])
def test_views_keep_shape_and_type_and_differ_from_each_other(name: Any, channels: int, size: int) -> None:
    images = batch(channels, size)
    views = random_views(images, choose_augmentation(name, channels=channels, image_size=size))
    assert views.shape == (12, channels, size, 28)
    assert views.dtype == torch.uint8
    assert all(not torch.equal(first, second) for first, second in zip(views[:6], views[6:], strict=True))


def test_none_changes_nothing() -> None:
    images = batch(1)
    views = random_views(images, choose_augmentation("none", channels=1, image_size=28))
    assert torch.equal(views, torch.cat([images, images]))
    assert views.data_ptr() != images.data_ptr()


@pytest.mark.parametrize(("size", "policy"), [(32, CIFAR10_POLICY), (64, CIFAR10_POLICY), (84, IMAGENET_POLICY)])
def test_colour_images_meet_the_policy_of_their_size(size: int, policy: object) -> None:
    augmentation = choose_augmentation("auto", channels=3, image_size=size)
    assert isinstance(augmentation, AutoAugment)
    assert augmentation.policy == policy


@pytest.mark.parametrize("size", [28, 84])
def test_the_policy_alone_is_autoaugment_without_crop_and_flip(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50, 3, size, size), generator=generator, dtype=torch.uint8)
    whole, alone = (
        choose_augmentation(name, channels=3, image_size=size) for name in ("autoaugment", "autoaugment-policy")
    )
    in_place = uniform(50, whole.numbers)
    in_place[:, :2], in_place[:, 2] = 0.5, 0.9  # the middle, and no flip
    elsewhere = torch.cat([torch.rand(50, 3), in_place[:, 3:]], dim=1)
    assert torch.equal(alone(images, elsewhere), whole(images, in_place))
    assert not torch.equal(alone(images, elsewhere), whole(images, elsewhere))


def test_gray_images_are_moved() -> None:
    assert isinstance(choose_augmentation("auto", channels=1, image_size=28), RandomAffine)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "affine", "autoaugment", "autoaugment-policy", "jitter"])
@pytest.mark.parametrize("channels", [1, 3])
@settings(max_examples=25, deadline=None)
@given(some=st.lists(st.integers(0, 59), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_a_view_depends_on_its_own_image_and_numbers_only(name: Any, channels: int, some: list[int], seed: int) -> None:
    augmentation = choose_augmentation(name, channels=channels, image_size=28)
    images, numbers = batch(channels, count=60), uniform(60, augmentation.numbers, seed)
    assert torch.equal(augmentation(images[some], numbers[some]), augmentation(images, numbers)[some])


@pytest.mark.parametrize("name", ["none", "affine", "autoaugment", "autoaugment-policy", "jitter"])
def test_images_are_left_as_they_are_and_may_lie_in_any_order_in_memory(name: Any) -> None:
    augmentation = choose_augmentation(name, channels=3, image_size=28)
    images, numbers = batch(3, count=40), uniform(40, augmentation.numbers)
    before = images.clone()
    views = augmentation(images, numbers)
    assert torch.equal(images, before)
    as_stored = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(augmentation(as_stored, numbers.T.contiguous().T), views)


@pytest.mark.parametrize("name", ["none", "affine", "autoaugment", "autoaugment-policy", "jitter"])
def test_a_batch_may_be_empty(name: Any) -> None:
    augmentation = choose_augmentation(name, channels=3, image_size=28)
    assert augmentation(batch(3)[:0], uniform(0, augmentation.numbers)).shape == (0, 3, 28, 28)


@pytest.mark.parametrize("name", ["none", "affine", "autoaugment", "autoaugment-policy", "jitter"])
def test_nothing_is_read_back_from_the_device_of_the_images(name: Any) -> None:
    augmentation = choose_augmentation(name, channels=3, image_size=28)
    images = batch(3, count=300).to("meta")  # meta tensors have no values: reading one is an error
    views = augmentation(images, uniform(300, augmentation.numbers))
    assert (views.shape, views.dtype, views.device.type) == (images.shape, torch.uint8, "meta")


@pytest.mark.parametrize("name", ["none", "affine", "autoaugment", "autoaugment-policy", "jitter"])
def test_numbers_of_other_images_are_refused(name: Any) -> None:
    augmentation = choose_augmentation(name, channels=3, image_size=28)
    with pytest.raises(ShapeError, match="of 6 images takes uniform numbers"):
        augmentation(batch(3), uniform(5, augmentation.numbers))


def test_affine_views_of_base_training_are_those_of_the_first_release() -> None:
    """The digest was taken from the code of version 0.1.0, which drew its random numbers itself."""
    with seeded_randomness(5):
        views = random_views(batch(1, count=7), choose_augmentation("affine", channels=1, image_size=28))
        assert torch.rand(1).item() == 0.8816927671432495
    assert hashlib.sha256(views.numpy().tobytes()).hexdigest() == (
        "1af40bb437462ed94ac715e871ad88bb9290feca34176ab6c8bd15bd5321af5b"
    )


def test_affine_moves_every_image_by_its_own_amount() -> None:
    images = torch.zeros(8, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 10:18, 12:15] = 255
    moved = RandomAffine()(images, uniform(8, 5))
    assert len({view.numpy().tobytes() for view in moved}) == 8
    ink = moved.float().sum((1, 2, 3)) / images.float().sum((1, 2, 3))
    assert ((ink > 0.3) & (ink < 3)).all()


def test_affine_with_the_middle_of_every_range_changes_nothing() -> None:
    assert torch.equal(RandomAffine()(batch(3), torch.full((6, 5), 0.5)), batch(3))


def test_affine_leaves_a_flat_image_flat() -> None:
    flat = torch.full((4, 1, 28, 28), 93, dtype=torch.uint8)
    assert torch.equal(RandomAffine()(flat, uniform(4, 5)), flat)


@pytest.mark.parametrize("channels", [1, 3])
def test_two_views_depend_on_the_seed_alone(channels: int) -> None:
    images = batch(channels)
    augmentation = choose_augmentation("auto", channels=channels, image_size=28)
    views = []
    for seed in (0, 0, 1):
        with seeded_randomness(seed):
            views.append(random_views(images, augmentation))
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
