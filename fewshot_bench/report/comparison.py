"""Is method A better than method B, on the same episodes, and by how much? And which classes carry the difference?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from shlex import quote
from typing import Protocol as Interface
from typing import runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench._io.notebooks import html_facts
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.arrays import as_array
from fewshot_bench.datasets.official_splits import official_class_sizes
from fewshot_bench.errors import ComparisonError
from fewshot_bench.outcomes import Outcomes, ProtocolCard, marked
from fewshot_bench.report.by_seed import BySeed, by_seed
from fewshot_bench.report.names import CLAIMED_FLAG, shown_names
from fewshot_bench.report.scores import TaskScores, task_scores
from fewshot_bench.report.trainings import training_seed
from fewshot_bench.report.verdicts import NOTHING_SHOWN, headline, p_equation, p_of_both, verdict
from fewshot_bench.statistics import (
    DataInterval,
    Overlap,
    PairedComparison,
    PairedTest,
    TrainingDifference,
    accuracies_as_fractions,
    class_overlap,
    compare_pairs,
    data_intervals,
)

_FEW = 6
"""Few classes carry a difference where fewer than one in so many would, if all of these contributed alike."""
_OFFICIAL = ("cifar-fs", "fc100", "mini-imagenet", "tiered-imagenet")


@dataclass(frozen=True, eq=False)
class ClassDifferences:
    """Two methods class by class; the mean over the places of classes in episodes is the difference of the methods.

    Attributes:
        names: of the classes that occur, [C].
        accuracy_a: of A on the queries of each class (as a fraction), [C].
        accuracy_b: of B, [C].
        half_widths: of the 95% t intervals of the differences over the episodes that have the class, [C].
        episodes: how many episodes have the class, [C].
    """

    names: Sequence[str]
    accuracy_a: NDArray[np.float64]
    accuracy_b: NDArray[np.float64]
    half_widths: NDArray[np.float64]
    episodes: NDArray[np.int64]

    @property
    def differences(self) -> NDArray[np.float64]:
        """A - B, [C]."""
        return self.accuracy_a - self.accuracy_b

    @property
    def effective_number(self) -> float:
        """As many classes with equal differences would be as uneven: (sum of d^2)^2 / (sum of d^4); NaN without any."""
        squares = self.differences**2
        return float(squares.sum() ** 2 / (squares**2).sum()) if squares.any() else math.nan

    @property
    def order(self) -> NDArray[np.int64]:
        """Positions of the classes, the largest differences first."""
        return np.argsort(-np.abs(self.differences), kind="stable")

    @property
    def carrying(self) -> list[int]:
        """Positions of the few classes that carry the difference, the largest first; empty where many do."""
        count = self.effective_number
        if not count < len(self.names) / _FEW:
            return []
        return [int(position) for position in self.order[: math.ceil(count)]]

    @property
    def warning(self) -> str:
        """Which few classes carry the difference, and what that means; empty where many do."""
        few = self.carrying
        if not few:
            return ""
        named = ", ".join(f"{self.names[number]} {100 * self.differences[number]:+.1f}" for number in few)
        return (
            f"{len(few)} of {len(self.names)} classes carry{'s' if len(few) == 1 else ''} most of this difference "
            f"({named} points); with so few, intervals over classes cover less than they state"
        )


def class_differences(scores: TaskScores, a: int, b: int) -> ClassDifferences | None:
    """Compare the methods at positions `a` and `b` class by class on common episodes; None where unknown."""
    both = scores.pair(a, b)
    if scores.classes is None or scores.class_accuracy is None or not both.any():
        return None
    labels = scores.classes[both]
    first, second = (scores.class_accuracy[row, both].astype(np.float64) for row in (a, b))
    numbers, means, half_widths, episodes = _by_class(labels, first - second, first, second)
    return ClassDifferences(_names_of_classes(scores, numbers), means[1], means[2], half_widths, episodes)


def class_accuracies(scores: TaskScores, position: int) -> pd.DataFrame | None:
    """The accuracy of one method on the queries of each class, in canonical order; None where it is unknown.

    Args:
        scores: of methods whose predictions were read.
        position: of the method.

    Returns:
        Columns class, accuracy (a fraction), ci95 (half-width of the 95% t interval over the episodes that have the
        class) and episodes.
    """
    own = scores.of(position)
    if scores.classes is None or scores.class_accuracy is None or not own.any():
        return None
    accuracy = scores.class_accuracy[position, own].astype(np.float64)
    numbers, means, half_widths, episodes = _by_class(scores.classes[own], accuracy)
    names = _names_of_classes(scores, numbers)
    return pd.DataFrame({"class": names, "accuracy": means[0], "ci95": half_widths, "episodes": episodes})


def _by_class(
    labels: NDArray[np.int64], *values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], list[NDArray[np.float64]], NDArray[np.float64], NDArray[np.int64]]:
    """Means of values [E, N] over the episodes of each class by its label [E, N], -1 where an episode has fewer.

    Returns:
        The classes, [C]; the mean of each of the values, [C]; half-widths of the 95% t intervals of the first, [C];
        how many episodes have each class, [C].
    """
    present = labels >= 0
    numbers, member = np.unique(labels[present], return_inverse=True)
    episodes = np.bincount(member)
    means = [np.bincount(member, value[present]) / episodes for value in values]
    squares = np.bincount(member, (values[0][present] - means[0][member]) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        half_widths = stats.t.ppf(0.975, episodes - 1) * np.sqrt(squares / (episodes - 1) / episodes)
    return numbers, means, half_widths, episodes


def _names_of_classes(scores: TaskScores, numbers: NDArray[np.int64]) -> list[str]:
    names = class_names_of(scores)
    return [names[number] if number < len(names) else f"class {number}" for number in numbers.tolist()]


def class_names_of(scores: TaskScores) -> Sequence[str]:
    """Names of the classes by number, [C]: as recorded, or those of the official split; empty where unknown."""
    if scores.protocol.is_claimed:
        return scores.claims.names
    for cell in scores.cells:
        if cell.class_names and len(cell.class_names) == len(cell.class_sizes):
            return cell.class_names
    card = scores.protocol
    if card.dataset not in _OFFICIAL:
        return ()
    official = {str(split): sizes for split, sizes in official_class_sizes(card.dataset).items()}.get(card.split, {})
    recorded = {cell.class_sizes for cell in scores.cells if cell.class_sizes}
    return tuple(official) if recorded == {tuple(official.values())} else ()


FEWEST_PAIRS = 2


@dataclass(frozen=True, repr=False)
class Comparison:
    """The paired comparison of two methods.

    Attributes:
        a: name of one method.
        b: name of the other.
        protocol: that both were run on; None for arrays of accuracies, whose episodes are claimed to be the same.
        paired: what the accuracies (as fractions) on the common episodes show.
        data: the interval of the mean difference that covers classes and images too, with its p.
        confidence: of both intervals.
        left_out_of_a: episodes of A that B has not seen.
        left_out_of_b: episodes of B that A has not seen.
        p_corrected: p of the t-test over episodes, corrected for the number of tests that were made together.
        p_beyond_corrected: p over classes and images, corrected over the same family; NaN where it is unknown.
        by_class: the difference class by class; None where it is unknown or was not asked for.
        is_a_transductive: whether A sees all queries of an episode at once.
        is_b_transductive: whether B does.
        training: the difference over the trainings of both; None where A or B has a single one.
        p_training_corrected: its p, corrected over the same family; NaN where it is unknown.
        trainings: of A and of B; 0 of a method that is not trained here.
        by_seed: tests paired by training seed on a whole split; None for episodes.
        images_left_out: images of a whole split that are not stored for both; 0 for episodes.

    >>> import fewshot_bench as fb
    >>> ours, theirs = [0.71, 0.64, 0.68, 0.73], [0.68, 0.61, 0.67, 0.70]
    >>> comparison = fb.compare(ours, theirs, classes=[[0, 1], [0, 2], [1, 2], [0, 1]])
    >>> comparison.test.wins, round(comparison.test.p, 3)
    (4, 0.015)
    >>> f"{comparison.data.mean:.3f}, {comparison.data.low:.3f} to {comparison.data.high:.3f}"
    '0.025, -0.027 to 0.080'
    """

    a: str
    b: str
    protocol: ProtocolCard | None
    paired: PairedComparison
    data: DataInterval
    confidence: float = 0.95
    left_out_of_a: int = 0
    left_out_of_b: int = 0
    p_corrected: float = math.nan
    p_beyond_corrected: float = math.nan
    by_class: ClassDifferences | None = field(default=None, compare=False)
    is_a_transductive: bool = False
    is_b_transductive: bool = False
    training: TrainingDifference | None = None
    p_training_corrected: float = math.nan
    trainings: tuple[int, int] = (0, 0)
    by_seed: BySeed | None = None
    images_left_out: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the episodes are the images of a whole split."""
        return self.protocol is not None and self.protocol.is_whole

    @property
    def shown_a(self) -> str:
        """The name of A as people should read it: a transductive method says so."""
        return marked(self.a, self.is_a_transductive)

    @property
    def shown_b(self) -> str:
        """The name of B as people should read it."""
        return marked(self.b, self.is_b_transductive)

    @property
    def is_across(self) -> bool:
        """Whether one of the two is transductive and the other is not."""
        return self.is_a_transductive != self.is_b_transductive

    @property
    def test(self) -> PairedTest:
        """The paired t-test, with the mean difference and its interval over episodes."""
        return self.paired.test

    @property
    def verdict(self) -> str:
        """What the corrected tests show, in words; see `fewshot_bench.report.verdicts.verdict`."""
        return verdict(
            self.test.mean_difference,
            self.p_corrected,
            self.p_beyond_corrected,
            self.data.covers,
            p_training=self.p_training_corrected,
            has_trainings=max(self.trainings) > 1,
        )

    @property
    def training_sentence(self) -> str:
        """Which interval covers a new training, or that none does; empty where neither is trained on a base split."""
        if not any(self.trainings):
            return ""
        if self.training is None:
            return f"No interval covers a new training: {self._why_no_training}."
        ends = f"{100 * self.training.low:+.2f} to {100 * self.training.high:+.2f}"
        p = "" if math.isnan(self.p_training_corrected) else f"{p_equation(self.p_training_corrected)}, "
        return f"The interval over trainings, {ends} ({p}{self._how_over_trainings} The others are of these trainings."

    @property
    def _why_no_training(self) -> str:
        """The reason why an interval over trainings is missing."""
        if self.trainings == (1, 1):
            return "each method has one training"
        untrained = "is not trained here" if self.is_whole else "has no training on a base split"
        single = [
            f"{name} has one training" if number else f"{name} {untrained}"
            for name, number in zip((self.shown_a, self.shown_b), self.trainings, strict=True)
            if number < 2
        ]
        return " and ".join(single)

    @property
    def _how_over_trainings(self) -> str:
        """How the interval over trainings is made, and what it covers."""
        a, b = self.trainings
        if not (a and b):
            trained, given = (self.shown_a, self.shown_b) if a else (self.shown_b, self.shown_a)
            return f"{max(a, b)} trainings), covers a new training of {trained}; {given} is a network that is given."
        if self.training is not None and self.training.is_paired:
            return f"{a} trainings, the same networks in both), covers a new network, on {self._these_episodes}."
        return f"Welch, {a} and {b} trainings), covers new trainings of both, on {self._these_episodes}."

    @property
    def _these_episodes(self) -> str:
        return "these test images" if self.is_whole else "these episodes"

    @property
    def level(self) -> str:
        """What the intervals are: "95%", or "simultaneous 95%" where all of a family hold together."""
        return "95%" if self.confidence == 0.95 else "simultaneous 95%"

    @property
    def few_classes(self) -> str:
        """Which few classes carry a difference that is shown on this split; empty where many do, or it is unknown.

        It warns of intervals over classes, so it is empty where the classes are fixed.
        """
        is_over_classes = self.data.covers == "classes and images"
        is_shown = self.verdict != NOTHING_SHOWN
        return self.by_class.warning if self.by_class is not None and is_over_classes and is_shown else ""

    @property
    def headline(self) -> str:
        """The difference with its intervals and the verdict, in one sentence."""
        data = self.data
        in_points = replace(data, mean=100 * data.mean, low=100 * data.low, high=100 * data.high)
        task = 100 * (self.test.ci_high - self.test.mean_difference)
        ends = None if self.training is None else (100 * self.training.low, 100 * self.training.high)
        return headline(
            in_points,
            task,
            self.verdict,
            level=self.level,
            is_across=self.is_across,
            training=ends,
            is_whole=self.is_whole,
        )

    @property
    def p_sentence(self) -> str:
        """Both corrected p values; see `fewshot_bench.report.verdicts.p_of_both`."""
        return p_of_both(self.p_corrected, self.p_beyond_corrected, is_whole=self.is_whole)

    @property
    def count(self) -> str:
        """How many episodes, or test images, both have."""
        return f"{self.test.n:,} {'test images' if self.is_whole else 'episodes'}"

    def __str__(self) -> str:
        sentence = f"{self.shown_a} - {self.shown_b}: {self.headline} ({self.p_sentence}; {self.count})"
        claimed = CLAIMED_FLAG if self.protocol is None or self.protocol.is_claimed else ""
        text = "; ".join(part for part in (sentence, claimed, self.unpaired) if part)
        return f"{text}. {self.training_sentence}" if self.training_sentence else text

    def __repr__(self) -> str:
        return f"<Comparison: {self}>"

    def _repr_html_(self) -> str:
        facts = {
            "tasks": "" if self.protocol is None else self.protocol.task,
            "difference": self.headline,
            "p": self.p_sentence,
            "compared": self.count,
            "training": self.training_sentence,
            "unpaired": self.unpaired,
        }
        return html_facts(f"{self.shown_a} - {self.shown_b}", {name: text for name, text in facts.items() if text})

    @property
    def unpaired(self) -> str:
        """Which episodes could not be paired, in words; empty if all could."""
        if self.images_left_out:
            every = self.test.n + self.images_left_out
            return f"only {self.test.n:,} of {every:,} test images are stored for both, not evenly over classes"
        counts = ((self.left_out_of_a, self.shown_a), (self.left_out_of_b, self.shown_b))
        parts = [f"{count:,} of {name}" for count, name in counts if count]
        return f"unpaired episodes dropped: {' and '.join(parts)}" if parts else ""


@runtime_checkable
class HasOutcomes(Interface):
    """What holds the outcomes of a method, such as an evaluation."""

    @property
    def outcomes(self) -> Outcomes:
        """The method, the protocol, and a row per episode."""


@checked_arguments
def compare(
    a: HasOutcomes | Outcomes | ArrayLike,
    b: HasOutcomes | Outcomes | ArrayLike,
    *,
    classes: ArrayLike | None = None,
    names: tuple[str, str] = ("A", "B"),
) -> Comparison:
    """Compare two methods on the episodes that both have seen.

    Args:
        a: evaluation or outcomes of one method; or its accuracies as fractions or in percent, one per episode, [E].
        b: those of the other on the same protocol; or its accuracies on the same episodes in the same order, [E].
        classes: of accuracies: the classes of each episode, by number or by name, [E, N]. Without them there is no
            interval over classes and images.
        names: of accuracies: what to call the methods.

    Returns:
        The comparison of A with B; printing it gives one sentence.

    Raises:
        ComparisonError: the protocols differ, fewer than two episodes are common, or only one is outcomes.
        ShapeError: accuracies do not pair up, are NaN, out of range, or one in percent and the other in fractions.

    >>> print(compare([0.71, 0.64, 0.68, 0.73], [0.68, 0.61, 0.67, 0.70], names=("ours", "theirs")))
    ours - theirs: +2.50 points, 95% interval ±1.59 over episodes (none over classes and images, as no classes are \
given): better on this split (p = 0.015 on this split; 4 episodes); episodes claimed, not verified
    """
    a, b = (one.outcomes if isinstance(one, HasOutcomes) else one for one in (a, b))
    if isinstance(a, Outcomes) and isinstance(b, Outcomes):
        shown = shown_names([a.cell, b.cell])
        check_same_protocol(a.cell.protocol, shown[a.cell.key], b.cell.protocol, shown[b.cell.key])
        return comparison_of(task_scores([a.frame, b.frame], [a.cell, b.cell]), 0, 1, shown)
    if isinstance(a, Outcomes) or isinstance(b, Outcomes):
        raise ComparisonError(
            "compare takes two outcomes, or two arrays of accuracies, not one of each: their episodes may "
            "differ. Give the accuracies of both, such as evaluation.outcomes.accuracy."
        )
    if len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise ComparisonError(f"the names of two methods are two texts, not {names!r:.40}.")
    first, second = accuracies_as_fractions(a, b)
    overlap = Overlap(len(first), "classes and images", why_unknown="no classes are given")
    if classes is not None:
        given = as_array(classes)
        numbers = np.unique(given, return_inverse=True)[1].reshape(given.shape)
        overlap = class_overlap(numbers)
    paired = compare_pairs(first, second)
    data = _data_interval(paired, first - second, overlap)
    return Comparison(*names, None, paired, data, p_corrected=paired.test.p, p_beyond_corrected=data.p)


def _data_interval(
    paired: PairedComparison, differences: NDArray[np.float64], overlap: Overlap, confidence: float = 0.95
) -> DataInterval:
    """The data interval of a mean difference; it is never narrower than that over episodes, but for rounding."""
    (data,) = data_intervals(differences[None], overlap).each(confidence)
    return replace(data, mean=paired.mean_difference, p=float(np.maximum(data.p, paired.test.p)))


def comparison_of(scores: TaskScores, a: int, b: int, names: Mapping[str, str], confidence: float = 0.95) -> Comparison:
    """Compare two of the methods of one protocol.

    Args:
        scores: of the methods.
        a: position of one.
        b: position of the other.
        names: what to call each, by the key of its cell.
        confidence: of the intervals.

    Raises:
        ComparisonError: fewer than two episodes are common.
    """
    name_a, name_b = (names[scores.cells[position].key] for position in (a, b))
    both = scores.pair(a, b)
    if not both.any():
        raise ComparisonError(
            f"{name_a} and {name_b} have no episode of {scores.protocol.task} in common. Run both on the same runs."
        )
    if both.sum() < FEWEST_PAIRS:
        raise ComparisonError(
            f"a paired test needs two episodes or more; {name_a} and {name_b} share 1 of {scores.protocol.task}."
        )
    first, second = scores.accuracy[a, both], scores.accuracy[b, both]
    paired = compare_pairs(first, second, confidence=confidence)
    data = _data_interval(paired, first - second, scores.overlap(both), confidence)
    training = scores.training_difference(a, b, confidence)
    return Comparison(
        name_a,
        name_b,
        scores.protocol,
        paired,
        data,
        confidence,
        int(scores.of(a).sum() - both.sum()),
        int(scores.of(b).sum() - both.sum()),
        paired.test.p,
        data.p,
        class_differences(scores, a, b),
        scores.cells[a].method.is_transductive,
        scores.cells[b].method.is_transductive,
        training,
        math.nan if training is None else training.p,
        (_trainings_of(scores, a), _trainings_of(scores, b)),
        by_seed(scores, a, b),
        scores.images_without(both),
    )


def _trainings_of(scores: TaskScores, position: int) -> int:
    """How many trainings a method has; 0 without a training on a base split."""
    several = scores.trainings[position] if scores.trainings else None
    if several is not None:
        return len(several.cells)
    return 0 if training_seed(scores.cells[position].method) is None else 1


def check_same_protocol(a: ProtocolCard, name_a: str, b: ProtocolCard, name_b: str) -> None:
    """Raise ComparisonError for methods whose protocols differ, saying in what."""
    if a.is_claimed != b.is_claimed:
        claimed, drawn = (name_a, name_b) if a.is_claimed else (name_b, name_a)
        raise ComparisonError(
            f"{claimed} was imported, and a file claims which episodes it saw; those of {drawn} were drawn here. "
            "They may differ, so they are never paired. Import both with one --tasks NAME."
        )
    if a.is_claimed and a.sampler_settings != b.sampler_settings:
        tasks_a, tasks_b = a.sampler_settings.get("tasks"), b.sampler_settings.get("tasks")
        raise ComparisonError(
            f"{name_a} was imported as tasks '{tasks_a}' and {name_b} as tasks '{tasks_b}', so no episode is claimed "
            f"to be the same. If they are, import one again with the other's name: --tasks {quote(str(tasks_a))}"
        )
    fields_a, fields_b = asdict(a), asdict(b)
    different = [name for name in fields_a if fields_a[name] != fields_b[name]]
    if not different:
        return
    field = different[0]
    raise ComparisonError(
        f"{name_a} was run on {a.task} seed {a.seed}, {name_b} on {b.task} seed {b.seed}: {field.replace('_', ' ')} "
        f"differs ({_short(fields_a[field])} and {_short(fields_b[field])}), so no episode is the same. "
        "Run both with the same protocol."
    )


def _short(value: object) -> str:
    return f"{value:.12}" if isinstance(value, str) and len(value) == 64 else str(value)
