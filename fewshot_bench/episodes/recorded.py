"""Tasks that another program drew, as episodes: their images are known, and no protocol draws them again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.sampler import Episodes
from fewshot_bench.errors import EpisodeError


@dataclass(frozen=True, eq=False, repr=False)
class RecordedEpisodes(Episodes):
    """Episodes whose images another program chose; `protocol` says only how large they are.

    Attributes:
        tasks: their name, which ends with a digest of their images: episodes of one name are the same.
    """

    tasks: str

    def __repr__(self) -> str:
        return f"<RecordedEpisodes: {self._task}, {len(self.numbers):,} of {self.tasks}>"

    @property
    def classes(self) -> NDArray[np.int64]:
        """Position of each class in the canonical order, [E, N]."""
        return np.searchsorted(np.cumsum(self.class_sizes), self.images[:, :, 0], side="right")


def recorded_episodes(
    split: ImageSplit, images: NDArray[np.int32], shot: int, name: str, numbers: Sequence[int] | None = None
) -> RecordedEpisodes:
    """Episodes of given images.

    Args:
        split: that the indices are of.
        images: image indices within the split, a row per class, support first, [E, N, K + Q].
        shot: K.
        name: of the program or file that chose the images.
        numbers: of the episodes, [E]; 0, 1, 2, ... by default.

    Raises:
        EpisodeError: there is no episode or no query, an image is not one of the split, an episode has an image twice,
            or a row holds images of several classes.
    """
    if images.ndim != 3 or not images.size or not 1 <= shot < images.shape[2]:
        raise EpisodeError(
            f"tasks of {name} should be images [episodes, way, shots and queries] with at least one query per class, "
            f"not {list(images.shape)} with {shot} shots."
        )
    if int(images.min()) < 0 or int(images.max()) >= len(split):
        raise EpisodeError(f"tasks of {name} name images that the {len(split):,} of {split.dataset} do not have.")
    chosen = np.arange(len(images)) if numbers is None else np.asarray(numbers, dtype=np.int64)
    classes = split.labels[images]
    flat = np.sort(images.reshape(len(images), -1), axis=1)
    for finding, is_wrong in (
        ("uses an image twice", (flat[:, 1:] == flat[:, :-1]).any(axis=1)),
        ("has images of several classes in one", (classes != classes[:, :, :1]).any(axis=(1, 2))),
        ("has a class twice", (np.diff(np.sort(classes[:, :, 0], axis=1), axis=1) == 0).any(axis=1)),
    ):
        if is_wrong.any():
            raise EpisodeError(f"task {int(chosen[int(np.argmax(is_wrong))])} of {name} {finding}.")
    digest = hashlib.sha256(f"{split.fingerprint} {images.shape} {shot}\n".encode())
    digest.update(np.ascontiguousarray(chosen, "<i8").data)
    digest.update(np.ascontiguousarray(images, "<i4").data)
    _, way, per_class = images.shape
    protocol = Protocol(split.dataset, split.name, way, shot, per_class - shot, episodes=len(images), runs=1)
    return RecordedEpisodes(
        protocol,
        split.dataset_fingerprint,
        0,
        chosen,
        np.ascontiguousarray(images, np.int32),
        f"{name} {digest.hexdigest()[:8]}",
        class_names=split.class_names,
        class_sizes=split.class_sizes,
        split=split,
    )
