"""The images of a split in batches on the training device; a GPU finds the next ones ready."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.devices import free_bytes, to_device

_SHARE_FOR_A_SPLIT = 0.02
"""Of a GPU's free memory; so little that no batch shrinks for it. In 80 GB it is 75,000 images of 84 pixels."""
_AHEAD = 2
_BYTES_AT_ONCE = 1 << 26


class Samples(NamedTuple):
    """A batch of images of a split, before augmentation.

    Attributes:
        images: uint8 [B, C, H, W]; with several processes, this one's share of them.
        labels: int64 [B].
        rows: of the images in the split, int64 [B].
    """

    images: Tensor
    labels: Tensor
    rows: Tensor


class SampleLoader:
    """Loads images of a split by their rows.

    A small split stays on a GPU. The images of a larger one are gathered by a thread into pinned memory while the
    network learns from earlier ones; a thread suffices, since splits are stored as uint8 and nothing is decoded. It
    draws no random numbers, so that a training can stop after any batch. On a CPU images are gathered when needed:
    a copy of a few megabytes, which a thread would only delay.

    Args:
        split: the images.
        device: where the samples are put; only a CPU or a CUDA GPU.
        ahead: batches to prepare ahead; by default two on a GPU where the split does not stay, and none elsewhere.
    """

    def __init__(self, split: ImageSplit, device: torch.device, *, ahead: int | None = None) -> None:
        self._images, self._device = split.images, device
        self._labels = to_device(torch.from_numpy(split.labels), device)
        stays = ahead is None and _fits_comfortably(split, device)
        self._resident = _uploaded(split, device) if stays else None
        is_gathered_ahead = device.type == "cuda" and not stays
        self._ahead = _AHEAD * is_gathered_ahead if ahead is None else ahead
        self._copies = torch.cuda.Stream(device) if is_gathered_ahead else None  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def load(self, rows: Tensor, own: Tensor | None = None) -> Samples:
        """Load one batch.

        Args:
            rows: of the batch, int64 [B] on the CPU.
            own: the rows whose images this process needs; all by default.
        """
        own = rows if own is None else own
        rows_on_device = to_device(rows, self._device)
        if self._resident is None:
            images = self._copied(self._gathered(own))
        else:
            images = self._resident.index_select(0, rows_on_device if own is rows else to_device(own, self._device))
        return self._samples(images, rows_on_device)

    def batches(
        self, batch_rows: Sequence[Tensor], share: Callable[[Tensor], Tensor] = lambda rows: rows
    ) -> Generator[Samples, None, None]:
        """Load one batch after the other; close the generator to end its thread early.

        Args:
            batch_rows: the rows of each batch, int64 [B] on the CPU.
            share: the rows of a batch whose images this process needs.
        """
        own = [share(rows) for rows in batch_rows]
        if not self._ahead:
            yield from map(self.load, batch_rows, own)
            return
        with ThreadPoolExecutor(1, "samples") as thread:
            waiting = deque(thread.submit(self._gathered, rows) for rows in own[: self._ahead])
            for number, rows in enumerate(batch_rows):
                images = waiting.popleft().result()
                if number + self._ahead < len(batch_rows):
                    waiting.append(thread.submit(self._gathered, own[number + self._ahead]))
                yield self._samples(self._copied(images), to_device(rows, self._device))

    def _samples(self, images: Tensor, rows: Tensor) -> Samples:
        return Samples(images.permute(0, 3, 1, 2), self._labels.index_select(0, rows), rows)

    def _gathered(self, rows: Tensor) -> Tensor:
        """uint8 [B, H, W, C] on the CPU, pinned for a GPU."""
        shape = (len(rows), *self._images.shape[1:])
        gathered = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        # "clip" writes into the memory directly; "raise" would fill a buffer first.
        np.take(self._images, rows.numpy(), axis=0, out=gathered.numpy(), mode="clip")
        return gathered

    def _copied(self, images: Tensor) -> Tensor:
        if self._copies is None:
            return images.to(self._device)
        # In a stream of its own the copy does not wait for the steps that are queued before it.
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            copied = images.to(self._device, non_blocking=True)
        current.wait_stream(self._copies)
        copied.record_stream(current)
        return copied


def _fits_comfortably(split: ImageSplit, device: torch.device) -> bool:
    free = free_bytes(device) if device.type == "cuda" else None
    return free is not None and split.images.nbytes <= _SHARE_FOR_A_SPLIT * free


def _uploaded(split: ImageSplit, device: torch.device) -> Tensor:
    """All images on a GPU, uint8 [I, H, W, C]."""
    uploaded = torch.empty(split.images.shape, dtype=torch.uint8, device=device)
    count = max(1, _BYTES_AT_ONCE // max(1, split.images[:1].nbytes))
    for start in range(0, len(split.images), count):
        uploaded[start : start + count] = torch.from_numpy(np.array(split.images[start : start + count]))
    return uploaded
