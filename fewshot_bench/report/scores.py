"""What several methods did on the episodes of one protocol, side by side.

The classes and images of each episode follow from what a cell records; the images themselves are not needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.sampler import draw_groups, episode_classes
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.limits import MOST_DRAWN
from fewshot_bench.outcomes import Cell, OutcomeStore, ProtocolCard
from fewshot_bench.outcomes.claimed import NO_CLASSES, SEPARATOR
from fewshot_bench.outcomes.frame import CONFIDENCE, episode_keys, padded_positions, run_and_episode
from fewshot_bench.report.trainings import Trainings, method_cell, training_seed
from fewshot_bench.statistics import (
    DataInterval,
    Overlap,
    TrainingDifference,
    all_pairs,
    calibration,
    class_overlap,
    class_recall,
    data_intervals,
    data_p_of_all_pairs,
    image_overlap,
    pairs_with_gaps,
    separate_images,
    training_difference,
    training_p_of_all_pairs,
)
from fewshot_bench.statistics.data_interval import ABSENT


@dataclass(frozen=True, eq=False)
class ClaimedClasses:
    """The classes that files claim of some episodes.

    Attributes:
        numbers: of the classes of each episode, [E, N]; None where they are not known.
        names: of the classes, by number, [C].
        why_not: why they are not known; empty where they are.
    """

    numbers: NDArray[np.int64] | None = None
    names: Sequence[str] = ()
    why_not: str = ""


_DIGITS = 12
NO_CLAIMED_CLASSES = "the classes of claimed episodes are unknown"
TOO_MANY_CLASSES = "claimed episodes have too many classes"
CONTRADICTING_CLASSES = "methods claim different classes of the same episodes"


def claimed_classes(
    rows: Sequence[NDArray[np.int64]], texts: Sequence[NDArray[np.object_]], episodes: int, way: int
) -> ClaimedClasses:
    """Put together what methods claim of the classes of some episodes.

    Args:
        rows: which of the episodes each method has, [A] of [e].
        texts: their classes as they are stored, "" where unknown, [A] of [e].
        episodes: E.
        way: N.
    """
    known = np.full(episodes, NO_CLASSES, dtype=object)
    for rows_of_method, own in zip(rows, texts, strict=True):
        so_far = known[rows_of_method]
        if ((so_far != own) & (so_far != NO_CLASSES) & (own != NO_CLASSES)).any():
            return ClaimedClasses(why_not=CONTRADICTING_CLASSES)
        known[rows_of_method] = np.where(own == NO_CLASSES, so_far, own)
    if (known == NO_CLASSES).any():
        return ClaimedClasses(why_not=NO_CLAIMED_CLASSES)
    if episodes * way > MOST_DRAWN:
        return ClaimedClasses(why_not=TOO_MANY_CLASSES)
    named = np.array([name for text in known for name in text.split(SEPARATOR)], dtype=object)
    numbers, names = pd.factorize(named, sort=True)
    return ClaimedClasses(numbers.reshape(episodes, way).astype(np.int64), tuple(names))


def classes_of_episodes(
    protocol: ProtocolCard, class_sizes: Sequence[int], run: NDArray[np.int64], episode: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The classes of some episodes.

    Args:
        protocol: what fixes the episodes.
        class_sizes: images per class of the split, in canonical order, [C].
        run: of each episode, [E].
        episode: its number within the run, [E].

    Returns:
        Class numbers, -1 where an episode has fewer, [E, N]; of a whole split the class of each image, [E, 1].

    Raises:
        EpisodeError: the sizes are not those of a split that has such episodes, or another version drew them.
    """
    classes = np.empty((len(run), 1 if protocol.is_whole else protocol.way), dtype=np.int64)
    for number in np.unique(run):
        rows = run == number
        classes[rows] = episode_classes(protocol, class_sizes, int(number), episode[rows])
    return classes


def images_of_episodes(
    protocol: ProtocolCard, class_sizes: Sequence[int], run: NDArray[np.int64], episode: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The classes and images of places episodes.

    Args:
        protocol: what fixes the episodes.
        class_sizes: images per class of the split, in canonical order, [C].
        run: of each episode, [E].
        episode: its number within the run, [E].

    Returns:
        Class numbers in ascending order, then -1 where an episode has fewer, [E, N]; and the image numbers of each
        class, then -1 where a class has fewer, [E, N, K + Q].

    Raises:
        EpisodeError: the sizes are not those of a split that has such episodes, or another version drew them.
    """
    ends, drawn = np.cumsum(class_sizes), Protocol.of(protocol)
    groups = []
    for number in np.unique(run):
        rows = np.flatnonzero(run == number)
        for places, images in draw_groups(drawn, class_sizes, int(number), episode[rows]):
            classes = np.searchsorted(ends, images[:, :, 0], side="right")
            order = np.argsort(classes, axis=1)
            in_order = np.take_along_axis(images, order[:, :, None], axis=1)
            groups.append((rows[places], np.take_along_axis(classes, order, axis=1), in_order))
    shape = [len(run), *np.max([images.shape[1:] for _, _, images in groups], axis=0)]
    every_class, every_image = np.full(shape[:2], ABSENT), np.full(shape, ABSENT)
    for rows, classes, images in groups:
        every_class[rows, : classes.shape[1]] = classes
        every_image[rows, : images.shape[1], : images.shape[2]] = images
    return every_class, every_image


@dataclass(frozen=True, eq=False)
class TaskScores:
    """The accuracies of some cells of one protocol, matched by run and episode.

    Attributes:
        cells: the methods, all on one protocol, [A].
        run: run of each episode that any of them has, [E].
        episode: its number within the run, [E].
        accuracy: fraction of queries classified correctly, NaN where a method lacks the episode, [A, E].
        seconds: what all stored episodes of each method took, NaN where it was not measured, [A].
        failed: how many episodes of each method could not be computed, [A]; empty where unknown.
        claims: the classes of each episode, where files claim them.
        class_accuracy: fraction of the queries of each class that are classified correctly, the classes in the order of
            `classes`, NaN where a method lacks the episode, [A, E, N]; None where the predictions were not read, or do
            not say it.
        trainings: of each method that has several, whose accuracies are means over them; None for the others, [A].
            Empty where none has several.
        calibration_errors: of each method on a whole split, the mean over its trainings, [A]; empty for episodes.
    """

    cells: Sequence[Cell]
    run: NDArray[np.int64]
    episode: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    seconds: NDArray[np.float64]
    failed: Sequence[int] = ()
    claims: ClaimedClasses = field(default_factory=ClaimedClasses)
    class_accuracy: NDArray[np.float32] | None = None
    trainings: Sequence[Trainings | None] = ()
    calibration_errors: Sequence[float] = ()

    @property
    def protocol(self) -> ProtocolCard:
        """That all of the cells share."""
        return self.cells[0].protocol

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """The classes of each episode, [E, N], or of each image of a whole split, [E, 1]; None where unknown."""
        return self._classes_or_why[0]

    @property
    def why_no_classes(self) -> str:
        """Why they are not known; empty where they are, or where no class sizes are recorded."""
        return self._classes_or_why[1]

    @cached_property
    def _classes_or_why(self) -> tuple[NDArray[np.int64] | None, str]:
        if self.protocol.is_claimed:
            return self.claims.numbers, self.claims.why_not
        recorded = sorted({cell.class_sizes for cell in self.cells if cell.class_sizes})
        if not recorded:
            return None, ""
        if len(recorded) > 1:
            return None, "cells disagree about the class sizes, see fewshot-bench audit"
        try:
            return classes_of_episodes(self.protocol, recorded[0], self.run, self.episode), ""
        except FewshotBenchError:
            return None, "classes of the episodes unknown, see fewshot-bench audit"

    @property
    def class_sizes(self) -> tuple[int, ...]:
        """Images of each class of the split, [C]; empty where they are not recorded."""
        return next((cell.class_sizes for cell in self.cells if cell.class_sizes), ())

    @cached_property
    def has_fixed_classes(self) -> bool:
        """Whether every episode has all classes of the split, so that only its images are a sample."""
        if self.protocol.is_whole:
            return True
        fits = len(self.class_sizes) == self.protocol.way
        return self.classes is not None and fits and bool((self.classes >= 0).all())

    def overlap(self, episodes: NDArray[np.bool_]) -> Overlap:
        """What pairs of the chosen episodes [E] share: classes, or images where the classes are fixed."""
        key = episodes.tobytes()
        if key not in self._overlaps:
            self._overlaps[key] = self._overlap(episodes)
        return self._overlaps[key]

    @cached_property
    def _overlaps(self) -> dict[bytes, Overlap]:
        return {}

    def _overlap(self, episodes: NDArray[np.bool_]) -> Overlap:
        if self.protocol.is_whole:
            return separate_images(int(episodes.sum()))
        if self.classes is None:
            why = self.why_no_classes or "the class sizes are not recorded"
            return Overlap(int(episodes.sum()), "classes and images", why_unknown=why)
        if not self.has_fixed_classes:
            return class_overlap(self.classes[episodes])
        _, images = images_of_episodes(self.protocol, self.class_sizes, self.run[episodes], self.episode[episodes])
        return image_overlap(images)

    @cached_property
    def p_of_all_pairs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """P of every pair of methods on the episodes that both have, on this split and beyond it, each [A, A].

        They are not corrected; 1 on the diagonal, NaN where a pair shares fewer than two episodes, or where the claim
        beyond the split cannot be tested. None if no pair shares two.
        """
        has_gaps = bool(np.isnan(self.accuracy).any())
        if not has_gaps and self.accuracy.shape[1] < 2:
            return None
        split = pairs_with_gaps(self.accuracy) if has_gaps else all_pairs(self.accuracy).p
        if np.isnan(split[np.triu_indices(len(split), 1)]).all():
            return None
        # An interval over classes and images is never narrower than that over episodes, but for rounding.
        return split, np.maximum(self._beyond_of_all_pairs(), split)

    @cached_property
    def corrected_pairs(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]] | None]:
        """Results of `claims_of_all_pairs` by correction, kept because correcting thousands of p takes time."""
        return {}

    def _beyond_of_all_pairs(self) -> NDArray[np.float64]:
        """P of every pair beyond the split; methods with the same episodes are taken together."""
        result = np.full((len(self.cells),) * 2, np.nan)
        patterns, of_row = np.unique(~np.isnan(self.accuracy), axis=0, return_inverse=True)
        groups = [np.flatnonzero(np.ravel(of_row) == number) for number in range(len(patterns))]
        for first, second in combinations_with_replacement(range(len(patterns)), 2):
            both = patterns[first] & patterns[second]
            if both.sum() < 2:
                continue
            rows = np.union1d(groups[first], groups[second])
            if first == second or len(rows) == 2:
                result[np.ix_(rows, rows)] = data_p_of_all_pairs(self.accuracy[np.ix_(rows, both)], self.overlap(both))
            else:
                for row in groups[first]:
                    others = groups[second]
                    differences = self.accuracy[row, both] - self.accuracy[np.ix_(others, both)]
                    result[row, others] = data_intervals(differences, self.overlap(both)).p
                    result[others, row] = result[row, others]
        np.fill_diagonal(result, 1.0)
        return result

    def has_trainings(self, *positions: int) -> bool:
        """Whether one of these methods has several trainings."""
        return bool(self.trainings) and any(self.trainings[position] is not None for position in positions)

    def training_difference(self, a: int, b: int, confidence: float = 0.95) -> TrainingDifference | None:
        """What the trainings of two methods show on common episodes; None where one of them has a single training.

        A network that no base split has trained here is given, unless it is as it was initialised at random.
        """
        both = self.pair(a, b)
        if not self.has_trainings(a, b) or not both.any():
            return None
        means = [self._means_of_trainings(position, both) for position in (a, b)]
        first, second = self.trainings[a], self.trainings[b]
        is_paired = first is not None and second is not None and first.networks == second.networks
        return training_difference(means[0], means[1], is_paired=is_paired, confidence=confidence)

    @cached_property
    def p_over_trainings(self) -> NDArray[np.float64]:
        """P of every pair of methods over their trainings, not corrected, NaN where nothing is tested, [A, A]."""
        if not np.isnan(self.accuracy).any():
            every = np.ones(self.accuracy.shape[1], dtype=bool)
            means = [self._means_of_trainings(row, every) for row in range(len(self.cells))]
            return training_p_of_all_pairs(means, [several and several.networks for several in self.trainings])
        p = np.full((len(self.cells),) * 2, np.nan)
        for a, b in combinations(range(len(self.cells)), 2):
            test = self.training_difference(a, b)
            p[a, b] = p[b, a] = math.nan if test is None else test.p
        return p

    def _means_of_trainings(self, position: int, episodes: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Mean accuracy of each training of a method, [k], or without an axis of a network that is given."""
        several, cell = self.trainings[position], self.cells[position]
        if several is not None:
            return several.means(episodes)
        mean = self.accuracy[position, episodes].mean()
        is_given = training_seed(cell.method) is None and bool(cell.provenance.get("pretraining"))
        return np.asarray(mean) if is_given else np.asarray([mean])

    def class_recall(self, position: int) -> NDArray[np.float64]:
        """Recall of a method on each class of a whole split, [C]; NaN without images, empty where classes are unknown.

        Of several trainings it is the mean over them.
        """
        own = self.of(position)
        if self.classes is None:
            return np.empty(0)
        return class_recall(self.classes[own, 0], self.accuracy[position, own], len(self.class_sizes))

    def images_without(self, episodes: NDArray[np.bool_]) -> int:
        """How many images of a whole split are not among some episodes, [E]; 0 for episodes that are drawn."""
        return max(sum(self.class_sizes) - int(episodes.sum()), 0) if self.protocol.is_whole else 0

    def of(self, position: int) -> NDArray[np.bool_]:
        """Which episodes a method has, [E]."""
        there: NDArray[np.bool_] = ~np.isnan(self.accuracy[position])
        return there

    def pair(self, a: int, b: int) -> NDArray[np.bool_]:
        """Which episodes two methods share, [E]."""
        return self.of(a) & self.of(b)


def task_scores(frames: Sequence[pd.DataFrame], cells: Sequence[Cell], failed: Sequence[int] = ()) -> TaskScores:
    """Match the episodes of some cells.

    Args:
        frames: of each cell, with the columns run, episode, accuracy and seconds; an episode counts once.
        cells: all on one protocol.
        failed: how many episodes of each could not be computed; empty where unknown.
    """
    tables = [frame.drop_duplicates(["run", "episode"]) for frame in frames]
    identities = [episode_keys(table) for table in tables]
    everything = np.unique(np.concatenate(identities))
    accuracy = np.full((len(cells), len(everything)), np.nan)
    places = [np.searchsorted(everything, identity) for identity in identities]
    for row, (table, place) in enumerate(zip(tables, places, strict=True)):
        accuracy[row, place] = table["accuracy"].to_numpy(np.float64)
    claims = ClaimedClasses()
    if cells[0].protocol.is_claimed:
        unknown = [pd.Series(NO_CLASSES, table.index) for table in tables]
        texts = [table.get("classes", none).to_numpy(object) for table, none in zip(tables, unknown, strict=True)]
        claims = claimed_classes(places, texts, len(everything), cells[0].protocol.way)
    seconds = np.array([float(table["seconds"].sum(skipna=False)) for table in tables])
    by_class = None
    if cells[0].protocol.has_even_queries and all("predictions" in table for table in tables):
        by_class = np.full((len(cells), len(everything), cells[0].protocol.way), np.nan, dtype=np.float32)
        for row, (table, place) in enumerate(zip(tables, places, strict=True)):
            by_class[row, place] = _class_accuracy(table["predictions"], cells[0].protocol)
    errors: list[float] = []
    if cells[0].protocol.is_whole:
        by_class = accuracy[:, :, None].astype(np.float32)
        errors = [_calibration_error(table) for table in tables]
    drawn = run_and_episode(everything)
    return TaskScores(list(cells), *drawn, accuracy, seconds, failed, claims, by_class, calibration_errors=errors)


def _calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error of the images of a whole split; NaN without any, or without confidences."""
    if not len(table) or CONFIDENCE not in table:
        return math.nan
    return calibration(table[CONFIDENCE].to_numpy(np.float64), table["correct"].to_numpy(np.int64)).error


def _class_accuracy(predictions: pd.Series, protocol: ProtocolCard) -> NDArray[np.float32]:
    """Fraction of the queries of each class that are classified correctly, [E, N].

    Queries come class by class, as many of each. Where an episode has fewer classes, the rest is 0.
    """
    content = padded_positions(predictions, protocol.way, protocol.way * protocol.query)
    is_right = content.reshape(-1, protocol.way, protocol.query) == np.arange(protocol.way)[:, None]
    fractions: NDArray[np.float32] = is_right.mean(axis=2, dtype=np.float32)
    return fractions


def stored_scores(store: OutcomeStore, cells: Sequence[Cell], *, by_class: bool = False) -> TaskScores:
    """Match the episodes of some stored cells.

    Args:
        store: where they are.
        cells: all on one protocol.
        by_class: read the predictions too, for what each class contributes.

    Raises:
        OutcomeError: nothing is stored for a cell, or a part is damaged.
    """
    frames = [store.read(cell, with_predictions=by_class) for cell in cells]
    failed = [sum(len(failure.episodes) for failure in store.failures(cell)) for cell in cells]
    return task_scores(frames, cells, failed)


def over_trainings(scores: TaskScores, groups: Sequence[Sequence[Cell]]) -> TaskScores:
    """The scores of methods from those of their trainings: on each episode, the mean over all trainings of a method.

    Args:
        scores: of every training.
        groups: the trainings of each method, as `trainings_of_methods` returns them, [A].

    Returns:
        The same scores in the order of the groups; a method of several trainings has the episodes that all of these
        have. Trainings without a common episode are methods of their own.
    """
    row_of = {cell.key: row for row, cell in enumerate(scores.cells)}
    rows = []
    for group in groups:
        own = [row_of[cell.key] for cell in group]
        has_common = bool((~np.isnan(scores.accuracy[own])).all(axis=0).any())
        rows += [own] if has_common else [[row] for row in own]
    if all(len(own) == 1 for own in rows) and [row for (row,) in rows] == list(range(len(scores.cells))):
        return scores
    cells = [[scores.cells[row] for row in own] for own in rows]
    # Rounded, so that equal means of other numbers count as ties.
    accuracy = np.stack([scores.accuracy[own[0]] if len(own) == 1 else _mean_of(scores.accuracy[own]) for own in rows])
    stored = (~np.isnan(scores.accuracy)).sum(axis=1)
    counts = (~np.isnan(accuracy)).sum(axis=1)
    per_episode = [scores.seconds[own].sum() / stored[own].sum() for own in rows]
    by_class = scores.class_accuracy
    return replace(
        scores,
        cells=[method_cell(group) for group in cells],
        accuracy=accuracy,
        seconds=np.array(
            [
                scores.seconds[own[0]] if len(own) == 1 else seconds * count
                for own, seconds, count in zip(rows, per_episode, counts, strict=True)
            ]
        ),
        failed=[sum(scores.failed[row] for row in own) for own in rows] if scores.failed else (),
        class_accuracy=None if by_class is None else np.stack([by_class[own].mean(axis=0) for own in rows]),
        trainings=[
            None if len(own) == 1 else Trainings(group, scores.accuracy[own])
            for own, group in zip(rows, cells, strict=True)
        ],
        calibration_errors=[float(np.mean([scores.calibration_errors[row] for row in own])) for own in rows]
        if scores.calibration_errors
        else (),
    )


def _mean_of(accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = accuracy.mean(axis=0).round(_DIGITS)
    return means


def data_intervals_of(scores: TaskScores, values: NDArray[np.float64]) -> list[DataInterval | None]:
    """95% data intervals of several rows of values on the same episodes.

    Args:
        scores: what the episodes are.
        values: accuracies or differences, NaN where an episode is lacking, [A, E].

    Returns:
        The interval of each row, [A]; None where it has no episode.
    """
    result: list[DataInterval | None] = [None] * len(values)
    patterns, of_row = np.unique(~np.isnan(values), axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows = np.flatnonzero(np.ravel(of_row) == number)
        if pattern.any():
            intervals = data_intervals(values[np.ix_(rows, pattern)], scores.overlap(pattern)).each()
            for row, interval in zip(rows, intervals, strict=True):
                result[row] = interval
    return result


def task_columns(protocol: ProtocolCard) -> dict[str, Any]:
    """What stands in the leaderboard and in records: dataset, split, size of the tasks, sampler, seed."""
    settings = ", ".join(f"{name}={value}" for name, value in sorted(protocol.sampler_settings.items()))
    return {
        "dataset": protocol.dataset,
        "split": protocol.split,
        "way": protocol.way,
        "shot": protocol.shot,
        "queries": protocol.query,
        "sampler": f"{protocol.sampler} ({settings})" if settings else protocol.sampler,
        "seed": protocol.seed,
    }
