"""AutoAugment of a batch does to each image what torchvision's does to one."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from fewshot_bench.training import autoaugment as module
from fewshot_bench.training.autoaugment import AutoAugment, crop_and_flip, grouped
from fewshot_bench.training.autoaugment_policies import CIFAR10_POLICY, IMAGENET_POLICY, Policy, is_signed

POLICIES = {32: v2.AutoAugmentPolicy.CIFAR10, 84: v2.AutoAugmentPolicy.IMAGENET}


def batch(size: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, size, size + 4), generator=generator, dtype=torch.uint8)
    return images // 2 + 30, torch.rand(count, AutoAugment.numbers, generator=generator)


def by_torchvision(image: Tensor, numbers: Tensor, policy: v2.AutoAugmentPolicy) -> Tensor:
    """torchvision's AutoAugment of one image, where torch.rand gives our numbers as it asks for them."""
    theirs = v2.AutoAugment(policy)
    sub_policy = int(float(numbers[0]) * len(theirs._policies))
    draws = []
    for (name, probability, _), happens, turns in zip(
        theirs._policies[sub_policy], numbers[1::2], numbers[2::2], strict=True
    ):
        draws.append(happens)
        if happens <= probability and theirs._AUGMENTATION_SPACE[name][1]:
            draws.append(turns)
    chosen = torch.tensor(sub_policy)
    with mock.patch("torch.randint", return_value=chosen), mock.patch("torch.rand", side_effect=draws) as rand:
        view: Tensor = theirs(image)
    assert rand.call_count == len(draws)
    return view


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 84])
def test_views_are_torchvision_s_for_the_same_choices(size: int) -> None:
    images, uniform = batch(size, 500 if size == 32 else 200)
    views = AutoAugment(size)(images, uniform)
    cropped = crop_and_flip(images, uniform[:, :3], size // 8)
    for image, numbers, view in zip(cropped, uniform, views, strict=True):
        assert torch.equal(view, by_torchvision(image, numbers[3:], POLICIES[size])), numbers


@pytest.mark.parametrize("size", [32, 84])
def test_choices_are_as_likely_as_in_the_policy(size: int) -> None:
    policy = AutoAugment(size).policy
    count = 200_000
    choices = torch.from_numpy(np.random.default_rng(0).random((count, 5), dtype=np.float32))
    tolerance = 5 * (0.25 / count) ** 0.5
    for step in range(2):
        shares = {group.operation: len(group.images) / count for group in grouped(policy, step, choices, size, size)}
        for name in {sub_policy[step][0] for sub_policy in policy}:
            expected = sum(sub[step][1] for sub in policy if sub[step][0] == name) / len(policy)
            of_name = {operation: share for operation, share in shares.items() if operation and operation.name == name}
            assert abs(sum(of_name.values()) - expected) < tolerance
            for operation, share in of_name.items():
                if is_signed(name):
                    opposite = operation._replace(magnitude=-operation.magnitude)
                    assert abs(share - of_name[opposite]) < tolerance


@pytest.mark.parametrize("policy", [CIFAR10_POLICY, IMAGENET_POLICY])
@pytest.mark.parametrize("count", [0, 1, 3, 2000])
def test_every_image_is_in_one_group_and_no_two_groups_do_the_same(policy: Policy, count: int) -> None:
    choices = torch.from_numpy(np.random.default_rng(count).random((count, 5), dtype=np.float32))
    for step in range(2):
        groups = grouped(policy, step, choices, 32, 32)
        assert sorted(np.concatenate([group.images for group in groups]).tolist()) == list(range(count))
        assert len({group.operation for group in groups}) == len(groups)


def test_the_highest_number_is_the_last_sub_policy() -> None:
    highest = torch.full((1, 5), 1 - 2**-24)
    highest[0, 1] = 0
    (_, group) = grouped(CIFAR10_POLICY, 0, highest, 32, 32)
    assert group.operation is not None
    assert group.operation.name == CIFAR10_POLICY[-1][0][0]
    assert group.operation.magnitude > 0


@pytest.mark.parametrize("values", [1, 5000, 1 << 30])
def test_how_many_images_are_changed_at_once_never_changes_a_view(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images, uniform = batch(32, 300)
    expected = AutoAugment(32)(images, uniform)
    monkeypatch.setattr(module, "_AT_ONCE", {"cpu": values})
    assert torch.equal(AutoAugment(32)(images, uniform), expected)


def test_torchvision_is_called_once_for_all_images_that_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    original = module.apply

    def spy(operation: Any, images: Tensor) -> Tensor:
        calls.append(operation)
        return original(operation, images)

    monkeypatch.setattr(module, "apply", spy)
    monkeypatch.setattr(module, "_AT_ONCE", {"cpu": 1 << 30})
    images, uniform = batch(32, 80)
    AutoAugment(32)(images.repeat(5, 1, 1, 1), uniform.repeat(5, 1))
    apart = [group for step in range(2) for group in grouped(CIFAR10_POLICY, step, uniform[:, 3:], 32, 36)]
    assert calls == [group.operation for group in apart if group.operation]


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 84])
@pytest.mark.parametrize("channels", [1, 3])
def test_on_a_gpu_the_views_are_those_of_a_cpu_but_for_rounding(size: int, channels: int) -> None:
    """The GPU's way, run on the CPU: where two pixels are equally near, and in blends that end between two levels."""
    images, uniform = batch(size, 600 if size == 32 else 150)
    images = images[:, :channels]
    augmentation = AutoAugment(size)
    difference = (augmentation(images, uniform).int() - augmentation._without_groups(images, uniform).int()).abs()
    assert (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize("count", [0, 1])
def test_a_gpu_takes_few_images_too(count: int) -> None:
    images, uniform = batch(32, count)
    assert torch.equal(AutoAugment(32)._without_groups(images, uniform), AutoAugment(32)(images, uniform))


def test_on_a_gpu_images_in_parts_give_the_same_views(monkeypatch: pytest.MonkeyPatch) -> None:
    images, uniform = batch(32, 50)
    expected = AutoAugment(32)._without_groups(images, uniform)
    monkeypatch.setattr(module, "_AT_ONCE", {"cpu": 7 * images[0].numel()})
    assert torch.equal(AutoAugment(32)._without_groups(images, uniform), expected)
