"""The literature's own networks, trained on the base split of the dataset itself.

Conv4 has served comparisons of few-shot methods since 2016 and ResNet-12 since 2018; WRN-28-10 is the largest network
that they train from scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from timm.layers.drop import DropBlock2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn.functional import dropout, leaky_relu, max_pool2d, relu

from fewshot_bench.backbones.backbone import BACKBONES, Backbone, BackboneRequest, Preprocessing
from fewshot_bench.backbones.drop_block import DropBlock
from fewshot_bench.backbones.literature_network import LiteratureNetwork, timm_config
from fewshot_bench.backbones.weights import Spelling, fit_by_name
from fewshot_bench.backbones.weights_file import read_weights


class Conv4(LiteratureNetwork):
    """Four blocks of 3x3 convolution, batch normalisation, ReLU and 2x2 max-pooling (Vinyals et al., 2016).

    The flattened output of the last block is the embedding, without a further layer (Snell et al., 2017), so that
    its size D depends on the image size: width * (image_size // 16) ** 2.
    """

    halvings = 4
    own_pool = "flatten"
    spellings: Sequence[Spelling] = (
        ((r"^blocks\.", ""),),  # Snell et al., 2017; FEAT and Meta-Baseline, whose encoders lie in each other
        ((r"^blocks\.(\d)\.0", r"trunk.\1.C"), (r"^blocks\.(\d)\.1", r"trunk.\1.BN")),  # Chen et al., 2019
    )

    def __init__(
        self,
        width: int = 64,
        in_chans: int = 3,
        image_size: int = 84,
        *,
        num_classes: int = 0,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
    ) -> None:
        self.refuse_small_images(image_size)
        super().__init__(self._size_of_embedding(width, image_size), num_classes, global_pool, drop_rate)
        self.width = width
        self.blocks = nn.Sequential(
            *(_block(in_chans if i == 0 else width, width, is_pooled=i < self.halvings) for i in range(4))
        )

    def forward_features(self, images: Tensor) -> Tensor:
        """Feature maps, [B, C, H, W] -> [B, width, H // 16, W // 16], or H // 8 with three poolings."""
        features: Tensor = self.blocks(images)
        return features

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Four blocks, coarse or not."""
        return {"blocks": r"^blocks\.(\d+)"}

    def set_input_size(self, img_size: int) -> None:
        """Expect images of another size; a classifier, whose input changes with D, is replaced by a fresh one.

        Raises:
            StudyError: the images are too small.
        """
        self.refuse_small_images(img_size)
        self.num_features = self.head_hidden_size = self._size_of_embedding(self.width, img_size)
        self.reset_classifier(self.num_classes)

    @staticmethod
    def _size_of_embedding(width: int, image_size: int) -> int:
        return width * (image_size // 16) ** 2


class AveragedConv4(Conv4):
    """Conv4 of RFS (Tian et al., 2020): no pooling after the fourth block, and a global average of `width` numbers."""

    halvings = 3
    own_pool = "avg"
    spellings = (
        tuple((rf"^blocks\.{i}\.", rf"layer{i + 1}.") for i in range(4)),  # Tian et al., 2020
    )

    def __init__(self, width: int = 64, in_chans: int = 3, image_size: int = 84, **options: Any) -> None:
        super().__init__(width, in_chans, image_size, **options)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _size_of_embedding(width: int, image_size: int) -> int:
        return width


def _block(channels_in: int, channels_out: int, *, is_pooled: bool = True) -> nn.Sequential:
    # The literature has ReLU before the pooling. The two commute, and this way ReLU sees a quarter of the values: up to
    # 45% more images per second in training on a CPU.
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)
    pooling = [nn.MaxPool2d(2)] if is_pooled else []
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), *pooling, nn.ReLU(inplace=True))


def conv4_32(pretrained: bool = False, *, img_size: int = 84, **options: Any) -> Conv4:
    """Conv4 with 32 filters per layer."""
    network: Conv4 = build_model_with_cfg(Conv4, "conv4_32", pretrained, width=32, image_size=img_size, **options)
    return network


def conv4_64(pretrained: bool = False, *, img_size: int = 84, **options: Any) -> Conv4:
    """Conv4 with 64 filters per layer, 64-64-64-64 in the tables of the literature."""
    network: Conv4 = build_model_with_cfg(Conv4, "conv4_64", pretrained, width=64, image_size=img_size, **options)
    return network


def conv4_64_gap(pretrained: bool = False, *, img_size: int = 84, **options: Any) -> AveragedConv4:
    """Conv4 with 64 filters per layer and a global average."""
    settings = {"width": 64, "image_size": img_size, **options}
    network: AveragedConv4 = build_model_with_cfg(AveragedConv4, "conv4_64_gap", pretrained, **settings)
    return network


_RESNET12_WIDTHS = (64, 160, 320, 640)
_SLOPE = 0.1


class ResNet12(LiteratureNetwork):
    """Four residual blocks of three 3x3 convolutions, of widths 64, 160, 320 and 640, then global average pooling.

    The network of TADAM (Oreshkin et al., 2018) in the wider form of MetaOptNet (Lee et al., 2019), which RFS (Tian et
    al., 2020) and most methods since use. The names of the parameters are those of both codes, so that their weights
    fit. With `drop_block_rate`, timm's DropBlock (Ghiasi et al., 2018) follows the last two blocks while training, at a
    constant rate; `drop_in_blocks` is how MetaOptNet and RFS drop.

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
        super().__init__(self._size_of_embedding(image_size), num_classes, global_pool, drop_rate)
        self.layer1 = nn.Sequential(ResidualBlock(in_chans, _RESNET12_WIDTHS[0]))
        self.layer2 = nn.Sequential(ResidualBlock(_RESNET12_WIDTHS[0], _RESNET12_WIDTHS[1]))
        self.layer3 = nn.Sequential(
            ResidualBlock(_RESNET12_WIDTHS[1], _RESNET12_WIDTHS[2], drop_block_rate, drop_block_size)
        )
        self.layer4 = nn.Sequential(
            ResidualBlock(_RESNET12_WIDTHS[2], _RESNET12_WIDTHS[3], drop_block_rate, drop_block_size)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward_features(self, images: Tensor) -> Tensor:
        """Feature maps, [B, C, H, W] -> [B, 640, H // 16, W // 16]."""
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(images))))
        return features

    def drop_in_blocks(self, rate: float, size: int) -> None:
        """Drop while training as MetaOptNet and RFS do: single values after two blocks, squares after the other two.

        Args:
            rate: of the single values; that of the squares starts at 0, see `set_drop_rate`.
            size: side of the squares.
        """
        for layer in (self.layer1, self.layer2):
            layer[0].drop = nn.Dropout(rate)
        for layer in (self.layer3, self.layer4):
            layer[0].drop = DropBlock(size)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Four blocks, coarse or not."""
        return {"blocks": r"^layer(\d+)"}

    @staticmethod
    def _size_of_embedding(image_size: int) -> int:
        return _RESNET12_WIDTHS[-1]


class FlatResNet12(ResNet12):
    """ResNet-12 without the global average, as MetaOptNet trains it: D = 640 * (image_size // 16) ** 2."""

    own_pool = "flatten"

    @staticmethod
    def _size_of_embedding(image_size: int) -> int:
        return _RESNET12_WIDTHS[-1] * (image_size // 16) ** 2

    def set_input_size(self, img_size: int) -> None:
        """Expect images of another size; a classifier, whose input changes with D, is replaced by a fresh one.

        Raises:
            StudyError: the images are too small.
        """
        self.refuse_small_images(img_size)
        self.num_features = self.head_hidden_size = self._size_of_embedding(img_size)
        self.reset_classifier(self.num_classes)


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


def _convolution(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)


def resnet12(pretrained: bool = False, *, img_size: int = 84, **options: Any) -> ResNet12:
    """ResNet-12 of widths 64, 160, 320 and 640."""
    network: ResNet12 = build_model_with_cfg(ResNet12, "resnet12", pretrained, image_size=img_size, **options)
    return network


def resnet12_flat(pretrained: bool = False, *, img_size: int = 84, **options: Any) -> FlatResNet12:
    """ResNet-12 whose embedding is its flattened feature map, 16,000 numbers at 84 px and 2,560 at 32 px."""
    settings = {"image_size": img_size, **options}
    network: FlatResNet12 = build_model_with_cfg(FlatResNet12, "resnet12_flat", pretrained, **settings)
    return network


_WIDE_WIDTHS = (16, 160, 320, 640)
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
        super().__init__(_WIDE_WIDTHS[-1], num_classes, global_pool, drop_rate)
        self.conv1 = _convolution(in_chans, _WIDE_WIDTHS[0], 3, 1)
        self.block1 = Group(_WIDE_WIDTHS[0], _WIDE_WIDTHS[1], 1, block_drop_rate)
        self.block2 = Group(_WIDE_WIDTHS[1], _WIDE_WIDTHS[2], 2, block_drop_rate)
        self.block3 = Group(_WIDE_WIDTHS[2], _WIDE_WIDTHS[3], 2, block_drop_rate)
        self.bn1 = nn.BatchNorm2d(_WIDE_WIDTHS[3])
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
    """Four blocks of one width; the first changes it and may halve the side of its maps."""

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


def wrn28_10(pretrained: bool = False, *, img_size: int = 84, **options: Any) -> WideResNet:
    """Wide ResNet of 28 layers, 10 times as wide."""
    network: WideResNet = build_model_with_cfg(WideResNet, "wrn28_10", pretrained, image_size=img_size, **options)
    return network


default_cfgs = generate_default_cfgs(  # timm's register_model looks for this name in the module
    {
        "conv4_32": timm_config("blocks.0.0"),
        "conv4_64": timm_config("blocks.0.0"),
        "conv4_64_gap": timm_config("blocks.0.0"),
        "resnet12": timm_config(("layer1.0.conv1", "layer1.0.downsample.0")),
        "resnet12_flat": timm_config(("layer1.0.conv1", "layer1.0.downsample.0")),
        "wrn28_10": timm_config("conv1"),
    }
)
for _network in (conv4_32, conv4_64, conv4_64_gap, resnet12, resnet12_flat, wrn28_10):
    register_model(_network)

_NETWORKS: dict[str, Callable[..., LiteratureNetwork]] = {
    "conv4_32": conv4_32,
    "conv4_64": conv4_64,
    "conv4_64_gap": conv4_64_gap,
    "resnet12": resnet12,
    "resnet12_flat": resnet12_flat,
    "wrn28_10": wrn28_10,
}
_CONV4 = "Vinyals et al., 2016, Matching Networks; Snell et al., 2017, Prototypical Networks"
_RESNET12 = "Oreshkin et al., 2018, TADAM; Lee et al., 2019, MetaOptNet; Tian et al., 2020, RFS"
_WRN = "Zagoruyko and Komodakis, 2016, Wide Residual Networks; Rusu et al., 2019, LEO; Dhillon et al., 2020"


@BACKBONES.register("conv4_32", "four convolution blocks of 32 filters, trained on the base split", paper=_CONV4)
@BACKBONES.register("conv4_64", "four convolution blocks of 64 filters, trained on the base split", paper=_CONV4)
@BACKBONES.register(
    "conv4_64_gap",
    "four convolution blocks of 64 filters, three poolings and a global average, D = 64",
    paper="Tian et al., 2020, RFS",
)
@BACKBONES.register("resnet12", "four residual blocks, D = 640, trained on the base split", paper=_RESNET12)
@BACKBONES.register(
    "resnet12_flat",
    "four residual blocks, feature maps flattened, D = 16,000 at 84 px, trained on the base split",
    paper="Lee et al., 2019, MetaOptNet",
)
@BACKBONES.register("wrn28_10", "wide ResNet of 28 layers, D = 640, trained on the base split", paper=_WRN)
def literature_backbone(request: BackboneRequest) -> Backbone:
    """A network of the literature for images of the dataset's own size and channels, untrained unless given weights.

    Raises:
        StudyError: the images are too small for the network.
        WeightsError: the weights cannot be read or do not fit.
    """
    size = request.image_size or request.native_size
    network = _NETWORKS[request.name](in_chans=request.channels, img_size=size)
    fit = {}
    if request.weights is not None:
        fit = fit_by_name(network, read_weights(request.weights), str(request.weights), network.spellings)
    half = (0.5,) * request.channels
    preprocessing = Preprocessing(size, half, half, request.interpolation or "bilinear")
    changes = preprocessing.changes_from(Preprocessing(request.native_size, half, half, "bilinear"))
    is_pretrained = request.weights is not None
    return Backbone(request.name, network.eval(), preprocessing, network.num_features, is_pretrained, changes, fit=fit)
