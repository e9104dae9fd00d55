"""How single numbers read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fewshot_bench.outcomes import ProtocolCard
from fewshot_bench.printable import printable

SIGNIFICANCE = 0.05
CORRECTIONS = {"holm": "Holm", "bh": "BH", "none": "uncorrected"}
HERE = "here: shown for these classes and images; the data interval includes 0"
CLAIMED_FLAG = "episodes claimed, not verified"
CLAIMED = "claimed: files say which episodes are the same; their identity is not verified"
NOTHING_SHOWN = "no difference shown"


def verdict(difference: float, p: float, data_half_width: float = 0.0) -> str:
    """What a test shows at the 5% level, in words.

    Args:
        difference: of the means.
        p: of the test, corrected where there are several.
        data_half_width: of the interval of the difference that covers classes and images too; NaN where unknown. Where
            it reaches beyond 0, what is shown is shown for these classes and images, "here".
    """
    if not p < SIGNIFICANCE or difference == 0:
        return NOTHING_SHOWN
    return ("better" if difference > 0 else "worse") + (" here" if data_half_width >= abs(difference) else "")


def task_text(row: Mapping[Any, Any]) -> str:
    """The task of a leaderboard's row, e.g. "cifar-fs 5-way 1-shot"."""
    split = "" if row["split"] == "novel" else f" ({row['split']} split)"
    sampler = "" if row["sampler"] == "standard" else f" {row['sampler']}"
    return printable(f"{row['dataset']}{split} {row['way']}-way {row['shot']}-shot{sampler}")


def p_text(p: float) -> str:
    """A p-value; one too small for a double is not called 0."""
    return "< 1e-300" if p < 1e-300 else f"{p:.2g}"


def points(difference: float, low: float, high: float) -> str:
    """A difference in percentage points with its interval."""
    return f"{difference:+.2f} ({low:.2f} to {high:.2f})"


def protocol_names(protocols: Sequence[ProtocolCard]) -> dict[str, str]:
    """What to call protocols, by fingerprint: the task, with the seed or the fingerprint where tasks are the same."""
    tasks = {protocol.fingerprint: printable(protocol.task) for protocol in protocols}
    seeds = {protocol.fingerprint: f"{tasks[protocol.fingerprint]}, seed {protocol.seed}" for protocol in protocols}
    full = {fingerprint: f"{name} ({fingerprint[:8]})" for fingerprint, name in seeds.items()}
    same_task, same_seed = Counter(tasks.values()), Counter(seeds.values())
    return {
        fingerprint: task
        if same_task[task] == 1
        else (seeds if same_seed[seeds[fingerprint]] == 1 else full)[fingerprint]
        for fingerprint, task in tasks.items()
    }


def plus_minus_points(difference: float, task: float, data: float, plus_minus: str = "±") -> str:
    """A difference in percentage points with the half-widths of its intervals; an unknown one is left out."""
    widths = "".join(f" {plus_minus} {width:.2f}" for width in (task, data) if width == width)
    return f"{round(difference, 2) + 0.0:+.2f}{widths}"  # + 0.0: never "-0.00"


def p_header(correction: str) -> str:
    """The header of a column of p values: how they are corrected for their number."""
    return "p" if correction == "none" else f"p ({CORRECTIONS[correction]})"


def value_text(value: object) -> str:
    """A hyper-parameter's value as people write it: 0.9, 1, 0.0001, true."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
