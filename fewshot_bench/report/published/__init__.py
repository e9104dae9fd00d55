"""Numbers that papers report: their tables, and how they stand beside what was measured."""

from fewshot_bench.report.published.tables import (
    ACCURACY_COLUMNS,
    METRIC_COLUMNS,
    OPTIONAL_COLUMNS,
    PublishedMetric,
    PublishedResult,
    interval_flag,
    published_for_recipe,
    published_metrics,
    published_results,
    published_rows,
    read_table,
)

__all__ = [
    "ACCURACY_COLUMNS", "METRIC_COLUMNS", "OPTIONAL_COLUMNS", "PublishedMetric", "PublishedResult",
    "interval_flag", "published_for_recipe", "published_metrics", "published_results", "published_rows", "read_table",
]  # fmt: skip
