"""The page's figures as SVG and PNG for papers, through Matplotlib."""

from fewshot_bench.report.figures.draw import draw_figures

__all__ = ["draw_figures"]
