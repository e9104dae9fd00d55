"""Views of a split: functions of seed, view and image, and of nothing else."""

from __future__ import annotations

import pytest
import torch
from conftest import toy_split
from torch import Tensor

from fewshot_bench.study.workers import augmented_view, name_of_view


def images(channels: int) -> Tensor:
    return torch.from_numpy(toy_split(channels=channels).images).permute(0, 3, 1, 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_does_not_depend_on_which_images_come_at_once(channels: int) -> None:
    everything = images(channels)
    make = augmented_view(toy_split(channels=channels), 3, 1)
    views = make(everything, slice(0, len(everything)))
    parts = [slice(0, 1), slice(1, 50), slice(50, len(everything))]
    backwards = [make(everything[part], part) for part in reversed(parts)]
    assert torch.equal(torch.cat(backwards[::-1]), views)


@pytest.mark.parametrize("channels", [1, 3])
def test_seed_and_view_give_views_of_their_own(channels: int) -> None:
    everything, whole = images(channels), slice(0, len(images(channels)))
    some = [(3, 1), (3, 2), (4, 1), (4, 3)]
    views = [augmented_view(toy_split(channels=channels), *which)(everything, whole) for which in some]
    views.append(everything)
    for number, one in enumerate(views):
        for other in views[:number]:
            assert (one != other).flatten(1).any(1).double().mean() > 0.9


def test_every_view_is_cached_under_a_name_of_its_own() -> None:
    names = {name_of_view(seed, view) for seed in range(12) for view in range(1, 12)}
    assert len(names) == 12 * 11
    assert "auto, view 1 of seed 0" not in names, "the name of views that depended on the order of blocks"
