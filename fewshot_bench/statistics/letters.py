"""The compact letter display: methods that share a letter are not significantly different (Piepho, 2004)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fewshot_bench.errors import ComparisonError, ShapeError

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
# Real studies need about as many letters as methods; only a contrived pattern of differences comes near this.
MOST_COLUMNS = 5000


def compact_letters(significant: ArrayLike, order: Sequence[int] | None = None) -> list[str]:
    """Write the letters of each method (`letter_sets`) together, such as "a", "ab", "b".

    Beyond 26 letters they have names of two, and a method's are separated by spaces: "z aa ab".
    """
    sets = letter_sets(significant, order)
    separator = " " if any(len(name) > 1 for names in sets for name in names) else ""
    return [separator.join(names) for names in sets]


def read_letters(groups: Sequence[str]) -> list[set[str]]:
    """Take apart what `compact_letters` wrote for all methods together; "aa" alone says that there are names of two.

    Args:
        groups: of all methods of one display, [A].
    """
    has_long_names = any(" " in group or group == "aa" for group in groups)
    return [set(group.split() if has_long_names else group) for group in groups]


def letter_sets(significant: ArrayLike, order: Sequence[int] | None = None) -> list[tuple[str, ...]]:
    """Give each method letters such that two methods share one if and only if they are not significantly different.

    Piepho's insert and absorb: begin with one column that holds every method; for each significant difference split the
    columns that hold both, and drop those that another column contains; at last drop letters that are not needed.

    Args:
        significant: whether methods i and j differ, bool [A, A], symmetric.
        order: the methods from the best to the worst; the first gets "a". None: as they stand.

    Returns:
        The letters of each method, [A], in alphabetical order; after "z" come "aa", "ab", ...

    Raises:
        ShapeError: the matrix is not square and symmetric, or the order is none of its methods.
        ComparisonError: the pattern needs more than 5,000 letters.
    """
    differ = np.asarray(significant, dtype=bool)
    if differ.ndim != 2 or differ.shape[0] != differ.shape[1] or (differ != differ.T).any() or np.diag(differ).any():
        raise ShapeError(f"letters need a symmetric matrix [A, A] of differences, not {list(differ.shape)}.")
    ranked = list(range(len(differ))) if order is None else [int(method) for method in order]
    if sorted(ranked) != list(range(len(differ))):
        raise ShapeError(f"an order of {len(differ)} methods must name each of them once, not {ranked}.")
    differ = differ[np.ix_(ranked, ranked)]
    columns = _without_redundant(_insert_and_absorb([_bits(row) for row in differ]), len(ranked))
    names = [letter(number) for number in range(len(columns))]
    letters: list[tuple[str, ...]] = [()] * len(ranked)
    for position, method in enumerate(ranked):
        letters[method] = tuple(name for name, column in zip(names, columns, strict=True) if column >> position & 1)
    return letters


def letter(number: int) -> str:
    """The name of a column, counted from 0: a to z, then aa, ab, ... as a spreadsheet does."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, len(ALPHABET))
        name = ALPHABET[rest] + name
    return name


def _bits(row: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> int:
    return sum(1 << int(index) for index in np.flatnonzero(row))


def _insert_and_absorb(differ: list[int]) -> list[int]:
    """Columns of methods without a significant difference among them, none within another, as sets of bits."""
    columns = [(1 << len(differ)) - 1]
    for method, others in enumerate(differ):
        me = 1 << method
        split = [column for column in columns if column & me and column & others]
        if not split:
            continue
        kept = [column for column in columns if not (column & me and column & others)]
        # All differences of one method at once: the column without it, and the column without all that differ from it.
        pieces = {*(column & ~me for column in split), *(column & ~others for column in split)}
        for piece in sorted(pieces, key=int.bit_count, reverse=True):
            if not any(piece & column == piece for column in kept):
                kept.append(piece)
        columns = kept
        if len(columns) > MOST_COLUMNS:
            raise ComparisonError(
                f"this pattern of differences among {len(differ)} methods needs more than {MOST_COLUMNS:,} letters. "
                "Compare fewer methods, or all against a baseline."
            )
    return columns


def _without_redundant(columns: list[int], methods: int) -> list[int]:
    """Drop columns all of whose pairs share another one; order the rest by their best methods."""
    columns = sorted(columns, key=lambda column: [i for i in range(methods) if column >> i & 1])
    index = 0
    while index < len(columns):
        others = columns[:index] + columns[index + 1 :]
        if _is_covered(columns[index], others):
            columns = others
        else:
            index += 1
    return columns


def _is_covered(column: int, others: list[int]) -> bool:
    members = [i for i in range(column.bit_length()) if column >> i & 1]
    overlaps = [other & column for other in others if other & column]
    for member in members:
        reached = 0
        for overlap in overlaps:
            if overlap >> member & 1:
                reached |= overlap
        if reached & column != column:
            return False
    return True
