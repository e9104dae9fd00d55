"""One episode: its classes, its images with their labels, and its picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot_bench._io.notebooks import html_facts, shortened
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.episodes.contact_sheet import contact_sheet
from fewshot_bench.errors import EpisodeError


@dataclass(frozen=True, eq=False, repr=False)
class Episode:
    """A task: learn its classes from the support set, then classify the queries.

    Attributes:
        task: dataset, way and shot, in words.
        run: number of the run, from 0.
        number: of the episode within its run.
        support: image indices within the split, a row per class, [N, K].
        queries: image indices of the queries, class by class, [M].
        truth: position of the class of each query within the episode, [M].
        rows: images per class, support first, as in `Episodes.images`, [N, K + Q].
        split: that the images are of; None for episodes that were drawn without images.

    >>> import fewshot_bench as fb
    >>> novel = fb.open_dataset("glyphs").novel
    >>> episode = fb.sample_episodes(novel, fb.Protocol("glyphs", way=3, shot=2, query=2))[0]
    >>> episode
    <Episode 0 of run 0: glyphs 3-way 2-shot, 6 queries>
    >>> episode.support.shape, episode.truth
    ((3, 2), array([0, 0, 1, 1, 2, 2], dtype=uint8))
    """

    task: str
    run: int
    number: int
    support: NDArray[np.int32]
    queries: NDArray[np.int32]
    truth: NDArray[Any]
    rows: NDArray[np.int32]
    split: ImageSplit | None = None

    @property
    def way(self) -> int:
        """N."""
        return len(self.support)

    @property
    def shot(self) -> int:
        """K."""
        return int(self.support.shape[1])

    @property
    def images(self) -> NDArray[np.uint8]:
        """Pixels of the support set class by class, then of the queries, uint8 [N * K + M, H, W, C].

        Raises:
            EpisodeError: the episode was drawn without images.
        """
        pixels: NDArray[np.uint8] = self._split.images[np.concatenate([self.support.ravel(), self.queries])]
        return pixels

    @property
    def labels(self) -> NDArray[np.int64]:
        """Position of the class of each of `images` within the episode, [N * K + M]."""
        return np.concatenate([np.repeat(np.arange(self.way), self.shot), self.truth.astype(np.int64)])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by their position, [N]; of a whole split, all of its classes.

        Raises:
            EpisodeError: the episode was drawn without images.
        """
        if not self.shot:
            return self._split.class_names
        return tuple(self._split.class_of(int(row[0])) for row in self.rows)

    def contact_sheet(self) -> Image.Image:
        """The episode as a picture: a row per class, support on the left, queries on the right.

        Raises:
            EpisodeError: the episode was drawn without images.
        """
        return contact_sheet(self._split, self.rows, self.shot)

    @property
    def _split(self) -> ImageSplit:
        if self.split is None:
            raise EpisodeError("these episodes were drawn without images. Use sample_episodes with an image split.")
        return self.split

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Episode):
            return NotImplemented
        return self._identity == other._identity and np.array_equal(self.rows, other.rows)

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        return self.task, self.run, self.number, self.shot, self.split

    def __repr__(self) -> str:
        queries = f"{len(self.queries):,} quer{'y' if len(self.queries) == 1 else 'ies'}"
        return f"<Episode {self.number:,} of run {self.run}: {self.task}, {queries}>"

    def _repr_html_(self) -> str:
        facts = {"task": self.task, "support": self.support.size, "queries": len(self.queries)}
        names = {} if self.split is None else {"classes": shortened(self.class_names, 10)}
        return html_facts(f"Episode {self.number:,} of run {self.run}", facts | names)
