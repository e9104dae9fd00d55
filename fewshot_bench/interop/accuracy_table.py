"""A stranger's file of accuracies as columns of numbers and text, nothing in it executed; bounds come before memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.errors import AccuracyFileError
from fewshot_bench.outcomes.claimed import MOST_EPISODES

MOST_BYTES = 1_000_000_000
MOST_COLUMNS = 2_000
MOST_VALUES = 100_000_000
_LONGEST = 40  # characters of a file's text in a sentence


@dataclass(frozen=True)
class Texts:
    """A column of text.

    Attributes:
        values: the different texts, stripped.
        codes: which of them each row has, [R].
    """

    values: Sequence[str]
    codes: NDArray[np.int64]


Column = Texts | NDArray[np.float64]


@dataclass(frozen=True)
class AccuracyTable:
    """The rows of one file.

    Attributes:
        path: of the file.
        columns: by name, all of R rows.
        unreadable: columns of other types, by name: what they hold.
    """

    path: Path
    columns: Mapping[str, Column]
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: _length(column) for name, column in self.columns.items()}
        shortest, longest = (
            (min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)) if lengths else ("", "")
        )
        if lengths and lengths[shortest] != lengths[longest]:
            self.refuse(
                f"'{shortest}' has {lengths[shortest]:,} values and '{longest}' {lengths[longest]:,}. Every method "
                "needs one accuracy for each episode"
            )
        for name in self.unreadable if not lengths else ():
            self._column(name)  # refuses it
        if not lengths or not lengths[longest]:
            self.refuse("it has no rows")

    def __len__(self) -> int:
        return _length(next(iter(self.columns.values())))

    def refuse(self, finding: str) -> NoReturn:
        """Say what is wrong with this file.

        Raises:
            AccuracyFileError: always.
        """
        raise AccuracyFileError(f"{self.path}: {finding}. Nothing was imported.")

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of finite numbers, [R].

        Raises:
            AccuracyFileError: a value is missing, or is not such a number.
        """
        column = self._column(name)
        if isinstance(column, Texts):
            parsed = np.array([_number(text) for text in column.values], dtype=np.float64)
            values = parsed[column.codes]
        else:
            values = column
        odd = ~np.isfinite(values)
        if odd.any():
            row = int(np.argmax(odd))
            text = column.values[column.codes[row]] if isinstance(column, Texts) else ""
            found = repr(text[:_LONGEST]) if text else "inf" if math.isinf(values[row]) else "empty or NaN"
            how = " without %" if "%" in text else " with a decimal point" if "," in text else ""
            self.refuse(f"'{name}' is {found} in row {row + 1}, and should be a number{how}")
        return values

    def whole(self, name: str, least: int, most: int) -> NDArray[np.int64]:
        """A column of whole numbers, both ends included, [R].

        Raises:
            AccuracyFileError: a value is not such a number.
        """
        values = self.numbers(name)
        odd = (values != np.floor(values)) | (values < least) | (values > most)
        if odd.any():
            row = int(np.argmax(odd))
            self.refuse(
                f"'{name}' is {values[row]:.12g} in row {row + 1}, and should be a whole number, {least} to {most:,}"
            )
        return values.astype(np.int64)

    def texts(self, name: str) -> Texts:
        """A column as text; whole numbers are written without a point.

        Raises:
            AccuracyFileError: it holds neither text nor whole numbers.
        """
        column = self._column(name)
        if isinstance(column, Texts):
            return column
        unique, codes = np.unique(self.whole(name, -(1 << 53), 1 << 53), return_inverse=True)
        return Texts([str(value) for value in unique.tolist()], codes.astype(np.int64))

    def _column(self, name: str) -> Column:
        if name in self.unreadable:
            self.refuse(f"'{name}' holds {self.unreadable[name]}, not numbers or text")
        return self.columns[name]


def first_row(is_so: NDArray[np.bool_]) -> int:
    """The number of the first row that is marked, counted from 1 as in messages."""
    return int(np.argmax(is_so)) + 1


def texts_of(values: Sequence[Any], codes: NDArray[Any]) -> Texts:
    """Text as a column, with equal texts put together."""
    stripped = ["" if value is None else str(value).strip() for value in values]
    unique = {text: number for number, text in enumerate(dict.fromkeys(stripped))}
    return Texts(list(unique), np.array([unique[text] for text in stripped], np.int64)[codes])


def check_bounds(path: Path, rows: int, columns: int) -> None:
    """Refuse a file before its content is read.

    Raises:
        AccuracyFileError: it has more rows, columns or values than any file of accuracies.
    """
    for found, most, what in (
        (rows, MOST_EPISODES, "rows"),
        (columns, MOST_COLUMNS, "columns"),
        (rows * columns, MOST_VALUES, "values"),
    ):
        if found > most:
            raise AccuracyFileError(f"{path} has {found:,} {what}; at most {most:,} are read. Cut it into several.")


def _length(column: Column) -> int:
    return len(column.codes) if isinstance(column, Texts) else len(column)


def _number(text: str) -> float:
    """The number that a text is; NaN for any other text."""
    try:
        return float(text) if "_" not in text else math.nan
    except ValueError:
        return math.nan
