"""A handful of stored episodes once more: the same predictions, and none that a disturbance changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.adaptation import EmbeddingAdaptation
from fewshot_bench.audit.disturbance import (
    in_parts,
    predictions_of,
    relabelled,
    renumbered,
    shuffled,
    with_numbers,
)
from fewshot_bench.audit.finding import Finding
from fewshot_bench.audit.method import BATCHING, CHECKS, LABELS, NUMBERS, ORDER, SAME
from fewshot_bench.audit.rebuild import Rebuilt
from fewshot_bench.audit.ties import explanation
from fewshot_bench.engine.classifier import Classifier, EmbeddingClassifier
from fewshot_bench.episodes import Episodes
from fewshot_bench.outcomes import Cell

_NOISE = 0.005
"""Share of the queries that a tie may turn when sums are taken in another order."""
_ALONE = 3
"""Queries of each episode that are asked one by one of a method that trains; of others all are."""


def chosen_episodes(frame: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Some of the stored episodes, drawn at random so that nobody knows which, in their order.

    Args:
        frame: outcomes, one row per episode.
        count: how many; all of them if there are fewer.
        seed: of the choice.
    """
    picked = np.random.default_rng(seed).permutation(len(frame))[:count]
    return frame.iloc[np.sort(picked)]


@dataclass(frozen=True)
class Rerun:
    """A method that was made again, and what is to be tried.

    Attributes:
        cell: the stored one.
        method: made again.
        groups: the episodes, those of one run and one shape together.
        stored: the stored predictions of each group, uint8 [E, M].
        seed: of the disturbances.
        is_same_machine: whether the outcomes were made by the same versions on the same kind of machine.
    """

    cell: Cell
    method: Rebuilt
    groups: Sequence[Episodes]
    stored: Sequence[NDArray[np.uint8]]
    seed: int
    is_same_machine: bool

    def findings(self) -> list[Finding]:
        """All checks that need the method."""
        try:
            plain = [_plain(self.method.classifier, episodes) for episodes in self.groups]
        except Exception as error:  # a method is anybody's code
            reason = f"the method failed: {type(error).__name__}: {error}"
            return [Finding(check, "fail", reason) for check in CHECKS]
        return [
            self._same_as_stored(plain),
            self._undisturbed(ORDER, plain, self._shuffled, "queries in another order, classes mixed"),
            self._undisturbed(LABELS, plain, self._relabelled, "queries in the places of another class"),
            self._batching(plain),
            self._numbers(plain),
        ]

    def _same_as_stored(self, plain: Sequence[NDArray[np.uint8]]) -> Finding:
        differ = sum(int((one != two).sum()) for one, two in zip(plain, self.stored, strict=True))
        total = sum(one.size for one in plain)
        episodes = sum(len(group) for group in self.groups)
        if not differ:
            return Finding(SAME, "pass", f"all {total:,} of {episodes:,} episodes, run again")
        told = f"{differ:,} of {total:,} predictions of {episodes:,} episodes differ from those stored"
        are_ties, why = explanation(differ, total, is_same_machine=self.is_same_machine)
        return Finding(SAME, "pass" if are_ties else "fail", f"{told}: {why}")

    def _undisturbed(
        self,
        check: str,
        plain: Sequence[NDArray[np.uint8]],
        disturb: Callable[[Episodes], NDArray[np.uint8]],
        what: str,
    ) -> Finding:
        """Whether a disturbance changes no prediction."""
        try:
            said = [disturb(episodes) for episodes in self.groups]
        except Exception as error:  # a method is anybody's code
            return Finding(check, "fail", f"{what}: the method failed: {type(error).__name__}: {error}")
        return self._compared(check, plain, said, what)

    def _compared(
        self, check: str, plain: Sequence[NDArray[np.uint8]], said: Sequence[NDArray[np.uint8]], what: str
    ) -> Finding:
        differ = sum(int((one != two).sum()) for one, two in zip(plain, said, strict=True))
        total = sum(one.size for one in said)
        if not differ:
            return Finding(check, "pass", f"{what}: the same {total:,} predictions")
        told = f"{what}: {differ:,} of {total:,} predictions change"
        return Finding(check, "pass" if differ <= _NOISE * total else "fail", told)

    def _shuffled(self, episodes: Episodes) -> NDArray[np.uint8]:
        return predictions_of(self.method.classifier, episodes, shuffled(episodes, self.seed))

    def _relabelled(self, episodes: Episodes) -> NDArray[np.uint8]:
        return predictions_of(self.method.classifier, episodes, relabelled(episodes))

    def _batching(self, plain: Sequence[NDArray[np.uint8]]) -> Finding:
        what = "queries in halves and alone"
        positions = [self._parts(episodes) for episodes in self.groups]
        try:
            said = [
                in_parts(self.method.classifier, episodes, parts)
                for episodes, parts in zip(self.groups, positions, strict=True)
            ]
        except Exception as error:  # a method is anybody's code
            if self.cell.method.is_transductive:
                return Finding(BATCHING, "pass", f"marked transductive; {what}, it fails: {type(error).__name__}")
            return Finding(BATCHING, "fail", f"{what}: the method failed: {type(error).__name__}: {error}")
        expected = [one[:, np.concatenate(parts)] for one, parts in zip(plain, positions, strict=True)]
        found = self._compared(BATCHING, expected, said, what)
        if self.cell.method.is_transductive:
            return Finding(BATCHING, "pass", f"marked transductive; {found.detail}")
        if found.verdict == "fail":
            return Finding(BATCHING, "fail", f"{found.detail}, and the method is not marked transductive")
        return found

    def _parts(self, episodes: Episodes) -> list[NDArray[np.int64]]:
        """Every other query, the others, and single ones."""
        positions = np.arange(episodes.queries.shape[1])
        count = len(positions) if isinstance(self.method.adaptation, EmbeddingAdaptation) else _ALONE
        alone = np.sort(np.random.default_rng(self.seed).permutation(positions)[:count])
        halves = [part for part in (positions[::2], positions[1::2]) if len(part)]
        return [*halves, *(np.array([one]) for one in alone)]

    def _numbers(self, plain: Sequence[NDArray[np.uint8]]) -> Finding:
        classifier = self.method.classifier
        if not isinstance(classifier, EmbeddingClassifier):
            return Finding(NUMBERS, "not checked", "the method draws augmented views by the numbers of the images")
        other, new = renumbered(classifier, self.seed)
        return self._undisturbed(
            NUMBERS,
            plain,
            lambda episodes: _plain(other, with_numbers(episodes, new)),
            "images under other numbers",
        )


def _plain(classifier: Classifier, episodes: Episodes) -> NDArray[np.uint8]:
    return classifier(episodes, classifier.chunk(episodes.protocol))
