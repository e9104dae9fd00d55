"""glyphs, the built-in dataset: characters of eleven scripts in many hands, 28 x 28 gray pixels.

Small enough to ship, hard enough to tell methods apart; docs/glyphs.md says what is in it and how it was made.
"""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot_bench.datasets.dataset import SPLIT_NAMES, SplitName
from fewshot_bench.errors import DatasetError

GlyphSplit = tuple[NDArray[np.uint8], tuple[str, ...], tuple[int, ...]]
STEP = 17
"""Between the 16 gray levels, which are spread over 0 to 255."""

GLYPHS_FILE = Path(__file__).with_name("glyphs.png")
GLYPHS_SHA256 = "8fd4931fda49b719ed6635040767da6d83288591fe52b9e645449701d81a407d"


def load_glyphs(path: Path = GLYPHS_FILE) -> dict[SplitName, GlyphSplit]:
    """Read the shipped images.

    Args:
        path: the file, for those who keep it elsewhere.

    Returns:
        For each split: images uint8 [I, 28, 28, 1] in canonical order (by class name, then by number), class
        names [C], class sizes [C].

    Raises:
        DatasetError: the file is absent or is not the one that was shipped.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"glyphs should lie in {path}, which cannot be read ({error.strerror}). Reinstall fewshot-bench."
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != GLYPHS_SHA256:
        raise DatasetError(
            f"{path} should have sha256 {GLYPHS_SHA256[:12]}…, it has {digest[:12]}…: the file is damaged or"
            " was made anew. Reinstall fewshot-bench."
        )
    return read_mosaic(content)


def read_mosaic(content: bytes) -> dict[SplitName, GlyphSplit]:
    """Unpack the file: one PNG, a row of images per class, with splits and class names in its text chunk.

    Args:
        content: the file's bytes.

    Returns:
        For each split: images uint8 [I, 28, 28, 1] grouped by class, class names [C], class sizes [C].
    """
    with Image.open(BytesIO(content)) as picture:
        description = json.loads(picture.info["Description"])
        mosaic = np.asarray(picture)
    height, width = description["size"]
    tiles = mosaic.reshape(len(mosaic) // height, height, -1, width).transpose(0, 2, 1, 3) * np.uint8(STEP)
    splits: dict[SplitName, GlyphSplit] = {}
    first = 0
    for split in SPLIT_NAMES:
        names = tuple(description["classes"][split])
        images = tiles[first : first + len(names)].reshape(-1, height, width, 1)
        splits[split] = (images, names, (tiles.shape[1],) * len(names))
        first += len(names)
    return splits
