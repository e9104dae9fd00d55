"""From a character and a font to clean ink: the same box, the same size, no variation yet."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from fewshot_bench.errors import DatasetError

# Upright faces only: DejaVu's italics swap letter forms (Cyrillic te becomes an m), and shear slants anyway.
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "STIXGeneral",
    "STIXGeneralBol",
)
_POINTS = 160
_PAPER = 480


def fonts_with(character: str) -> tuple[str, ...]:
    """The fonts that have a glyph for `character`, in the order of `FONTS`."""
    return tuple(font for font in FONTS if ord(character) in _code_points(font))


@cache
def draw(character: str, font: str, canvas: int, ink: int, without_parts_below: float = 0.0) -> NDArray[np.float32]:
    """Draw one clean character, its ink box centred and scaled to a fixed longest side.

    Args:
        character: a single character that `font` covers.
        font: one of `FONTS`.
        canvas: height and width of the result.
        ink: longest side of the ink box.
        without_parts_below: leave out connected parts, such as dots, with less ink than this share of the largest.

    Returns:
        Ink from 0 to 1, [canvas, canvas].

    Raises:
        DatasetError: Matplotlib, which brings the fonts, is not installed.
    """
    paper = Image.new("L", (_PAPER, _PAPER))
    face = ImageFont.truetype(str(_font_path(font)), _POINTS, layout_engine=ImageFont.Layout.BASIC)
    ImageDraw.Draw(paper).text((_PAPER // 2, _PAPER // 2), character, fill=255, font=face, anchor="mm")
    paper = _without_small_parts(paper, without_parts_below)
    box = paper.getbbox()
    if box is None:
        raise DatasetError(f"{font} draws U+{ord(character):04X} without ink; glyphs needs a visible character.")
    width, height = box[2] - box[0], box[3] - box[1]
    scale = ink / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    clean = Image.new("L", (canvas, canvas))
    corner = ((canvas - size[0]) // 2, (canvas - size[1]) // 2)
    clean.paste(paper.crop(box).resize(size, Image.Resampling.BOX), corner)
    return np.asarray(clean).astype(np.float32) / np.float32(255)


def _without_small_parts(paper: Image.Image, share: float) -> Image.Image:
    if share == 0:
        return paper
    pixels = np.asarray(paper)
    parts, count = ndimage.label(pixels > 0)
    ink = ndimage.sum_labels(pixels, parts, range(count + 1))
    return Image.fromarray(np.where(ink[parts] >= share * ink.max(), pixels, np.uint8(0)))


@cache
def _code_points(font: str) -> frozenset[int]:
    path = _font_path(font)
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(path)).get_charmap())


def _font_path(font: str) -> Path:
    try:
        import matplotlib
    except ImportError as error:
        raise DatasetError(
            "making glyphs needs the fonts of Matplotlib, which is not installed."
            " Use pip install 'fewshot-bench[glyphs]'."
        ) from error
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
