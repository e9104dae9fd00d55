"""What the rows of a file of accuracies say: which methods they belong to, on which tasks and episodes.

A table is long if it has a column `accuracy` or `correct`: a row for each method and episode. Otherwise it is wide: a
row for each episode, and a column for each method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import ALL_SPLIT_NAMES
from fewshot_bench.errors import ShapeError
from fewshot_bench.interop.accuracy_files import AccuracyTable, Texts, first_row
from fewshot_bench.limits import LARGEST_SIZE, LARGEST_WAY
from fewshot_bench.outcomes import ProtocolCard, claimed_frame, claimed_protocol
from fewshot_bench.outcomes.claimed import (
    LARGEST_EPISODE,
    LARGEST_RUN,
    MOST_QUERIES,
    NO_CLASSES,
    SEPARATOR,
    UNKNOWN_CORRECT,
    UNKNOWN_QUERIES,
    classes_text,
)
from fewshot_bench.outcomes.schema import NAME_RULE, is_name

_OF_EPISODES = ("episode", "run", "dataset", "split", "way", "shot", "tasks", "classes", "queries")
_OF_LONG_TABLES = ("method", "accuracy", "correct", "is_transductive")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_NEAR = 0.005
"""By how much an accuracy may differ from the fraction that is correct: tables round."""
_ABOVE_ONE = 1e-6
"""By how much a fraction may lie above 1 where a file was written in single precision."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What a file of accuracies does not say itself.

    Attributes:
        methods: names for the columns of an array, or for the one method of a table; of a file that names its methods,
            the ones to import.
        dataset: its name.
        split: "base", "validation" or "novel", which is the default.
        way: N.
        shot: K.
        query: Q, queries per class, to turn `correct` into accuracies.
        run: of all rows; 0 by default.
        tasks: the name of the claim; methods imported under one name claim the same episodes.
        is_percent: whether accuracies are percentages; by default, whether one is above 1.
        transductive: methods that see all queries of an episode at once; long tables may say so in a column
            `is_transductive`.
    """

    methods: Sequence[str] = ()
    dataset: str | None = None
    split: str | None = None
    way: int | None = None
    shot: int | None = None
    query: int | None = None
    run: int | None = None
    tasks: str | None = None
    is_percent: bool | None = None
    transductive: Sequence[str] = ()


@dataclass(frozen=True)
class ClaimedRows:
    """The episodes of one method on one protocol.

    Attributes:
        method: its name.
        protocol: that the rows claim.
        frame: as `claimed_frame` makes it, [E].
        is_transductive: whether the file or the user says that it is.
    """

    method: str
    protocol: ProtocolCard
    frame: pd.DataFrame
    is_transductive: bool = False


@dataclass(frozen=True)
class _Scores:
    """The values of one method: in which rows of the file, and in which column they are."""

    method: str
    column: str
    rows: NDArray[np.int64]
    accuracy: NDArray[np.float64]


class AccuracyRows:
    """One file of accuracies, read with some options."""

    def __init__(self, table: AccuracyTable, options: ImportOptions, tasks: str) -> None:
        """Look at the names of the columns.

        Args:
            table: the file.
            options: what it does not say itself.
            tasks: the name of the claim, where neither says one.
        """
        self._table = table
        self._options = options
        self._tasks = tasks
        every = [*table.columns, *table.unreadable]
        lower = {name.lower(): name for name in every}
        self.is_long = "accuracy" in lower or "correct" in lower
        known = (*_OF_EPISODES, *(_OF_LONG_TABLES if self.is_long else ()))
        self._named = {name: lower[name] for name in known if name in lower}
        others = [name for name in every if name not in self._named.values()]
        self.ignored = others if self.is_long else []
        self._wide = [] if self.is_long else others
        self.names_tasks = "tasks" in self._named or options.tasks is not None
        self._check_options()

    def claims(self) -> Iterator[ClaimedRows]:
        """The episodes of each method on each protocol.

        Raises:
            AccuracyFileError: a value is missing or is none, or an episode is there twice.
        """
        table, scores = self._table, self._scores()
        correct, queries = self._counts
        self._to_fractions(scores)
        protocols, of_row = self._protocols
        classes = self._classes(protocols, of_row)
        run, episode = self._runs, self._episodes(of_row)
        for one in scores:
            _check_once(table, one, of_row, run, episode)
            is_transductive = self._is_transductive(one)
            for number in np.unique(of_row[one.rows]):
                mine = of_row[one.rows] == number
                rows = one.rows[mine]
                frame = claimed_frame(
                    run[rows],
                    episode[rows],
                    one.accuracy[mine],
                    correct=None if correct is None else correct[rows],
                    queries=None if queries is None else queries[rows],
                    classes=None if classes is None else classes[rows],
                )
                yield ClaimedRows(one.method, protocols[number], frame, is_transductive)

    def _is_transductive(self, one: _Scores) -> bool:
        """Whether the options or the rows of a method say that it sees all queries of an episode at once.

        Raises:
            AccuracyFileError: the rows say something else, or contradict each other or the options.
        """
        told = {True} if one.method in self._options.transductive else set[bool]()
        if "is_transductive" in self._named:
            column = self._table.texts(self._named["is_transductive"])
            for text in {column.values[code] for code in np.unique(column.codes[one.rows])} - {""}:
                if text.lower() not in _TRUTH:
                    self._table.refuse(
                        f"'is_transductive' of {one.method} is {text[:40]!r}, and should be true or false"
                    )
                told.add(_TRUTH[text.lower()])
        if len(told) > 1:
            self._table.refuse(f"{one.method} is said to be transductive, and not to be")
        return True in told

    def _check_options(self) -> None:
        """See that nothing is said twice, and nothing is missing.

        Raises:
            AccuracyFileError: something is.
        """
        options, table = self._options, self._table
        for name in ("dataset", "split", "way", "shot", "run", "tasks"):
            if name in self._named and getattr(options, name) is not None:
                table.refuse(f"it has a column '{self._named[name]}'. Leave out --{name}, or the column")
        wanted = {"dataset": "--dataset NAME", "way": "--way N", "shot": "--shot K"}
        missing = [
            words for name, words in wanted.items() if name not in self._named and getattr(options, name) is None
        ]
        if missing:
            table.refuse(f"it does not say which tasks these are. Add {' '.join(missing)}, or columns of these names")
        if self.is_long and "episode" not in self._named:
            table.refuse("it has no column 'episode', so its rows cannot be paired. Add one with the episode's number")

    def _scores(self) -> list[_Scores]:
        """The values of every method that is wanted.

        Raises:
            AccuracyFileError: there is none, or none of that name.
        """
        scores = self._long() if self.is_long else self._of_columns()
        found = [one.method for one in scores]
        for name in found:
            if not is_name(name):
                self._table.refuse(f"{name[:40]!r} is not a method's name, which is {NAME_RULE}")
        unknown = next((name for name in self._options.methods if name not in found), None)
        if unknown is not None:
            self._table.refuse(f"it has no method '{unknown}', but {', '.join(found[:9])}")
        return [one for one in scores if not self._options.methods or one.method in self._options.methods]

    def _of_columns(self) -> list[_Scores]:
        """One column for each method."""
        wanted = [name for name in self._wide if not self._options.methods or name in self._options.methods]
        if not self._wide:
            self._table.refuse("it has no column of accuracies. Add one for each method, named after it")
        rows = np.arange(len(self._table))
        names = wanted or self._wide
        return [_Scores(name, name, rows, self._table.numbers(name)) for name in names]

    def _long(self) -> list[_Scores]:
        """One row for each method and episode."""
        column = self._named.get("accuracy") or self._named["correct"]
        accuracy = self._long_accuracy()
        if "method" in self._named:
            methods = self._table.texts(self._named["method"])
        elif len(self._options.methods) == 1:
            methods = Texts(self._options.methods, np.zeros(len(self._table), np.int64))
        else:
            self._table.refuse("it has no column 'method'. Name the one method of its rows with --method NAME")
        order = np.argsort(methods.codes, kind="stable")
        ends = np.cumsum(np.bincount(methods.codes, minlength=len(methods.values)))
        parts = np.split(order, ends[:-1])
        pairs = [(name, rows) for name, rows in zip(methods.values, parts, strict=True) if len(rows)]
        return [_Scores(name, column, rows, accuracy[rows]) for name, rows in pairs]

    def _long_accuracy(self) -> NDArray[np.float64]:
        if "accuracy" in self._named:
            return self._table.numbers(self._named["accuracy"])
        correct, queries = self._counts
        assert correct is not None
        assert queries is not None
        return correct / queries

    @cached_property
    def _counts(self) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
        """How many queries of each row are correct, and how many there are; None where the file does not say."""
        table = self._table
        queries = self._optional("queries", UNKNOWN_QUERIES, MOST_QUERIES)
        correct = self._optional("correct", UNKNOWN_CORRECT, MOST_QUERIES)
        if queries is None and self._options.query is not None:
            queries = self._sizes[0] * self._options.query
        if correct is None:
            return None, queries
        has_accuracy = "accuracy" in self._named
        if queries is None:
            if has_accuracy:
                return None, None
            table.refuse("'correct' needs the number of queries. Add --query Q (per class), or a column 'queries'")
        lacking = (correct == UNKNOWN_CORRECT) & (not has_accuracy)
        if lacking.any():
            table.refuse(f"'correct' is empty in row {first_row(lacking)}, and should be a number")
        known = correct != UNKNOWN_CORRECT
        wrong = known & ((queries < 1) | (correct > queries))
        if wrong.any():
            row = first_row(wrong)
            table.refuse(f"'correct' is {correct[row - 1]} of {queries[row - 1]} queries in row {row}")
        return correct, queries

    def _optional(self, name: str, unknown: int, most: int) -> NDArray[np.int64] | None:
        """A column of counts in which some may be empty; None where there is none, or all are."""
        if name not in self._named:
            return None
        column = self._table.columns.get(self._named[name])
        if isinstance(column, Texts) and "" in column.values:
            empty = column.codes == column.values.index("")
        elif isinstance(column, np.ndarray):
            empty = np.isnan(column)
        else:
            empty = np.zeros(len(self._table), dtype=bool)
        if empty.all():
            return None
        some = AccuracyTable(self._table.path, {name: _filled(column, empty)}) if empty.any() else self._table
        values = some.whole(name if empty.any() else self._named[name], 0, most)
        values[empty] = unknown
        return values

    def _to_fractions(self, scores: list[_Scores]) -> None:
        """Turn percentages into fractions, in place.

        Raises:
            AccuracyFileError: a value is out of range, or some are percentages and some fractions.
        """
        table, options = self._table, self._options
        for one in scores:
            odd = (one.accuracy < 0) | (one.accuracy > 100)
            if odd.any():
                table.refuse(f"{_at(one, odd)}; an accuracy is 0 to 1, or 0 to 100%")
        counted = self.is_long and "accuracy" not in self._named
        above = [(one, one.accuracy > 1 + _ABOVE_ONE) for one in scores]
        percent = next(((one, is_above) for one, is_above in above if is_above.any()), None)
        is_percent = (percent is not None and not counted) if options.is_percent is None else options.is_percent
        if percent is not None and not is_percent:
            table.refuse(f"{_at(*percent)}, but a fraction is 1 at most")
        if is_percent and options.is_percent is None:
            assert percent is not None
            for one in scores:
                small = (one.accuracy > 0) & (one.accuracy <= 1)
                if small.any():
                    table.refuse(
                        f"it mixes percent and fractions: {_at(*percent)}, and {_at(one, small)}. Convert one of them, "
                        "or add --percent if all are percentages"
                    )
        for one in scores:
            one.accuracy[:] = one.accuracy / 100 if is_percent else np.minimum(one.accuracy, 1.0)
        self._use_counts(scores)

    def _use_counts(self, scores: list[_Scores]) -> None:
        """Take the exact fraction where it is known how many queries are correct.

        Raises:
            AccuracyFileError: it is another accuracy than the one beside it.
        """
        correct, queries = self._counts
        if correct is None or queries is None:
            return
        for one in scores:
            known = correct[one.rows] != UNKNOWN_CORRECT
            exact = correct[one.rows][known] / queries[one.rows][known]
            far = np.zeros(len(one.rows), dtype=bool)
            far[known] = np.abs(one.accuracy[known] - exact) > _NEAR
            if far.any():
                row = one.rows[int(np.argmax(far))]
                self._table.refuse(f"{_at(one, far)}, but {correct[row]} of {queries[row]} queries are correct")
            one.accuracy[known] = exact

    @cached_property
    def _sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Way and shot of each row, [R]."""
        return self._number("way", 1, LARGEST_WAY), self._number("shot", 1, LARGEST_SIZE)

    def _number(self, name: str, least: int, most: int, usual: int = 0) -> NDArray[np.int64]:
        if name in self._named:
            return self._table.whole(self._named[name], least, most)
        given = getattr(self._options, name)
        value = usual if given is None else given
        if not least <= value <= most:
            self._table.refuse(f"--{name} should be {least} to {most:,}, not {value}")
        return np.full(len(self._table), value, np.int64)

    def _text(self, name: str, usual: str = "") -> Texts:
        if name in self._named:
            found = self._table.texts(self._named[name])
        else:
            given = getattr(self._options, name)
            found = Texts([usual if given is None else given], np.zeros(len(self._table), np.int64))
        used = np.unique(found.codes)
        odd = next((code for code in used if not is_name(found.values[code])), None)
        if odd is not None:
            row = first_row(found.codes == odd)
            self._table.refuse(f"'{name}' is {found.values[odd][:40]!r} in row {row}, and should be {NAME_RULE}")
        return found

    @cached_property
    def _protocols(self) -> tuple[list[ProtocolCard], NDArray[np.int64]]:
        """The protocols of the file, and which of them each row has, [R]."""
        dataset, split, tasks = self._text("dataset"), self._text("split", "novel"), self._text("tasks", self._tasks)
        for code in np.unique(split.codes):
            if split.values[code] not in ALL_SPLIT_NAMES:
                self._table.refuse(f"no split is called '{split.values[code][:40]}', but {', '.join(ALL_SPLIT_NAMES)}")
        way, shot = self._sizes
        names = np.stack([dataset.codes, split.codes, way, shot, tasks.codes], axis=1)
        unique, of_row = np.unique(names, axis=0, return_inverse=True)
        cards = [
            claimed_protocol(dataset.values[a], split.values[b], int(n), int(k), tasks.values[c])
            for a, b, n, k, c in unique.tolist()
        ]
        return cards, np.ravel(of_row).astype(np.int64)

    def _classes(self, protocols: Sequence[ProtocolCard], of_row: NDArray[np.int64]) -> NDArray[np.object_] | None:
        """The classes of each row as text, [R]; None where the file does not say any."""
        if "classes" not in self._named:
            return None
        column = self._table.texts(self._named["classes"])
        pairs, inverse = np.unique(np.stack([column.codes, of_row], axis=1), axis=0, return_inverse=True)
        found = np.empty(len(pairs), dtype=object)
        for number, (code, protocol) in enumerate(pairs.tolist()):
            text = column.values[code]
            names = text.split(SEPARATOR) if SEPARATOR in text else text.split()
            try:
                found[number] = classes_text(names, protocols[protocol].way) if text else NO_CLASSES
            except ShapeError as error:
                row = first_row((column.codes == code) & (of_row == protocol))
                self._table.refuse(f"'classes' in row {row}: {error}. Write 3 7 12, or cat;dog;tree")
        taken: NDArray[np.object_] = found[np.ravel(inverse)]
        return taken

    @cached_property
    def _runs(self) -> NDArray[np.int64]:
        return self._number("run", 0, LARGEST_RUN)

    def _episodes(self, of_row: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of each row's episode, [R]; without such a column, its place among the rows of its run."""
        if "episode" in self._named:
            return self._table.whole(self._named["episode"], 0, LARGEST_EPISODE)
        counted: NDArray[np.int64] = (
            pd.Series(of_row).groupby([of_row, self._runs]).cumcount().to_numpy().astype(np.int64)
        )
        return counted


def _check_once(
    table: AccuracyTable, one: _Scores, of_row: NDArray[Any], run: NDArray[Any], episode: NDArray[Any]
) -> None:
    """See that a method has each episode once.

    Raises:
        AccuracyFileError: it has one twice.
    """
    names = pd.DataFrame({"task": of_row[one.rows], "run": run[one.rows], "episode": episode[one.rows]})
    again = names.duplicated().to_numpy()
    if again.any():
        row = one.rows[int(np.argmax(again))]
        table.refuse(
            f"'{one.method}' has episode {episode[row]} of run {run[row]} twice, the second time in row {row + 1}. "
            "Number the episodes, or the runs in a column 'run'"
        )


def _at(one: _Scores, is_so: NDArray[np.bool_]) -> str:
    """The first value that is marked, and where it is."""
    at = int(np.argmax(is_so))
    return f"'{one.column}' is {one.accuracy[at]:.6g} in row {one.rows[at] + 1}"


def _filled(column: Any, empty: NDArray[np.bool_]) -> Any:
    """A column with 0 where it is empty."""
    if isinstance(column, Texts):
        zero = len(column.values)
        return Texts([*column.values, "0"], np.where(empty, zero, column.codes))
    return np.where(empty, 0.0, column)
