"""What a comparison claims: two claims, a test for each, and the words and numbers that state them.

- On this split: would other episodes of the same classes and images show the same? Tested over episodes.
- Beyond it: would other classes and images of the same kind? Tested by inverting the data interval. Where every episode
  has all classes, the classes are fixed and the claim is about new images of them.

- Beyond these trainings: would other training seeds show the same? Tested over the trainings of each method; only where
  a method has several does a verdict speak of it.

All p values are corrected over the same family. A claim beyond the split that cannot be tested counts in its family
as a test that shows nothing, so that an unknown interval never helps a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot_bench.report.scores import TaskScores
from fewshot_bench.statistics import Correction, DataInterval, compact_letters, corrected

SIGNIFICANCE = 0.05
CORRECTIONS = {"holm": "Holm", "bh": "BH", "none": "uncorrected"}
_SMALLEST_SHOWN_P = 0.001
ACROSS = "one of the two sees all queries of an episode at once"
"""What a comparison of an inductive and a transductive method says of it."""
NOTHING_SHOWN = "no difference shown"
ON_THIS_SPLIT = " on this split"
FOR_THESE_CLASSES = " for these classes"
OF_THESE_TRAININGS = ", of these trainings"
"""End of a verdict on methods with several trainings that is not shown for new ones."""
UNKNOWN = "unknown: "
"""Start of a text that says why a data interval is missing."""
Claim = Literal["beyond", "split"]
"""Which claim letters, bold and underline come from."""
LETTER_COLUMNS: dict[Claim, str] = {"beyond": "group", "split": "group_split"}
"""The columns of a leaderboard with the letters of each claim."""


def verdict(
    difference: float,
    p_split: float,
    p_beyond: float = math.nan,
    covers: str = "",
    *,
    p_training: float = math.nan,
    has_trainings: bool = False,
) -> str:
    """What the tests show at the 5% level, in words.

    Args:
        difference: of the means.
        p_split: over episodes, corrected where there are several tests.
        p_beyond: over classes and images, corrected over the same family; NaN where it is unknown.
        covers: what the data interval covers, "classes and images" or "images of these classes".
        p_training: over trainings, corrected over the same family; NaN where it is unknown.
        has_trainings: whether one of the methods has several trainings.

    Returns:
        "better" holds beyond these classes; "better for these classes" holds for new images of them; "better on this
        split" holds for these classes and images. "worse" has the same three; else "no difference shown". With several
        trainings, each of the three ends with ", of these trainings" unless it is shown for new ones.

    >>> verdict(0.28, 0.0001, 0.051, "classes and images")
    'better on this split'
    >>> verdict(0.28, 0.0001, 0.0004, "classes and images", p_training=0.21, has_trainings=True)
    'better, of these trainings'
    """
    if not abs(difference) > 0:
        return NOTHING_SHOWN
    side = "better" if difference > 0 else "worse"
    of_these = OF_THESE_TRAININGS if has_trainings and not p_training < SIGNIFICANCE else ""
    if p_beyond < SIGNIFICANCE:
        return side + (FOR_THESE_CLASSES if covers == "images of these classes" else "") + of_these
    return side + ON_THIS_SPLIT + of_these if p_split < SIGNIFICANCE else NOTHING_SHOWN


def about_data(words: str) -> str:
    """A verdict without what it says of trainings."""
    return words.removesuffix(OF_THESE_TRAININGS)


def is_on_this_split(words: str) -> bool:
    """Whether a verdict claims nothing beyond these classes and images."""
    return about_data(words).endswith(ON_THIS_SPLIT)


def corrected_claims(
    p_split: ArrayLike, p_beyond: ArrayLike, correct: Correction = "holm"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correct both claims of a family of comparisons for their number.

    Args:
        p_split: over episodes, of any shape; NaN where there was no test.
        p_beyond: over classes and images, of the same shape; NaN where it is unknown.
        correct: how.

    Returns:
        Both corrected; NaN stays NaN.
    """
    return corrected(p_split, correct), corrected_with_unknown(p_split, p_beyond, correct)


def corrected_with_unknown(p_split: ArrayLike, p_wider: ArrayLike, correct: Correction = "holm") -> NDArray[np.float64]:
    """Correct a claim wider than that on this split over the same family; an unknown p counts as showing nothing.

    Args:
        p_split: over episodes, of any shape; NaN where there was no test.
        p_wider: over classes and images, or over trainings, of the same shape; NaN where it is unknown.
        correct: how.

    Returns:
        Corrected; NaN stays NaN.
    """
    split, wider = np.asarray(p_split, dtype=np.float64), np.asarray(p_wider, dtype=np.float64)
    family = np.where(np.isnan(split), np.nan, np.where(np.isnan(wider), 1.0, wider))
    return np.where(np.isnan(wider), np.nan, corrected(family, correct))


def claims_of_all_pairs(
    scores: TaskScores, correct: Correction = "holm"
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Corrected p of every pair of methods for both claims, each [A, A]; a pair is tested on the episodes both have.

    Args:
        scores: of the methods.
        correct: how the p values are corrected for the number of pairs.

    Returns:
        On this split and beyond it: 1 on the diagonal, NaN where there is no test. None if no pair has any.
    """
    if correct not in scores.corrected_pairs:
        scores.corrected_pairs[correct] = _claims_of_all_pairs(scores, correct)
    return scores.corrected_pairs[correct]


def _claims_of_all_pairs(
    scores: TaskScores, correct: Correction
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    p_of_pairs = scores.p_of_all_pairs
    if p_of_pairs is None:
        return None
    upper = np.triu_indices(len(scores.cells), 1)
    claims = []
    for p in corrected_claims(p_of_pairs[0][upper], p_of_pairs[1][upper], correct):
        matrix = np.ones((len(scores.cells),) * 2)
        matrix[upper] = p
        matrix.T[upper] = p
        claims.append(matrix)
    return claims[0], claims[1]


def training_claims(scores: TaskScores, correct: Correction = "holm") -> NDArray[np.float64] | None:
    """Corrected p over trainings of every pair of methods, NaN where a method has one, [A, A]; None if all have one."""
    if not scores.trainings or scores.p_of_all_pairs is None:
        return None
    methods = len(scores.cells)
    upper = np.triu_indices(methods, 1)
    matrix = np.full((methods, methods), np.nan)
    matrix[upper] = corrected_with_unknown(scores.p_of_all_pairs[0][upper], scores.p_over_trainings[upper], correct)
    matrix.T[upper] = matrix[upper]
    return matrix


def letters_of(scores: TaskScores, correct: Correction = "holm", claim: Claim = "beyond") -> list[str | None]:
    """Compact letters of all pairs, "a" for the best: methods that share one are not shown to differ.

    Args:
        scores: of the methods.
        correct: how the p values of all pairs are corrected for their number.
        claim: whether they differ beyond this split, or on it.

    Returns:
        For each method its letters; None for all where no pair can be tested for that claim.
    """
    methods = len(scores.cells)
    claims = claims_of_all_pairs(scores, correct) if methods > 1 else None
    p = None if claims is None else claims[claim == "beyond"]
    if p is None or np.isnan(p[np.triu_indices(methods, 1)]).all():
        return [None] * methods
    best_first = np.argsort(-np.nanmean(scores.accuracy, axis=1), kind="stable")
    return [letters or None for letters in compact_letters(p < SIGNIFICANCE, [int(row) for row in best_first])]


BEST, HIGHEST, NOT_TESTED = "best", "highest mean", "not tested"
"""What `against_the_best` says of the method with the highest mean, and of one that shares too few episodes with it."""


def against_the_best(scores: TaskScores, names: Mapping[str, str], correct: Correction = "holm") -> list[str | None]:
    """What the tests of all pairs show of each method against the one of its kind that has the highest mean.

    Inductive and transductive methods each have their own best. All pairs of the protocol are one family, so it does
    not matter that the best was picked by its own result.

    Args:
        scores: of the methods.
        names: what to call each, by the key of its cell; of equal means the first name counts as the highest.
        correct: how the p values of all pairs are corrected for their number.

    Returns:
        For each method, in order, its `verdict` against the best; `BEST` for the best where each other one is shown to
        be worse, on this split at least, else `HIGHEST`; `NOT_TESTED` for fewer than two common episodes; None for the
        only one of its kind.
    """
    claims = claims_of_all_pairs(scores, correct) if len(scores.cells) > 1 else None
    over_trainings = training_claims(scores, correct)
    words_of: list[str | None] = [None] * len(scores.cells)
    for kind in (False, True):
        rows = [row for row, cell in enumerate(scores.cells) if cell.method.is_transductive == kind]
        if len(rows) < 2:
            continue
        means = {row: float(np.nanmean(scores.accuracy[row])) for row in rows}
        best = min(rows, key=lambda row: (-means[row], names[scores.cells[row].key]))
        words = {row: _against(scores, claims, over_trainings, row, best) for row in rows if row != best}
        is_best = all(word.startswith("worse") for word in words.values())
        for row in rows:
            words_of[row] = words.get(row, BEST if is_best else HIGHEST)
    return words_of


def _against(
    scores: TaskScores,
    claims: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    over_trainings: NDArray[np.float64] | None,
    row: int,
    best: int,
) -> str:
    both = scores.pair(row, best)
    if claims is None or both.sum() < 2:
        return NOT_TESTED
    difference = float((scores.accuracy[row, both] - scores.accuracy[best, both]).mean())
    split, beyond = (float(p[row, best]) for p in claims)
    covers = "images of these classes" if scores.has_fixed_classes else ""
    p_training = math.nan if over_trainings is None else float(over_trainings[row, best])
    has_trainings = scores.has_trainings(row, best)
    return verdict(difference, split, beyond, covers, p_training=p_training, has_trainings=has_trainings)


def headline(
    interval: DataInterval,
    task_half_width: float,
    verdict: str,
    *,
    level: str = "95%",
    is_across: bool = False,
    training: tuple[float, float] | None = None,
    is_whole: bool = False,
) -> str:
    """The answer in one sentence, the interval that answers the reader's question first; all numbers are in points.

    Args:
        interval: of the difference, with its mean.
        task_half_width: of the interval over episodes.
        verdict: what the tests show.
        level: what the intervals are, such as "95%".
        is_across: whether one of the two is inductive and the other transductive.
        training: both ends of the interval over trainings; None where there is none.
        is_whole: whether the episodes are the images of a whole split, over which there is one interval.

    >>> headline(DataInterval(0.28, -0.004, 0.56, 0.051), 0.04, "better on this split")
    '+0.28 points, 95% interval -0.00 to +0.56 over classes and images (±0.04 over episodes): better on this split'
    """
    points, over_episodes = f"{interval.mean + 0.0:+.2f} points", f"±{task_half_width:.2f} over episodes"
    over_trainings = "" if training is None else f"{training[0]:+.2f} to {training[1]:+.2f} over trainings"
    if over_trainings:
        over_episodes += f", {over_trainings}"
    verdict += f"; {ACROSS}" if is_across else ""
    if is_whole:
        ends = f"{interval.mean - task_half_width:+.2f} to {interval.mean + task_half_width:+.2f} over test images"
        beside = f" ({over_trainings})" if over_trainings else ""
        return f"{points}, {level} interval {ends}{beside}: {verdict}"
    if interval.why_unknown:
        why = f"none over {interval.covers}, as {interval.why_unknown}"
        return f"{points}, {level} interval {over_episodes} ({why}): {verdict}"
    ends = f"{interval.low:+.2f} to {interval.high:+.2f} over {interval.covers}"
    return f"{points}, {level} interval {ends} ({over_episodes}): {verdict}"


def beyond_text(interval: DataInterval | None) -> str:
    """What a data interval covers, or why there is none: "classes and images", "unknown: every episode has ..."."""
    if interval is None:
        return f"{UNKNOWN}there are no episodes"
    return f"{UNKNOWN}{interval.why_unknown}" if interval.why_unknown else interval.covers


def p_text(p: float) -> str:
    """A p-value for people: two significant digits, "< 0.001" below that, a dash where it is unknown.

    More digits are shown where two would round p across the 5% level, so that p never contradicts a verdict.
    """
    if math.isnan(p):
        return "-"
    if p < _SMALLEST_SHOWN_P:
        return f"< {_SMALLEST_SHOWN_P}"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next((text for text in texts if (float(text) < SIGNIFICANCE) == (p < SIGNIFICANCE)), f"{p:.17g}")


def p_equation(p: float, name: str = "p") -> str:
    """A p-value in a sentence, e.g. "p = 0.023" or "p < 0.001"."""
    text = p_text(p)
    return f"{name} {text}" if text.startswith("<") else f"{name} = {text}"


def p_of_both(split: float, beyond: float, *, is_whole: bool = False) -> str:
    """The p values of both claims in a sentence, such as "p < 0.001 on this split, p = 0.051 beyond it".

    On a whole split they are one, over test images.
    """
    if is_whole:
        return f"{p_equation(split)} over test images"
    return f"{p_equation(split)} on this split" + ("" if math.isnan(beyond) else f", {p_equation(beyond)} beyond it")


def p_header(correction: str, name: str = "p") -> str:
    """The header of a column of p values: how they are corrected for their number."""
    return name if correction == "none" else f"{name} ({CORRECTIONS[correction]})"


def correction_words(correction: str) -> str:
    """How a p value is corrected, if it is, e.g. "corrected by Holm"."""
    return CORRECTIONS[correction] if correction == "none" else f"corrected by {CORRECTIONS[correction]}"


def ranks_text(methods: int, critical_difference: float) -> str:
    """Which mean ranks differ, or that none can; for methods that were ranked over datasets.

    Args:
        methods: A.
        critical_difference: Nemenyi's, at 5%.
    """
    if critical_difference < methods - 1:
        return f"mean ranks {critical_difference:.2f} apart differ (Nemenyi, 5%)"
    return (
        f"no mean ranks can differ over so few datasets: that takes {critical_difference:.2f} (Nemenyi, 5%), and "
        f"{methods} methods are at most {methods - 1} apart"
    )


def points(difference: float, low: float, high: float) -> str:
    """A difference in percentage points with its interval."""
    return f"{difference:+.2f} ({low:.2f} to {high:.2f})"


def difference_text(
    difference: float, low: float, high: float, task: float, plus_minus: str = "±", *, is_whole: bool = False
) -> str:
    """A difference in percentage points with its data interval, a dash where it is unknown, and its task half-width.

    On a whole split they are one interval, over test images.
    """
    if is_whole:
        return f"{round(difference, 2) + 0.0:+.2f} {plus_minus}{task:.2f}"
    data = f"{low:+.2f}, {high:+.2f}" if low == low else "-"
    return f"{round(difference, 2) + 0.0:+.2f} ({data}) {plus_minus}{task:.2f}"  # + 0.0: never "-0.00"


def count_text(number: int, noun: str) -> str:
    """A count with its noun, e.g. "1 run" or "1,200 episodes"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
