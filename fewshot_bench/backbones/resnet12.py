"""ResNet-12, on which most few-shot methods have been compared since 2018."""

from __future__ import annotations

from typing import Any

from timm.layers.drop import DropBlock2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, max_pool2d

from fewshot_bench.backbones.literature_network import LiteratureNetwork, timm_config

_WIDTHS = (64, 160, 320, 640)
_SLOPE = 0.1


class ResNet12(LiteratureNetwork):
    """Four residual blocks of three 3x3 convolutions, of widths 64, 160, 320 and 640, then global average pooling.

    The network of TADAM (Oreshkin et al., 2018) in the wider form of MetaOptNet (Lee et al., 2019), which RFS (Tian et
    al., 2020) and most methods since use. The names of the parameters are those of both codes, so that their weights
    fit. DropBlock (Ghiasi et al., 2018) follows the last two blocks while training, at a constant rate, where
    MetaOptNet reaches its rate over 40,000 steps and drops single values after the first two blocks.

    Attributes:
        layer1: the first block, and so on to `layer4`.
    """

    halvings = 4
    spellings = (((r"^(layer\d)\.0\.", r"\1."),),)  # "resnet12-wide" of Meta-Baseline (Chen et al., 2021)

    def __init__(
        self,
        in_chans: int = 3,
        image_size: int = 84,
        *,
        num_classes: int = 0,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
        drop_block_rate: float = 0.0,
        drop_block_size: int = 5,
    ) -> None:
        self.refuse_small_images(image_size)
        super().__init__(_WIDTHS[-1], num_classes, global_pool, drop_rate)
        self.layer1 = nn.Sequential(ResidualBlock(in_chans, _WIDTHS[0]))
        self.layer2 = nn.Sequential(ResidualBlock(_WIDTHS[0], _WIDTHS[1]))
        self.layer3 = nn.Sequential(ResidualBlock(_WIDTHS[1], _WIDTHS[2], drop_block_rate, drop_block_size))
        self.layer4 = nn.Sequential(ResidualBlock(_WIDTHS[2], _WIDTHS[3], drop_block_rate, drop_block_size))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward_features(self, images: Tensor) -> Tensor:
        """Feature maps, [B, C, H, W] -> [B, 640, H // 16, W // 16]."""
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(images))))
        return features

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Four blocks, coarse or not."""
        return {"blocks": r"^layer(\d+)"}


class ResidualBlock(nn.Module):
    """Three times convolution and batch normalisation, beside a 1x1 convolution; LeakyReLU and 2x2 max-pooling."""

    def __init__(self, channels_in: int, channels_out: int, drop_rate: float = 0.0, drop_size: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(channels_in, channels_out, 3), nn.BatchNorm2d(channels_out)
        self.conv2, self.bn2 = _convolution(channels_out, channels_out, 3), nn.BatchNorm2d(channels_out)
        self.conv3, self.bn3 = _convolution(channels_out, channels_out, 3), nn.BatchNorm2d(channels_out)
        self.downsample = nn.Sequential(_convolution(channels_in, channels_out, 1), nn.BatchNorm2d(channels_out))
        # Each channel loses its own squares, as in MetaOptNet; no square is larger than the feature map.
        self.drop = DropBlock2d(drop_rate, drop_size, couple_channels=False)

    def forward(self, features: Tensor) -> Tensor:
        """Feature maps, [B, channels_in, h, w] -> [B, channels_out, h // 2, w // 2]."""
        inner = leaky_relu(self.bn1(self.conv1(features)), _SLOPE, inplace=True)
        inner = leaky_relu(self.bn2(self.conv2(inner)), _SLOPE, inplace=True)
        # Not in place: with the parameters of one branch stacked by vmap, the other cannot hold the sum.
        both = self.bn3(self.conv3(inner)) + self.downsample(features)
        # The literature pools last. LeakyReLU is increasing, so the two commute, and it sees a quarter of the values.
        dropped: Tensor = self.drop(leaky_relu(max_pool2d(both, 2), _SLOPE, inplace=True))
        return dropped


def _convolution(channels_in: int, channels_out: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, size, padding=size // 2, bias=False)


def resnet12(pretrained: bool = False, *, img_size: int = 84, **options: Any) -> ResNet12:
    """ResNet-12 of widths 64, 160, 320 and 640."""
    network: ResNet12 = build_model_with_cfg(ResNet12, "resnet12", pretrained, image_size=img_size, **options)
    return network


default_cfgs = generate_default_cfgs({"resnet12": timm_config(("layer1.0.conv1", "layer1.0.downsample.0"))})
register_model(resnet12)
