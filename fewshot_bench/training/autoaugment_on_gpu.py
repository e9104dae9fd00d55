"""AutoAugment's operations on a GPU: every operation on all images of a batch, and one result kept for each.

A GPU does this in about a hundred kernels and never waits. torchvision takes one magnitude per call: hundreds of
kernels, more time to launch than a small network takes to learn, and it waits for the GPU in every rotation, shear,
shift and sharpening. On a CPU, where launching is cheap and computing is not, it wins by far.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms.v2 import functional

from fewshot_bench.devices import to_device
from fewshot_bench.training.policies import Operation, Table

_LEVELS = 256
_GRAY = (0.2989, 0.587, 0.114)


class OperationsOnGpu:
    """The operations of one step of a policy, on images of one size.

    Pixels are torchvision's, except where the two round to different neighbours.

    Args:
        table: of the step.
        height: of the images.
        width: of the images.
        device: of the images.
    """

    def __init__(self, table: Table, height: int, width: int, device: torch.device) -> None:
        # The last row of each is for images that are not changed, whose operation is -1.
        operations = [*table.operations, Operation("", 0.0)]
        names = [operation.name for operation in operations]
        self._others = {name: number for number, name in enumerate(_OTHERS) if name in names}
        numbers = [self._others.get(name, -1) for name in names]
        self._table = Table(
            table.operations, to_device(table.probabilities, device), to_device(table.operations_of, device)
        )
        self._matrices = to_device(torch.tensor([_matrix(each, height, width) for each in operations]), device)
        self._levels = to_device(torch.stack([_levels(operation) for operation in operations]), device)
        self._magnitudes = to_device(torch.tensor([operation.magnitude for operation in operations]), device)
        self._numbers = to_device(torch.tensor(numbers), device)
        self._is_last = len(operations) - 1

    def __call__(self, images: Tensor, choices: Tensor, step: int) -> Tensor:
        """Change each image by its own operation.

        Args:
            images: uint8 [B, 1 or 3, H, W].
            choices: as `Table.chosen` takes them, float32 [B, 5].
            step: of the table.

        Returns:
            uint8 [B, C, H, W].
        """
        chosen = self._table.chosen(choices, step)
        chosen = torch.where(chosen < 0, self._is_last, chosen)
        changed = _resampled(images, self._matrices.index_select(0, chosen))
        changed = _mapped(changed, self._levels.index_select(0, chosen))
        magnitudes = self._magnitudes.index_select(0, chosen).view(-1, 1, 1, 1)
        numbers = self._numbers.index_select(0, chosen).view(-1, 1, 1, 1)
        for name, number in self._others.items():
            changed = torch.where(numbers == number, _OTHERS[name](images, magnitudes), changed)
        return changed


def _matrix(operation: Operation, height: int, width: int) -> list[float]:
    """From pixels of the view to pixels of the image, both from its centre: [xx, xy, x, yx, yy, y]."""
    name, magnitude = operation
    if name == "ShearX":
        return [1, magnitude, magnitude * height / 2, 0, 1, 0]
    if name == "ShearY":
        return [1, 0, 0, magnitude, 1, magnitude * width / 2]
    if name == "TranslateX":
        return [1, 0, -int(magnitude), 0, 1, 0]
    if name == "TranslateY":
        return [1, 0, 0, 0, 1, -int(magnitude)]
    if name == "Rotate":
        cos, sin = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
        return [cos, -sin, 0, sin, cos, 0]
    return [1, 0, 0, 0, 1, 0]


def _resampled(images: Tensor, matrices: Tensor) -> Tensor:
    """The nearest pixels, black outside; matrices [B, 6] as `_matrix` gives them."""
    height, width = images.shape[-2:]
    x = torch.linspace((1 - width) / 2, (width - 1) / 2, width, device=images.device)
    y = torch.linspace((1 - height) / 2, (height - 1) / 2, height, device=images.device)[:, None]
    # Not as a product of matrices, which a GPU may round to 10 bits (TF32).
    xx, xy, x0, yx, yy, y0 = matrices.float().view(-1, 6, 1, 1).unbind(1)
    places = torch.stack([(xx * x + xy * y + x0) / (0.5 * width), (yx * x + yy * y + y0) / (0.5 * height)], dim=-1)
    return grid_sample(images.float(), places, mode="nearest", align_corners=False).to(torch.uint8)


def _levels(operation: Operation) -> Tensor:
    """What becomes of each level, where that depends on nothing else, uint8 [256]."""
    levels = torch.arange(_LEVELS, dtype=torch.uint8).view(1, 1, _LEVELS)
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


def _mapped(images: Tensor, levels: Tensor) -> Tensor:
    """The images with their levels replaced, by levels [B, 256]."""
    pixels = images.flatten(1).long()
    return levels.gather(1, pixels).view(images.shape)


def _color(images: Tensor, magnitudes: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blended(images, _gray(images), magnitudes)


def _contrast(images: Tensor, magnitudes: Tensor) -> Tensor:
    return _blended(images, _gray(images).mean(dim=(1, 2, 3), keepdim=True), magnitudes)


def _sharpness(images: Tensor, magnitudes: Tensor) -> Tensor:
    pixels = images.float()
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    inner = pixels[..., 1:-1, 1:-1]
    # Whole numbers over 13 are never halfway between two levels.
    smooth = ((rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner) / 13).round()
    inner.add_((smooth - inner) * -magnitudes)
    return pixels.clamp(0, 255).to(torch.uint8)


def _gray(images: Tensor) -> Tensor:
    """Brightness of each pixel, whole numbers in float32, [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().unbind(1)
    gray: Tensor = (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
    return gray.floor().unsqueeze(1)


def _blended(images: Tensor, others: Tensor, magnitudes: Tensor) -> Tensor:
    return (images * (1 + magnitudes) + others * -magnitudes).clamp(0, 255).to(torch.uint8)


_OTHERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "AutoContrast": lambda images, _: functional.autocontrast(images),
    "Equalize": lambda images, _: functional.equalize(images),
}
"""Operations that need more than the level of a pixel."""
