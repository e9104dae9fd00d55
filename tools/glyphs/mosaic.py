"""Write the file that glyphs is shipped in: one PNG that any image viewer shows, a row per class, 4 bits per pixel.

A PNG was the smallest of the lossless forms tried; packed nibbles in an npz take 5% more. Splits and class names are
in its text chunk, so the file describes itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from fewshot_bench.datasets.dataset import SPLIT_NAMES, SplitName
from fewshot_bench.datasets.glyphs import STEP

_PALETTE = [level * STEP for level in range(16) for _ in "rgb"]


def write_mosaic(levels: Mapping[SplitName, NDArray[np.uint8]], names: Mapping[SplitName, tuple[str, ...]]) -> bytes:
    """Pack the classes of all splits into one PNG.

    Args:
        levels: gray levels from 0 to 15 of each split, uint8 [C, K, 28, 28]; K is the same for all splits.
        names: class names of each split, [C].

    Returns:
        The file's bytes.
    """
    stacked = np.concatenate([levels[split] for split in SPLIT_NAMES])
    classes, per_class, height, width = stacked.shape
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", json.dumps({"size": [height, width], "classes": dict(names)}))
    file = BytesIO()
    mosaic = stacked.transpose(0, 2, 1, 3).reshape(classes * height, per_class * width)
    paletted(mosaic).save(file, "PNG", bits=4, optimize=True, pnginfo=text)
    return file.getvalue()


def paletted(levels: NDArray[np.uint8]) -> Image.Image:
    """A picture of gray levels from 0 to 15, [H, W], that Pillow can save with 4 bits per pixel."""
    height, width = levels.shape
    picture = Image.frombytes("P", (width, height), np.ascontiguousarray(levels).tobytes())
    picture.putpalette(_PALETTE)
    return picture
