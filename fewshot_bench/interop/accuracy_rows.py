"""What the rows of a file of accuracies say: which methods they belong to, on which tasks and episodes.

A table is long if it has a column `accuracy` or `correct`: a row for each method and episode. Otherwise it is wide: a
row for each episode, and a column for each method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import ALL_SPLIT_NAMES
from fewshot_bench.errors import ShapeError
from fewshot_bench.interop.accuracy_files import AccuracyTable, Column, Texts, first_row
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

_EPISODE_COLUMNS = ("episode", "run", "dataset", "split", "way", "shot", "tasks", "classes", "queries")
_LONG_COLUMNS = ("method", "accuracy", "correct", "is_transductive")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_ROUNDING = 0.005
"""The largest difference between an accuracy and the fraction that is correct, since tables round."""
_LARGEST_FRACTION = 1 + 1e-6  # of a file in single precision


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What a file of accuracies does not say itself.

    Attributes:
        methods: names for the columns of an array, or for the one method of a table; of a file that names its methods,
            the ones to import.
        dataset: its name.
        split: "base", "validation" or "novel" (default).
        way: N.
        shot: K.
        query: Q, queries per class, to turn `correct` into accuracies.
        run: of all rows; 0 by default.
        tasks: the name of the claim; methods imported under one name claim the same episodes.
        is_percent: whether accuracies are percentages; by default, whether one is above 1.
        transductive: methods that see all queries of an episode at once; long tables may have a column
            `is_transductive` instead.

    >>> import fewshot_bench as fb
    >>> options = fb.ImportOptions(dataset="cifar_fs", way=5, shot=1, tasks="my-episodes")
    >>> options.dataset, options.way, options.tasks
    ('cifar_fs', 5, 'my-episodes')
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


@dataclass(frozen=True, eq=False)
class ClaimedRows:
    """The episodes of one method on one protocol.

    Attributes:
        method: its name.
        protocol: that the rows claim.
        frame: as `claimed_frame` makes it, [E].
        is_transductive: whether the file or the user says so.
    """

    method: str
    protocol: ProtocolCard
    frame: pd.DataFrame
    is_transductive: bool = False


@dataclass(frozen=True)
class _Scores:
    """The values of one method: their rows in the file, and the column that holds them."""

    method: str
    column: str
    rows: NDArray[np.int64]
    accuracy: NDArray[np.float64]

    def first(self, is_marked: NDArray[np.bool_]) -> str:
        """The first marked value, and where it is."""
        position = int(np.argmax(is_marked))
        return f"'{self.column}' is {self.accuracy[position]:.6g} in row {self.rows[position] + 1}"


class AccuracyRows:
    """One file of accuracies, read with some options."""

    def __init__(self, table: AccuracyTable, options: ImportOptions, tasks: str) -> None:
        """Look at the names of the columns.

        Args:
            table: the file.
            options: what it does not say itself.
            tasks: the name of the claim, if neither says one.
        """
        self._table = table
        self._options = options
        self._tasks = tasks
        names = [*table.columns, *table.unreadable]
        by_lower_case = {name.lower(): name for name in names}
        self.is_long = "accuracy" in by_lower_case or "correct" in by_lower_case
        known = (*_EPISODE_COLUMNS, *(_LONG_COLUMNS if self.is_long else ()))
        self._named = {name: by_lower_case[name] for name in known if name in by_lower_case}
        others = [name for name in names if name not in self._named.values()]
        self.ignored, self._method_columns = (others, []) if self.is_long else ([], others)
        self.names_tasks = "tasks" in self._named or options.tasks is not None
        self._check_options()

    def claims(self) -> Iterator[ClaimedRows]:
        """The episodes of each method on each protocol.

        Raises:
            AccuracyFileError: a value is missing or invalid, or an episode is there twice.
        """
        methods = self._scores()
        correct, queries = self._counts
        self._to_fractions(methods)
        protocols, protocol = self._protocols
        classes = self._classes(protocols, protocol)
        run = self._numbers("run", 0, LARGEST_RUN)
        if "episode" in self._named:
            episode = self._table.whole(self._named["episode"], 0, LARGEST_EPISODE)
        else:  # the position among the rows of the run
            episode = pd.Series(run).groupby([protocol, run]).cumcount().to_numpy().astype(np.int64)
        keys = pd.DataFrame({"protocol": protocol, "run": run, "episode": episode})
        for scores in methods:
            self._check_unique(scores, keys)
            is_transductive = self._is_transductive(scores)
            for number in np.unique(protocol[scores.rows]):
                is_here = protocol[scores.rows] == number
                rows = scores.rows[is_here]
                frame = claimed_frame(
                    run[rows],
                    episode[rows],
                    scores.accuracy[is_here],
                    correct=None if correct is None else correct[rows],
                    queries=None if queries is None else queries[rows],
                    classes=None if classes is None else classes[rows],
                )
                yield ClaimedRows(scores.method, protocols[number], frame, is_transductive)

    def _check_options(self) -> None:
        """See that no option contradicts a column, and none is missing."""
        options, table = self._options, self._table
        for name in ("dataset", "split", "way", "shot", "run", "tasks"):
            if name in self._named and getattr(options, name) is not None:
                table.refuse(f"it has a column '{self._named[name]}'. Leave out --{name}, or the column")
        required = {"dataset": "--dataset NAME", "way": "--way N", "shot": "--shot K"}
        missing = [
            flag for name, flag in required.items() if name not in self._named and getattr(options, name) is None
        ]
        if missing:
            table.refuse(f"it does not say which tasks these are. Add {' '.join(missing)}, or columns of these names")
        if self.is_long and "episode" not in self._named:
            table.refuse("it has no column 'episode', so its rows cannot be paired. Add one with the episode's number")

    def _check_unique(self, scores: _Scores, keys: pd.DataFrame) -> None:
        """See that a method has each episode once."""
        is_repeated = keys.iloc[scores.rows].duplicated().to_numpy()
        if is_repeated.any():
            row = scores.rows[int(np.argmax(is_repeated))]
            found = f"'{scores.method}' has episode {keys['episode'][row]} of run {keys['run'][row]} twice"
            hint = "Number the episodes, or the runs in a column 'run'"
            self._table.refuse(f"{found}, the second time in row {row + 1}. {hint}")

    def _is_transductive(self, scores: _Scores) -> bool:
        """Whether the options or the rows of a method say so."""
        found = {True} if scores.method in self._options.transductive else set[bool]()
        if "is_transductive" in self._named:
            column = self._table.texts(self._named["is_transductive"])
            for text in {column.values[code] for code in np.unique(column.codes[scores.rows])} - {""}:
                if text.lower() not in _FLAGS:
                    finding = f"'is_transductive' of {scores.method} is {text[:40]!r}"
                    self._table.refuse(f"{finding}, and should be true or false")
                found.add(_FLAGS[text.lower()])
        if len(found) > 1:
            self._table.refuse(f"{scores.method} is said to be transductive, and not to be")
        return True in found

    def _scores(self) -> list[_Scores]:
        """The values of every method that is wanted."""
        methods = self._long_scores() if self.is_long else self._wide_scores()
        names = [scores.method for scores in methods]
        for name in names:
            if not is_name(name):
                self._table.refuse(f"{name[:40]!r} is not a method's name, which is {NAME_RULE}")
        wanted = self._options.methods or names
        unknown = next((name for name in wanted if name not in names), None)
        if unknown is not None:
            self._table.refuse(f"it has no method '{unknown}', but {', '.join(names[:9])}")
        return [scores for scores in methods if scores.method in wanted]

    def _wide_scores(self) -> list[_Scores]:
        if not self._method_columns:
            self._table.refuse("it has no column of accuracies. Add one for each method, named after it")
        wanted = [name for name in self._method_columns if name in self._options.methods] or self._method_columns
        rows = np.arange(len(self._table))
        return [_Scores(name, name, rows, self._table.numbers(name)) for name in wanted]

    def _long_scores(self) -> list[_Scores]:
        if "accuracy" in self._named:
            accuracy = self._table.numbers(self._named["accuracy"])
        else:
            correct, queries = self._counts
            assert correct is not None
            assert queries is not None
            accuracy = correct / queries
        if "method" in self._named:
            methods = self._table.texts(self._named["method"])
        elif len(self._options.methods) == 1:
            methods = Texts.repeated(self._options.methods[0], len(self._table))
        else:
            self._table.refuse("it has no column 'method'. Name the one method of its rows with --method NAME")
        column = self._named.get("accuracy") or self._named["correct"]
        ends = np.cumsum(np.bincount(methods.codes, minlength=len(methods.values)))
        groups = np.split(np.argsort(methods.codes, kind="stable"), ends[:-1])
        named = zip(methods.values, groups, strict=True)
        return [_Scores(name, column, rows, accuracy[rows]) for name, rows in named if len(rows)]

    @cached_property
    def _counts(self) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
        """The correct queries and all queries of each row, [R]; None where the file does not say."""
        table = self._table
        queries = self._optional_counts("queries", UNKNOWN_QUERIES)
        correct = self._optional_counts("correct", UNKNOWN_CORRECT)
        if queries is None and self._options.query is not None:
            queries = self._sizes[0] * self._options.query
        if correct is None:
            return None, queries
        if queries is None:
            if "accuracy" in self._named:
                return None, None
            table.refuse("'correct' needs the number of queries. Add --query Q (per class), or a column 'queries'")
        is_known = correct != UNKNOWN_CORRECT
        if "accuracy" not in self._named and not is_known.all():
            table.refuse(f"'correct' is empty in row {first_row(~is_known)}, and should be a number")
        is_wrong = is_known & ((queries < 1) | (correct > queries))
        if is_wrong.any():
            row = first_row(is_wrong)
            table.refuse(f"'correct' is {correct[row - 1]} of {queries[row - 1]} queries in row {row}")
        return correct, queries

    def _optional_counts(self, name: str, unknown: int) -> NDArray[np.int64] | None:
        """A column of counts, in which values may be empty, [R]; None if there is none, or all are empty."""
        column: Column | None = self._table.columns.get(self._named.get(name, ""))
        if name not in self._named:
            return None
        if isinstance(column, Texts):
            is_empty = column.codes == (column.values.index("") if "" in column.values else -1)
        else:
            is_empty = np.zeros(len(self._table), bool) if column is None else np.isnan(column)
        if is_empty.all():
            return None
        if not is_empty.any() or column is None:
            return self._table.whole(self._named[name], 0, MOST_QUERIES)
        if isinstance(column, Texts):
            filled: Column = Texts([text or "0" for text in column.values], column.codes)
        else:
            filled = np.where(is_empty, 0.0, column)
        counts = AccuracyTable(self._table.path, {name: filled}).whole(name, 0, MOST_QUERIES)
        counts[is_empty] = unknown
        return counts

    def _to_fractions(self, methods: Sequence[_Scores]) -> None:
        """Turn percentages into fractions, in location; a fraction is exact where the correct queries are known.

        Raises:
            AccuracyFileError: a value is out of range, some are percentages and some fractions, or an accuracy differs
                from the counts beside it.
        """
        table, options = self._table, self._options
        for scores in methods:
            is_invalid = (scores.accuracy < 0) | (scores.accuracy > 100)
            if is_invalid.any():
                table.refuse(f"{scores.first(is_invalid)}; an accuracy is 0 to 1, or 0 to 100%")
        is_counted = self.is_long and "accuracy" not in self._named
        above_one = ((scores, scores.accuracy > _LARGEST_FRACTION) for scores in methods)
        percent = next((scores.first(is_above) for scores, is_above in above_one if is_above.any()), "")
        is_percent = options.is_percent if options.is_percent is not None else bool(percent) and not is_counted
        if percent and not is_percent:
            table.refuse(f"{percent}, but a fraction is 1 at most")
        for scores in methods:
            is_small = (scores.accuracy > 0) & (scores.accuracy <= 1)
            if is_percent and options.is_percent is None and is_small.any():
                table.refuse(
                    f"it mixes percent and fractions: {percent}, and {scores.first(is_small)}. Convert one of them, or "
                    "add --percent if all are percentages"
                )
        for scores in methods:
            scores.accuracy[:] = scores.accuracy / 100 if is_percent else np.minimum(scores.accuracy, 1.0)
            self._use_counts(scores)

    def _use_counts(self, scores: _Scores) -> None:
        """Take the exact fraction where the correct queries are known."""
        if self._counts[0] is None or self._counts[1] is None:
            return
        correct, queries = (counts[scores.rows] for counts in self._counts if counts is not None)
        is_known = correct != UNKNOWN_CORRECT
        exact = np.where(is_known, correct / np.maximum(queries, 1), scores.accuracy)
        differs = np.abs(scores.accuracy - exact) > _ROUNDING
        if differs.any():
            row = int(np.argmax(differs))
            self._table.refuse(f"{scores.first(differs)}, but {correct[row]} of {queries[row]} queries are correct")
        scores.accuracy[:] = exact

    @cached_property
    def _sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Way and shot of each row, [R]."""
        return self._numbers("way", 1, LARGEST_WAY), self._numbers("shot", 1, LARGEST_SIZE)

    def _numbers(self, name: str, least: int, most: int) -> NDArray[np.int64]:
        """A column of whole numbers, or the option of that name in every row, 0 by default, [R]."""
        if name in self._named:
            return self._table.whole(self._named[name], least, most)
        value = getattr(self._options, name) or 0
        if not least <= value <= most:
            self._table.refuse(f"--{name} should be {least} to {most:,}, not {value}")
        return np.full(len(self._table), value, np.int64)

    def _names(self, name: str, default: str = "") -> Texts:
        """A column of names, or the option of that name in every row, [R]."""
        if name in self._named:
            column = self._table.texts(self._named[name])
        else:
            option = getattr(self._options, name)
            column = Texts.repeated(default if option is None else option, len(self._table))
        invalid = next((code for code in np.unique(column.codes) if not is_name(column.values[code])), None)
        if invalid is not None:
            found = f"'{name}' is {column.values[invalid][:40]!r} in row {first_row(column.codes == invalid)}"
            self._table.refuse(f"{found}, and should be {NAME_RULE}")
        return column

    @cached_property
    def _protocols(self) -> tuple[list[ProtocolCard], NDArray[np.int64]]:
        """The protocols of the file, and the number of each row's, [R]."""
        dataset, split, tasks = self._names("dataset"), self._names("split", "novel"), self._names("tasks", self._tasks)
        for code in np.unique(split.codes):
            if split.values[code] not in ALL_SPLIT_NAMES:
                self._table.refuse(f"no split is called '{split.values[code][:40]}', but {', '.join(ALL_SPLIT_NAMES)}")
        columns = np.stack([dataset.codes, split.codes, *self._sizes, tasks.codes], axis=1)
        unique, numbers = np.unique(columns, axis=0, return_inverse=True)
        cards = [
            claimed_protocol(dataset.values[a], split.values[b], way, shot, tasks.values[c])
            for a, b, way, shot, c in unique.tolist()
        ]
        return cards, np.ravel(numbers).astype(np.int64)

    def _classes(self, protocols: Sequence[ProtocolCard], protocol: NDArray[np.int64]) -> NDArray[np.object_] | None:
        """The classes of each row as text, [R]; None if the file does not name any."""
        if "classes" not in self._named:
            return None
        column = self._table.texts(self._named["classes"])
        pairs, inverse = np.unique(np.stack([column.codes, protocol], axis=1), axis=0, return_inverse=True)
        found = np.empty(len(pairs), dtype=object)
        for position, (code, number) in enumerate(pairs.tolist()):
            text = column.values[code]
            names = text.split(SEPARATOR) if SEPARATOR in text else text.split()
            try:
                found[position] = classes_text(names, protocols[number].way) if text else NO_CLASSES
            except ShapeError as error:
                row = first_row((column.codes == code) & (protocol == number))
                self._table.refuse(f"'classes' in row {row}: {error}. Write 3 7 12, or cat;dog;tree")
        classes: NDArray[np.object_] = found[np.ravel(inverse)]
        return classes
