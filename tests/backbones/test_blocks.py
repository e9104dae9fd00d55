"""Any network is divided into blocks from input to output, as people count them."""

from __future__ import annotations

from functools import cache

import pytest
import timm
import torch
from torch import nn

from fewshot_bench.backbones import last_blocks, parameter_blocks
from fewshot_bench.errors import StudyError

# Blocks without the stem, one tensor of the first block, one that comes after the last block.
TIMM = {
    "vit_tiny_patch16_224": (12, "blocks.0.norm1.weight", "norm.weight"),
    "vit_base_patch16_224.mae": (12, "blocks.0.norm1.weight", "norm.weight"),
    "beit3_base_patch16_224": (12, "blocks.0.norm1.weight", "fc_norm.weight"),
    "vit_relpos_small_patch16_224": (12, "blocks.0.norm1.weight", "fc_norm.weight"),
    "resnet18": (8, "layer1.0.conv1.weight", "layer4.1.bn2.weight"),
    "convnext_atto": (12, "stages.0.blocks.0.gamma", "head.norm.weight"),
    "tf_efficientnet_lite0": (16, "blocks.0.0.conv_dw.weight", "conv_head.weight"),
    "swin_tiny_patch4_window7_224": (12, "layers.0.blocks.0.norm1.weight", "norm.weight"),
    "mixer_s32_224": (8, "blocks.0.norm1.weight", "norm.weight"),
    "cait_xxs24_224": (24, "blocks.0.norm1.weight", "norm.weight"),
    "caformer_s18": (18, "stages.0.blocks.0.norm1.weight", "head.norm.weight"),
    "conv4_32": (4, "blocks.0.0.weight", "blocks.3.1.weight"),
    "conv4_64": (4, "blocks.0.0.weight", "blocks.3.1.weight"),
    "resnet12": (4, "layer1.0.conv1.weight", "layer4.0.bn3.weight"),
    "wrn28_10": (12, "block1.layer.0.bn1.weight", "bn1.weight"),
}
WITHOUT_STEM = {"conv4_32", "conv4_64", "resnet12"}


@cache
def made(name: str, **options) -> nn.Module:
    if not timm.is_model(name):
        pytest.skip(f"this version of timm has no {name}")
    with torch.device("meta"):  # only names matter
        return timm.create_model(name, pretrained=False, **{"num_classes": 0, **options})


def names(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_every_parameter_of_a_timm_model_is_in_one_block(name):
    network = made(name)
    blocks = parameter_blocks(network)
    assert sorted(name for block in blocks for name in block) == sorted(names(network))
    assert all(blocks)


@pytest.mark.parametrize("name", TIMM)
def test_blocks_are_those_that_people_count(name):
    count, first, last = TIMM[name]
    blocks = parameter_blocks(made(name))
    stem = 0 if name in WITHOUT_STEM else 1
    assert len(blocks) - stem == count
    assert first in blocks[stem]
    assert last in blocks[-1]
    assert len(blocks[-1]) > 2


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_relpos_small_patch16_224", "convnext_atto", "resnet12"])
def test_a_classifier_belongs_to_the_last_block(name):
    network, without = made(name, num_classes=5), made(name)
    head = set(names(network)) - set(names(without))
    assert head
    assert head <= set(parameter_blocks(network)[-1])
    assert len(parameter_blocks(network)) == len(parameter_blocks(without))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "conv4_64", "wrn28_10"])
def test_last_blocks_are_the_ends_of_the_blocks(name):
    network = made(name)
    blocks = parameter_blocks(network)
    for count in range(1, TIMM[name][0] + 1):
        assert last_blocks(network, count) == {tensor for block in blocks[-count:] for tensor in block}


def test_the_stem_is_no_block():
    network = made("vit_tiny_patch16_224")
    left = set(names(network)) - last_blocks(network, 12)
    assert left == {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert last_blocks(made("conv4_64"), 4) == set(names(made("conv4_64")))


def test_more_blocks_than_there_are_cannot_be_asked_for():
    with pytest.raises(
        StudyError,
        match=r"network vit_tiny_patch16_224 has 12 blocks; last:20 asks for 20\. Use last:12 or fewer, or all\.",
    ):
        last_blocks(made("vit_tiny_patch16_224"), 20)
    with pytest.raises(StudyError, match=r"network conv4_32 has 4 blocks; last:0 asks for 0\. Use last:1 or more"):
        last_blocks(made("conv4_32"), 0)
    with pytest.raises(StudyError, match="network Linear has 1 block; last:2"):
        last_blocks(nn.Linear(2, 2), 2)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2))
        self.norm = nn.LayerNorm(2)


class Staged(nn.Module):
    """Two stages with something between them, as people write networks for themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(2))
        self.patches = nn.Linear(2, 2)
        self.stage1 = nn.Sequential(Block(), Block())
        self.between = nn.Linear(2, 2)
        self.stage2 = nn.ModuleList([Block(), Block(), Block(), Block()])
        self.norm = nn.LayerNorm(2)
        self.head = nn.Linear(2, 5)


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()


def test_blocks_of_other_people_s_networks_are_the_repeated_modules_of_all_stages():
    stem, *blocks = parameter_blocks(Staged())
    assert stem == ["token", "patches.weight", "patches.bias"]
    first_of_stage2 = blocks[2]
    assert len(blocks) == 6
    assert first_of_stage2[:3] == ["between.weight", "between.bias", "stage2.0.inner.0.weight"]
    assert blocks[0][0] == "stage1.0.inner.0.weight"
    assert blocks[-1][-4:] == ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    assert sorted(name for block in [stem, *blocks] for name in block) == sorted(names(Staged()))


def test_a_sequence_of_plain_layers_is_divided_by_its_children():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    assert parameter_blocks(network) == [[f"{i}.weight", f"{i}.bias"] for i in (0, 2, 4)]


def test_without_any_sequence_the_children_are_the_blocks():
    assert parameter_blocks(Flat()) == [["first.weight", "first.bias"], ["second.weight", "second.bias"]]
    assert parameter_blocks(nn.Linear(2, 2)) == [["weight", "bias"]]
    assert parameter_blocks(nn.ReLU()) == []


def test_a_wrapped_network_keeps_its_blocks():
    blocks = parameter_blocks(nn.Sequential(nn.Identity(), made("vit_tiny_patch16_224")))
    assert len(blocks) == 13
    assert "1.norm.bias" in blocks[-1]


def test_torchvision_s_networks_are_divided_by_their_residual_blocks():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        resnet, vit = models.resnet50(), models.vit_b_16()
    assert len(parameter_blocks(resnet)) == 1 + 16
    assert len(parameter_blocks(vit)) == 1 + 12
    assert "fc.weight" in parameter_blocks(resnet)[-1]
