"""How single numbers read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fewshot_bench._io.text import printable
from fewshot_bench.outcomes import ProtocolCard, marked
from fewshot_bench.report.scores import task_columns

CORRECTIONS = {"holm": "Holm", "bh": "BH", "none": "uncorrected"}
BALANCED_FLAG = "assumes balanced queries"
CLAIMED_FLAG = "episodes claimed, not verified"
CLAIMED = "claimed: files say which episodes are the same; their identity is not verified"
SIGNIFICANCE = 0.05
SEES_ALL = "sees all queries of an episode at once"
ACROSS = f"one of the two {SEES_ALL}"
"""What a comparison of an inductive and a transductive method says of it."""
TRANSDUCTIVE_NOTE = f"transductive: {SEES_ALL}; compare such a method with its own kind"
BASELINE_KINDS = {False: "baseline is inductive", True: "baseline is transductive"}
"""What the flags of a row say whose baseline is of the other kind."""
_SMALLEST_SHOWN_P = 0.001


def task_text(row: Mapping[Any, Any]) -> str:
    """The task of a leaderboard's row, e.g. "cifar-fs 5-way 1-shot"."""
    split = "" if row["split"] == "novel" else f" ({row['split']} split)"
    sampler = "" if row["sampler"] == "standard" else f" {row['sampler']}"
    return printable(f"{row['dataset']}{split} {row['way']}-way {row['shot']}-shot{sampler}")


def p_text(p: float) -> str:
    """A p-value for people: two significant digits, "< 0.001" below that, a dash where it is unknown.

    More digits are shown where two would round p across the 5% level, so that p never contradicts a verdict.
    """
    if math.isnan(p):
        return "-"
    if p < _SMALLEST_SHOWN_P:
        return f"< {_SMALLEST_SHOWN_P}"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next((text for text in texts if (float(text) < SIGNIFICANCE) == (p < SIGNIFICANCE)), f"{p:.17g}")


def p_equation(p: float, name: str = "p") -> str:
    """A p-value in a sentence, e.g. "p = 0.023" or "p < 0.001"."""
    text = p_text(p)
    return f"{name} {text}" if text.startswith("<") else f"{name} = {text}"


def p_of_both(split: float, beyond: float) -> str:
    """The p values of both claims in a sentence, such as "p < 0.001 on this split, p = 0.051 beyond it"."""
    return f"{p_equation(split)} on this split" + ("" if math.isnan(beyond) else f", {p_equation(beyond)} beyond it")


def is_transductive(row: Mapping[Any, Any]) -> bool:
    """Whether a leaderboard's row is about a transductive method; a published row does not say, and counts as none."""
    value = row.get("is_transductive")
    return value is not None and value == value and bool(value)


def row_name(row: Mapping[Any, Any]) -> str:
    """The method of a leaderboard's row as people should read it."""
    return marked(row["method"], is_transductive(row))


def is_across(row: Mapping[Any, Any]) -> bool:
    """Whether a leaderboard's row is tested against a baseline of the other kind."""
    return BASELINE_KINDS[not is_transductive(row)] in str(row.get("flags") or "").split("; ")


def baseline_name(row: Mapping[Any, Any]) -> str:
    """The baseline of a measured row as people should read it."""
    return marked(row["baseline"], is_transductive(row) != is_across(row))


def points(difference: float, low: float, high: float) -> str:
    """A difference in percentage points with its interval."""
    return f"{difference:+.2f} ({low:.2f} to {high:.2f})"


def protocol_names(protocols: Sequence[ProtocolCard]) -> dict[str, str]:
    """What to call protocols, by fingerprint; see `task_names`."""
    return task_names({protocol.fingerprint: task_columns(protocol) for protocol in protocols})


def task_names(rows: Mapping[str, Mapping[Any, Any]]) -> dict[str, str]:
    """What to call the tasks of protocols: dataset and size, and where several are called so, what tells them apart.

    Args:
        rows: with the columns of `task_columns`, by the fingerprint of the protocol.

    Returns:
        By fingerprint, e.g. "cifar-fs 5-way 1-shot, seed 1"; no two are the same.
    """
    names = {key: task_text(row) for key, row in rows.items()}
    names = told_apart(names, {key: f", {row.get('queries')} queries per class" for key, row in rows.items()})
    names = told_apart(names, {key: f", seed {row.get('seed')}" for key, row in rows.items()})
    return told_apart(names, {key: f" ({key[:8]})" for key in rows})


def told_apart(names: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """The names, those that are equal with something more if that differs between them."""
    differing: dict[str, set[str]] = {}
    for key, name in names.items():
        differing.setdefault(name, set()).add(more[key])
    return {key: name + more[key] if len(differing[name]) > 1 else name for key, name in names.items()}


def difference_text(difference: float, low: float, high: float, task: float, plus_minus: str = "±") -> str:
    """A difference in percentage points with its data interval, a dash where it is unknown, and its task half-width."""
    data = f"{low:+.2f}, {high:+.2f}" if low == low else "-"
    return f"{round(difference, 2) + 0.0:+.2f} ({data}) {plus_minus}{task:.2f}"  # + 0.0: never "-0.00"


def p_header(correction: str, name: str = "p") -> str:
    """The header of a column of p values: how they are corrected for their number."""
    return name if correction == "none" else f"{name} ({CORRECTIONS[correction]})"


def ranks_text(methods: int, critical_difference: float) -> str:
    """Which mean ranks differ, or that none can; for methods that were ranked over datasets.

    Args:
        methods: A.
        critical_difference: Nemenyi's, at 5%.
    """
    if critical_difference < methods - 1:
        return f"mean ranks {critical_difference:.2f} apart differ (Nemenyi, 5%)"
    return (
        f"no mean ranks can differ over so few datasets: that takes {critical_difference:.2f} (Nemenyi, 5%), and "
        f"{methods} methods are at most {methods - 1} apart"
    )


def correction_words(correction: str) -> str:
    """What is said of a p value: how it is corrected, if it is."""
    return CORRECTIONS[correction] if correction == "none" else f"corrected by {CORRECTIONS[correction]}"


def value_text(value: object) -> str:
    """A hyper-parameter's value as people write it: 0.9, 1, 0.0001, true."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
