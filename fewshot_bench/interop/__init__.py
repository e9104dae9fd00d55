"""Bridges to other code: accuracies from elsewhere, and all outcomes as a table."""

from fewshot_bench.interop.exporting import export_outcomes
from fewshot_bench.interop.importing import Imported, ImportOptions, ImportReport, import_outcomes

__all__ = ["ImportOptions", "ImportReport", "Imported", "export_outcomes", "import_outcomes"]
