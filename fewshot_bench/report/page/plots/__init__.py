"""The page's interactive figures, as plain data for Plotly; each file makes one kind."""

from fewshot_bench.report.page.plots.class_differences import class_figure
from fewshot_bench.report.page.plots.cost import cost_figure
from fewshot_bench.report.page.plots.critical_difference import ranking_figure
from fewshot_bench.report.page.plots.distributions import distribution_figure
from fewshot_bench.report.page.plots.forest import forest_figure
from fewshot_bench.report.page.plots.lambda_curve import sweep_figure
from fewshot_bench.report.page.plots.pair_matrix import pair_matrix_figure

__all__ = [
    "class_figure",
    "cost_figure",
    "distribution_figure",
    "forest_figure",
    "pair_matrix_figure",
    "ranking_figure",
    "sweep_figure",
]
