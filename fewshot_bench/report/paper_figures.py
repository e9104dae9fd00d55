"""Every figure of a page as files."""

from __future__ import annotations

import re

import pandas as pd

from fewshot_bench.paths import Place
from fewshot_bench.report.figures.critical_difference import draw_critical_difference
from fewshot_bench.report.figures.distributions import draw_distributions
from fewshot_bench.report.figures.forest import draw_forest
from fewshot_bench.report.page.content import PageContent
from fewshot_bench.report.picture import NoPictureError
from fewshot_bench.report.sweep_plot import draw_sweep, horizontal_axis


def draw_figures(content: PageContent, folder: Place) -> list[Place]:
    """Draw everything that the page shows as SVG and PNG; the same content gives the same bytes.

    Args:
        content: as `gather` collects it.
        folder: where the files go; those of an earlier call are replaced.

    Returns:
        The files: forest-*, distributions-* per protocol, ranks-* per size of task, sweep-* per sweep.

    Raises:
        NoPictureError: Matplotlib or scikit-posthocs is not installed.
    """
    files: list[Place] = []
    for number, protocol in enumerate(content.protocols, 1):
        name = f"{number}-{_file_name(protocol.name)}"
        if protocol.rows["difference"].notna().any():
            files += draw_forest(protocol, folder / f"forest-{name}")
        if protocol.quantiles:
            files += draw_distributions(protocol, folder / f"distributions-{name}")
    for number, ranking in enumerate(content.rankings, 1):
        files += draw_critical_difference(ranking, folder / f"ranks-{number}-{_file_name(ranking.name)}")
    for number, sweep in enumerate(content.sweeps, 1):
        if _has_curve(sweep.frame):
            files += draw_sweep(sweep.frame, sweep.name, folder / f"sweep-{number}-{_file_name(sweep.name)}")
    return files


def _has_curve(frame: pd.DataFrame) -> bool:
    """Whether a sweep has an axis of numbers; the page says so where it has none."""
    try:
        return bool(horizontal_axis(frame))
    except NoPictureError:
        return False


def _file_name(text: str) -> str:
    """Letters, digits and dashes of a name, at most 60."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "unnamed"
