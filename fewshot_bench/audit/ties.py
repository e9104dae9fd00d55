"""Predictions that differ from those stored: whether ties can explain how many there are, where, and in whose favour.

Sums taken in another order, by other versions or on another kind of machine, turn predictions whose scores are nearly
equal. Such a turn is as likely to make a stored prediction right as wrong. So there are few of them, they are spread
over the episodes, and they favour nobody; a forger's are not.

Which stored episodes are run again, and how surely they give a forger away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import lgamma

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.statistics.sign_flip import sign_flip_p

_NOISE_ELSEWHERE = 0.02
"""Share of all queries that a tie may turn on other hardware or versions, where training rounds differently."""
_OF_ONE_EPISODE = 0.1
"""The same of the queries of one episode; one full of them was not turned by ties."""
_FEW = 2
"""So many in one episode may always turn: with five queries, one is a fifth already."""
LEVEL = 0.001
"""Of the test that differences favour nobody. An audit has many, and an accusation should be no accident."""


@dataclass(frozen=True)
class Turned:
    """The predictions of some episodes beside those stored.

    Attributes:
        queries: of each episode, [E].
        differ: how many of them are others than those stored, [E].
        gained: correct ones as they are stored less correct ones now, [E].
        far: how many that differ are no near ties by the scores of the method, where these are known.
        is_same_machine: whether the outcomes were made by the same versions on the same kind of machine.
    """

    queries: NDArray[np.int64]
    differ: NDArray[np.int64]
    gained: NDArray[np.int64]
    far: int = 0
    is_same_machine: bool = False

    @property
    def total(self) -> int:
        """Predictions that were compared."""
        return int(self.queries.sum())

    @property
    def others(self) -> int:
        """How many of them differ."""
        return int(self.differ.sum())


def explanation(turned: Turned, *, tests: int = 1) -> tuple[bool, str]:
    """Whether ties explain that a method run again says other things, and that in words.

    Args:
        turned: with at least one prediction that differs.
        tests: how many cells are tested for a direction in this audit.
    """
    if turned.is_same_machine:
        return False, "by the same versions on the same kind of machine"
    if turned.far:
        return False, f"{turned.far:,} of them are no ties: the method's scores for the two classes are far apart"
    if turned.others > max(1, _NOISE_ELSEWHERE * turned.total):
        return False, f"other versions or machines explain {_NOISE_ELSEWHERE:.0%} at most"
    if (turned.differ > np.maximum(_FEW, _OF_ONE_EPISODE * turned.queries)).any():
        most = int(turned.differ.max())
        return False, f"{most} of them in one episode, where ties explain {_OF_ONE_EPISODE:.0%} at most"
    one_sided = direction([turned], tests=tests)
    if one_sided:
        return False, f"ties favour nobody, and {one_sided}"
    return True, "ties, by other versions or on another kind of machine"


def direction(several: Iterable[Turned], *, tests: int = 1) -> str:
    """In whose favour the differences are, in words; empty where chance explains it.

    The test is exact and two-sided: a forger raises the accuracy of one method or lowers that of another. Its unit is
    the episode, whose differences share a support set: under ties each episode's gain could have had the other sign.

    Args:
        several: the cells that are taken together.
        tests: how many such tests this audit makes, for which the level is divided (Bonferroni).
    """
    gains = np.concatenate([one.gained for one in several] or [np.zeros(0, dtype=np.int64)])
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


def turned(
    stored: Sequence[NDArray[np.uint8]],
    new: Sequence[NDArray[np.uint8]],
    truth: Sequence[NDArray[np.uint8]],
    *,
    far: int = 0,
    is_same_machine: bool,
) -> Turned:
    """Stored and new predictions of the same queries, group by group.

    Args:
        stored: [E, M] of each group.
        new: the same.
        truth: the true classes, [E, M] of each group.
        far: see `Turned`.
        is_same_machine: see `Turned`.
    """
    groups = list(zip(stored, new, truth, strict=True))
    return Turned(
        np.concatenate([np.full(len(old), old.shape[1]) for old, _, _ in groups]),
        np.concatenate([(old != now).sum(axis=1) for old, now, _ in groups]),
        np.concatenate([(old == true).sum(axis=1) - (now == true).sum(axis=1) for old, now, true in groups]),
        far,
        is_same_machine,
    )


def chosen_episodes(frame: pd.DataFrame, count: int, seed: int, key: str) -> pd.DataFrame:
    """Some of the stored episodes, each equally likely, in their order.

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
        """The smallest share of forged episodes that is found with at least this probability; more than 1 for none.

        Args:
            chance: below 1.
        """
        if self.checked < 1:
            return float("inf")
        low, high = 1, self.stored
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.chance_of_finding(middle) >= chance else (middle + 1, high)
        return low / self.stored


def _log_choices(total: int, taken: int) -> float:
    return lgamma(total + 1) - lgamma(taken + 1) - lgamma(total - taken + 1)
