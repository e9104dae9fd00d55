"""Can a stored result be believed: leaks, protocols, and whether it comes out again."""

from fewshot_bench.audit.audit import audit_cell, audit_cells
from fewshot_bench.audit.cells import cell_folders
from fewshot_bench.audit.finding import CellAudit, Finding
from fewshot_bench.audit.method import AuditOptions
from fewshot_bench.audit.summary import Audit, Unchecked
from fewshot_bench.audit.terminal import print_audit, print_conclusion

__all__ = [
    "Audit",
    "AuditOptions",
    "CellAudit",
    "Finding",
    "Unchecked",
    "audit_cell",
    "audit_cells",
    "cell_folders",
    "print_audit",
    "print_conclusion",
]
