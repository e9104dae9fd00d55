"""One episode as a picture: a row per class, support on the left, queries on the right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fewshot_bench.datasets.dataset import ImageSplit

_TILE = 56
_GAP = 4
_MARGIN = 190


def contact_sheet(split: ImageSplit, images: NDArray[np.int32], shot: int) -> Image.Image:
    """Draw an episode.

    Args:
        split: that the images are of.
        images: image indices, a row per class, support first, -1 after the last of a class, [N, K + Q].
        shot: K.
    """
    images = images[:, (images >= 0).any(axis=0)]
    way, columns = images.shape
    width = _MARGIN + columns * (_TILE + _GAP) + 3 * _GAP
    sheet = Image.new("RGB", (width, way * (_TILE + _GAP) + _GAP + 20), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    if shot:
        draw.text((_MARGIN, 4), "support", fill="black", font=font)
    draw.text((_left(shot, shot), 4), "query", fill="black", font=font)
    for row, members in enumerate(images):
        top = 20 + row * (_TILE + _GAP)
        name = split.class_of(int(members[0]))
        draw.text((6, top + _TILE // 2 - 6), name[:30], fill="black", font=font)
        for column, index in enumerate(members[members >= 0]):
            sheet.paste(_tile(split.images[index]), (_left(column, shot), top))
    return sheet


def _left(column: int, shot: int) -> int:
    return _MARGIN + column * (_TILE + _GAP) + (3 * _GAP if column >= shot else 0)


def _tile(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(np.asarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    return image.convert("RGB").resize((_TILE, _TILE), Image.Resampling.NEAREST)
