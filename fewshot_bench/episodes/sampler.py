"""Drawing episodes as a pure function of dataset name, split, seed, run and episode number, by any sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from fewshot_bench._io.notebooks import html_facts
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.arrays import as_array, checked_position, checked_positions, is_position
from fewshot_bench.datasets.dataset import ImageSplit, SplitName
from fewshot_bench.episodes.episode import Episode
from fewshot_bench.episodes.protocol import SAMPLERS_DEFAULT, Protocol, ProtocolFields
from fewshot_bench.episodes.samplers import (
    check_sizes,
    cut,
    dirichlet_episodes,
    disjoint_run,
    random_key,
    sample_classes,
    sample_indices,
    shapes,
)
from fewshot_bench.errors import EpisodeError
from fewshot_bench.limits import MOST_DRAWN, MOST_EPISODES, MOST_RUNS, task_size

if TYPE_CHECKING:
    from typing_extensions import Self


def draw_groups(
    protocol: Protocol,
    class_sizes: Sequence[int],
    run: int,
    numbers: NDArray[np.int64],
    class_names: Sequence[str] | None = None,
) -> list[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """Draw the image indices of episodes, those of one shape together; arguments and errors as for `draw`.

    Returns:
        For each group the positions of its episodes among `numbers`, and their `Episodes.images`; for the whole
        sampler only the image, int32 [E, 1, 1].
    """
    sizes = _checked(protocol, class_sizes, class_names)
    if protocol.sampler == "whole":
        return [(np.arange(len(numbers)), _whole(protocol, sizes, run, numbers)[:, None, None])]
    size = task_size(protocol.way, protocol.shot, protocol.query, protocol.sampler)
    if len(numbers) * size > MOST_DRAWN:
        raise EpisodeError(
            f"{len(numbers):,} episodes of {size:,} images each are too many to draw at once: at most "
            f"{MOST_DRAWN // size:,} of them are possible."
        )
    everything = np.arange(len(numbers))
    if protocol.sampler == "disjoint":
        return [(everything, _disjoint(protocol, class_sizes, run, numbers))]
    if protocol.sampler == "dirichlet":
        return [(everything, dirichlet_episodes(sizes, protocol, run, numbers))]
    images = sample_indices(
        class_sizes,
        dataset=protocol.dataset,
        split=protocol.split,
        way=protocol.way,
        shot=protocol.shot,
        query=protocol.query,
        seed=protocol.seed,
        run=run,
        numbers=numbers,
    )
    if protocol.sampler == "standard":
        return [(everything, images)]
    found, member = np.unique(shapes(protocol, run, numbers), axis=0, return_inverse=True)
    groups = [np.flatnonzero(member.reshape(-1) == number) for number in range(len(found))]
    cuts = [cut(images[rows], way, shot, protocol.shot) for rows, (way, shot) in zip(groups, found, strict=True)]
    return list(zip(groups, cuts, strict=True)) or [(everything, images)]


def episode_classes(
    fields: ProtocolFields, class_sizes: Sequence[int], run: int, numbers: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The classes of episodes, without drawing images where possible; arguments and errors as for `draw`.

    Returns:
        Position of each class in the canonical order, [E, N], beginning with class 0 of the predictions; -1 where the
        sampler varies the way and an episode has fewer classes. Every episode of the whole sampler has all classes, so
        only the class of its image is returned, [E, 1].
    """
    protocol = fields if isinstance(fields, Protocol) else Protocol.of(fields)
    sizes = _checked(protocol, class_sizes)
    if protocol.sampler == "whole":
        return _classes_of(sizes, _whole(protocol, sizes, run, numbers))[:, None]
    if protocol.sampler == "disjoint":
        images = _disjoint(protocol, class_sizes, run, numbers)
        return np.searchsorted(np.cumsum(sizes), images[:, :, 0], side="right")
    key = random_key(protocol.dataset, protocol.split, protocol.seed)
    classes = sample_classes(len(sizes), key, protocol.way, run, numbers)
    if protocol.sampler == "varied":
        classes[np.arange(protocol.way) >= shapes(protocol, run, numbers)[:, :1]] = -1
    return classes


def resolved_protocol(
    protocol: Protocol, class_sizes: Sequence[int], class_names: Sequence[str] | None = None
) -> Protocol:
    """The protocol with its number of episodes, which the class sizes [C] decide for disjoint tasks and whole splits.

    Raises:
        EpisodeError: it asks for more than there are, or the split has too few classes or images.
    """
    sizes = _checked(protocol, class_sizes, class_names)
    if protocol.sampler not in ("disjoint", "whole"):
        return protocol
    if protocol.sampler == "whole":
        available = int(sizes.sum())
    else:
        available = len(disjoint_run(tuple(class_sizes), _without_count(protocol)))
    if protocol.episodes == SAMPLERS_DEFAULT:
        return replace(protocol, episodes=available)
    if protocol.episodes > available:
        raise EpisodeError(_too_many(protocol, available, f"{protocol.episodes:,} were asked for"))
    return protocol


def _disjoint(
    protocol: Protocol, class_sizes: Sequence[int], run: int, numbers: NDArray[np.int64]
) -> NDArray[np.int32]:
    drawn = disjoint_run(tuple(class_sizes), _without_count(protocol))
    if run != 0:
        raise EpisodeError(f"disjoint tasks use the images of a split once: there is run 0 of them, and no run {run}.")
    if len(numbers) and int(numbers.max()) >= len(drawn):
        raise EpisodeError(_too_many(protocol, len(drawn), f"there is no episode {int(numbers.max()):,}"))
    return drawn[numbers]


def _whole(protocol: Protocol, sizes: NDArray[np.int64], run: int, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
    """The image of each episode, [E]."""
    if run != 0:
        raise EpisodeError(f"a whole split has one run, run 0; there is no run {run}.")
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < int(sizes.sum()):
        outside = int(numbers.min()) if int(numbers.min()) < 0 else int(numbers.max())
        raise EpisodeError(_too_many(protocol, int(sizes.sum()), f"there is no image {outside:,}"))
    return numbers.astype(np.int32)


def _classes_of(sizes: NDArray[np.int64], images: NDArray[np.int32]) -> NDArray[np.int64]:
    """The class of each image, [E]."""
    return np.searchsorted(np.cumsum(sizes), images, side="right")


def _too_many(protocol: Protocol, available: int, finding: str) -> str:
    if protocol.sampler == "whole":
        return f"the {protocol.split} split of {protocol.dataset} has {available:,} images; {finding}."
    return (
        f"the {protocol.split} split of {protocol.dataset} has images for {available:,} disjoint episodes of "
        f"{protocol.way} classes, {protocol.shot} shots and {protocol.query} queries; {finding}. "
        f"Use --episodes {available} or fewer, or leave it out."
    )


def _without_count(protocol: Protocol) -> Protocol:
    """The protocol without its number of episodes, so that a cached run is found again."""
    return replace(protocol, episodes=SAMPLERS_DEFAULT)


def _checked(
    protocol: Protocol, class_sizes: Sequence[int], class_names: Sequence[str] | None = None
) -> NDArray[np.int64]:
    sizes = np.asarray(class_sizes, dtype=np.int64)
    way, shot, query = protocol.way, protocol.shot, protocol.query
    if protocol.sampler == "whole":
        _check_whole(protocol, sizes)
        return sizes
    check_sizes(sizes, protocol.dataset, protocol.split, way, shot, query, class_names)
    return sizes


def _check_whole(protocol: Protocol, sizes: NDArray[np.int64]) -> None:
    split = f"the {protocol.split} split of {protocol.dataset}"
    if len(sizes) < 2:
        raise EpisodeError(f"{split} has one class; classification needs two or more.")
    if protocol.way != len(sizes):
        raise EpisodeError(
            f"{split} has {len(sizes):,} classes, and the whole sampler classifies among all of them; its way is "
            f"{len(sizes):,}, not {protocol.way:,}."
        )
    if sizes.sum() > MOST_EPISODES:
        raise EpisodeError(f"{split} has {sizes.sum():,} images; a whole split has at most {MOST_EPISODES:,}.")


def whole_protocol(dataset: str, split: SplitName, class_sizes: Sequence[int]) -> Protocol:
    """The protocol of every image of a split, from its images per class, [C].

    >>> whole_protocol("mine", "test", (2, 3))
    Protocol(dataset='mine', split='test', way=2, shot=0, query=1, episodes=5, runs=1, sampler='whole')
    """
    return resolved_protocol(Protocol(dataset, split, len(class_sizes), 0, 1, sampler="whole"), class_sizes)


@dataclass(frozen=True, eq=False, repr=False)
class Episodes:
    """Some episodes of one run, all of one shape.

    `episodes[3]` is one `Episode`, `episodes[2:5]` are some of them, and a loop goes over all. Two are equal if they
    are the same tasks.

    Attributes:
        protocol: the protocol they belong to.
        dataset_fingerprint: fingerprint of the dataset they index.
        run: number of the run, from 0.
        numbers: which episodes of the run, [E].
        images: image indices within the split, a row per class, support first, int32 [E, N, K + Q]; where the classes
            have different numbers of queries, [E, N, K + N * Q] with -1 after the last query of a class.
        class_names: of the split, in canonical order, [C]; empty if they are unknown.
        class_sizes: images of each class of the split, [C]; empty if they are unknown.
        split: that the images are of; None for episodes that were drawn without images.

    >>> import fewshot_bench as fb
    >>> novel = fb.open_dataset("glyphs").novel
    >>> episodes = fb.sample_episodes(novel, fb.Protocol("glyphs", shot=5, query=15, episodes=100))
    >>> episodes
    <Episodes: glyphs 5-way 5-shot, 100 of run 0>
    >>> episodes.support.shape, episodes.queries.shape
    ((100, 5, 5), (100, 75))
    >>> episodes[:10]
    <Episodes: glyphs 5-way 5-shot, 10 of run 0>
    """

    protocol: Protocol
    dataset_fingerprint: str
    run: int
    numbers: NDArray[np.int64]
    images: NDArray[np.int32]
    class_names: tuple[str, ...] = field(default=(), kw_only=True)
    class_sizes: tuple[int, ...] = field(default=(), kw_only=True)
    split: ImageSplit | None = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        return f"<Episodes: {self._task}, {len(self.numbers):,} of run {self.run}>"

    def _repr_html_(self) -> str:
        facts = {"task": self._task, "queries per class": self.protocol.query, "episodes": len(self), "run": self.run}
        return html_facts(type(self).__name__, facts | {"sampler": self.protocol.sampler, "seed": self.protocol.seed})

    @property
    def _task(self) -> str:
        return f"{self.protocol.dataset} {self.way}-way {self.shot}-shot"

    __array_ufunc__ = None  # so that == with an array is False, and not asked of each element

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Episodes) or type(other) is not type(self):
            return NotImplemented
        pairs = ((self.numbers, other.numbers), (self.images, other.images))
        return self._identity == other._identity and all(np.array_equal(*pair) for pair in pairs)

    def __hash__(self) -> int:
        return hash((*self._identity, len(self)))

    @property
    def _identity(self) -> tuple[object, ...]:
        return self.protocol, self.dataset_fingerprint, self.run

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> Episode: ...
    @overload
    def __getitem__(self, key: slice | Sequence[int] | NDArray[np.integer[Any] | np.bool_]) -> Self: ...
    def __getitem__(self, key: Any) -> Episode | Self:
        if not is_position(key):
            return self._some(checked_positions(key, len(self), repr(self)))
        row = checked_position(key, len(self), repr(self))
        some = self._some(slice(row, row + 1))
        return Episode(
            self._task,
            self.run,
            int(self.numbers[row]),
            some.support[0],
            some.queries[0],
            some.truth[0],
            self.images[row],
            self.split,
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self[row] for row in range(len(self)))

    def _some(self, rows: slice | NDArray[Any]) -> Self:
        return replace(self, numbers=self.numbers[rows], images=self.images[rows])

    @property
    def way(self) -> int:
        """N of these episodes."""
        return int(self.images.shape[1])

    @property
    def shot(self) -> int:
        """K of these episodes."""
        return int(self.images.shape[2]) - self.protocol.query_columns

    @property
    def support(self) -> NDArray[np.int32]:
        """Image indices of the support sets, [E, N, K]."""
        return self.images[:, :, : self.shot]

    @property
    def query(self) -> NDArray[np.int32]:
        """Image indices of the queries by class, [E, N, Q]; [E, N, N * Q] with -1 where classes have fewer."""
        return self.images[:, :, self.shot :]

    @property
    def queries(self) -> NDArray[np.int32]:
        """Image indices of the queries alone, class by class, [E, M] with M = N * Q."""
        return self.query[self.query >= 0].reshape(len(self), self.way * self.protocol.query)

    @property
    def truth(self) -> NDArray[Any]:
        """Position of the true class of each of the queries, in the smallest type for the protocol's N, [E, M]."""
        positions = np.nonzero(self.query >= 0)[1]
        kind = np.min_scalar_type(max(1, self.protocol.way) - 1)  # uint8 up to 256 classes
        return positions.astype(kind).reshape(len(self), self.way * self.protocol.query)

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, eq=False, repr=False)
class WholeEpisodes(Episodes):
    """Images of a whole split, each an episode of one query without a support set.

    Attributes:
        images: the image of each episode, int32 [E, 1, 1]: an array [E, N, 1] would be mostly empty, and take 200 MB
            for the validation images of ImageNet.
        labels: class of each image, [E].
    """

    labels: NDArray[np.int64]

    def __repr__(self) -> str:
        return f"<WholeEpisodes: {len(self):,} images of the {self.protocol.split} split of {self.protocol.dataset}>"

    def _some(self, rows: slice | NDArray[Any]) -> Self:
        return replace(self, numbers=self.numbers[rows], images=self.images[rows], labels=self.labels[rows])

    @property
    def support(self) -> NDArray[np.int32]:
        """Without any image, [E, C, 0]."""
        return np.empty((len(self), self.way, 0), np.int32)

    @property
    def way(self) -> int:
        """C, the classes of the split."""
        return self.protocol.way

    @property
    def queries(self) -> NDArray[np.int32]:
        """The image of each episode, [E, 1]."""
        return self.images[:, 0]

    @property
    def truth(self) -> NDArray[Any]:
        """Class of each image, in the smallest type for C classes, [E, 1]."""
        return self.labels[:, None].astype(np.min_scalar_type(self.way - 1))


@checked_arguments
def sample_episodes(
    split: ImageSplit,
    protocol: Protocol,
    run: int = 0,
    numbers: Sequence[int] | NDArray[np.int64] | None = None,
) -> Episodes:
    """Draw episodes of one run of a protocol whose episodes have one shape; arguments as for `sample_by_shape`.

    Raises:
        EpisodeError: the protocol is for another split, the split has too few classes or images, or the episodes
            differ in way or shot.

    >>> import fewshot_bench as fb
    >>> novel = fb.open_dataset("glyphs").novel
    >>> protocol = fb.Protocol("glyphs", shot=5, episodes=100)
    >>> episodes = fb.sample_episodes(novel, protocol, run=2)
    >>> episodes
    <Episodes: glyphs 5-way 5-shot, 100 of run 2>
    >>> fb.sample_episodes(novel, protocol, run=2, numbers=[7]) == episodes[7:8]
    True
    """
    groups = sample_by_shape(split, protocol, run, numbers)
    if len(groups) > 1:
        raise EpisodeError(
            f"episodes of the {protocol.sampler} sampler differ in way and shot and do not fit into one array. "
            "Use sample_by_shape, which gives those of each shape."
        )
    return groups[0]


@checked_arguments
def sample_by_shape(
    split: ImageSplit,
    protocol: Protocol,
    run: int = 0,
    numbers: Sequence[int] | NDArray[np.int64] | None = None,
) -> list[Episodes]:
    """Draw episodes of one run of a protocol from a split, those of the same way and shot together.

    Args:
        split: the images; its dataset and split names are part of the random key.
        protocol: way, shot, query, seed and sampler.
        run: number of the run, from 0.
        numbers: which episodes, [E]; all of the protocol's by default.

    Returns:
        One group, or several sorted by way and shot where the sampler varies them; each in the order of `numbers`.

    Raises:
        EpisodeError: the protocol is for another split, or the split has too few classes or images.

    >>> import fewshot_bench as fb
    >>> novel = fb.open_dataset("glyphs").novel
    >>> varied = fb.Protocol("glyphs", way=3, shot=2, query=5, episodes=20, sampler="varied")
    >>> [(group.way, group.shot, len(group)) for group in fb.sample_by_shape(novel, varied)]
    [(2, 1, 9), (2, 2, 6), (3, 1, 5)]
    """
    if (protocol.dataset, protocol.split) != (split.dataset, split.name):
        raise EpisodeError(
            f"the protocol is for the {protocol.split} split of {protocol.dataset}, but the images are the "
            f"{split.name} split of {split.dataset}."
        )
    if numbers is None:
        numbers = np.arange(resolved_protocol(protocol, split.class_sizes, split.class_names).episodes)
    chosen = _checked_numbers(numbers, run)
    groups = draw(
        protocol, split.class_sizes, run, chosen, split.class_names, dataset_fingerprint=split.dataset_fingerprint
    )
    return [replace(group, split=split) for group in groups]


def _checked_numbers(numbers: object, run: int) -> NDArray[np.int64]:
    """Numbers of episodes, [E]; raises EpisodeError for others, and for a negative run."""
    array = as_array(numbers)
    if array.ndim != 1 or (array.size and (array.dtype.kind not in "iu" or int(array.min()) < 0)):
        raise EpisodeError(f"numbers of episodes should be whole numbers from 0, [E], not {numbers!r:.40}.")
    if not 0 <= run < MOST_RUNS:
        raise EpisodeError(f"runs are numbered from 0 to {MOST_RUNS - 1:,}; there is no run {run!r:.40}.")
    return array.astype(np.int64)


def draw(
    protocol: Protocol,
    class_sizes: Sequence[int],
    run: int,
    numbers: NDArray[np.int64],
    class_names: Sequence[str] | None = None,
    *,
    dataset_fingerprint: str = "",
) -> list[Episodes]:
    """Draw episodes from the class sizes alone, without images.

    Args:
        protocol: way, shot, query, seed and sampler.
        class_sizes: images per class, in canonical order, [C].
        run: number of the run, from 0.
        numbers: which episodes, [E].
        class_names: names for error messages, [C].
        dataset_fingerprint: of the dataset that the indices are for.

    Returns:
        One group per shape, as `sample_by_shape`.

    Raises:
        EpisodeError: the split has too few classes or images, or not that many episodes.
    """
    groups = draw_groups(protocol, class_sizes, run, numbers, class_names)
    known = (protocol, dataset_fingerprint, run)
    names, sizes = tuple(class_names or ()), tuple(map(int, class_sizes))
    if protocol.sampler == "whole":
        classes = _classes_of(np.asarray(class_sizes, np.int64), numbers.astype(np.int32))
        return [
            WholeEpisodes(*known, numbers, images, classes, class_names=names, class_sizes=sizes)
            for _, images in groups
        ]
    return [Episodes(*known, numbers[rows], images, class_names=names, class_sizes=sizes) for rows, images in groups]
