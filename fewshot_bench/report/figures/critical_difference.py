"""The critical-difference diagram of Demsar (2006), through scikit-posthocs."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd

from fewshot_bench.paths import Place
from fewshot_bench.report.page.content import Ranking
from fewshot_bench.report.picture import NoPictureError, drawing, save_picture
from fewshot_bench.report.short_names import marked_names
from fewshot_bench.report.wording import p_equation, ranks_text

_LETTERS = 100
_LONGEST = 32


def draw_critical_difference(ranking: Ranking, stem: Place) -> list[Place]:
    """Draw mean ranks on a line; bars join methods that are not further apart than the critical difference.

    Args:
        ranking: of three methods or more.
        stem: the files without their suffix.

    Raises:
        NoPictureError: Matplotlib or scikit-posthocs is not installed.
    """
    with drawing(10, 0.2 * len(ranking.methods) + 1.8) as figure:
        try:
            from scikit_posthocs import critical_difference_diagram
        except ImportError as error:
            missing = "no picture: scikit-posthocs is missing. Install it with: pip install scikit-posthocs"
            raise NoPictureError(missing) from error
        axes = figure.subplots()
        names, ranks = marked_names(ranking.methods, ranking.transductive, _LONGEST), np.array(ranking.mean_ranks)
        apart = np.abs(np.subtract.outer(ranks, ranks)) > ranking.critical_difference
        critical_difference_diagram(
            pd.Series(ranks, index=names),
            pd.DataFrame(np.where(apart, 0.0, 1.0), index=names, columns=names),
            ax=axes,
            label_fmt_left="{label} ({rank:.2f})  ",
            label_fmt_right="  {label} ({rank:.2f})",
            label_props={"fontsize": 9},
        )
        p = p_equation(ranking.p)
        words = f"{ranking.name}: {ranks_text(len(names), ranking.critical_difference)}; Friedman {p}"
        axes.set_title(textwrap.fill(words, _LETTERS), fontsize=10)
        return save_picture(figure, stem)
