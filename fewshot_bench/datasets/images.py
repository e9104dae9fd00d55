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

from fewshot_bench.datasets.deep_pixels import ALL_16_BITS, UsedValues, ValueRange, eight_bits, is_deep, is_deep_colour
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


class UndecidedDepthError(Exception):
    """An image has more than 8 bits, and the values of its whole dataset have not been looked at yet."""


@dataclass(frozen=True)
class PixelRecipe:
    """What is done to every image of a dataset.

    Attributes:
        size: side of the square result in pixels; None keeps images as they are.
        fit: "squash" changes the aspect ratio; "crop" resizes the shorter side and keeps the middle.
        interpolation: Pillow's filter.
        turns_by_exif: whether the orientation that a camera recorded is applied.
        scale: of images of more than 8 bits, the same for all of a dataset; None where it is not decided yet, so that
            such an image raises `UndecidedDepthError`.
    """

    size: int | None = None
    fit: Fit = "squash"
    interpolation: Filter = "lanczos"
    turns_by_exif: bool = False
    scale: ValueRange | None = ALL_16_BITS

    def as_dict(self) -> dict[str, Any]:
        """The recipe as it is stored with a dataset and printed with its results."""
        scaled = {} if self.scale in (None, ALL_16_BITS) else {"more_than_8_bits": str(self.scale)}
        if self.size is None:
            return {"resize": "none", **scaled, "pillow": PIL.__version__}
        return {
            "resize": f"{self.size} x {self.size}",
            "fit": self.fit,
            "interpolation": self.interpolation,
            "exif_orientation": "applied" if self.turns_by_exif else "ignored",
            **scaled,
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
            UndecidedDepthError: it has more than 8 bits, and no scale was decided.
        """
        try:
            with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
                check_pixel_count(image)
                if self.scale is None and (is_deep(image) or is_deep_colour(image)):
                    raise UndecidedDepthError
                flat = _flat(image, self.scale) if self.scale is not None and is_deep(image) else image
                return self._bring_to_size(as_rgb(self._turned(flat)))
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


def as_rgb(image: Image.Image, *, scale: ValueRange = ALL_16_BITS) -> Image.Image:
    """The first frame in three channels of eight bits; what is transparent becomes white.

    Args:
        image: of any mode.
        scale: which values are black and white if it has more than 8 bits. One image does not say that; its dataset
            does.

    Raises:
        ImageError: the pixels are floating-point numbers and the scale is for integers, or the other way round.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if is_deep(image):
        image = _flat(image, scale)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return image.convert("RGB")


def _flat(image: Image.Image, scale: ValueRange) -> Image.Image:
    image.load()
    try:
        return eight_bits(image, scale)
    except ValueError as error:
        raise ImageError(str(error)) from error


def used_values(encoded: bytes, name: str) -> UsedValues:
    """What values an image file uses; none if it cannot be read, which decoding says.

    Args:
        encoded: the file's bytes.
        name: of the image, for messages.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            check_pixel_count(image)
            if not (is_deep(image) or is_deep_colour(image)):
                return UsedValues(images=1)
            return UsedValues.of_image(image, name)
    except (ImageError, *_DAMAGED):
        return UsedValues()


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
