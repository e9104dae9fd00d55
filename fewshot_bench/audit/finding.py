"""What an audit says: one finding per check, with the reason where a check could not be made.

What an audit of several cells comes to: first what could not be checked, and the option that would check it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fewshot_bench._io.text import printable
from fewshot_bench.audit.ties import Sample, Turned, direction

Verdict = Literal["pass", "fail", "not checked"]
Outcome = Literal["passed", "failed", "not confirmed"]
SAME = "same predictions"
"""The check that has run the method again; without it nothing confirms what is stored."""
SEE_ABOVE = "see above"
"""The reason of a check that could not be made for the reason of the one before."""


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
    """A finding for each of several checks that could not be made for one reason, which the first one tells."""
    return [Finding(check, "not checked", SEE_ABOVE if number else reason) for number, check in enumerate(checks)]


@dataclass(frozen=True)
class CellAudit:
    """All findings of one cell.

    Attributes:
        key: the name of its folder.
        task: dataset, split and size of its tasks; empty where the description cannot be read.
        method: name of its method, likewise.
        findings: in the order of the checks.
        sample: how many of the stored episodes were run again; None where none was.
        turned: their predictions beside the stored ones, likewise.
        is_transductive: whether the description marks the method as transductive.
    """

    key: str
    task: str
    method: str
    findings: tuple[Finding, ...]
    sample: Sample | None = None
    turned: Turned | None = None
    is_transductive: bool = False

    def __post_init__(self) -> None:
        # The name of a stranger's folder is shown, also where nothing else of it can be read.
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
"""What may make a check possible, as a reason names it, and as it is typed."""


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
        """All of it as plain data."""
        return {
            "reason": self.reason,
            "options": list(self.options),
            "checks": list(self.checks),
            "cells": list(self.cells),
        }


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
        several = [
            Unchecked(reason, _options_in(reason), tuple(checks), tuple(cells))
            for reason, (checks, cells) in found.items()
        ]
        return sorted(several, key=lambda one: (not one.options, -len(one.checks) * len(one.cells)))

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "outcome": self.outcome,
            "seed": self.seed,
            "not_checked": [one.as_dict() for one in self.unchecked()],
            "pooled": [finding.as_dict() for finding in self.pooled],
            "cells": [cell.as_dict() for cell in self.cells],
        }


def pooled_findings(cells: Sequence[CellAudit]) -> tuple[Finding, ...]:
    """Whether what differs in the cells of one method, and in all cells, favours somebody.

    A little in every cell is within what ties explain there, and adds up.

    Args:
        cells: of one audit.
    """
    methods: dict[str, list[Turned]] = {}
    for cell in cells:
        if cell.turned is not None and not cell.turned.is_same_machine:
            methods.setdefault(cell.method, []).append(cell.turned)
    families = {f"the {len(turned)} cells of {name}": turned for name, turned in methods.items() if len(turned) > 1}
    if len(methods) > 1:
        families["all cells"] = [turned for several in methods.values() for turned in several]
    findings = []
    for name, several in families.items():
        others = sum(turned.others for turned in several)
        one_sided = direction(several, tests=len(families))
        told = f"{others:,} predictions differ from those stored" if others else "no prediction differs"
        why = f"; ties favour nobody, and {one_sided}" if one_sided else ""
        findings.append(Finding(POOLED, "fail" if one_sided else "pass", f"{name}: {told}{why}"))
    return tuple(findings)


def _options_in(reason: str) -> tuple[str, ...]:
    """The options that a reason names."""
    names: Iterable[str] = re.findall("|".join(_OPTIONS), reason)
    return tuple(_OPTIONS[name] for name in dict.fromkeys(names))
