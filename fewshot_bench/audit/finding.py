"""What an audit says: one finding per check, with the reason where a check could not be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fewshot_bench.audit.sample import Sample
from fewshot_bench.audit.ties import Turned
from fewshot_bench.printable import printable

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
