"""What figures with one row per method have in common."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import Any

from fewshot_bench.report.picture import FONT_SIZE
from fewshot_bench.report.short_names import marked_names

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#6d737b"
MOST_ROWS = 40
_LETTERS = 72
_LONGEST = 44


def row_height(rows: int) -> float:
    """The height of a figure in inches."""
    return 0.3 * rows + 1.3


def finish_rows(axes: Any, names: Sequence[str], label: str, transductive: Collection[str] = ()) -> None:
    """Names on the left, first on top, one label below, nothing else.

    Args:
        axes: Matplotlib's, with the marks of method i at height i.
        names: of the methods, from top to bottom.
        label: below the horizontal axis.
        transductive: which of the methods are; they come last, below a line, and say so.
    """
    axes.set_yticks(range(len(names)), marked_names(names, transductive, _LONGEST))
    first = next((row for row, name in enumerate(names) if name in transductive), 0)
    if first:
        axes.axhline(first - 0.5, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.figure.supxlabel(textwrap.fill(label, _LETTERS), fontsize=FONT_SIZE)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
