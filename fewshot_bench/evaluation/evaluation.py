"""What came of a method: its accuracy with both intervals, by class and by episode, and a place in the results."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from fewshot_bench._io.locations import Location, location_of
from fewshot_bench._io.notebooks import html_facts
from fewshot_bench.errors import CodeError, EpisodeError
from fewshot_bench.outcomes import Cell, Outcomes, OutcomeStore
from fewshot_bench.report.comparison import class_accuracies
from fewshot_bench.report.scores import TaskScores, data_intervals_of, task_scores
from fewshot_bench.statistics import DataInterval, Interval, summarise

_ROUNDING = 0.02
"""Share of queries that other devices may classify differently."""


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """The outcomes of one method on the episodes of one protocol. All accuracies are fractions.

    Attributes:
        outcomes: the method, the protocol, and a row per episode.

    >>> import numpy as np
    >>> import fewshot_bench as fb
    >>> novel = fb.open_dataset("glyphs").novel
    >>> episodes = fb.sample_episodes(novel, fb.Protocol("glyphs", shot=5, episodes=50, runs=1))
    >>> evaluation = fb.evaluate("centroid", novel.images.reshape(len(novel), -1), episodes)
    >>> evaluation
    <Evaluation: centroid, glyphs 5-way 5-shot, 50 episodes, 60.05% ± 2.06 (data ± 5.87)>
    >>> low, high = evaluation.data_interval
    >>> bool(low < evaluation.mean < high)
    True
    """

    outcomes: Outcomes

    @property
    def name(self) -> str:
        """The method's name as people should read it: a transductive method says so."""
        return self.outcomes.cell.method.marked_name

    @property
    def mean(self) -> float:
        """Mean accuracy over all episodes: `mean` of the leaderboard, which writes percentages."""
        return self.interval.mean

    @cached_property
    def interval(self) -> Interval:
        """95% interval of the mean over episodes of this split: `ci95` of the leaderboard is its half-width."""
        return summarise(self.outcomes.accuracy, self.outcomes.run).interval

    @cached_property
    def data_interval(self) -> DataInterval:
        """95% interval that covers other classes and images too: `data_ci95` of the leaderboard is its half-width.

        Its ends are NaN where it is unknown, and `why_unknown` says why.
        """
        found = data_intervals_of(self._scores, self._scores.accuracy)[0]
        assert found is not None
        return found

    @cached_property
    def per_class(self) -> pd.DataFrame:
        """Accuracy on the queries of each class that occurs, in canonical order.

        Columns are class, accuracy, ci95 (half-width of its 95% interval over the episodes that have the class) and
        episodes (how many have it).

        Raises:
            EpisodeError: what was stored of these episodes does not say which class a query belongs to.
        """
        found = class_accuracies(self._scores, 0)
        if found is None:
            raise EpisodeError(
                f"the accuracy of each class is unknown on {self.outcomes.cell.protocol.task}: it needs as many "
                "queries of each class, drawn from a split whose class sizes are known."
            )
        return found

    @cached_property
    def _scores(self) -> TaskScores:
        return task_scores([self.outcomes.frame], [self.outcomes.cell])

    def __len__(self) -> int:
        return len(self.outcomes)

    def __repr__(self) -> str:
        protocol = self.outcomes.cell.protocol
        return f"<Evaluation: {self.name}, {protocol.task}, {len(self):,} episodes, {self._in_percent()}>"

    def _repr_html_(self) -> str:
        ends = [f"{100 * low:.2f}% to {100 * high:.2f}%" for low, high in (self.interval, self.data_interval)]
        facts = {
            "tasks": self.outcomes.cell.protocol.task,
            "episodes": len(self),
            "mean accuracy": f"{100 * self.mean:.2f}%",
            "95% interval over episodes": ends[0],
            "95% interval over classes and images": self.data_interval.why_unknown or ends[1],
        }
        return html_facts(self.name, facts)

    def _in_percent(self) -> str:
        data = self.data_interval.half_width
        beyond = "" if np.isnan(data) else f" (data ± {100 * data:.2f})"
        return f"{100 * self.mean:.2f}% ± {100 * self.interval.half_width:.2f}{beyond}"

    def to_frame(self) -> pd.DataFrame:
        """A row per episode: method, dataset, split, way, shot, run, episode, correct, accuracy."""
        protocol, frame = self.outcomes.cell.protocol, self.outcomes.frame
        described: dict[str, Any] = {
            "method": self.outcomes.cell.method.name,
            "dataset": protocol.dataset,
            "split": protocol.split,
            "way": protocol.way,
            "shot": protocol.shot,
        }
        return frame[["run", "episode", "correct", "accuracy"]].assign(**described)[
            [*described, "run", "episode", "correct", "accuracy"]
        ]

    def save(self, results: str | Location) -> OutcomeStore:
        """Store the outcomes where `fewshot-bench run --results` does, for `leaderboard`, `compare` and `report`.

        Episodes that are stored already are left alone, so saving twice changes nothing. Other code, other
        embeddings and other hyper-parameters are other methods.

        Args:
            results: the folder, or a URL.

        Raises:
            CodeError: the method's code has no source to identify it by, or the same code predicted something else.
            OutcomeError: what is stored there is damaged.
            OSError: the folder cannot be written to.
        """
        cell = self.outcomes.cell
        check_storable(cell)
        store = OutcomeStore(location_of(results) / "outcomes")
        store.check_folder()
        done = store.done(cell)
        frame = self.outcomes.frame
        is_stored = np.zeros(len(frame), np.bool_)
        for run, numbers in done.items():
            is_stored |= ((frame["run"] == run) & frame["episode"].isin(numbers)).to_numpy()
        if is_stored.any():
            self._check_agrees(store)
        if not is_stored.all():
            store.append_frame(cell, frame[~is_stored])
        return store

    def _check_agrees(self, store: OutcomeStore) -> None:
        """Raise CodeError if the same method is stored with other predictions of the same episodes."""
        cell = self.outcomes.cell
        both = self.outcomes.frame.merge(store.read(cell), on=["run", "episode"])
        here, there = (np.concatenate([np.ravel(row) for row in both[f"predictions_{side}"]]) for side in "xy")
        share = float((here != there).mean())
        if share > _ROUNDING:
            raise CodeError(
                f"{self.name} is stored in {store.folder} with other predictions for {100 * share:.0f}% of the queries "
                "of the same episodes, though its code is the same. Make what changed, such as a global variable, a "
                "field of an adaptation, or save into another folder."
            )


def check_storable(cell: Cell) -> None:
    """Raise CodeError for a method whose code has no source, so that another day's code would look the same."""
    unknown = [part for part, code in cell.method.code.items() if str(code["digest"]).startswith("unknown")]
    if unknown:
        raise CodeError(
            f"{unknown[0]} has no source file, so its outcomes could not be told from those of other code. Put it into "
            "a module to store them."
        )
