"""Numbers to people: the leaderboard and the terminal tables."""

from fewshot_bench.report.comparison import Comparison, compare, compare_methods
from fewshot_bench.report.leaderboard import TIMING_COLUMNS, leaderboard, write_leaderboard
from fewshot_bench.report.method_names import cells_of_method, resolve_method
from fewshot_bench.report.records import comparison_record, leaderboard_records
from fewshot_bench.report.terminal import print_comparisons, print_leaderboard
from fewshot_bench.report.update import update_leaderboard

__all__ = [
    "TIMING_COLUMNS",
    "Comparison",
    "cells_of_method",
    "compare",
    "compare_methods",
    "comparison_record",
    "leaderboard",
    "leaderboard_records",
    "print_comparisons",
    "print_leaderboard",
    "resolve_method",
    "update_leaderboard",
    "write_leaderboard",
]
