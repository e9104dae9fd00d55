"""From a stranger's image file to pixels of a known shape, by a recipe that is written down."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fewshot_bench.errors import DatasetError

Fit = Literal["squash", "crop"]
Filter = Literal["lanczos", "bicubic", "bilinear", "box"]
FILTERS: dict[Filter, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
MOST_PIXELS = 100_000_000
"""An image with more is refused before it is decoded; the largest of ImageNet has 48 million."""

# Formats that decode to pixels and nothing else. EPS is missing on purpose: Pillow hands it to Ghostscript.
Image.init()
_FORMATS = tuple(
    name for name in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000") if name in Image.OPEN
)
_DAMAGED = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError, OverflowError, AttributeError,
    AssertionError, NotImplementedError, MemoryError, RuntimeError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


class ImageError(DatasetError):
    """One image cannot be read; the message is the reason alone."""


@dataclass(frozen=True)
class PixelRecipe:
    """What is done to every image of a dataset.

    Attributes:
        size: side of the square result in pixels; None keeps images as they are.
        fit: "squash" changes the aspect ratio; "crop" resizes the shorter side and keeps the middle.
        interpolation: Pillow's filter.
        turns_by_exif: whether the orientation that a camera recorded is applied.
    """

    size: int | None = None
    fit: Fit = "squash"
    interpolation: Filter = "lanczos"
    turns_by_exif: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The recipe as it is stored with a dataset and printed with its results."""
        if self.size is None:
            return {"resize": "none", "pillow": PIL.__version__}
        return {
            "resize": f"{self.size} x {self.size}",
            "fit": self.fit,
            "interpolation": self.interpolation,
            "exif_orientation": "applied" if self.turns_by_exif else "ignored",
            "pillow": PIL.__version__,
        }

    def decode(self, encoded: bytes) -> NDArray[np.uint8]:
        """Decode one image file and bring it to size.

        Args:
            encoded: the file's bytes.

        Returns:
            uint8 [H, W, 3].

        Raises:
            ImageError: it is no image, is damaged or truncated, or has too many pixels.
        """
        try:
            with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
                check_pixel_count(image)
                return self._bring_to_size(as_rgb(self._turned(image)))
        except ImageError:
            raise
        except _DAMAGED as error:
            raise ImageError(_reason(encoded, error)) from error

    def resize(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring an image that is decoded already to size.

        Args:
            pixels: uint8 [H, W, 3] or [H, W].
        """
        if self.size is None or pixels.shape[:2] == (self.size, self.size):
            return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
        return self._bring_to_size(as_rgb(Image.fromarray(np.ascontiguousarray(pixels))))

    def _turned(self, image: Image.Image) -> Image.Image:
        return ImageOps.exif_transpose(image) if self.turns_by_exif else image

    def _bring_to_size(self, image: Image.Image) -> NDArray[np.uint8]:
        if self.size is not None and image.size != (self.size, self.size):
            sides = (self.size, self.size)
            if self.fit == "crop":
                image = ImageOps.fit(image, sides, FILTERS[self.interpolation])
            else:
                image = image.resize(sides, FILTERS[self.interpolation])
        return np.asarray(image)


def check_pixel_count(image: Image.Image) -> None:
    """Refuse an image by its header, before it is decoded.

    Raises:
        ImageError: it has more than `MOST_PIXELS`, or none.
    """
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ImageError(f"{width:,} x {height:,} pixels; at most {MOST_PIXELS:,} are read")
    if width < 1 or height < 1:
        raise ImageError("it has no pixels")


def as_rgb(image: Image.Image) -> Image.Image:
    """The first frame in three channels of eight bits; what is transparent becomes white.

    Raises:
        ImageError: the pixels are floating-point numbers, which have no agreed scale.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        # "I;16" says that there are 16 bits; plain "I" has 32, of which a file may use 8 or 16.
        has_16_bits = image.mode != "I" or values.max(initial=0) > 255
        image = Image.fromarray((values.clip(0, 65535) >> 8 if has_16_bits else values).astype(np.uint8))
    elif image.mode == "F":
        raise ImageError("its pixels are floating-point numbers, which have no agreed scale")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return image.convert("RGB")


def header_size(encoded: bytes) -> tuple[int, int] | None:
    """Width and height by the header alone; None where there is no image."""
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            return image.size
    except _DAMAGED:
        return None


def _reason(encoded: bytes, error: Exception) -> str:
    if not encoded:
        return "the file is empty"
    if isinstance(error, Image.DecompressionBombError):
        return f"far too many pixels; at most {MOST_PIXELS:,} are read"
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image (or of a format that is not read)"
    return f"damaged or truncated ({' '.join(str(error).split()) or type(error).__name__})"
