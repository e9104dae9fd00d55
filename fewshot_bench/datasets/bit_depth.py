"""Images of more than 8 bits per channel: one scale for a whole dataset, from the values that all its images use.

Sensors of 10 to 14 bits, depth maps, scans and label images use a part of the 16 or 32 bits of their files.
Scaling each image by its own values would change what differs between images; scaling all by what the files could
hold would make many of them black.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot_bench.errors import DatasetError

_MOST_BITS = 32
_NEARLY_ALL = 0.999  # of the pixels
_UNUSED_BITS = 3  # an eighth of the range: what lies below comes out darker than 32 of 255
_DARK = 64  # of 255


@dataclass(frozen=True)
class ValueRange:
    """Which values become black and white in all images of a dataset that have more than 8 bits.

    Attributes:
        black: becomes 0, as does everything below.
        white: becomes 255, as does everything above.
        is_fractional: whether this range is for floating-point pixels; those of integers are then refused, and the
            other way round.
    """

    black: float
    white: float
    is_fractional: bool = False

    def __str__(self) -> str:
        return f"{_number(self.black)} to {_number(self.white)}"


ALL_16_BITS = ValueRange(0, 65_535)
"""The range of integer images whose dataset does not decide another."""


def is_deep(image: Image.Image) -> bool:
    """Whether an image has one channel of more than 8 bits: integers of 16 or 32, or floating-point numbers."""
    return image.mode.startswith("I") or image.mode == "F"


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a file has several channels of 16 bits; Pillow reads only the upper 8 of each."""
    return not is_deep(image) and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def deep_values(image: Image.Image) -> NDArray[np.generic]:
    """The values of a deep image, int64 or float64 [H, W], whatever mode this version of Pillow opens it in.

    Raises:
        ValueError: some are infinite or not a number.
    """
    if image.mode == "F":
        fractions = np.asarray(image, np.float64)
        if not np.isfinite(fractions).all():
            raise ValueError("some of its pixels are infinite or not a number")
        return fractions
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1:
        values &= (1 << 32) - 1  # a TIFF of unsigned integers, which Pillow reads as signed ones
    return values


_SAMPLE_FORMAT = 339


def eight_bits(image: Image.Image, scale: ValueRange) -> Image.Image:
    """A deep image in gray of 8 bits; what is transparent becomes white.

    Raises:
        ValueError: its pixels are fractions and the scale is for integers, or the other way round; or not all finite.
    """
    values = deep_values(image)
    if (image.mode == "F") != scale.is_fractional:
        raise ValueError(
            "its pixels are integers of more than 8 bits among floating-point ones, which have another scale"
            if scale.is_fractional
            else "its pixels are floating-point numbers, which have no agreed scale"
        )
    shares = (values.clip(scale.black, scale.white) - scale.black) * 255 / (scale.white - scale.black)
    pixels = np.rint(shares).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[values == transparent] = 255
    gray = Image.fromarray(pixels)
    gray.info |= {name: value for name, value in image.info.items() if name != "transparency"}  # the camera's turn
    return gray


@dataclass(eq=False)
class UsedValues:
    """What values the images of a dataset use, whatever their order.

    Attributes:
        images: of all depths.
        deep: images of one channel of more than 8 bits.
        fractional: those of them with floating-point pixels.
        lowest: value of all deep images.
        highest: value of all deep images.
        examples: the first name of an integer and of a floating-point image, by whether it is one.
        by_bits: integer pixels that need so many bits, 0 to 32.
        deep_colour: images of several channels of 16 bits.
        brightest_colour: the largest of their upper 8 bits.
    """

    images: int = 0
    deep: int = 0
    fractional: int = 0
    lowest: float = np.inf
    highest: float = -np.inf
    examples: dict[bool, str] = field(default_factory=dict)
    by_bits: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_MOST_BITS + 1, np.int64))
    deep_colour: int = 0
    brightest_colour: int = 0

    @classmethod
    def of_image(cls, image: Image.Image, name: str) -> UsedValues:
        """Of one image; raises ValueError if some pixels are infinite or not a number."""
        used = cls(images=1)
        if is_deep_colour(image):
            used.deep_colour = 1
            used.brightest_colour = int(np.asarray(image.convert("RGB")).max(initial=0))
        if not is_deep(image):
            return used
        values = deep_values(image)
        used.deep, used.fractional = 1, int(image.mode == "F")
        used.examples[image.mode == "F"] = name
        used.lowest, used.highest = values.min().item(), values.max().item()
        if not used.fractional:
            bits = np.frexp(values.clip(0).astype(np.float64))[1]
            used.by_bits = np.bincount(bits.ravel(), minlength=_MOST_BITS + 1)
        return used

    @classmethod
    def together(cls, parts: Iterable[UsedValues]) -> UsedValues:
        """Of all images of some parts."""
        whole = cls()
        for part in parts:
            whole.images += part.images
            whole.deep += part.deep
            whole.fractional += part.fractional
            whole.lowest = min(whole.lowest, part.lowest)
            whole.highest = max(whole.highest, part.highest)
            whole.examples = part.examples | whole.examples
            whole.by_bits = whole.by_bits + part.by_bits
            whole.deep_colour += part.deep_colour
            whole.brightest_colour = max(whole.brightest_colour, part.brightest_colour)
        return whole

    def scale(self, place: str) -> ValueRange:
        """One range for all of them.

        Integers keep 0 as black, and the largest number of the bits that they use is white: 255, 1,023, 4,095, ... If
        some are negative, and for fractions, the smallest and the largest value are black and white.

        Args:
            place: where the images lie, for the message.

        Raises:
            DatasetError: some images are integers and some are fractions, which have no common scale.
        """
        if not self.deep:
            return ALL_16_BITS
        if 0 < self.fractional < self.deep:
            raise DatasetError(
                f"{place} holds images of integers of more than 8 bits (such as {self.examples[False]}) and of "
                f"floating-point numbers ({self.examples[True]}), which have no common scale. Convert one kind."
            )
        lowest = min(self.lowest, 0)
        if self.fractional:
            return ValueRange(lowest, self.highest if self.highest > lowest else lowest + 1, is_fractional=True)
        if lowest < 0:
            return ValueRange(lowest, max(self.highest, lowest + 255))
        return ValueRange(0, (1 << max(8, int(self.highest).bit_length())) - 1)

    def notes(self, scale: ValueRange) -> list[str]:
        """What a user should know of the scale, one sentence each."""
        notes = []
        if self.deep and scale != ALL_16_BITS:
            kind = "32-bit floating-point" if self.fractional else "16-bit" if self._fits_16_bits() else "32-bit"
            limit = (
                "" if self.fractional or self.lowest < 0 else f" of {65_535 if self._fits_16_bits() else 2**32 - 1:,}"
            )
            black = f" and {_number(scale.black)} black" if scale.black else ""
            notes.append(
                f"{self.deep:,} {kind} images use {_number(self.lowest)} to {_number(self.highest)}{limit}: scaled for "
                f"the whole dataset, {_number(scale.white)} is white{black}."
            )
        if 0 < self.deep < self.images:
            notes.append(
                f"{self.deep:,} of {self.images:,} images have more than 8 bits and are scaled; the others are kept as "
                "they are. Are they of one kind?"
            )
        if self._is_nearly_black(scale):
            notes.append(
                f"fewer than 1 in 1,000 of the pixels of more than 8 bits reach an eighth of {_number(scale.white)}: "
                "nearly all become black. Convert the images to 8 bits yourself to choose another scale."
            )
        if self.deep_colour and self.brightest_colour < _DARK:
            notes.append(
                f"{self.deep_colour:,} images of 16 bits per colour use less than {_DARK * 256:,} of 65,535. Only the "
                "upper 8 bits of each colour are read, so they are dark or black. Convert them to 8 bits first."
            )
        return notes

    def _fits_16_bits(self) -> bool:
        return self.lowest >= -32_768 and self.highest <= 65_535

    def _is_nearly_black(self, scale: ValueRange) -> bool:
        if self.fractional or not self.deep or scale.black < 0:
            return False
        dark = max(0, int(scale.white).bit_length() - _UNUSED_BITS)
        return bool(self.by_bits[: dark + 1].sum() > _NEARLY_ALL * self.by_bits.sum())


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
