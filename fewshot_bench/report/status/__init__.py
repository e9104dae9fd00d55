"""How far studies are, from what their processes leave on the disk."""

from fewshot_bench.report.status.live import show_live
from fewshot_bench.report.status.look import Watch
from fewshot_bench.report.status.state import CellState, StudyState
from fewshot_bench.report.status.terminal import status_text

__all__ = ["CellState", "StudyState", "Watch", "show_live", "status_text"]
