"""Draw episodes until every method's interval is narrow enough, by a rule that is recorded before the first one.

All methods of a protocol stop together, so that they share their episodes. Only the width of the intervals decides,
never a difference or a p: docs/statistics.md says what repeated looks do to each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.statistics import look
from fewshot_bench.study.study import MOST_EPISODES_BY_DEFAULT, Study

EPISODES_BETWEEN_LOOKS = 250
"""Per run; the first look comes after this many."""
_ANY_WIDTH = 1e9


@dataclass(frozen=True)
class Rule:
    """When to stop.

    Attributes:
        half_width: of the 95% interval of every method's mean accuracy over all runs, in percentage points.
        most: episodes per run after which it stops in any case.
    """

    half_width: float
    most: int

    def as_record(self) -> dict[str, Any]:
        """What every cell records about its number of episodes."""
        return {
            "rule": "the 95% t interval of every method's mean accuracy is narrow enough",
            "half_width": self.half_width,
            "episodes_between_looks": EPISODES_BETWEEN_LOOKS,
            "max_episodes": self.most,
        }

    def looks(self) -> list[int]:
        """Episodes per run at which to look."""
        return [*range(EPISODES_BETWEEN_LOOKS, self.most, EPISODES_BETWEEN_LOOKS), self.most]


def stopping_rule(study: Study) -> Rule | None:
    """The stopping rule of a study; None if it has none.

    Raises:
        StudyError: it contradicts another option.
    """
    if study.until_ci is None:
        if study.max_episodes is not None:
            raise StudyError("--max-episodes limits --until-ci. Without --until-ci, use --episodes.")
        return None
    if "episodes" in study.model_fields_set:
        raise StudyError("--episodes and --until-ci both say when to stop. Use --max-episodes for a limit.")
    return Rule(study.until_ci, study.max_episodes or MOST_EPISODES_BY_DEFAULT)


def run_until(
    rule: Rule,
    methods: Sequence[Callable[[Sequence[tuple[Cell, Protocol]]], None]],
    cells: Sequence[Sequence[tuple[Cell, Protocol]]],
    store: OutcomeStore,
    progress: Progress = SILENT,
) -> None:
    """Run the methods of a study, protocol by protocol, until the rule is met.

    Args:
        rule: when to stop.
        methods: functions that run the missing episodes of some of their cells.
        cells: of each method, one per protocol, with the protocol.
        store: of the outcomes.
        progress: shows one stage per protocol, with the widest interval so far.
    """
    for same_protocol in zip(*cells, strict=True):
        protocol = same_protocol[0][1]
        with progress.step(f"{protocol.way}-way {protocol.shot}-shot until ±{rule.half_width:g}", 0) as step:
            before, running = 0, list(zip(methods, same_protocol, strict=True))
            for episodes in rule.looks():
                reached = min(episodes, protocol.episodes)
                for run, (cell, _) in running:
                    run([(cell, replace(protocol, episodes=reached))])
                running = [(run, pair) for run, pair in running if store.done(pair[0])]  # not those that always fail
                widths = [_half_width(store, cell, reached, protocol.runs) for _, (cell, _) in running]
                widest = max(widths, default=0.0)
                step.advance(reached - before, f"±{widest:.2f} after {reached:,} per run")
                before = reached
                if reached < episodes or widest <= rule.half_width:
                    break


def _half_width(store: OutcomeStore, cell: Cell, episodes: int, runs: int) -> float:
    """Half the width of a method's interval over the first episodes of its runs, in points; infinite if too few."""
    stored = store.read(cell, with_predictions=False)
    counted = stored[(stored["episode"] < episodes) & (stored["run"] < runs)]
    seen = look(counted["accuracy"].to_numpy(), _ANY_WIDTH)
    return 100 * seen.half_width if seen.enough else math.inf
