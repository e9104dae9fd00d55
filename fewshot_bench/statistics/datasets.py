"""Methods over several datasets: Friedman's test with Nemenyi's critical difference, and paired tests over datasets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.statistics.intervals import SMALLEST_P, require_probability
from fewshot_bench.statistics.paired import PairedComparison, compare_pairs


@dataclass(frozen=True, eq=False)
class FriedmanTest:
    """Whether methods rank alike over datasets (Friedman, 1937), as Demsar (2006) does it.

    Attributes:
        datasets: D.
        statistic: chi square of the mean ranks, without a correction for ties, which makes it err on the safe side.
        p: of the statistic with A - 1 degrees of freedom.
        iman_davenport: F of Iman & Davenport (1980), which is less conservative; infinite where all datasets rank the
            methods in the same order.
        iman_davenport_p: of F with A - 1 and (A - 1)(D - 1) degrees of freedom; where F is infinite, the chance of the
            same order everywhere, A!^(1 - D).
        mean_ranks: over datasets, 1 for the best, mean ranks for ties, [A].
        critical_difference: mean ranks further apart than this differ significantly (Nemenyi, 1963).
    """

    datasets: int
    statistic: float
    p: float
    iman_davenport: float
    iman_davenport_p: float
    mean_ranks: NDArray[np.float64]
    critical_difference: float

    @property
    def can_differ(self) -> bool:
        """Whether any ranks could: the first and the last of A methods are at most A - 1 mean ranks apart."""
        return self.critical_difference < len(self.mean_ranks) - 1

    @property
    def significant(self) -> NDArray[np.bool_]:
        """Whether methods i and j are further apart than the critical difference, [A, A]."""
        apart: NDArray[np.bool_] = np.abs(self.mean_ranks[:, None] - self.mean_ranks) > self.critical_difference
        return apart


def friedman(accuracies: ArrayLike, *, alpha: float = 0.05) -> FriedmanTest:
    """Test whether methods rank alike over datasets.

    Args:
        accuracies: mean accuracy of each method on each dataset, [D, A].
        alpha: significance level of the critical difference.

    Raises:
        ShapeError: accuracies are not [D, A], or NaN.
        ComparisonError: there are fewer than two datasets, or fewer than three methods.

    >>> test = friedman([[0.71, 0.64, 0.60], [0.82, 0.80, 0.75], [0.55, 0.56, 0.50], [0.90, 0.86, 0.85]])
    >>> test.mean_ranks.tolist(), round(test.critical_difference, 2)
    ([1.25, 1.75, 3.0], 1.66)
    """
    require_probability(alpha=alpha)
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ShapeError(f"Friedman's test needs finite accuracies [D, A], not {list(values.shape)}.")
    datasets, methods = values.shape
    if datasets < 2 or methods < 3:
        raise ComparisonError(
            f"Friedman's test needs two datasets and three methods or more; there are {datasets} and {methods}. "
            "Compare two methods by a paired test over datasets."
        )
    ranks: NDArray[np.float64] = stats.rankdata(-values, axis=1).mean(axis=0)
    deviation = float(((ranks - (methods + 1) / 2) ** 2).sum())
    statistic = 12 * datasets / (methods * (methods + 1)) * deviation
    f, f_p = _iman_davenport(statistic, datasets, methods)
    return FriedmanTest(
        datasets=datasets,
        statistic=statistic,
        p=max(float(stats.chi2.sf(statistic, methods - 1)), SMALLEST_P),
        iman_davenport=f,
        iman_davenport_p=f_p,
        mean_ranks=ranks,
        critical_difference=critical_difference(methods, datasets, alpha=alpha),
    )


def critical_difference(methods: int, datasets: int, *, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference of mean ranks: q sqrt(A (A + 1) / (6 D)).

    q is the quantile of the studentized range for infinitely many degrees of freedom, divided by sqrt(2).

    Args:
        methods: A.
        datasets: D.
        alpha: significance level, over all pairs.

    >>> round(critical_difference(methods=5, datasets=10), 2)
    1.93
    """
    q = float(stats.studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * datasets))


def paired_over_datasets(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> PairedComparison:
    """Compare two methods by their accuracies on several datasets, one pair per dataset.

    The t-test asks whether the mean difference over datasets like these is 0, takes each dataset for one draw, and
    leans on normal differences, which a handful of datasets cannot show. The rank and sign tests do not, but with D
    datasets they cannot give a p below 2^(1 - D), 0.125 for four: see `PairedComparison.smallest_p`.

    Args:
        a: mean accuracy of one method on each dataset, [D].
        b: of the other, [D].
        confidence: of the interval of the mean difference.

    Raises:
        ShapeError: the arrays do not pair up, or hold NaN.
        ComparisonError: there are fewer than two datasets.

    >>> comparison = paired_over_datasets([0.71, 0.82, 0.55, 0.90], [0.64, 0.80, 0.53, 0.86])
    >>> comparison.permutation_p, comparison.smallest_p
    (0.125, 0.125)
    """
    if np.size(a) < 2:
        raise ComparisonError(f"a test over datasets needs two datasets or more; there are {np.size(a)}.")
    return compare_pairs(a, b, confidence=confidence)


def _iman_davenport(statistic: float, datasets: int, methods: int) -> tuple[float, float]:
    largest = datasets * (methods - 1)
    if largest - statistic <= 1e-9 * largest:
        return math.inf, max(math.exp((1 - datasets) * math.lgamma(methods + 1)), SMALLEST_P)
    f = (datasets - 1) * statistic / (largest - statistic)
    return f, max(float(stats.f.sf(f, methods - 1, (methods - 1) * (datasets - 1))), SMALLEST_P)
