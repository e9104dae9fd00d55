"""WRN-28-10, the largest of the networks that few-shot methods train from scratch."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn.functional import dropout, relu

from fewshot_bench.backbones.literature_network import LiteratureNetwork, timm_config

_WIDTHS = (16, 160, 320, 640)
_BLOCKS_PER_GROUP = 4
_MATCH_PREVIOUS = (99999,)
"""How timm's patterns say that parameters belong to the block before them."""


class WideResNet(LiteratureNetwork):
    """28 layers in three groups of four pre-activation blocks, 10 times as wide as ResNet (Zagoruyko et al., 2016).

    Brought to few-shot learning by LEO (Rusu et al., 2019) and used by Dhillon et al. (2020) and S2M2 (Mangla et al.,
    2020) among others. The strides of the groups are 1, 2 and 2, as for CIFAR, and as S2M2 keeps them for larger
    images: maps of 21x21 before the average pooling at 84 px, of 8x8 at 32 px. The names of the parameters are those
    of S2M2's code, so that its weights fit. `block_drop_rate` is of the dropout between the convolutions of a block.

    Attributes:
        block1: the first group, followed by `block2` and `block3`.
    """

    halvings = 2

    def __init__(
        self,
        in_chans: int = 3,
        image_size: int = 84,
        *,
        num_classes: int = 0,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
        block_drop_rate: float = 0.0,
    ) -> None:
        self.refuse_small_images(image_size)
        super().__init__(_WIDTHS[-1], num_classes, global_pool, drop_rate)
        self.conv1 = _convolution(in_chans, _WIDTHS[0], 3, 1)
        self.block1 = Group(_WIDTHS[0], _WIDTHS[1], 1, block_drop_rate)
        self.block2 = Group(_WIDTHS[1], _WIDTHS[2], 2, block_drop_rate)
        self.block3 = Group(_WIDTHS[2], _WIDTHS[3], 2, block_drop_rate)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[3])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, images: Tensor) -> Tensor:
        """Feature maps, [B, C, H, W] -> [B, 640, H / 4, W / 4], rounded up."""
        features = self.block3(self.block2(self.block1(self.conv1(images))))
        return relu(self.bn1(features), inplace=True)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """A stem and twelve blocks, or three groups if coarse; the last normalisation belongs to the last."""
        blocks = r"^block(\d+)" if coarse else r"^block(\d+)\.layer\.(\d+)"
        return {"stem": r"^conv1", "blocks": [(blocks, None), (r"^bn1", _MATCH_PREVIOUS)]}


class Group(nn.Module):
    """Four blocks of one width, the first of which changes it and may halve the side of its maps."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, drop_rate: float) -> None:
        super().__init__()
        first = PreActivationBlock(channels_in, channels_out, stride, drop_rate)
        others = [PreActivationBlock(channels_out, channels_out, 1, drop_rate) for _ in range(_BLOCKS_PER_GROUP - 1)]
        self.layer = nn.Sequential(first, *others)

    def forward(self, features: Tensor) -> Tensor:
        """Feature maps, [B, channels_in, h, w] -> [B, channels_out, h / stride, w / stride], rounded up."""
        out: Tensor = self.layer(features)
        return out


class PreActivationBlock(nn.Module):
    """Twice batch normalisation, ReLU and 3x3 convolution, beside the identity or a 1x1 convolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, drop_rate: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = _convolution(channels_in, channels_out, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = _convolution(channels_out, channels_out, 3, 1)
        changes_width = channels_in != channels_out
        self.convShortcut = _convolution(channels_in, channels_out, 1, stride) if changes_width else None
        self.drop_rate = drop_rate

    def forward(self, features: Tensor) -> Tensor:
        """Feature maps, [B, channels_in, h, w] -> [B, channels_out, h / stride, w / stride], rounded up."""
        active = relu(self.bn1(features), inplace=True)
        inner = relu(self.bn2(self.conv1(active)), inplace=True)
        if self.drop_rate:
            inner = dropout(inner, self.drop_rate, self.training)
        out: Tensor = self.conv2(inner)
        # The 1x1 convolution sees the activated maps, the identity those before: so in the original code.
        return out + (features if self.convShortcut is None else self.convShortcut(active))


def _convolution(channels_in: int, channels_out: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)


def wrn28_10(pretrained: bool = False, *, img_size: int = 84, **options: Any) -> WideResNet:
    """Wide ResNet of 28 layers, 10 times as wide."""
    network: WideResNet = build_model_with_cfg(WideResNet, "wrn28_10", pretrained, image_size=img_size, **options)
    return network


default_cfgs = generate_default_cfgs({"wrn28_10": timm_config("conv1")})
register_model(wrn28_10)
