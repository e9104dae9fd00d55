"""What came of running a stored result again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class OtherOutcome:
    """An episode whose outcome is not the one stored.

    Attributes:
        run: of the episode.
        episode: its number within the run.
        stored_correct: queries that are correct as it is stored.
        new_correct: and now.
        predictions: how many of its predictions are others.
    """

    run: int
    episode: int
    stored_correct: int
    new_correct: int
    predictions: int


@dataclass(frozen=True)
class Circumstance:
    """Something around a result that is not here as its record says.

    Attributes:
        name: such as "torch", "commit" or "cpu".
        recorded: when the outcomes were made.
        here: now.
    """

    name: str
    recorded: str
    here: str


@dataclass(frozen=True)
class Reproduction:
    """The outcomes of one cell beside those that are stored.

    Attributes:
        key: of the cell.
        task: dataset, split and size of its tasks.
        method: its name.
        stored_episodes: how many are stored.
        episodes: how many of them were run again.
        queries: predictions that were compared.
        predictions: how many of these are others.
        others: episodes that are not as they are stored, by run and number.
        stored_mean: of the accuracies of the episodes that were run again, in %.
        new_mean: the same of the new outcomes.
        circumstances: what is not as it is recorded.
        weights: digest of the weights that the base stage gave here, where they are not those of the result.
        explanation: in words, whether ties by other versions or hardware explain what differs; empty if nothing does.
        seed: has drawn the episodes; None where all of them were run again.
        is_transductive: whether the method sees all queries of an episode at once.
    """

    key: str
    task: str
    method: str
    stored_episodes: int
    episodes: int
    queries: int
    predictions: int
    others: tuple[OtherOutcome, ...]
    stored_mean: float
    new_mean: float
    circumstances: tuple[Circumstance, ...] = ()
    weights: str = ""
    explanation: str = ""
    seed: int | None = None
    is_transductive: bool = False

    @property
    def is_equal(self) -> bool:
        """Whether every prediction, and every count of correct ones, is as it is stored."""
        return not self.others

    @property
    def other_accuracies(self) -> int:
        """How many episodes have another accuracy than the one stored."""
        return sum(other.stored_correct != other.new_correct for other in self.others)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "is_equal": self.is_equal, "other_accuracies": self.other_accuracies}
