"""Tests of two methods on the same test images, paired by training seed, as in papers; no verdict uses them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.report.scores import TaskScores
from fewshot_bench.report.trainings import training_seed
from fewshot_bench.report.verdicts import corrected_with_unknown, p_equation, p_text
from fewshot_bench.statistics import Correction, McNemarTest, PairedTest, corrected, mcnemar, paired_t_test


@dataclass(frozen=True)
class BySeed:
    """The tests of two methods by the seeds of their trainings.

    Attributes:
        seeds: of the trainings that are paired; None where neither method has a training seed, [S].
        mcnemar: McNemar's exact test of each pair of trainings, [S].
        p_mcnemar_corrected: their p, corrected for the number of such tests on the split, [S].
        paired: the t-test of the mean accuracies, paired by seed; None for fewer than two trainings of either method.
        p_paired_corrected: its p, corrected over the same family as the verdict; NaN without one.
    """

    seeds: Sequence[int | None]
    mcnemar: Sequence[McNemarTest]
    p_mcnemar_corrected: Sequence[float]
    paired: PairedTest | None
    p_paired_corrected: float = math.nan

    @property
    def sentence(self) -> str:
        """The tests in words."""
        ps = [
            f"{p_text(p)}{'' if seed is None else f' (seed {seed})'}"
            for seed, p in zip(self.seeds, self.p_mcnemar_corrected, strict=True)
        ]
        parts = [f"McNemar's exact test, p {', '.join(ps)}"] if ps else []
        if self.paired is not None:
            test = self.paired
            ends = f"{100 * test.ci_low:+.2f} to {100 * test.ci_high:+.2f}"
            freedom = f"{test.n - 1} degree{'' if test.n == 2 else 's'} of freedom"
            p = p_equation(self.p_paired_corrected)
            parts.append(f"t-test paired by {test.n} seeds ({freedom}), {ends} points, {p}")
        return f"By seed, not used for the verdict: {'; '.join(parts)}." if parts else ""

    def as_dict(self) -> dict[str, Any]:
        """The tests as plain data, differences in percentage points."""
        test = self.paired
        return {
            "mcnemar": [
                {"seed": seed, "only_a": of_seed.only_a, "only_b": of_seed.only_b, "p": of_seed.p, "p_corrected": p}
                for seed, of_seed, p in zip(self.seeds, self.mcnemar, self.p_mcnemar_corrected, strict=True)
            ],
            "paired_by_seed": None
            if test is None
            else {
                "seeds": test.n,
                "difference": 100 * test.mean_difference,
                "ci95_low": 100 * test.ci_low,
                "ci95_high": 100 * test.ci_high,
                "t": test.t if math.isfinite(test.t) else None,
                "p": test.p,
                "p_corrected": self.p_paired_corrected,
            },
        }


def by_seed(scores: TaskScores, a: int, b: int) -> BySeed | None:
    """Test two methods on a whole split by the seeds that both have; None for episodes.

    A network without a training here is paired with every training of the other.

    Args:
        scores: of the methods.
        a: position of one.
        b: position of the other.
    """
    if not scores.protocol.is_whole:
        return None
    both = scores.pair(a, b)
    first, second = (_by_seed(scores, row, both) for row in (a, b))
    if None in first or None in second:
        seeds: list[int | None] = [*(second if None in first else first)]
    else:
        seeds = [seed for seed in first if seed in second]
    pairs = [(first.get(seed, first.get(None)), second.get(seed, second.get(None))) for seed in seeds]
    tests = [mcnemar(x, y) for x, y in pairs if x is not None and y is not None]
    ps = [test.p for test in tests]
    if len(tests) < 2 or None in first or None in second:
        return BySeed(seeds, tests, ps, None)
    means_a, means_b = ([float(of_seed[seed].mean()) for seed in seeds] for of_seed in (first, second))
    paired = paired_t_test(means_a, means_b)
    return BySeed(seeds, tests, ps, paired, paired.p)


def _by_seed(scores: TaskScores, row: int, images: NDArray[np.bool_]) -> dict[int | None, NDArray[np.float64]]:
    """Whether each training of a method classifies the chosen images [I] correctly, by its seed."""
    several = scores.trainings[row] if scores.trainings else None
    if several is None:
        return {training_seed(scores.cells[row].method): scores.accuracy[row, images]}
    found = zip(several.cells, several.accuracy[:, images], strict=True)
    return {training_seed(cell.method): accuracy for cell, accuracy in found}


def corrected_by_seed(
    found: Sequence[BySeed | None], p_split: Sequence[float], correct: Correction
) -> list[BySeed | None]:
    """The tests with p corrected for their number: over all pairs and seeds, and over the pairs of methods.

    Args:
        found: of each comparison of a family.
        p_split: p on this split, NaN for comparisons outside the family.
        correct: the correction.
    """
    flat = corrected([p for tests in found if tests is not None for p in tests.p_mcnemar_corrected], correct)
    paired = [math.nan if tests is None else tests.p_paired_corrected for tests in found]
    over = corrected_with_unknown(p_split, paired, correct)
    result: list[BySeed | None] = []
    start = 0
    for tests, p in zip(found, over.tolist(), strict=True):
        if tests is None:
            result.append(None)
            continue
        own = flat[start : start + len(tests.mcnemar)].tolist()
        start += len(tests.mcnemar)
        result.append(replace(tests, p_mcnemar_corrected=own, p_paired_corrected=p))
    return result
