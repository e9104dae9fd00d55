"""Numbers to people: the leaderboard, comparisons, sweeps, and the terminal tables."""

from fewshot_bench.report.comparison import Comparison, compare
from fewshot_bench.report.comparison_output import (
    comparison_record,
    datasets_record,
    print_comparisons,
    task_record,
)
from fewshot_bench.report.comparisons import OverDatasets, TaskComparison, compare_methods, compare_tasks, over_datasets
from fewshot_bench.report.findings import Answer, answer_lines, answers
from fewshot_bench.report.labels import (
    Labels,
    labelled,
    labels_of_texts,
    method_labels,
    read_labels,
    with_labels,
)
from fewshot_bench.report.leaderboard import (
    TIMING_COLUMNS,
    current_leaderboard,
    leaderboard,
    rows_of_cells,
    update_leaderboard,
    write_leaderboard,
)
from fewshot_bench.report.leaderboard_output import leaderboard_records, print_answers, print_leaderboard
from fewshot_bench.report.names import cells_of_method, check_no_files, resolve_method
from fewshot_bench.report.paper_figures import NoPictureError, draw_sweep
from fewshot_bench.report.paper_table import PlusMinus, as_latex, as_markdown
from fewshot_bench.report.published import PublishedResult, published_results
from fewshot_bench.report.published.comparisons import (
    compare_with_published,
    print_published_comparisons,
    published_comparison_record,
)
from fewshot_bench.report.sweeps import SweptPoint, print_sweep, sweep_frame
from fewshot_bench.report.verdicts import Claim

__all__ = [
    "TIMING_COLUMNS", "Answer", "Claim", "Comparison", "Labels", "NoPictureError", "OverDatasets", "PlusMinus",
    "PublishedResult", "SweptPoint", "TaskComparison", "answer_lines", "answers", "as_latex", "as_markdown",
    "cells_of_method", "check_no_files", "compare", "compare_methods", "compare_tasks", "compare_with_published",
    "comparison_record", "current_leaderboard", "datasets_record", "draw_sweep", "labelled", "labels_of_texts",
    "leaderboard", "leaderboard_records", "method_labels", "over_datasets", "print_answers", "print_comparisons",
    "print_leaderboard", "print_published_comparisons", "print_sweep", "published_comparison_record",
    "published_results", "read_labels", "resolve_method", "rows_of_cells", "sweep_frame", "task_record",
    "update_leaderboard", "with_labels", "write_leaderboard",
]  # fmt: skip
