"""New images to classify: listed by the places that a user names, decoded as those of the dataset were."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot_bench.datasets import Dataset, ImageSplit
from fewshot_bench.datasets.bit_depth import ALL_16_BITS, ValueRange
from fewshot_bench.datasets.images import FILTERS, DecodedSplit, ListedSplit, Preprocessing, SkippedImage
from fewshot_bench.datasets.own_folders import NOT_IMAGES
from fewshot_bench.datasets.sources import FileTree, open_tree
from fewshot_bench.datasets.sources.tree import LARGEST_IMAGE_FILE, composed, within
from fewshot_bench.errors import ClassifierError, DatasetError
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.units import bytes_text

_AT_ONCE = 512  # decoded images in memory
_LABEL = "new"
_FITS = ("crop", "squash")
_RANGE = re.compile(r"0 to ([\d,]+)")


def preprocessing_of(dataset: Dataset, split: ImageSplit) -> Preprocessing:
    """What was done to the images of a dataset, to be done to new ones.

    Where the dataset does not say, because its images came in their final size, new ones are cropped to a square and
    resized like a user's own.

    Raises:
        ClassifierError: the images are not square.
    """
    height, width = split.images.shape[1:3]
    if height != width:
        raise ClassifierError(
            f"the images of {dataset.name} have {width} x {height} pixels, and a classifier takes square ones. Import "
            "them again as squares: fewshot-bench data import NAME --from PATH"
        )
    done = dataset.preprocessing
    fit, interpolation = done.get("fit"), done.get("interpolation")
    return Preprocessing(
        height,
        fit if fit in _FITS else "crop",
        interpolation if interpolation in FILTERS else "bicubic",
        turns_by_exif=done.get("exif_orientation", "applied") == "applied",
        scale=_scale(done.get("more_than_8_bits")),
    )


def _scale(text: object) -> ValueRange:
    """The range of values of a dataset's deep images, as it is recorded: that of integers is 0 to 2^k - 1."""
    if not isinstance(text, str):
        return ALL_16_BITS
    whole = _RANGE.fullmatch(text)
    if whole is not None:
        white = int(whole[1].replace(",", ""))
        if white & (white + 1) == 0 and white >= 255:
            return ValueRange(0, white)
    black, _, white_text = text.partition(" to ")
    try:
        return ValueRange(float(black.replace(",", "")), float(white_text.replace(",", "")), is_fractional=True)
    except ValueError:
        return ALL_16_BITS


class NewImages:
    """Files and folders that a user names, read a block at a time.

    Attributes:
        refused: images that could not be read, known when all have been.
    """

    def __init__(self, places: Sequence[str | Path]) -> None:
        """List them; nothing is decoded.

        Raises:
            DatasetError: a place is missing, empty or named twice, or there is no image.
        """
        self._files = _listed(places)
        self.refused: tuple[SkippedImage, ...] = ()

    def __len__(self) -> int:
        return len(self._files)

    def blocks(
        self, preprocessing: Preprocessing, channels: int, progress: Progress = SILENT
    ) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
        """The names and pixels of those that can be read, uint8 [B, S, S, C].

        Raises:
            DatasetError: none can be read.
        """
        assert preprocessing.size is not None
        shape = (preprocessing.size, preprocessing.size, 3)
        with progress.step("reading images", len(self._files)) as step:
            split = DecodedSplit(ListedSplit({_LABEL: self._files}, _read), preprocessing, shape, step, "skip")
            given = 0
            try:
                for pixels in _in_large_blocks(split.blocks()):
                    names = (split.image_names or [])[given : given + len(pixels)]
                    given += len(pixels)
                    yield names, in_channels(pixels, channels)
            except DatasetError as error:
                raise DatasetError(str(error).replace(f" {_LABEL}/", " ", 1)) from error
        self.refused = tuple(
            SkippedImage(image.name.removeprefix(f"{_LABEL}/"), image.reason) for image in split.skipped
        )


def _in_large_blocks(blocks: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """The same images, at least `_AT_ONCE` in each block but the last."""
    held: list[NDArray[np.uint8]] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= _AT_ONCE:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def in_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Images uint8 [B, H, W, 1 or 3] with the channels of a dataset: grey values are Pillow's."""
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels])[..., None]


def _listed(places: Sequence[str | Path]) -> list[tuple[str, Any]]:
    """The name of every image, and where it is: a path, or a tree and a path in it."""
    if not places:
        raise DatasetError("no images were given. Name image files or folders.")
    found: dict[str, tuple[str, Any]] = {}
    files: list[tuple[str, Any]]
    for place in places:
        path = Path(place).expanduser()
        if not path.exists():
            raise DatasetError(f"there is no file or folder {composed(str(place))}.")
        if path.is_dir():
            tree = open_tree(path)
            files = [(str(path / file), (tree, file)) for file in _files_below(tree)]
            if not files:
                raise DatasetError(f"{composed(str(path))} holds no images.")
        else:
            files = [(str(path), path)]
        for name, image in files:
            key = os.path.abspath(name)
            if key in found:
                raise DatasetError(f"{composed(name)} is named twice. Name each image once, or its folder.")
            found[key] = (composed(name), image)
    return list(found.values())


def _files_below(tree: FileTree, folder: str = "") -> Iterator[str]:
    """All files of a folder that may be images: first its own, then those of its folders, sorted."""
    yield from (within(folder, name) for name in tree.files(folder) if not NOT_IMAGES.fullmatch(name))
    for name in tree.folders(folder):
        yield from _files_below(tree, within(folder, name))


def _read(place: Any) -> bytes:
    """The bytes of an image file; raises DatasetError if it is too large, gone, or no regular file."""
    try:
        if isinstance(place, tuple):
            tree, file = place
            content: bytes = tree.read(file)
            return content
        if not place.is_file():
            raise DatasetError("it is a pipe or a device, not a file")
        if (size := place.stat().st_size) > LARGEST_IMAGE_FILE:
            raise DatasetError(f"it has {bytes_text(size)}; at most {bytes_text(LARGEST_IMAGE_FILE)} are read")
        return bytes(place.read_bytes())
    except FileNotFoundError as error:  # a link that leads nowhere, or removed meanwhile
        raise DatasetError("it cannot be found") from error
