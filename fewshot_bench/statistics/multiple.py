"""Many methods on the same episodes: paired t-tests of all pairs, corrected p values, and compact letters.

All pairs are tested from one covariance matrix. In the compact letter display (Piepho, 2004), methods that share a
letter are not significantly different.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench.errors import ComparisonError, ShapeError, UnknownNameError
from fewshot_bench.statistics.intervals import ROUNDING, SMALLEST_P
from fewshot_bench.statistics.paired import p_of_equal_differences, paired_t_test

Correction = Literal["holm", "bh", "none"]
STATSMODELS_NAME = {"holm": "holm", "bh": "fdr_bh"}


def corrected(p: ArrayLike, method: Correction = "holm") -> NDArray[np.float64]:
    """Correct p values for the number of tests.

    Args:
        p: of each test, of any shape; NaN where there was no test, which stays NaN and does not count.
        method: "holm" (Holm, 1979) keeps the chance of any false discovery below alpha; "bh" (Benjamini & Hochberg,
            1995) keeps the expected share of false ones among the discoveries below alpha; "none" changes nothing.

    Returns:
        Corrected p values of the same shape, to be compared with the same alpha.

    Raises:
        UnknownNameError: the correction is unknown.
        ShapeError: a p is not between 0 and 1.

    >>> corrected([0.01, 0.04, 0.03]).round(4).tolist(), corrected([0.01, 0.04, 0.03], "bh").round(4).tolist()
    ([0.03, 0.06, 0.06], [0.03, 0.04, 0.04])
    """
    if method not in get_args(Correction):
        raise UnknownNameError("correction", method, get_args(Correction))
    values = np.array(p, dtype=np.float64)
    tested = ~np.isnan(values)
    if ((values[tested] < 0) | (values[tested] > 1)).any():
        raise ShapeError("p values must lie between 0 and 1; some do not.")
    if method != "none" and tested.any():
        from statsmodels.stats.multitest import multipletests

        values[tested] = multipletests(values[tested], method=STATSMODELS_NAME[method])[1]
    return values


# The covariance matrix gives the variance of a difference as what is left of two larger numbers. Where less than a
# hundred-thousandth is left, or next to nothing of the values themselves, each difference is computed by itself.
LITTLE_LEFT = 1e-5
NEXT_TO_NOTHING = 1e-10


@dataclass(frozen=True, eq=False)
class PairMatrix:
    """Every pair of methods; entry [i, j] is about method i minus method j.

    Attributes:
        episodes: how many all methods have in common.
        mean_differences: [A, A].
        standard_errors: of the mean differences, [A, A].
        t: [A, A]; infinite where all differences are the same and not 0.
        p: two-sided, not corrected, [A, A]; 1 on the diagonal.
    """

    episodes: int
    mean_differences: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    t: NDArray[np.float64]
    p: NDArray[np.float64]

    def corrected(self, method: Correction = "holm") -> NDArray[np.float64]:
        """Correct p for the A (A - 1) / 2 pairs, [A, A]; 1 on the diagonal."""
        upper = np.triu_indices(len(self.p), 1)
        result = np.ones_like(self.p)
        result[upper] = corrected(self.p[upper], method)
        result.T[upper] = result[upper]
        return result

    def half_widths(self, confidence: float = 0.95) -> NDArray[np.float64]:
        """Half-widths of Student's t intervals of the mean differences, not corrected, [A, A]."""
        quantile = stats.t.ppf((1 + confidence) / 2, self.episodes - 1)
        half_widths: NDArray[np.float64] = quantile * self.standard_errors
        return half_widths


def all_pairs(values: ArrayLike) -> PairMatrix:
    """Paired t-tests of all pairs of methods; each agrees with `paired_t_test`.

    Args:
        values: accuracies of A methods on the same episodes in the same order, [A, E].

    Raises:
        ShapeError: the values are not [A, E], or hold NaN.
        ComparisonError: there are fewer than two episodes.

    >>> pairs = all_pairs([[0.71, 0.64, 0.68, 0.73], [0.68, 0.61, 0.67, 0.70], [0.70, 0.65, 0.68, 0.72]])
    >>> pairs.p.round(3).tolist()
    [[1.0, 0.015, 0.638], [0.015, 1.0, 0.037], [0.638, 0.037, 1.0]]
    """
    accuracies = _checked(values)
    episodes = accuracies.shape[1]
    means = accuracies.mean(axis=1)
    differences = means[:, None] - means[None, :]
    covariance = np.atleast_2d(np.cov(accuracies))
    own = np.diag(covariance)
    variances = own[:, None] + own[None, :] - 2 * covariance
    little = LITTLE_LEFT * (own[:, None] + own[None, :]) + (NEXT_TO_NOTHING * np.abs(accuracies).max()) ** 2
    _look_closer(accuracies, differences, variances, little)
    errors = np.sqrt(variances / episodes)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(differences == 0, 0.0, differences / errors)
    p = np.where(np.isinf(t), p_of_equal_differences(episodes), 2 * stats.t.sf(np.abs(t), episodes - 1))
    return PairMatrix(episodes, differences, errors, t, np.maximum(p, SMALLEST_P))


def pairs_with_gaps(values: ArrayLike) -> NDArray[np.float64]:
    """P of the paired t-test of every pair of methods that do not all have the same episodes.

    Args:
        values: accuracies, NaN where a method lacks an episode, [A, E]. Each pair is tested on the episodes that both
            have, from sums over them that are matrix products too.

    Returns:
        Two-sided p, not corrected, [A, A]; 1 on the diagonal, NaN where two methods share fewer than two episodes.

    Raises:
        ShapeError: the values are not [A, E], or infinite.

    >>> p = pairs_with_gaps([[0.71, 0.64, 0.68, 0.73], [0.68, 0.61, 0.67, np.nan], [0.70, np.nan, np.nan, np.nan]])
    >>> p.round(3).tolist()
    [[1.0, 0.073, nan], [0.073, 1.0, nan], [nan, nan, 1.0]]
    """
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 2 or np.isinf(given).any():
        raise ShapeError(f"a comparison of many methods needs finite accuracies [A, E], not {list(given.shape)}.")
    there = ~np.isnan(given)
    center = given[there].mean() if there.any() else 0.0
    filled, mask = np.where(there, given - center, 0.0), there.astype(np.float64)
    count, sums, squares = mask @ mask.T, filled @ mask.T, filled**2 @ mask.T
    with np.errstate(divide="ignore", invalid="ignore"):
        differences = (sums - sums.T) / count
        spread = squares + squares.T - 2 * filled @ filled.T - count * differences**2
        t = differences / np.sqrt(np.maximum(spread, 0) / (count - 1) / count)
        p = np.maximum(2 * stats.t.sf(np.abs(t), count - 1), SMALLEST_P)
    p[count < 2] = np.nan
    # Where little is left of larger numbers, the difference is computed by itself, as in `all_pairs`.
    for i, j in zip(*np.nonzero(np.triu(spread <= LITTLE_LEFT * (squares + squares.T), 1)), strict=True):
        both = there[i] & there[j]
        if both.sum() > 1:
            p[i, j] = p[j, i] = paired_t_test(given[i, both], given[j, both]).p
    np.fill_diagonal(p, 1.0)
    return np.asarray(p)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    accuracies = np.asarray(values, dtype=np.float64)
    if accuracies.ndim != 2 or not len(accuracies):
        raise ShapeError(f"a comparison of many methods needs accuracies [A, E], not {list(accuracies.shape)}.")
    if not np.isfinite(accuracies).all():
        raise ShapeError("paired values must be finite numbers; some are NaN or infinite.")
    if accuracies.shape[1] < 2:
        raise ComparisonError(f"a paired t-test needs two episodes or more; there are {accuracies.shape[1]} in common.")
    return accuracies


def _look_closer(
    accuracies: NDArray[np.float64],
    differences: NDArray[np.float64],
    variances: NDArray[np.float64],
    little: NDArray[np.float64],
) -> None:
    """Compute mean and variance of the difference directly where the covariance matrix is not precise enough."""
    scales = np.abs(accuracies).max(axis=1)
    for i, row in enumerate(accuracies):
        close = i + 1 + np.flatnonzero(variances[i, i + 1 :] <= little[i, i + 1 :])
        if len(close):
            pairwise = row - accuracies[close]
            constant = np.ptp(pairwise, axis=1) <= ROUNDING * np.maximum(scales[i], scales[close])
            mean = pairwise.mean(axis=1)
            differences[i, close], differences[close, i] = mean, 0.0 - mean
            variances[i, close] = variances[close, i] = np.where(constant, 0.0, pairwise.var(axis=1, ddof=1))
    np.fill_diagonal(variances, 0.0)


ALPHABET = "abcdefghijklmnopqrstuvwxyz"
# Real studies need about as many letters as methods; only a contrived pattern of differences comes near this.
MOST_COLUMNS = 5000


def compact_letters(significant: ArrayLike, order: Sequence[int] | None = None) -> list[str]:
    """Write the letters of each method (`letter_sets`) together, such as "a", "ab", "b".

    Beyond 26 letters they have names of two, and a method's are separated by spaces: "z aa ab".

    >>> compact_letters([[False, False, True], [False, False, False], [True, False, False]])
    ['a', 'ab', 'b']
    """
    sets = letter_sets(significant, order)
    separator = " " if any(len(name) > 1 for names in sets for name in names) else ""
    return [separator.join(names) for names in sets]


def read_letters(groups: Sequence[str]) -> list[set[str]]:
    """Take apart what `compact_letters` wrote for all methods together; "aa" alone says that there are names of two.

    Args:
        groups: of all methods of one display, [A].

    >>> [sorted(letters) for letters in read_letters(["a", "ab", "b"])]
    [['a'], ['a', 'b'], ['b']]
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

    >>> letter_sets([[False, False, True], [False, False, False], [True, False, False]])
    [('a',), ('a', 'b'), ('b',)]
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
        parts = {*(column & ~me for column in split), *(column & ~others for column in split)}
        for part in sorted(parts, key=int.bit_count, reverse=True):
            if not any(part & column == part for column in kept):
                kept.append(part)
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
