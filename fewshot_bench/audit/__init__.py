"""Can a stored result be believed: leaks, protocols, and whether it comes out again."""

from fewshot_bench.audit.audit import audit_cell
from fewshot_bench.audit.cells import cell_folders
from fewshot_bench.audit.finding import CellAudit, Finding
from fewshot_bench.audit.method import AuditOptions
from fewshot_bench.audit.terminal import print_audit

__all__ = ["AuditOptions", "CellAudit", "Finding", "audit_cell", "cell_folders", "print_audit"]
