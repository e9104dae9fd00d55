"""AutoAugment's operations on a GPU: every operation on all images of a batch, and one result kept for each.

A GPU does this in about two hundred kernels, and the host never waits for it. torchvision takes one magnitude per
call: several times as many kernels, which take longer to launch than a small network takes to learn, and the host waits
in every rotation, shear, shift and sharpening. On a CPU, where launching costs little and computing much, it wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms.v2 import functional

from fewshot_bench.devices import to_device
from fewshot_bench.training.autoaugment_policies import EXACT_SUM, Operation, Table

_LEVELS = 256
_GRAY = (0.2989, 0.587, 0.114)
_UNCHANGED = Operation("Unchanged", 0.0)
_OF_PIXELS = ("Contrast", "AutoContrast", "Color", "Sharpness", "Equalize")
"""Operations that depend on more than the place or the level of a pixel."""


class OperationsOnGpu:
    """The operations of one step of a policy, on images of one size.

    Pixels are torchvision's, except where the two round to different neighbours.

    Args:
        table: of the step.
        step: of the table.
        height: of the images.
        width: of the images.
        device: of the images.
    """

    def __init__(self, table: Table, step: int, height: int, width: int, device: torch.device) -> None:
        operations = [*table.operations, _UNCHANGED]
        names = {operation.name for operation in operations}
        self._step = step
        self._table = table._replace(
            probabilities=to_device(table.probabilities, device), operations_of=to_device(table.operations_of, device)
        )
        self._unchanged = len(operations) - 1
        self._of_pixels = [name for name in _OF_PIXELS if name in names]
        places = [_place(operation, height, width) for operation in operations]
        blends = [[1 + magnitude, -magnitude] for _, magnitude in operations]
        is_of_pixels = [[name == operation.name for name in self._of_pixels] for operation in operations]
        self._places, self._blends, self._is_of_pixels, self._levels = (
            to_device(values, device)
            for values in (
                torch.tensor(places, dtype=torch.float32),
                torch.tensor(blends),
                torch.tensor(is_of_pixels, dtype=torch.bool),
                torch.stack([_levels(operation) for operation in operations]),
            )
        )

    def __call__(self, images: Tensor, choices: Tensor) -> Tensor:
        """Change each image by its own operation.

        Args:
            images: uint8 [B, 1 or 3, H, W].
            choices: as `Table.chosen` takes them, float32 [B, 5].

        Returns:
            uint8 [B, C, H, W].
        """
        chosen = self._table.chosen(choices, self._step)
        chosen = torch.where(chosen < 0, self._unchanged, chosen)
        blend = self._blends.index_select(0, chosen).view(-1, 2, 1, 1, 1).unbind(1)
        columns = self._is_of_pixels.index_select(0, chosen).view(-1, len(self._of_pixels), 1, 1, 1).unbind(1)
        is_chosen = dict(zip(self._of_pixels, columns, strict=True))
        gray = _gray(images)
        levels = self._levels.index_select(0, chosen).view(-1, 1, 1, _LEVELS)
        if "Contrast" in is_chosen:
            # A larger sum is not exact in float32, and its order depends on the size of the batch.
            is_exact = 255 * images.shape[-1] * images.shape[-2] <= EXACT_SUM
            means = (gray if is_exact else gray.double()).mean(dim=(1, 2, 3), keepdim=True).float()
            levels = torch.where(is_chosen["Contrast"], _blended(_all_levels(images.device), means, blend), levels)
        if "AutoContrast" in is_chosen:
            levels = torch.where(is_chosen["AutoContrast"], _spread_levels(images), levels)
        changed = _resampled(images, self._places.index_select(0, chosen))
        changed = _with_levels(changed, levels)
        if "Color" in is_chosen and images.shape[1] == 3:
            changed = torch.where(is_chosen["Color"], _blended(images, gray, blend), changed)
        if "Sharpness" in is_chosen:
            changed = torch.where(is_chosen["Sharpness"], _sharpened(images, blend), changed)
        if "Equalize" in is_chosen:
            changed = torch.where(is_chosen["Equalize"], functional.equalize(images), changed)
        return changed


def _place(operation: Operation, height: int, width: int) -> list[float]:
    """From pixels of the view to places in the image, from its centre: [xx, xy, x, yx, yy, y], in half images."""
    name, magnitude = operation
    xx, xy, x, yx, yy, y = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    if name == "ShearX":
        xy, x = magnitude, magnitude * height / 2
    elif name == "ShearY":
        yx, y = magnitude, magnitude * width / 2
    elif name == "TranslateX":
        x = -int(magnitude)
    elif name == "TranslateY":
        y = -int(magnitude)
    elif name == "Rotate":
        angle = math.radians(magnitude)
        xx, xy, yx, yy = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    half_width, half_height = width / 2, height / 2
    return [xx / half_width, xy / half_width, x / half_width, yx / half_height, yy / half_height, y / half_height]


def _resampled(images: Tensor, places: Tensor) -> Tensor:
    """The nearest pixels, black outside, at places [B, 6] as `_place` gives them."""
    height, width = images.shape[-2:]
    x = torch.linspace((1 - width) / 2, (width - 1) / 2, width, device=images.device)
    y = torch.linspace((1 - height) / 2, (height - 1) / 2, height, device=images.device)[:, None]
    # Not as a product of matrices, which a GPU may round to 10 bits (TF32).
    xx, xy, x0, yx, yy, y0 = places.view(-1, 6, 1, 1).unbind(1)
    grid = torch.stack([xx * x + (xy * y + x0), yx * x + (yy * y + y0)], dim=-1)
    return grid_sample(images.float(), grid, mode="nearest", align_corners=False).to(torch.uint8)


def _levels(operation: Operation) -> Tensor:
    """What becomes of each level, if the operation looks at nothing else, uint8 [256]."""
    levels = _all_levels(torch.device("cpu"))
    name, magnitude = operation
    if name == "Brightness":
        levels = functional.adjust_brightness(levels, 1.0 + magnitude)
    elif name == "Posterize":
        levels = functional.posterize(levels, int(magnitude))
    elif name == "Solarize":
        levels = functional.solarize(levels, 255.0 * magnitude)
    elif name == "Invert":
        levels = functional.invert(levels)
    return levels.flatten()


def _all_levels(device: torch.device) -> Tensor:
    return torch.arange(_LEVELS, dtype=torch.uint8, device=device).view(1, 1, 1, _LEVELS)


def _spread_levels(images: Tensor) -> Tensor:
    """Levels by which the darkest pixel of each channel becomes black and its lightest white, uint8 [B, C, 1, 256]."""
    low, high = (level.float()[..., None, None] for level in images.flatten(2).aminmax(dim=2))
    step = (high - low) * (1 / 255)
    is_flat = step == 0
    levels = _all_levels(images.device) - low.masked_fill(is_flat, 0)
    return levels.div_(step.masked_fill(is_flat, 1)).clamp_(0, 255).to(torch.uint8)


def _with_levels(images: Tensor, levels: Tensor) -> Tensor:
    """The images with levels [B, 1 or C, 1, 256] in place of theirs."""
    pixels = images.flatten(2).long()
    return levels.squeeze(2).expand(-1, images.shape[1], -1).gather(2, pixels).view(images.shape)


def _gray(images: Tensor) -> Tensor:
    """Brightness of each pixel, whole numbers in float32, [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.unbind(1)
    gray: Tensor = (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
    return gray.floor_().unsqueeze(1)


def _sharpened(images: Tensor, blend: Sequence[Tensor]) -> Tensor:
    pixels = images.float()
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    inner = pixels[..., 1:-1, 1:-1]
    # Whole numbers over 13 are never halfway between two levels.
    smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]).add_(inner, alpha=4).div_(13).round_()
    inner.addcmul_(smooth.sub_(inner), blend[1])
    return pixels.clamp_(0, 255).to(torch.uint8)


def _blended(images: Tensor, others: Tensor, blend: Sequence[Tensor]) -> Tensor:
    return torch.addcmul(images * blend[0], others, blend[1]).clamp_(0, 255).to(torch.uint8)
