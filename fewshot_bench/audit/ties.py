"""Whether ties explain predictions that differ from those stored: how many there are, where, and in whose favour.

Sums taken in another order, by other versions, on another kind of machine or in other batches, change predictions whose
scores are nearly equal. Such a change is as likely to make a stored prediction right as wrong. So ties are few, they
are spread over the episodes, and they favour no method; forged predictions are not so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import lgamma

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.outcomes.packing import Positions
from fewshot_bench.statistics.sign_flip import sign_flip_p

_NOISE_ELSEWHERE = 0.02
"""Share of all queries that ties may change on other hardware or versions, where training rounds differently."""
_OF_ONE_EPISODE = 0.1
"""Share of the queries of one episode that ties may change."""
_FEW = 2
"""Changes in one episode that are always allowed: with five queries, one is a fifth already."""
LEVEL = 0.001
"""Of the test that differences favour no method: an audit has many tests, and should not accuse by accident."""


@dataclass(frozen=True, eq=False)
class ChangedPredictions:
    """New predictions of some episodes, compared with the stored ones.

    Attributes:
        queries: of each episode, [E].
        differ: how many of them have another prediction, [E].
        gained: stored correct ones less new correct ones, [E].
        far: how many that differ are not near ties by the scores of the method, where these are known.
        repeats_every_bit: whether the outcomes were made by the same versions on the same kind of machine, and in the
            same batches.
    """

    queries: NDArray[np.int64]
    differ: NDArray[np.int64]
    gained: NDArray[np.int64]
    far: int = 0
    repeats_every_bit: bool = False

    @property
    def total(self) -> int:
        """Predictions that were compared."""
        return int(self.queries.sum())

    @property
    def changed(self) -> int:
        """How many of them differ."""
        return int(self.differ.sum())


def explanation(changes: ChangedPredictions, *, tests: int = 1) -> tuple[bool, str]:
    """Whether ties explain differing predictions, and why; `tests` cells are tested for a direction."""
    if changes.repeats_every_bit:
        return False, "by the same versions on the same kind of machine, which repeats every bit"
    if changes.far:
        return False, f"{changes.far:,} of them are not ties: the method's scores for the two classes are far apart"
    if changes.changed > max(1, _NOISE_ELSEWHERE * changes.total):
        return False, f"other versions or machines explain {_NOISE_ELSEWHERE:.0%} at most"
    if (changes.differ > np.maximum(_FEW, _OF_ONE_EPISODE * changes.queries)).any():
        most = int(changes.differ.max())
        return False, f"{most} of them in one episode, where ties explain {_OF_ONE_EPISODE:.0%} at most"
    one_sided = direction([changes], tests=tests)
    if one_sided:
        return False, f"ties favour no method, and {one_sided}"
    return True, "ties, by other versions, on another kind of machine or in other batches"


def direction(changes: Iterable[ChangedPredictions], *, tests: int = 1) -> str:
    """In whose favour the differences are, in words; empty where chance explains it.

    The test is exact and two-sided: a forger raises the accuracy of one method or lowers that of another. Its unit is
    the episode, whose differences share a support set: under ties each episode's gain could have had the other sign.

    Args:
        changes: of the cells that are taken together.
        tests: how many such tests this audit makes, for which the level is divided (Bonferroni).
    """
    gains = np.concatenate([of_cell.gained for of_cell in changes] or [np.zeros(0, dtype=np.int64)])
    gains = gains[gains != 0]
    if not len(gains):
        return ""
    p = sign_flip_p(gains, unit=1)
    if p >= LEVEL / tests:
        return ""
    ups, downs = int(gains[gains > 0].sum()), int(-gains[gains < 0].sum())
    return (
        f"of these {ups:,} make the stored accuracy higher and {downs:,} lower, net by episode "
        f"(p = {p:.1g}, below {LEVEL / tests:.1g})"
    )


def changed_predictions(
    stored: Sequence[Positions],
    new: Sequence[Positions],
    truth: Sequence[Positions],
    *,
    far: int = 0,
    repeats_every_bit: bool,
) -> ChangedPredictions:
    """Compare stored and new predictions of the same queries, given their true classes, [E, M] of each group."""
    groups = list(zip(stored, new, truth, strict=True))
    return ChangedPredictions(
        np.concatenate([np.full(len(old), old.shape[1]) for old, _, _ in groups]),
        np.concatenate([(old != now).sum(axis=1) for old, now, _ in groups]),
        np.concatenate([(old == true).sum(axis=1) - (now == true).sum(axis=1) for old, now, true in groups]),
        far,
        repeats_every_bit,
    )


def chosen_episodes(frame: pd.DataFrame, count: int, seed: int, key: str) -> pd.DataFrame:
    """A random choice of the stored episodes, in their order.

    The episodes with the smallest digests of seed, cell and episode are taken. So the choice differs between cells, can
    be repeated on any machine, and does not change with NumPy's generators.

    Args:
        frame: outcomes, one row per episode.
        count: how many; all of them if there are fewer.
        seed: of the choice.
        key: of the cell.
    """
    prefix = f"{seed} {key} ".encode()
    names = zip(frame["run"], frame["episode"], strict=True)
    digests = [blake2b(prefix + f"{run} {episode}".encode(), digest_size=8).digest() for run, episode in names]
    picked = np.argsort(np.frombuffer(b"".join(digests), dtype="<u8"), kind="stable")[:count]
    return frame.iloc[np.sort(picked)]


@dataclass(frozen=True)
class Sample:
    """How many episodes of a cell are stored, and how many of them were run again.

    Attributes:
        stored: n.
        checked: m, drawn without replacement.
    """

    stored: int
    checked: int

    def chance_of_finding(self, forged: int) -> float:
        """The probability that one of the forged episodes at least is among those run again.

        It is 1 - C(n - k, m) / C(n, m) for k forged episodes.
        """
        if forged < 1 or self.checked < 1:
            return 0.0
        if self.stored - forged < self.checked:
            return 1.0
        missed = _log_choices(self.stored - forged, self.checked) - _log_choices(self.stored, self.checked)
        return 1 - float(np.exp(missed))

    def found_with(self, chance: float) -> float:
        """The smallest share of forged episodes found with at least this chance, which is below 1; above 1 for none."""
        if self.checked < 1:
            return float("inf")
        low, high = 1, self.stored
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.chance_of_finding(middle) >= chance else (middle + 1, high)
        return low / self.stored


def _log_choices(total: int, taken: int) -> float:
    return lgamma(total + 1) - lgamma(taken + 1) - lgamma(total - taken + 1)
