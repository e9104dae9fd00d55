"""uint8 images to what a network expects: size, channels, mean and standard deviation, on the device."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Interpolation = Literal["bicubic", "bilinear", "nearest"]


@dataclass(frozen=True)
class Preprocessing:
    """How the pixels of a whole batch become a network's input.

    Attributes:
        image_size: side of the square input, in pixels.
        mean: per input channel, of pixels scaled to 0..1; its length is the number of channels.
        std: per input channel.
        interpolation: used where the images have another size.
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
        mean = torch.tensor(self.mean, device=pixels.device).view(1, channels, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, channels, 1, 1)
        return (pixels - mean) / std

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain data, for content keys and records."""
        return asdict(self)

    def changes_from(self, own: Preprocessing) -> dict[str, Any]:
        """The settings that differ from those of another recipe."""
        theirs = own.as_dict()
        return {name: value for name, value in self.as_dict().items() if value != theirs[name]}


def _match_channels(pixels: Tensor, channels: int) -> Tensor:
    if pixels.shape[1] == channels:
        return pixels
    if channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114], device=pixels.device).view(1, 3, 1, 1)
        return (pixels * weights).sum(1, keepdim=True)
    return pixels.expand(-1, channels, -1, -1)


def from_timm_config(
    config: dict[str, Any], image_size: int | None, interpolation: Interpolation | None
) -> Preprocessing:
    """The preprocessing of a timm model, by its own data config.

    Args:
        config: what `timm.data.resolve_model_data_config` returns.
        image_size: overrides the size.
        interpolation: overrides the interpolation.
    """
    own = config["interpolation"] if config["interpolation"] in {"bilinear", "nearest"} else "bicubic"
    return Preprocessing(
        image_size or int(config["input_size"][-1]),
        tuple(float(value) for value in config["mean"]),
        tuple(float(value) for value in config["std"]),
        interpolation or cast(Interpolation, own),
    )
