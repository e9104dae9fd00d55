"""DropBlock drops what the code of MetaOptNet and RFS drops."""

from __future__ import annotations

import pytest
import timm
import torch

import fewshot_bench.backbones  # noqa: F401  # registers resnet12
from fewshot_bench.backbones.drop_block import DropBlock, set_drop_rate
from fewshot_bench.errors import StudyError


def drop_block(size: int, rate: float) -> DropBlock:
    torch.manual_seed(0)
    layer = DropBlock(size)
    set_drop_rate(layer, rate)
    return layer.train()


def test_what_is_dropped_is_whole_squares_inside_the_map():
    dropped = drop_block(3, 0.05)(torch.ones(40, 5, 8, 8)) == 0
    squares = dropped.unfold(2, 3, 1).unfold(3, 3, 1).all(-1).all(-1)  # [.., 6, 6], by their first corner
    covered = torch.zeros_like(dropped)
    for row in range(3):
        for column in range(3):
            covered[..., row : row + 6, column : column + 6] |= squares
    assert dropped.any()
    assert torch.equal(covered, dropped)


@pytest.mark.parametrize(("size", "side"), [(2, 2), (2, 4), (5, 5)])
def test_the_share_that_is_dropped_is_the_rate_as_long_as_squares_are_rare(size, side):
    dropped = drop_block(size, 0.02)(torch.ones(400, 50, side, side)) == 0
    assert float(dropped.float().mean()) == pytest.approx(0.02, rel=0.15)


def test_channels_lose_their_own_squares_and_the_mean_stays():
    features = drop_block(2, 0.3)(torch.ones(100, 20, 4, 4))
    assert float(features.mean()) == pytest.approx(1)
    assert not torch.equal(features[:, 0], features[:, 1])


def test_nothing_is_dropped_at_rate_0_or_in_evaluation():
    features = torch.randn(2, 3, 4, 4)
    assert torch.equal(drop_block(2, 0)(features), features)
    assert torch.equal(drop_block(2, 0.5).eval()(features), features)


def test_squares_larger_than_the_map_are_refused_with_the_size_that_fits():
    with pytest.raises(StudyError, match=r"5 px, and the feature maps have 2x2 px. Use drop_block_size 2"):
        drop_block(5, 0.1)(torch.ones(1, 1, 2, 2))


def test_resnet12_drops_single_values_after_two_blocks_and_squares_after_the_others():
    network = timm.create_model("resnet12", num_classes=0, img_size=32)
    names = set(network.state_dict())
    network.drop_in_blocks(0.1, 2)
    kinds = [type(layer[0].drop) for layer in (network.layer1, network.layer2, network.layer3, network.layer4)]
    assert kinds == [torch.nn.Dropout, torch.nn.Dropout, DropBlock, DropBlock]
    assert network.layer1[0].drop.p == 0.1
    assert float(network.layer4[0].drop.rate) == 0
    assert set(network.state_dict()) == names
