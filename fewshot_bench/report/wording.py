"""How single numbers read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fewshot_bench.outcomes import ProtocolCard
from fewshot_bench.printable import printable

CORRECTIONS = {"holm": "Holm", "bh": "BH", "none": "uncorrected"}


def task_text(row: Mapping[Any, Any]) -> str:
    """The task of a leaderboard's row, e.g. "cifar-fs 5-way 1-shot"."""
    split = "" if row["split"] == "novel" else f" ({row['split']} split)"
    sampler = "" if row["sampler"] == "standard" else f" {row['sampler']}"
    return printable(f"{row['dataset']}{split} {row['way']}-way {row['shot']}-shot{sampler}")


def p_text(p: float) -> str:
    """A p-value; one too small for a double is not called 0."""
    return "< 1e-300" if p < 1e-300 else f"{p:.2g}"


def p_equals(p: float) -> str:
    """A p-value in a sentence: "p = 0.051" or "p < 0.001"."""
    text = p_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


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


def difference_text(difference: float, low: float, high: float, task: float, plus_minus: str = "±") -> str:
    """A difference in percentage points with its data interval, a dash where it is unknown, and its task half-width."""
    data = f"{low:+.2f} to {high:+.2f}" if low == low else "-"
    return f"{round(difference, 2) + 0.0:+.2f} ({data}) {plus_minus} {task:.2f}"  # + 0.0: never "-0.00"


def p_header(correction: str) -> str:
    """The header of a column of p values: how they are corrected for their number."""
    return "p" if correction == "none" else f"p ({CORRECTIONS[correction]})"


def value_text(value: object) -> str:
    """A hyper-parameter's value as people write it: 0.9, 1, 0.0001, true."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
