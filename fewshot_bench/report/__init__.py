"""Numbers to people: the leaderboard, sweeps and the terminal tables."""

from fewshot_bench.report.comparison import Comparison, compare, compare_methods
from fewshot_bench.report.leaderboard import TIMING_COLUMNS, leaderboard, write_leaderboard
from fewshot_bench.report.method_names import cells_of_method, resolve_method
from fewshot_bench.report.records import comparison_record, leaderboard_records
from fewshot_bench.report.sweep_frame import SweptPoint, sweep_frame
from fewshot_bench.report.sweep_plot import NoPictureError, draw_sweep
from fewshot_bench.report.sweep_table import print_sweep
from fewshot_bench.report.terminal import print_comparisons, print_leaderboard
from fewshot_bench.report.update import update_leaderboard

__all__ = [
    "TIMING_COLUMNS",
    "Comparison",
    "NoPictureError",
    "SweptPoint",
    "cells_of_method",
    "compare",
    "compare_methods",
    "comparison_record",
    "draw_sweep",
    "leaderboard",
    "leaderboard_records",
    "print_comparisons",
    "print_leaderboard",
    "print_sweep",
    "resolve_method",
    "sweep_frame",
    "update_leaderboard",
    "write_leaderboard",
]
