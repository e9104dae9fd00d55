"""Which stored episodes are run again, and how surely they give a forger away."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from math import lgamma

import numpy as np
import pandas as pd


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
