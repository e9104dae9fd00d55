"""What a backbone is: a network, the preprocessing it expects, and the digest of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from fewshot_bench.backbones.preprocessing import Interpolation, Preprocessing
from fewshot_bench.backbones.weights import weights_digest
from fewshot_bench.code_identity import CodeIdentity
from fewshot_bench.registry import Registry


@dataclass(frozen=True)
class Backbone:
    """A network that turns preprocessed images into embeddings.

    Attributes:
        name: as the user asked for it.
        network: float32 [B, C, S, S] -> [B, D].
        preprocessing: uint8 [B, C, H, W] -> float32 [B, C, S, S].
        embedding_size: D.
        is_pretrained: whether the weights are more than an initialisation.
        changes: settings of the preprocessing that differ from the backbone's own, for the method's name.
        pretraining: what the weights have seen before, e.g. "ImageNet-1k"; empty for an initialisation, "unknown" where
            nobody said. Recorded with the outcomes; see `pretraining`.
        code: which code made it, where that is somebody's own.
    """

    name: str
    network: nn.Module
    preprocessing: Preprocessing
    embedding_size: int
    is_pretrained: bool
    changes: Mapping[str, Any] = field(default_factory=dict)
    pretraining: str = ""
    code: CodeIdentity | None = None

    @cached_property
    def weights(self) -> str:
        """Digest of the weights at the time of the first look."""
        return weights_digest(self.network)


@dataclass(frozen=True)
class BackboneRequest:
    """What a user can say about a backbone.

    Attributes:
        name: a registered name or `timm:NAME`.
        channels: channels of the images, for networks that adapt to them.
        native_size: side of the images, for networks that take them as they are.
        image_size: side to resize to instead of the default.
        interpolation: how to resize instead of the default.
        weights: a file of weights instead of the default ones.
    """

    name: str
    channels: int = 3
    native_size: int = 32
    image_size: int | None = None
    interpolation: Interpolation | None = None
    weights: Path | None = None


BackboneFactory = Callable[[BackboneRequest], Backbone]
BACKBONES: Registry[BackboneFactory] = Registry("backbone", schemes=("timm",))
