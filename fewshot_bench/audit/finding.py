"""What an audit says: one finding per check, with the reason where a check could not be made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fewshot_bench.printable import printable

Verdict = Literal["pass", "fail", "not checked"]


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


@dataclass(frozen=True)
class CellAudit:
    """All findings of one cell.

    Attributes:
        key: the name of its folder.
        task: dataset, split and size of its tasks; empty where the description cannot be read.
        method: name of its method, likewise.
        findings: in the order of the checks.
    """

    key: str
    task: str
    method: str
    findings: tuple[Finding, ...]

    def __post_init__(self) -> None:
        # The name of a stranger's folder is shown, also where nothing else of it can be read.
        object.__setattr__(self, "key", printable(self.key))

    @property
    def failures(self) -> list[str]:
        """Names of the checks that failed."""
        return [finding.check for finding in self.findings if finding.verdict == "fail"]

    def as_dict(self) -> dict[str, Any]:
        """The findings as plain data."""
        findings = [finding.as_dict() for finding in self.findings]
        return {"cell": self.key, "task": self.task, "method": self.method, "findings": findings}
