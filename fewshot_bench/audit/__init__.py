"""Stored results checked and run again: leaks, protocols, and whether every outcome comes out the same."""

from typing import TYPE_CHECKING

from fewshot_bench._io.versions import lazily

if TYPE_CHECKING:
    from fewshot_bench.audit.audit import audit_cell as audit_cell
    from fewshot_bench.audit.audit import audit_cells as audit_cells
    from fewshot_bench.audit.finding import Audit as Audit
    from fewshot_bench.audit.finding import CellAudit as CellAudit
    from fewshot_bench.audit.finding import Finding as Finding
    from fewshot_bench.audit.finding import Unchecked as Unchecked
    from fewshot_bench.audit.reproduce import OtherOutcome as OtherOutcome
    from fewshot_bench.audit.reproduce import Reproduction as Reproduction
    from fewshot_bench.audit.reproduce import reproduce_cell as reproduce_cell
    from fewshot_bench.audit.reproduce import without_caches as without_caches
    from fewshot_bench.audit.selection import AuditOptions as AuditOptions
    from fewshot_bench.audit.selection import ReproductionOptions as ReproductionOptions
    from fewshot_bench.audit.selection import cell_folders as cell_folders
    from fewshot_bench.audit.selection import resolve_cells as resolve_cells
    from fewshot_bench.audit.terminal import print_audit as print_audit
    from fewshot_bench.audit.terminal import print_conclusion as print_conclusion
    from fewshot_bench.audit.terminal import print_reproduction as print_reproduction

# Imported on first use: a result that is not there must not wait for torch.
_HOMES = {
    "Audit": "finding",
    "AuditOptions": "selection",
    "CellAudit": "finding",
    "Finding": "finding",
    "OtherOutcome": "reproduce",
    "Reproduction": "reproduce",
    "ReproductionOptions": "selection",
    "Unchecked": "finding",
    "audit_cell": "audit",
    "audit_cells": "audit",
    "cell_folders": "selection",
    "print_audit": "terminal",
    "print_conclusion": "terminal",
    "print_reproduction": "terminal",
    "reproduce_cell": "reproduce",
    "resolve_cells": "selection",
    "without_caches": "reproduce",
}
__all__ = sorted(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
