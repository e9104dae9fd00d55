"""What figures with one row per method have in common."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#6d737b"
MOST_ROWS = 40
_LETTERS = 84
_LONGEST = 44


def row_height(rows: int) -> float:
    """The height of a figure in inches."""
    return 0.3 * rows + 1.3


def finish_rows(axes: Any, names: Sequence[str], label: str) -> None:
    """Names on the left, first on top, one label below, nothing else.

    Args:
        axes: Matplotlib's, with the marks of method i at height i.
        names: of the methods, from top to bottom.
        label: below the horizontal axis.
    """
    axes.set_yticks(range(len(names)), [_shortened(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(textwrap.fill(label, _LETTERS))
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _shortened(name: str) -> str:
    half = (_LONGEST - 1) // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}"
