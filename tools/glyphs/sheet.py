"""A contact sheet: a few images of every class, split by split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.glyphs import GlyphSplit
from glyphs.mosaic import paletted

_CLASSES_PER_ROW = 6
_IMAGES_PER_CLASS = 5
_GAP = 6
_HEADING = 18


def save_sheet(splits: Mapping[SplitName, GlyphSplit], path: Path) -> None:
    """Draw the first images of every class under a heading per split, as a 16-level gray PNG.

    Args:
        splits: as returned by `load_glyphs`.
        path: the file to write.
    """
    blocks = [block for name, split in splits.items() for block in (_heading(name, split), _block(split))]
    paletted((np.concatenate(blocks) // 17).astype(np.uint8)).save(path, "PNG", bits=4, optimize=True)


def _block(split: GlyphSplit) -> NDArray[np.uint8]:
    images, names, sizes = split
    height, width = images.shape[1:3]
    rows = -(-len(names) // _CLASSES_PER_ROW)
    block = np.full((rows * (height + _GAP), _row_width(width)), 255, np.uint8)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for position in range(len(names)):
        row, column = divmod(position, _CLASSES_PER_ROW)
        strip = np.hstack([images[starts[position] + i, :, :, 0] for i in range(_IMAGES_PER_CLASS)])
        top, left = row * (height + _GAP), column * (strip.shape[1] + _GAP)
        block[top : top + height, left : left + strip.shape[1]] = strip
    return block


def _heading(name: str, split: GlyphSplit) -> NDArray[np.uint8]:
    picture = Image.new("L", (_row_width(split[0].shape[2]), _HEADING), 255)
    text = f"{name}: {len(split[1])} classes x {split[2][0]} images"
    ImageDraw.Draw(picture).text((2, 2), text, fill=0, font=ImageFont.load_default())
    return np.asarray(picture)


def _row_width(image_width: int) -> int:
    return _CLASSES_PER_ROW * (_IMAGES_PER_CLASS * image_width + _GAP) - _GAP
