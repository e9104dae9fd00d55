"""Images that are listed first and read later: several at once, in canonical order, a few in memory at a time."""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.deep_pixels import UsedValues
from fewshot_bench.datasets.pixels import PixelRecipe, used_values
from fewshot_bench.errors import DatasetError
from fewshot_bench.progress import Step

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
    """An image, a row or a folder that was left out, and why."""

    name: str
    reason: str


@dataclass
class DecodedSplit:
    """A listed split on its way into the store; a `SplitContent`.

    What it says of its classes counts what has been read: unreadable images are left out only if that was asked for.

    Attributes:
        listed: the images.
        recipe: what is done to each.
        image_shape: of every result.
        step: advanced by one per image.
        when_unreadable: "refuse" raises; "skip" records the image in `skipped` and goes on.
        least_images: classes with fewer readable images are left out, into `small`.
        skipped: what was left out.
        small: readable images of the classes that were left out.
    """

    listed: ListedSplit
    recipe: PixelRecipe
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
        """What values the images use, to decide how those of more than 8 bits are scaled; reads all of them."""

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
            pixels = self.recipe.decode(content) if isinstance(content, bytes) else self.recipe.resize(content)
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
        waiting: deque[Future[list[tuple[_Image, _Result]]]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(run, task))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
