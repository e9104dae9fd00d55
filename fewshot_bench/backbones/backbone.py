"""What a backbone is: a network, the preprocessing it expects, and the digest of its weights.

`pretraining` names the corpora that it was pretrained on, in the order of training, e.g. "ImageNet-21k, ImageNet-1k";
it is empty for an initialisation, and "unknown" for a weights file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fewshot_bench._io.notebooks import ShownByFields, html_facts
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.backbones.task_head import TaskHead
from fewshot_bench.backbones.weights import weights_digest
from fewshot_bench.backbones.weights_file import BaseHead
from fewshot_bench.code_identity import CodeIdentity
from fewshot_bench.devices import to_device
from fewshot_bench.errors import EmbeddingError, PluginError
from fewshot_bench.plugins import described, place_of, plugin_errors
from fewshot_bench.registry import Registry

Interpolation = Literal["bicubic", "bilinear", "nearest"]


@dataclass(frozen=True)
class Preprocessing:
    """How uint8 images become the input of a network, a batch at a time.

    Attributes:
        image_size: side of the square input, in pixels.
        mean: per input channel, of pixels scaled to 0..1; its length is the number of channels.
        std: per input channel.
        interpolation: how images of another size are resized.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bicubic"

    def __call__(self, images: Tensor) -> Tensor:
        """Resize and normalise.

        Args:
            images: uint8 [B, C, H, W], C is 1 or 3.

        Returns:
            float32 [B, channels, image_size, image_size].
        """
        channels = len(self.mean)
        pixels = _match_channels(images.float() / 255, channels)
        size = (self.image_size, self.image_size)
        if pixels.shape[-2:] != size:
            # Antialiased bicubic is Pillow's filter, which the pretrained networks were trained with.
            antialias = self.interpolation != "nearest"
            pixels = interpolate(pixels, size=size, mode=self.interpolation, antialias=antialias).clamp(0, 1)
        mean, std = (to_device(torch.tensor(values), pixels.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def as_dict(self) -> dict[str, Any]:
        """The preprocessing as plain data, for content keys and records."""
        return asdict(self)

    def changes_from(self, own: Preprocessing) -> dict[str, Any]:
        """The settings that differ from those of another preprocessing."""
        theirs = own.as_dict()
        return {name: value for name, value in self.as_dict().items() if value != theirs[name]}


def _match_channels(pixels: Tensor, channels: int) -> Tensor:
    if pixels.shape[1] == channels:
        return pixels
    if channels == 1:
        weights = to_device(torch.tensor([0.299, 0.587, 0.114]), pixels.device).view(1, 3, 1, 1)
        return (pixels * weights).sum(1, keepdim=True)
    return pixels.expand(-1, channels, -1, -1)


def from_timm_config(
    config: dict[str, Any], image_size: int | None, interpolation: Interpolation | None
) -> Preprocessing:
    """The preprocessing of a timm data config, with another image size or interpolation if given."""
    own = config["interpolation"] if config["interpolation"] in {"bilinear", "nearest"} else "bicubic"
    return Preprocessing(
        image_size or int(config["input_size"][-1]),
        tuple(float(value) for value in config["mean"]),
        tuple(float(value) for value in config["std"]),
        interpolation or cast(Interpolation, own),
    )


@dataclass(frozen=True, eq=False, repr=False)
class Backbone:
    """A network that turns preprocessed images into embeddings.

    Attributes:
        name: as the user asked for it.
        network: float32 [B, C, S, S] -> [B, D].
        preprocessing: uint8 [B, C, H, W] -> float32 [B, C, S, S].
        embedding_size: D.
        is_pretrained: whether the weights are more than an initialisation.
        changes: settings of the preprocessing that differ from the backbone's own, for the method's name.
        pretraining: the corpora of its pretraining, e.g. "ImageNet-1k"; empty for an initialisation, or "unknown".
            Recorded with the outcomes; see `pretraining`.
        code: the identity of a plug-in's code.
        fit: how a weights file was fitted into the network, see `weights.fit_by_name`; recorded with the outcomes.
        base_head: the classifier of its training on a base split, if any was stored.
        task_head: head and learning rates of gradient-based meta-learning, if the network was trained by it.
        computing: how that training was computed, where a GPU or a part of a batch at a time can change its rounding;
            recorded with the outcomes.

    >>> import torch
    >>> import fewshot_bench as fb
    >>> from fewshot_bench.backbones import Preprocessing
    >>> network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
    >>> scaling = Preprocessing(28, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> fb.Backbone("pooled", network, scaling, embedding_size=48, is_pretrained=False)
    <Backbone: pooled, 48 dimensions, not trained>
    """

    name: str
    network: nn.Module
    preprocessing: Preprocessing
    embedding_size: int
    is_pretrained: bool
    changes: Mapping[str, Any] = field(default_factory=dict)
    pretraining: str = ""
    code: CodeIdentity | None = None
    fit: Mapping[str, Any] = field(default_factory=dict)
    base_head: BaseHead | None = None
    task_head: TaskHead | None = None
    computing: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        kind = self.pretraining or ("pretrained" if self.is_pretrained else "not trained")
        return f"<Backbone: {self.name}, {self.embedding_size:,} dimensions, {kind}>"

    def _repr_html_(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        facts = {
            "dimensions": self.embedding_size,
            "parameters": parameters,
            "image size": self.preprocessing.image_size,
        }
        kind = self.pretraining or ("yes" if self.is_pretrained else "none")
        return html_facts(self.name, facts | {"pretraining": kind})

    @cached_property
    def weights(self) -> str:
        """Digest of the network's weights when first asked for; the base head is not part of it."""
        return weights_digest(self.network)


@checked_arguments
@dataclass(frozen=True)
class BackboneRequest(ShownByFields):
    """A backbone as a user asks for it.

    Attributes:
        name: a registered name or `timm:NAME`.
        channels: channels of the images, for networks that adapt to them.
        native_size: side of the images, for networks that do not resize.
        image_size: side to resize to, instead of the default.
        interpolation: how to resize, instead of the default.
        weights: a weights file instead of the default weights.

    >>> import fewshot_bench as fb
    >>> fb.BackboneRequest("conv4_64", channels=1, native_size=28)
    BackboneRequest(name='conv4_64', channels=1, native_size=28)
    """

    name: str
    channels: int = 3
    native_size: int = 32
    image_size: int | None = None
    interpolation: Interpolation | None = None
    weights: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.weights, str):
            object.__setattr__(self, "weights", Path(self.weights))


BackboneFactory = Callable[[BackboneRequest], Backbone]
_HOW_TO_MAKE_ONE = (
    "The factory of a backbone takes a BackboneRequest and returns a Backbone, such as: Backbone(name=request.name, "
    "network=network, preprocessing=Preprocessing(84, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), embedding_size=640, "
    "is_pretrained=True)."
)
_FIELDS: dict[str, tuple[type, str]] = {
    "network": (nn.Module, "a torch.nn.Module"),
    "preprocessing": (Preprocessing, "a Preprocessing"),
    "embedding_size": (Integral, "a whole number of 1 or more"),
    "is_pretrained": (bool, "True or False"),
    "name": (str, "text"),
}


def checked_backbone(factory: BackboneFactory, request: BackboneRequest) -> Backbone:
    """The backbone that a factory makes; raises PluginError if it raised, or returned something else."""
    with plugin_errors(factory):
        made: object = factory(request)
    if not isinstance(made, Backbone):
        raise PluginError(
            f"{place_of(factory)}the factory of the backbone {request.name} returned {described(made)}. "
            f"{_HOW_TO_MAKE_ONE}"
        )
    for name, (kind, expected) in _FIELDS.items():
        value: Any = getattr(made, name)
        is_right = isinstance(value, kind)
        if is_right and kind is Integral:
            is_right = value >= 1
        if not is_right:
            raise PluginError(
                f"{place_of(factory)}{name} of the backbone {request.name} should be {expected}, not "
                f"{described(value)}. {_HOW_TO_MAKE_ONE}"
            )
    return made


def checked_embeddings(embeddings: object, network: nn.Module, images: int, size: int | None = None) -> Tensor:
    """The output of a network, checked.

    Args:
        embeddings: the output.
        network: the backbone's.
        images: B, their number.
        size: D, as the backbone declares it; None for any.

    Raises:
        EmbeddingError: the output is not [B, D] in floating point.
    """
    expected = f"[{images}, {size or 'D'}]"
    is_matrix = isinstance(embeddings, Tensor) and embeddings.dtype.is_floating_point and embeddings.ndim == 2
    if isinstance(embeddings, Tensor) and is_matrix and embeddings.shape == (images, size or embeddings.shape[1]):
        return embeddings
    raise EmbeddingError(
        f"{place_of(network, 'forward')}the network {type(network).__name__} gave {described(embeddings)}; embeddings "
        f"[B, D] = {expected} in floating point are expected, with the D that its backbone declares."
    )


BACKBONES: Registry[BackboneFactory] = Registry("backbone", schemes=("timm",))

UNKNOWN = "unknown"

_CORPORA = (
    (r"in1k", "ImageNet-1k"),
    (r"in12k", "ImageNet-12k"),
    (r"in21k", "ImageNet-21k"),
    (r"in22k", "ImageNet-22k"),
    (r"laion2b", "LAION-2B"),
    (r"laion400m", "LAION-400M"),
    (r"laiona", "LAION-Aesthetics"),
    (r"openai", "WIT-400M"),
    (r"webli", "WebLI"),
    (r"datacomp\w*", "DataComp"),
    (r"df[ns]\w*", "DFN"),
    (r"metaclip\w*", "MetaCLIP"),
    (r"merged2b", "Merged-2B"),
    (r"m38m", "Merged-38M"),
    (r"lvd142m", "LVD-142M"),
    (r"lvd1689m", "LVD-1689M"),
    (r"jft\w*", "JFT"),
    (r"ig1b", "Instagram-1B"),
    (r"yfcc100m", "YFCC-100M"),
    (r"yfcc15m", "YFCC-15M"),
)
"""How timm abbreviates a corpus in the tag of its weights."""


def pretraining_of_tag(tag: str) -> str:
    """The corpora that a timm weights tag names, or "unknown"; "augreg_in21k_ft_in1k" is ImageNet-21k, ImageNet-1k."""
    named = []
    for word in re.split(r"[_.]", tag.lower()):
        named += [corpus for pattern, corpus in _CORPORA if re.fullmatch(pattern, word)]
    return ", ".join(dict.fromkeys(named)) or UNKNOWN


def default_pretraining(name: str) -> str:
    """The corpora of the default weights of a registered backbone or timm model; nothing is loaded or fetched."""
    model = name.removeprefix("timm:")
    if model != name or (name not in BACKBONES and timm.is_model(name)):
        config = timm.get_pretrained_cfg(model)
        return pretraining_of_tag(str(config.tag or "")) if config is not None else UNKNOWN
    facts = BACKBONES[name].facts if name in BACKBONES else {}
    return str(facts.get("pretrained", UNKNOWN))


def then(*stages: str) -> str:
    """Several stages of pretraining as one text, without empty ones."""
    return ", ".join(stage for stage in stages if stage)
