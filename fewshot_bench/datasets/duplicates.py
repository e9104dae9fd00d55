"""Images that lie in more than one split: a method that has seen them in training is not tested on them.

Exact duplicates have the same pixels. Near duplicates have nearly the same difference hash (Krawetz, 2013, "Kind of
like that": signs of the differences of neighbouring cells of an 8 x 9 thumbnail) and nearly the same pixels, as copies
that were compressed or resized once more have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import ImageSplit, SplitName

_CELLS = (8, 9)
_LARGEST_DIFFERENCE = 4.0  # mean over all pixels of the absolute difference, of 255
_MOST_PAIRS = 100
_BANDS = ((0, 21), (21, 21), (42, 22))  # first bit and number of bits of each part of the hash
_MOST_DIFFERENT_BITS = 8
_PAIRS_AT_ONCE = 100_000
_MOST_OF_ONE_HASH = 50  # blank and nearly blank images share a hash with many; comparing all pairs would take for ever
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Duplicates:
    """Images that occur more than once in a dataset.

    Attributes:
        exact: images whose pixels occur in another split as well.
        near: pairs across splits that look alike without being equal.
        within_splits: images whose pixels occur earlier in the same split.
        exact_pairs: examples across splits, up to a hundred, as "split/class/image".
        near_pairs: examples that look alike.
        across_classes: images whose pixels occur under another label as well, in any split.
        class_pairs: examples under two labels.
        within_classes: images whose pixels occur earlier in the same class.
        equal_pairs: examples in one class.
    """

    exact: int = 0
    near: int = 0
    within_splits: int = 0
    exact_pairs: list[tuple[str, str]] = field(default_factory=list)
    near_pairs: list[tuple[str, str]] = field(default_factory=list)
    across_classes: int = 0
    class_pairs: list[tuple[str, str]] = field(default_factory=list)
    within_classes: int = 0
    equal_pairs: list[tuple[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the store."""
        return asdict(self)


def find_duplicates(splits: Mapping[SplitName, ImageSplit]) -> Duplicates:
    """Look for images that occur in several splits or under several labels.

    Args:
        splits: of one dataset; each is read once, a few images at a time.
    """
    ordered = list(splits.values())
    owners = np.repeat(np.arange(len(ordered)), [len(split) for split in ordered])
    rows = np.concatenate([np.arange(len(split)) for split in ordered])
    digests = np.concatenate([_digests(split.images) for split in ordered])

    def name(position: int) -> str:
        split = ordered[owners[position]]
        return f"{split.name}/{split.image_id(int(rows[position]))}"

    def pixels(position: int) -> NDArray[np.uint8]:
        image: NDArray[np.uint8] = ordered[owners[position]].images[rows[position]]
        return image

    exact = within = across = 0
    exact_pairs, class_pairs, equal_pairs = [], [], []
    for group in (positions.tolist() for positions in _groups(digests)):
        of_split = [int(owners[position]) for position in group]
        labels = [ordered[owners[position]].class_of(int(rows[position])) for position in group]
        within += len(group) - len(set(of_split))
        if len(set(of_split)) > 1:
            exact += len(group)
            exact_pairs.append((name(group[0]), name(_first_other(group, of_split))))
        if len(set(labels)) > 1:
            across += len(group)
            class_pairs.append((name(group[0]), name(_first_other(group, labels))))
        first_of: dict[tuple[int, str], int] = {}
        for position, split_and_label in zip(group, zip(of_split, labels, strict=True), strict=True):
            first = first_of.setdefault(split_and_label, position)
            if first != position:
                equal_pairs.append((name(first), name(position)))
    near_pairs = _near(ordered, owners, digests, pixels)
    return Duplicates(
        exact=exact,
        near=len(near_pairs),
        within_splits=within,
        exact_pairs=exact_pairs[:_MOST_PAIRS],
        near_pairs=[(name(a), name(b)) for a, b in near_pairs[:_MOST_PAIRS]],
        across_classes=across,
        class_pairs=class_pairs[:_MOST_PAIRS],
        within_classes=len(equal_pairs),
        equal_pairs=equal_pairs[:_MOST_PAIRS],
    )


def _first_other(group: list[int], values: Sequence[object]) -> int:
    """The first position whose value differs from that of the first."""
    return next(position for position, value in zip(group, values, strict=True) if value != values[0])


def _near(
    splits: list[ImageSplit],
    owners: NDArray[np.int64],
    digests: NDArray[np.uint64],
    pixels: Callable[[int], NDArray[np.uint8]],
) -> list[tuple[int, int]]:
    shapes = {split.images.shape[1:] for split in splits}
    if len(shapes) > 1 or min(next(iter(shapes))[:2]) < max(_CELLS):
        return []
    hashes = np.concatenate([_difference_hashes(split.images) for split in splits])
    alike = {
        (a, b)
        for a, b in _candidates(hashes)
        if owners[a] != owners[b]
        and digests[a] != digests[b]
        and np.abs(pixels(a).astype(np.int16) - pixels(b)).mean() <= _LARGEST_DIFFERENCE
    }
    return sorted(alike)


def _candidates(hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Pairs whose hashes differ in few bits.

    Copies differ in a bit or two. Of three parts of the hash, one is then untouched and brings them together.
    """
    for first_bit, bits in _BANDS:
        pairs: list[tuple[int, int]] = []
        for group in _groups((hashes >> np.uint64(first_bit)) & np.uint64((1 << bits) - 1)):
            pairs += combinations(group[:_MOST_OF_ONE_HASH].tolist(), 2)
            if len(pairs) >= _PAIRS_AT_ONCE:
                yield from _close_ones(hashes, pairs)
                pairs = []
        yield from _close_ones(hashes, pairs)


def _close_ones(hashes: NDArray[np.uint64], pairs: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    firsts, seconds = np.array(pairs, np.int64).reshape(-1, 2).T
    different = np.unpackbits((hashes[firsts] ^ hashes[seconds]).view(np.uint8)).reshape(-1, 64).sum(axis=1)
    close = different <= _MOST_DIFFERENT_BITS
    yield from zip(firsts[close].tolist(), seconds[close].tolist(), strict=True)


def _groups(keys: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """Positions that share a key, two or more at a time, in order."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order[:1]] + np.uint64(1)))
    ends = np.append(starts[1:], len(keys))
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        yield order[start:end]


def _blocks(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    rows = max(1, _BLOCK_BYTES // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), rows):
        yield np.ascontiguousarray(images[start : start + rows])


def _digests(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """64 bits that depend on every pixel, per image."""
    digests = [hashlib.blake2b(image, digest_size=8).digest() for block in _blocks(images) for image in block]
    return np.frombuffer(b"".join(digests), np.uint64)


def _difference_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """64 bits that survive resizing and compression, per image."""
    height, width, channels = images.shape[1:]
    rows = _membership(height, _CELLS[0])
    columns = np.repeat(_membership(width, _CELLS[1]), channels, axis=1)
    widths = columns.sum(axis=1)
    hashes = [np.empty((0, 8), np.uint8)]
    for block in _blocks(images):
        lines = block.reshape(len(block), height, width * channels).astype(np.float32)
        cells = rows @ (lines @ columns.T)  # sums of whole numbers below 2^24: exact in float32
        signs = cells[:, :, 1:] * widths[:-1] > cells[:, :, :-1] * widths[1:]
        hashes.append(np.packbits(signs.reshape(len(block), 64), axis=1))
    return np.ascontiguousarray(np.concatenate(hashes)).view(np.uint64).ravel()


def _membership(pixels: int, cells: int) -> NDArray[np.float32]:
    """Which of a line's pixels lie in which cell, 0 or 1, [cells, pixels]."""
    cell = np.searchsorted(np.arange(1, cells) * pixels // cells, np.arange(pixels), side="right")
    membership: NDArray[np.float32] = (np.arange(cells)[:, None] == cell).astype(np.float32)
    return membership
