"""From image files to pixels of a known shape, by a preprocessing that is recorded.

Images are listed first and read later: several at once, in canonical order, a few in memory at a time.
"""

from __future__ import annotations

import io
import os
import struct
import time
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fewshot_bench.datasets.bit_depth import ALL_16_BITS, UsedValues, ValueRange, eight_bits, is_deep, is_deep_colour
from fewshot_bench.errors import DatasetError
from fewshot_bench.progress import Step

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
    """An image has more than 8 bits, and the range of values of its dataset is not known yet."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every image of a dataset.

    Attributes:
        size: side of the square result in pixels; None keeps the size.
        fit: "squash" changes the aspect ratio; "crop" resizes the shorter side and keeps the middle.
        interpolation: Pillow's filter.
        turns_by_exif: whether the orientation that a camera recorded is applied.
        scale: range of values of images of more than 8 bits, the same for a whole dataset; None while it is undecided,
            so that such an image raises `UndecidedDepthError`.
    """

    size: int | None = None
    fit: Fit = "squash"
    interpolation: Filter = "lanczos"
    turns_by_exif: bool = False
    scale: ValueRange | None = ALL_16_BITS

    def as_dict(self) -> dict[str, Any]:
        """The preprocessing as stored with a dataset and printed with its results."""
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
            ImageError: it is not an image, is damaged or truncated, or has too many pixels.
            UndecidedDepthError: it has more than 8 bits, and no scale was decided.
        """
        try:
            with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
                check_pixel_count(image)
                if self.scale is None and (is_deep(image) or is_deep_colour(image)):
                    raise UndecidedDepthError
                flat = _flat(image, self.scale) if self.scale is not None and is_deep(image) else image
                turned = ImageOps.exif_transpose(flat) if self.turns_by_exif else flat
                return self._bring_to_size(as_rgb(turned))
        except ImageError:
            raise
        except _DAMAGED as error:
            raise ImageError(_reason(encoded, error)) from error

    def resize(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring an image that is decoded already, uint8 [H, W, 3] or [H, W], to size."""
        if self.size is None or pixels.shape[:2] == (self.size, self.size):
            return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
        return self._bring_to_size(as_rgb(Image.fromarray(np.ascontiguousarray(pixels))))

    def _bring_to_size(self, image: Image.Image) -> NDArray[np.uint8]:
        if self.size is not None and image.size != (self.size, self.size):
            sides = (self.size, self.size)
            if self.fit == "crop":
                image = ImageOps.fit(image, sides, FILTERS[self.interpolation])
            else:
                image = image.resize(sides, FILTERS[self.interpolation])
        return np.asarray(image)


def check_pixel_count(image: Image.Image) -> None:
    """Raise ImageError, by the header and before decoding, for no pixels or more than `MOST_PIXELS`."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ImageError(f"{width:,} x {height:,} pixels; at most {MOST_PIXELS:,} are read")
    if width < 1 or height < 1:
        raise ImageError("it has no pixels")


def as_rgb(image: Image.Image, *, scale: ValueRange = ALL_16_BITS) -> Image.Image:
    """The first frame in three channels of eight bits; what is transparent becomes white.

    Args:
        image: of any mode.
        scale: which values are black and white if it has more than 8 bits; a property of its dataset.

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
    """What values an encoded image file uses; none if it cannot be read, which decoding reports."""
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            check_pixel_count(image)
            if not (is_deep(image) or is_deep_colour(image)):
                return UsedValues(images=1)
            return UsedValues.of_image(image, name)
    except (ImageError, *_DAMAGED):
        return UsedValues()


def header_size(encoded: bytes) -> tuple[int, int] | None:
    """Width and height by the header alone; None if it is not an image."""
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


Place = Any
"""Where an image lies, as its source knows it: a path, a row of an array."""

_QUICK = 5e-4  # seconds per image below which decoding stays on one core: a small PNG takes 1e-4, a photograph 2e-3
_AT_ONCE = 32  # images per task: enough to hide the cost of a task, few enough to stay in the processor's cache


@dataclass(frozen=True)
class ListedSplit:
    """What a source holds of one split.

    Attributes:
        classes: for each class in canonical order, the name and place of its images in canonical order.
        load: an image file's bytes, or decoded pixels uint8 [H, W, 3]; called by several threads at once.
        are_named: whether the names are official and belong into the store.
    """

    classes: Mapping[str, Sequence[tuple[str, Place]]]
    load: Callable[[Place], bytes | NDArray[np.uint8]]
    are_named: bool = True

    def __len__(self) -> int:
        return sum(len(images) for images in self.classes.values())


@dataclass(frozen=True)
class SkippedImage:
    """An image, a row or a folder that was skipped, and why."""

    name: str
    reason: str


@dataclass
class DecodedSplit:
    """A listed split on its way into the store; a `SplitContent`.

    Its class sizes count the images read so far: unreadable images are skipped only if that was asked for.

    Attributes:
        listed: the images.
        preprocessing: what is done to each.
        image_shape: of every result.
        step: advanced by one per image.
        when_unreadable: "refuse" raises; "skip" records the image in `skipped`.
        least_images: classes with fewer readable images are left out, into `small`.
        skipped: what was left out.
        small: readable images of the classes that were left out.
    """

    listed: ListedSplit
    preprocessing: Preprocessing
    image_shape: tuple[int, int, int]
    step: Step
    when_unreadable: Literal["refuse", "skip"] = "refuse"
    least_images: int = 1
    skipped: list[SkippedImage] = field(default_factory=list)
    small: dict[str, int] = field(default_factory=dict)
    _read: dict[str, list[str]] = field(default_factory=dict)

    @property
    def planned(self) -> int:
        """Images that may come."""
        return len(self.listed)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classes with images so far."""
        return tuple(self._read)

    @property
    def class_sizes(self) -> tuple[int, ...]:
        """Images of each class so far."""
        return tuple(len(names) for names in self._read.values())

    @property
    def image_names(self) -> list[str] | None:
        """Of the images so far."""
        return [name for names in self._read.values() for name in names] if self.listed.are_named else None

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """The images, uint8 [B, H, W, 3] each.

        Raises:
            DatasetError: an image cannot be read or has another shape, and unreadable images are refused.
        """
        ready: list[NDArray[np.uint8]] = []
        held: list[NDArray[np.uint8]] = []  # of a class that is not known to be large enough yet
        current: str | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata in files that it reads well
            for task in _in_order(self._images(), self._decode):
                for (label, name, _), result in task:
                    if label != current:
                        self._leave_out_if_small(current)
                        held, current = [], label
                    if self._accept(label, name, result) and not isinstance(result, DatasetError):
                        held.append(result)
                        if len(self._read[label]) >= self.least_images:
                            ready += held
                            held = []
                if ready:
                    yield np.stack(ready)
                    ready = []
        self._leave_out_if_small(current)
        if not self._read and (self.skipped or self.small):
            raise self._nothing_left()

    def used_values(self) -> UsedValues:
        """What values the images use, to decide the scale of those of more than 8 bits; reads all of them."""

        def used(image: _Image) -> UsedValues:
            try:
                content = self.listed.load(image[2])
            except (DatasetError, PermissionError):
                content = b""
            return used_values(content, f"{image[0]}/{image[1]}") if isinstance(content, bytes) else UsedValues(1)

        parts = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for task in _in_order(self._images(), used):
                parts.append(UsedValues.together(part for _, part in task))
                self.step.advance(len(task))
        return UsedValues.together(parts)

    def _images(self) -> Iterator[_Image]:
        return ((label, name, place) for label, members in self.listed.classes.items() for name, place in members)

    def _leave_out_if_small(self, label: str | None) -> None:
        if label is not None and len(self._read.get(label, [])) < self.least_images:
            self.small[label] = len(self._read.pop(label, []))

    def _nothing_left(self) -> DatasetError:
        if self.skipped and not any(self.small.values()):
            first = self.skipped[0]
            return DatasetError(
                f"none of {len(self.skipped):,} images can be read; the first is {first.name}: {first.reason}."
            )
        return DatasetError(
            f"no class has {self.least_images} readable images; the largest has {max(self.small.values(), default=0)}."
        )

    def _decode(self, image: tuple[str, str, Place]) -> NDArray[np.uint8] | DatasetError:
        try:
            content = self.listed.load(image[2])
            pixels = (
                self.preprocessing.decode(content) if isinstance(content, bytes) else self.preprocessing.resize(content)
            )
        except DatasetError as error:
            return error
        except PermissionError as error:  # of this file; one that is gone, or a disk that fails, stops everything
            if self.when_unreadable == "refuse":
                raise
            return DatasetError(f"it cannot be opened ({error.strerror})")
        if pixels.shape != self.image_shape:
            found, expected = (" x ".join(map(str, shape[:2])) for shape in (pixels.shape, self.image_shape))
            return DatasetError(f"{found} pixels, not {expected}")
        return pixels

    def _accept(self, label: str, name: str, result: NDArray[np.uint8] | DatasetError) -> bool:
        self.step.advance()
        if not isinstance(result, DatasetError):
            self._read.setdefault(label, []).append(name)
            return True
        if self.when_unreadable == "refuse":
            raise DatasetError(
                f"image {name} of class {label} cannot be read: {str(result).rstrip('.')}. Obtain the files again."
            ) from result
        self.skipped.append(SkippedImage(f"{label}/{name}", str(result)))
        return False


_Image = tuple[str, str, Place]
_Result = TypeVar("_Result")


def _in_order(images: Iterator[_Image], work: Callable[[_Image], _Result]) -> Iterator[list[tuple[_Image, _Result]]]:
    """Work on all cores, a bounded number of tasks ahead, and give the results back in the order of the images."""

    def run(task: list[_Image]) -> list[tuple[_Image, _Result]]:
        return [(image, work(image)) for image in task]

    first = list(islice(images, _AT_ONCE))
    began = time.perf_counter()
    decoded = run(first)
    is_quick = time.perf_counter() - began < _QUICK * len(first)
    yield decoded
    if is_quick:
        # Threads that hand over the interpreter every few microseconds cost more than a second core gives.
        while task := list(islice(images, _AT_ONCE)):
            yield run(task)
        return
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    tasks = iter(lambda: list(islice(images, _AT_ONCE)), [])
    with ThreadPoolExecutor(workers) as pool:
        futures: deque[Future[list[tuple[_Image, _Result]]]] = deque()
        try:
            for task in tasks:
                futures.append(pool.submit(run, task))
                if len(futures) > 2 * workers:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()
