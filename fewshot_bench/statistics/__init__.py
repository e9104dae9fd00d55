"""Pure functions from arrays of outcomes to numbers: intervals and paired tests."""

from fewshot_bench.statistics.data_interval import data_half_widths, data_interval
from fewshot_bench.statistics.intervals import Interval, Summary, mean_interval, median_of_runs, summarise
from fewshot_bench.statistics.paired import PairedTest, paired_t_test

__all__ = [
    "Interval",
    "PairedTest",
    "Summary",
    "data_half_widths",
    "data_interval",
    "mean_interval",
    "median_of_runs",
    "paired_t_test",
    "summarise",
]
