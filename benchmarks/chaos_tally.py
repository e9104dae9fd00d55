"""What came of killing processes, as counts and as a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chaos_compare import Comparison
from chaos_kills import PHASES, WORKER


@dataclass
class Tally:
    """What came of the kills so far.

    Attributes:
        kills: processes killed, by what they were at.
        studies: how many came to their end.
        episodes: how many were compared.
        lost: episodes that were not there.
        twice: episodes that were stored twice.
        changed: episodes with other predictions.
        tables: leaderboards that differed.
        left_over: unfinished files and leases.
        errors: processes that ended otherwise than well, by their last words.
    """

    kills: Counter[str] = field(default_factory=Counter)
    studies: int = 0
    episodes: int = 0
    lost: int = 0
    twice: int = 0
    changed: int = 0
    tables: int = 0
    left_over: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing differed from the undisturbed run."""
        return not (self.lost or self.twice or self.changed or self.tables or self.left_over or self.errors)

    def add(self, found: Comparison) -> None:
        """Count a study that has come to its end."""
        self.studies += 1
        self.episodes += found.episodes
        self.lost += len(found.lost)
        self.twice += len(found.twice)
        self.changed += len(found.changed)
        self.tables += bool(found.tables)
        self.left_over += found.left_over


def table(tally: Tally, processes: int, seed: int, seconds: float) -> str:
    """What came of it, as Markdown."""
    columns = [*PHASES, *([WORKER] if tally.kills[WORKER] else [])]
    where = " | ".join(str(tally.kills[phase]) for phase in columns)
    heads = f"| processes | seed | kills | {' | '.join(columns)} | studies | episodes compared | lost | stored twice |"
    heads += " other predictions | leaderboards that differ | left over | errors | minutes |"
    numbers = [tally.studies, tally.episodes, tally.lost, tally.twice, tally.changed, tally.tables]
    counts = " | ".join(f"{number:,}" for number in [*numbers, len(tally.left_over), len(tally.errors)])
    row = f"| {processes} | {seed} | {sum(tally.kills.values())} | {where} | {counts} | {seconds / 60:.0f} |"
    return "\n".join([heads, "|" + " ---: |" * (heads.count("|") - 1), row])
