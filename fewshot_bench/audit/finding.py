"""The findings of an audit: one per check of a cell, and what the cells of an audit come to together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fewshot_bench._io.text import printable
from fewshot_bench.audit.ties import ChangedPredictions, Sample, direction

Verdict = Literal["pass", "fail", "not checked"]
Outcome = Literal["passed", "failed", "not confirmed"]
SAME = "same predictions"
"""The check that runs the method again; without it nothing confirms the stored outcomes."""
SEE_ABOVE = "see above"
"""The reason of a check that has the same reason as the one before."""


ORDER = "query order"
LABELS = "query labels"
BATCHING = "query batching"
NUMBERS = "image numbers"
METHOD_CHECKS = (SAME, ORDER, LABELS, BATCHING, NUMBERS)


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        verdict: "pass", "fail" or "not checked".
        detail: what was looked at, what is wrong, or why it could not be checked.
    """

    check: str
    verdict: Verdict
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data."""
        return asdict(self)


def not_checked(checks: Sequence[str], reason: str) -> list[Finding]:
    """Findings of checks that could not be made; the first of them gives the reason."""
    return [Finding(check, "not checked", SEE_ABOVE if number else reason) for number, check in enumerate(checks)]


@dataclass(frozen=True)
class MethodChecks:
    """The findings of a method that was run again.

    Attributes:
        findings: one for each of `METHOD_CHECKS`.
        sample: how many episodes were run again; None where none was.
        changes: of their predictions; None where none was run again.
    """

    findings: list[Finding]
    sample: Sample | None = None
    changes: ChangedPredictions | None = None


def unchecked_method(reason: str) -> MethodChecks:
    """The findings of a method that was not run again."""
    return MethodChecks(not_checked(METHOD_CHECKS, reason))


@dataclass(frozen=True)
class CellAudit:
    """All findings of one cell.

    Attributes:
        key: the name of its folder.
        task: dataset, split and size of its tasks; empty where the description cannot be read.
        method: name of its method; empty where the description cannot be read.
        findings: in the order of the checks.
        sample: how many of the stored episodes were run again; None where none was.
        changes: of their predictions; None where none was run again.
        is_transductive: whether the description marks the method as transductive.
    """

    key: str
    task: str
    method: str
    findings: tuple[Finding, ...]
    sample: Sample | None = None
    changes: ChangedPredictions | None = None
    is_transductive: bool = False

    def __post_init__(self) -> None:
        # The name of a stranger's folder is printed even where nothing else of it can be read.
        object.__setattr__(self, "key", printable(self.key))

    @property
    def failures(self) -> list[str]:
        """Names of the checks that failed."""
        return [finding.check for finding in self.findings if finding.verdict == "fail"]

    @property
    def outcome(self) -> Outcome:
        """What it comes to: a cell passes only if its method was run again and said the same."""
        if self.failures:
            return "failed"
        is_confirmed = any(finding.check == SAME and finding.verdict == "pass" for finding in self.findings)
        return "passed" if is_confirmed else "not confirmed"

    def as_dict(self) -> dict[str, Any]:
        """The findings as plain data."""
        sample = self.sample or Sample(0, 0)
        return {
            "cell": self.key,
            "task": self.task,
            "method": self.method,
            "is_transductive": self.is_transductive,
            "outcome": self.outcome,
            "stored_episodes": sample.stored,
            "checked_episodes": sample.checked,
            "findings": [finding.as_dict() for finding in self.findings],
        }


POOLED = "direction"
_OPTIONS = {
    "--dataset": "--dataset PATH",
    "--weights": "--weights FILE",
    "--trust-code": "--trust-code",
    "--download": "--download",
    "--episodes": "--episodes N",
    "fewshot-bench reproduce": "fewshot-bench reproduce",
}
"""What may make a check possible: its name in a reason, and what to type."""


@dataclass(frozen=True)
class Unchecked:
    """Checks that could not be made for one reason.

    Attributes:
        reason: in words.
        options: that would make them possible; none where nothing does.
        checks: their names.
        cells: the keys of the cells.
    """

    reason: str
    options: tuple[str, ...]
    checks: tuple[str, ...]
    cells: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Audit:
    """All findings of some cells.

    Attributes:
        seed: has chosen the episodes that were run again; the same one chooses them again.
        cells: in the order in which they were checked.
        pooled: what is found only in several cells together.
    """

    seed: int
    cells: tuple[CellAudit, ...]
    pooled: tuple[Finding, ...] = ()

    @property
    def failures(self) -> list[str]:
        """What failed, in words: cells with the names of their checks, and what is found in several."""
        cells = [f"{cell.key} ({', '.join(cell.failures)})" for cell in self.cells if cell.failures]
        return cells + [finding.detail for finding in self.pooled if finding.verdict == "fail"]

    @property
    def outcome(self) -> Outcome:
        """The worst that any cell comes to; what is not confirmed has not passed."""
        outcomes = {cell.outcome for cell in self.cells}
        if self.failures:
            return "failed"
        return "not confirmed" if "not confirmed" in outcomes or not outcomes else "passed"

    def unchecked(self) -> list[Unchecked]:
        """What could not be checked, what keeps most checks from being made first."""
        found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
        for cell in self.cells:
            reason = ""
            for finding in cell.findings:
                if finding.verdict != "not checked":
                    continue
                reason = reason if finding.detail == SEE_ABOVE else finding.detail
                checks, cells = found.setdefault(reason, ({}, {}))
                checks[finding.check] = cells[cell.key] = None
        unchecked = [
            Unchecked(reason, _options_in(reason), tuple(checks), tuple(cells))
            for reason, (checks, cells) in found.items()
        ]
        return sorted(unchecked, key=lambda group: (not group.options, -len(group.checks) * len(group.cells)))

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "outcome": self.outcome,
            "seed": self.seed,
            "not_checked": [group.as_dict() for group in self.unchecked()],
            "pooled": [finding.as_dict() for finding in self.pooled],
            "cells": [cell.as_dict() for cell in self.cells],
        }


def pooled_findings(cells: Sequence[CellAudit]) -> tuple[Finding, ...]:
    """Whether the differences in all cells of a method, and in all cells, favour a method.

    A little in every cell is within what ties explain there, and adds up.
    """
    methods: dict[str, list[ChangedPredictions]] = {}
    for cell in cells:
        if cell.changes is not None and not cell.changes.repeats_every_bit:
            methods.setdefault(cell.method, []).append(cell.changes)
    families = {f"the {len(changes)} cells of {name}": changes for name, changes in methods.items() if len(changes) > 1}
    if len(methods) > 1:
        families["all cells"] = [changes for of_method in methods.values() for changes in of_method]
    findings = []
    for name, family in families.items():
        changed = sum(changes.changed for changes in family)
        one_sided = direction(family, tests=len(families))
        count = f"{changed:,} predictions differ from those stored" if changed else "no prediction differs"
        why = f"; ties favour no method, and {one_sided}" if one_sided else ""
        findings.append(Finding(POOLED, "fail" if one_sided else "pass", f"{name}: {count}{why}"))
    return tuple(findings)


def _options_in(reason: str) -> tuple[str, ...]:
    """The options that a reason names."""
    names: Iterable[str] = re.findall("|".join(_OPTIONS), reason)
    return tuple(_OPTIONS[name] for name in dict.fromkeys(names))
