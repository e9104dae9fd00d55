"""Is method A better than method B, on the same episodes, and by how much?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from shlex import quote

from fewshot_bench.errors import ComparisonError
from fewshot_bench.outcomes import Outcomes, ProtocolCard
from fewshot_bench.report.method_names import shown_names
from fewshot_bench.report.task_scores import TaskScores, task_scores
from fewshot_bench.report.wording import CLAIMED_FLAG, p_text
from fewshot_bench.statistics import PairedComparison, PairedTest, compare_pairs, data_interval

FEWEST_PAIRS = 2


@dataclass(frozen=True)
class Comparison:
    """The paired comparison of two methods.

    Attributes:
        a: name of one method.
        b: name of the other.
        protocol: that both were run on.
        paired: what the accuracies (as fractions) on the common episodes show.
        data_half_width: of the interval of the mean difference that covers classes and images too; NaN if unknown.
        left_out_of_a: episodes of A that B has not seen.
        left_out_of_b: episodes of B that A has not seen.
        p_corrected: p of the t-test, corrected for the number of tests that were made together.
    """

    a: str
    b: str
    protocol: ProtocolCard
    paired: PairedComparison
    data_half_width: float = math.nan
    left_out_of_a: int = 0
    left_out_of_b: int = 0
    p_corrected: float = math.nan

    @property
    def test(self) -> PairedTest:
        """The paired t-test, with the mean difference and its interval over episodes."""
        return self.paired.test

    def __str__(self) -> str:
        test = self.test
        sentence = (
            f"{self.a} - {self.b} = {100 * test.mean_difference:+.2f} points "
            f"(95% CI {100 * test.ci_low:.2f} to {100 * test.ci_high:.2f}{self._over_classes}), "
            f"paired t-test p {'' if test.p < 1e-300 else '= '}{p_text(test.p)}, {test.n:,} episodes"
        )
        claimed = CLAIMED_FLAG if self.protocol.is_claimed else ""
        return "; ".join(part for part in (sentence, claimed, self.left_out) if part)

    @property
    def left_out(self) -> str:
        """Which episodes could not be paired, in words; empty if all could."""
        counts = ((self.left_out_of_a, self.a), (self.left_out_of_b, self.b))
        parts = [f"{count:,} of {name}" for count, name in counts if count]
        return f"left out, for want of a partner: {' and '.join(parts)}" if parts else ""

    @property
    def _over_classes(self) -> str:
        if math.isnan(self.data_half_width):
            return ""
        low, high = (self.test.mean_difference + side * self.data_half_width for side in (-1, 1))
        return f"; over classes and images {100 * low:.2f} to {100 * high:.2f}"


def compare(a: Outcomes, b: Outcomes) -> Comparison:
    """Compare two methods on the episodes that both have seen.

    Args:
        a: outcomes of one method.
        b: outcomes of the other, on the same protocol.

    Returns:
        The comparison of A with B; printing it gives one sentence.

    Raises:
        ComparisonError: the protocols differ, or fewer than two episodes are common.
    """
    names = shown_names([a.cell, b.cell])
    check_same_protocol(a.cell.protocol, names[a.cell.key], b.cell.protocol, names[b.cell.key])
    return comparison_of(task_scores([a.frame, b.frame], [a.cell, b.cell]), 0, 1, names)


def comparison_of(scores: TaskScores, a: int, b: int, names: Mapping[str, str]) -> Comparison:
    """Compare two of the methods of one protocol.

    Args:
        scores: of the methods.
        a: position of one.
        b: position of the other.
        names: what to call each, by the key of its cell.

    Raises:
        ComparisonError: fewer than two episodes are common.
    """
    name_a, name_b = (names[scores.cells[position].key] for position in (a, b))
    both = scores.pair(a, b)
    if not both.any():
        raise ComparisonError(
            f"{name_a} and {name_b} have no episode of {scores.protocol.task} in common. Run both on the same runs."
        )
    if both.sum() < FEWEST_PAIRS:
        raise ComparisonError(
            f"a paired test needs two episodes or more; {name_a} and {name_b} share 1 of {scores.protocol.task}."
        )
    first, second = scores.accuracy[a, both], scores.accuracy[b, both]
    paired = compare_pairs(first, second)
    return Comparison(
        name_a,
        name_b,
        scores.protocol,
        paired,
        math.nan if scores.classes is None else data_interval(first - second, scores.classes[both]).half_width,
        int(scores.of(a).sum() - both.sum()),
        int(scores.of(b).sum() - both.sum()),
        paired.test.p,
    )


def check_same_protocol(a: ProtocolCard, name_a: str, b: ProtocolCard, name_b: str) -> None:
    """Refuse methods whose protocols differ, and say in what.

    Raises:
        ComparisonError: they do.
    """
    if a.is_claimed != b.is_claimed:
        claimed, drawn = (name_a, name_b) if a.is_claimed else (name_b, name_a)
        raise ComparisonError(
            f"{claimed} was imported, and a file claims which episodes it saw; those of {drawn} were drawn here. "
            "Nothing shows that any two are the same, so they are never paired. Import both with one --tasks NAME."
        )
    if a.is_claimed and a.sampler_settings != b.sampler_settings:
        tasks_a, tasks_b = a.sampler_settings.get("tasks"), b.sampler_settings.get("tasks")
        raise ComparisonError(
            f"{name_a} was imported as tasks '{tasks_a}' and {name_b} as tasks '{tasks_b}', so no episode is claimed "
            f"to be the same. If they are, import one again with the other's name: --tasks {quote(str(tasks_a))}"
        )
    fields_a, fields_b = asdict(a), asdict(b)
    different = [name for name in fields_a if fields_a[name] != fields_b[name]]
    if not different:
        return
    field = different[0]
    raise ComparisonError(
        f"{name_a} was run on {a.task} seed {a.seed}, {name_b} on {b.task} seed {b.seed}: {field.replace('_', ' ')} "
        f"differs ({_short(fields_a[field])} and {_short(fields_b[field])}), so no episode is the same. "
        "Run both with the same protocol."
    )


def _short(value: object) -> str:
    return f"{value:.12}" if isinstance(value, str) and len(value) == 64 else str(value)
