"""Our frozen episodes as a `Taskset` of learn2learn.

A `Taskset` draws task i when it is first asked for and keeps it in its public dict `sampled_descriptions`. Here
that dict is filled beforehand, so nothing is left to draw.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.episodes import Episodes
from fewshot_bench.errors import CodeError, EpisodeError

SupportPositions = Literal["first", "even"]
"""Where the support images of a task are: the first K of each class, as `learn2learn.data.partition_task` takes them;
or the positions 0, 2, 4, ... up to N * K of them, as the example scripts of learn2learn do."""

Transform = Callable[[Tensor], Tensor]


class SplitImages(Dataset[tuple[Tensor, int]]):
    """The images of a split with their classes, in canonical order, as learn2learn loads its own benchmarks.

    Attributes:
        split: the images.
        transform: of an image, float32 [C, H, W] in [0, 1].
    """

    def __init__(self, split: ImageSplit, transform: Transform | None = None) -> None:
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = as_tensor(self.split.images[index])
        return image if self.transform is None else self.transform(image), int(self.split.labels[index])


def as_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Images [..., H, W, C] of 0 to 255 as float32 [..., C, H, W] in [0, 1], as torchvision's `ToTensor` makes them."""
    return torch.from_numpy(np.moveaxis(images, -1, -3).astype(np.float32)).div(255)


def make_taskset(
    episodes: Episodes,
    split: ImageSplit,
    *,
    support: SupportPositions = "first",
    transform: Transform | None = None,
) -> Any:
    """A `learn2learn.data.Taskset` whose task i is episode i of `episodes`; labels are positions of classes.

    `learn2learn.data.partition_task(X, y, shots=K)` gives the support set and the queries in the order of
    `Episodes.support` and `Episodes.queries`.

    Args:
        episodes: of one shape, with equally many queries of each class.
        split: that they were drawn from.
        support: where the support images of a task are; "even" for the example scripts of learn2learn.
        transform: of each image, float32 [C, H, W] in [0, 1].

    Raises:
        EpisodeError: the episodes are of another split, or have no such order.
        CodeError: learn2learn is not installed.
    """
    check_split(episodes, split)
    order = order_in_task(episodes, support)
    learn2learn = _learn2learn()
    dataset = SplitImages(split, transform)
    indexed = learn2learn.data.MetaDataset(dataset, indices_to_labels=dict(enumerate(split.labels.tolist())))
    taskset = learn2learn.data.Taskset(
        indexed, task_transforms=partial(_refuse_to_draw, len(episodes)), num_tasks=len(episodes)
    )
    images = np.concatenate([episodes.support.reshape(len(episodes), -1), episodes.queries], axis=1)[:, order]
    labels = np.concatenate([np.repeat(np.arange(episodes.way), episodes.shot), episodes.truth[0]])[order]
    loading = [[partial(_load, indexed, position)] for position in range(episodes.way)]
    positions = labels.tolist()
    for task, row in enumerate(images.tolist()):
        descriptions = []
        for index, position in zip(row, positions, strict=True):
            description = learn2learn.data.DataDescription(index)
            description.transforms = loading[position]  # one list for all images of a position
            descriptions.append(description)
        taskset.sampled_descriptions[task] = descriptions
    return taskset


def check_split(episodes: Episodes, split: ImageSplit) -> None:
    """Raise EpisodeError unless episodes were drawn from a split."""
    if episodes.dataset_fingerprint != split.dataset_fingerprint or episodes.protocol.split != split.name:
        raise EpisodeError(
            f"the episodes are of the {episodes.protocol.split} split of {episodes.protocol.dataset}, but the images "
            f"are another {split.name} split of {split.dataset}. Pass the split that the episodes were drawn from."
        )


def order_in_task(episodes: Episodes, support: SupportPositions) -> NDArray[np.int64]:
    """The order of the images of a task: positions in the support set followed by the queries, [N * (K + Q)].

    Raises:
        EpisodeError: classes differ in their number of queries, or there are too few queries to stand between the
            support images.
        ValueError: there is no such order.
    """
    way, shot, query = episodes.way, episodes.shot, episodes.protocol.query
    if episodes.query.shape[2] != query:
        raise EpisodeError(
            f"episodes of the {episodes.protocol.sampler} sampler have unequal numbers of queries per class, which "
            "learn2learn's partition_task refuses. Use the standard sampler."
        )
    supports, queries = np.arange(way * shot), way * shot + np.arange(way * query)
    if support == "first":
        rows = [supports.reshape(way, shot), queries.reshape(way, query)]
        return np.concatenate(rows, axis=1).reshape(-1)
    if support == "even":
        if query < shot:
            raise EpisodeError(
                f"with {shot} shots and {query} queries per class, support images cannot be at every other position. "
                "Use as many queries as shots, or more."
            )
        between = np.stack([supports, queries[: way * shot]], axis=1).reshape(-1)
        return np.concatenate([between, queries[way * shot :]])
    raise ValueError(f"support should be {' or '.join(get_args(SupportPositions))}, not {support!r}.")


def _load(dataset: Any, position: int, index: int) -> tuple[Any, int]:
    return dataset[index][0], position


def _refuse_to_draw(tasks: int, description: object) -> NoReturn:
    raise EpisodeError(f"this Taskset has {tasks:,} frozen episodes and draws no others. Ask for 0 to {tasks - 1:,}.")


def _learn2learn() -> Any:
    try:
        import learn2learn
    except ImportError as error:
        raise CodeError(
            "a Taskset needs the package learn2learn, which is not installed here; docs/learn2learn.md says how to "
            "build it."
        ) from error
    return learn2learn
