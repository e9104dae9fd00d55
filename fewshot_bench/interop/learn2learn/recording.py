"""The tasks that a `Taskset` of learn2learn has drawn, as episodes of our images.

A task of learn2learn is a list of `DataDescription`, whose `index` names an image of the taskset's own dataset. The
same image is looked for among ours by its pixels. A task does not say which of its images are support: the script that
uses it decides, so the caller says how it does.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.arguments import checked_arguments
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.episodes.recorded import RecordedEpisodes, recorded_episodes
from fewshot_bench.errors import EpisodeError
from fewshot_bench.interop.learn2learn.tasksets import SupportPositions

_ROUNDING = 0.01
"""The farthest that a pixel, as 0 to 255, may be from a whole number in floating point."""


@checked_arguments
def record_taskset(
    taskset: Any,
    split: ImageSplit,
    *,
    shot: int | None = None,
    support: SupportPositions = "first",
    name: str = "learn2learn",
) -> RecordedEpisodes:
    """The tasks that a `Taskset` has drawn so far, as episodes; task i is episode i.

    Which images task i has depends on the tasks that were asked for before it, so only those already drawn are read.

    Args:
        taskset: anything with `dataset` and `sampled_descriptions`.
        split: our images, among which those of the taskset are found by their pixels.
        shot: K, which a taskset does not record.
        support: how the script divides a task: the first K images of each class (`partition_task`), or every other
            position (the example scripts of learn2learn).
        name: of the tasks, in results.

    Raises:
        EpisodeError: it is not known which images are support, no task was drawn, tasks differ in size, or an image is
            not one of the split.
    """
    descriptions = getattr(taskset, "sampled_descriptions", None)
    if not isinstance(descriptions, Mapping) or not hasattr(taskset, "dataset"):
        raise EpisodeError(
            f"{type(taskset).__name__} is not a Taskset of learn2learn, which has `dataset` and `sampled_descriptions`."
        )
    if shot is None:
        raise EpisodeError(
            "a Taskset does not say which images of a task are support and which are queries. Pass shot=K, and "
            'support="even" if the script takes every other image, as the example scripts of learn2learn do.'
        )
    if not descriptions:
        is_endless = getattr(taskset, "num_tasks", None) == -1
        raise EpisodeError(
            "the Taskset has drawn no task yet"
            + (", and with num_tasks=-1 it keeps none. Make it with num_tasks=600." if is_endless else "")
            + ("" if is_endless else ". Ask for them first: for i in range(len(taskset)): taskset[i]")
        )
    numbers = sorted(descriptions)
    tasks = [[int(description.index) for description in descriptions[number]] for number in numbers]
    labels = _labels(taskset.dataset, tasks)
    rows = [
        _by_class(f"task {number}", task, labels, shot, support) for number, task in zip(numbers, tasks, strict=True)
    ]
    shapes = Counter(row.shape for row in rows)
    if len(shapes) > 1:
        raise EpisodeError(
            f"the tasks have {' or '.join(f'{way} classes of {images} images' for way, images in shapes)}. "
            "Record tasks of one size."
        )
    theirs = np.stack(rows)
    ours = _OurImages(split).numbers(taskset.dataset, labels, np.unique(theirs).tolist())
    found = np.array([ours[index] for index in theirs.reshape(-1).tolist()], np.int32).reshape(theirs.shape)
    return recorded_episodes(split, found, shot, name, numbers)


def _labels(dataset: Any, tasks: Sequence[Sequence[int]]) -> dict[int, Any]:
    """The label of every image of the tasks by its index, as learn2learn's `MetaDataset` knows it."""
    known = getattr(dataset, "indices_to_labels", None)
    if known is None:
        raise EpisodeError(
            "the dataset of the Taskset has no `indices_to_labels`. Wrap it in learn2learn's MetaDataset."
        )
    return {index: known[index] for task in tasks for index in task}


def _by_class(
    name: str, task: Sequence[int], labels: Mapping[int, Any], shot: int, support: SupportPositions
) -> NDArray[np.int64]:
    """The images of a task, a row per class in order of appearance, support first, [N, K + Q].

    Raises:
        EpisodeError: classes have unequal numbers of images or of support images, or no query is left.
    """
    by_label: dict[Any, list[int]] = defaultdict(list)
    shown: dict[Any, list[int]] = defaultdict(list)
    way = len({labels[index] for index in task})
    for position, index in enumerate(task):
        label = labels[index]
        is_first = support == "first" and len(shown[label]) < shot
        is_even = support == "even" and position % 2 == 0 and position < 2 * way * shot
        (shown if is_first or is_even else by_label)[label].append(index)
    sizes = {(len(shown[label]), len(by_label[label])) for label in shown | by_label}
    if len(sizes) > 1 or {size[0] for size in sizes} != {shot} or not all(size[1] for size in sizes):
        listed = ", ".join(f"{label}: {len(shown[label])} and {len(by_label[label])}" for label in shown | by_label)
        raise EpisodeError(
            f'{name} cannot be divided into {shot} support images and equally many queries of each class: support="'
            f'{support}" gives {listed}. Pass the shot and the order that the script uses.'
        )
    return np.array([[*shown[label], *by_label[label]] for label in shown], np.int64)


class _OurImages:
    """The images of a split by a digest of their pixels."""

    def __init__(self, split: ImageSplit) -> None:
        self._split = split
        self._by_pixels: dict[bytes, list[int]] = defaultdict(list)
        for number in range(len(split)):
            self._by_pixels[_digest(split.images[number])].append(number)

    def numbers(self, dataset: Any, labels: Mapping[int, Any], indices: Sequence[int]) -> dict[int, int]:
        """Our number of each image of another dataset.

        Raises:
            EpisodeError: an image is not here, or a label's images are of several of our classes.
        """
        candidates = {index: self._same(dataset, index, labels[index]) for index in indices}
        classes = self._classes(candidates, labels)
        taken: Counter[tuple[int, ...]] = Counter()
        numbers = {}
        for index in indices:  # copies of an image within a class take turns
            same = tuple(n for n in candidates[index] if int(self._split.labels[n]) == classes[labels[index]])
            numbers[index] = same[min(taken[same], len(same) - 1)]
            taken[same] += 1
        return numbers

    def _same(self, dataset: Any, index: int, label: Any) -> list[int]:
        image = dataset[index][0]
        for pixels in _as_pixels(image, self._split.images.shape[1:]):
            if found := self._by_pixels.get(_digest(pixels)):
                return found
        raise EpisodeError(
            f"image {index} of the Taskset (label {label}) is not one of the {len(self._split):,} images of the "
            f"{self._split.name} split of {self._split.dataset}. Open the same images here, and make the Taskset's "
            "dataset with ToTensor() alone: no resizing, normalisation or augmentation."
        )

    def _classes(self, candidates: Mapping[int, Sequence[int]], labels: Mapping[int, Any]) -> dict[Any, int]:
        """Our class of each label."""
        possible: dict[Any, set[int]] = {}
        for index, numbers in candidates.items():
            found = {int(self._split.labels[number]) for number in numbers}
            possible[labels[index]] = possible.get(labels[index], found) & found
        for label, classes in possible.items():
            if not classes:
                raise EpisodeError(
                    f"the images with label {label} in the Taskset are of several classes of {self._split.dataset}."
                )
        return {label: min(classes) for label, classes in possible.items()}


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()


def _as_pixels(image: Any, shape: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """The images [H, W, C] of 0 to 255 that a loaded image can be: a PIL image, an array or a tensor."""
    values = np.asarray(image.detach().cpu().numpy() if hasattr(image, "detach") else image)
    values = values[..., None] if values.ndim == 2 else values
    layouts = [values] if values.shape == tuple(shape) else []
    if values.ndim == 3 and np.moveaxis(values, 0, -1).shape == tuple(shape):
        layouts.append(np.moveaxis(values, 0, -1))
    for pixels in layouts:
        for scale in (1,) if values.dtype == np.uint8 else (255, 1):
            scaled = pixels.astype(np.float64) * scale
            rounded = np.round(scaled)
            if np.abs(scaled - rounded).max() <= _ROUNDING and rounded.min() >= 0 and rounded.max() <= 255:
                yield rounded.astype(np.uint8)
