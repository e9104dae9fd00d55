"""Pictures for papers, through Matplotlib: SVG and PNG whose bytes depend on what is drawn alone.

Figure 2 of the SCHaNe paper, with intervals: accuracy against lambda, one line per tau.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd

from fewshot_bench._io.locations import Place
from fewshot_bench._io.storage import write_atomically
from fewshot_bench.report.sweeps import axes_of, marked_line, mean_over_shots
from fewshot_bench.report.wording import value_text

FONT_SIZE = 11


class NoPictureError(Exception):
    """Something cannot be drawn; the message says why."""


@contextmanager
def drawing(width: float, height: float) -> Iterator[Any]:
    """A Matplotlib figure that no setting of the user's changes.

    Args:
        width: in inches.
        height: in inches.

    Yields:
        The figure, to draw on and save within the context.

    Raises:
        NoPictureError: Matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoPictureError("no picture: Matplotlib is missing. Install it with: pip install matplotlib") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc("svg", hashsalt="fewshot-bench")
        matplotlib.rc("font", family="DejaVu Sans", size=FONT_SIZE)
        matplotlib.rc("text", parse_math=False)  # a dollar in a method's name is a dollar
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def save_picture(figure: Any, stem: Place) -> list[Place]:
    """Write a figure as SVG and as PNG, each all or nothing, without dates or versions.

    Args:
        figure: of `drawing`.
        stem: the files without their suffix.

    Returns:
        The two files.
    """
    return [_save(figure, stem.with_name(stem.name + suffix)) for suffix in (".svg", ".png")]


def _save(figure: Any, path: Place) -> Place:
    content = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(content, format=path.suffix[1:], dpi=160, metadata=metadata)
    write_atomically(path, content.getvalue())
    return path


MOST_LINES = 8
_CHOSEN = "chosen"
_PANEL = (5.2, 4.0)  # inches
_LETTERS_PER_PANEL = 58
_LOGARITHMIC_FROM = 30.0
_MARKERS = "osD^vP*X"
_SPREAD = 0.012  # of the axis: how far apart the lines stand, so that intervals do not hide each other


def draw_sweep(frame: pd.DataFrame, title: str, stem: Place) -> list[Place]:
    """Draw a sweep as SVG and PNG: a panel per number of shots, a line per combination of the other axes.

    The horizontal axis is lambda where the grid has it, otherwise the first axis whose values are numbers. The same
    frame gives the same bytes.

    Args:
        frame: as `sweep_frame` returns it.
        title: above the panels, in lines.
        stem: the files without their suffix.

    Returns:
        The two files.

    Raises:
        NoPictureError: Matplotlib is not installed, or no axis is one of numbers.
    """
    across = horizontal_axis(frame)
    shots = list(dict.fromkeys(frame["shot"]))
    with drawing(_PANEL[0] * len(shots) + 1.3, _PANEL[1]) as figure:
        panels = figure.subplots(1, len(shots), squeeze=False)[0]
        lines = lines_of(frame, across)
        for shot, panel in zip(shots, panels, strict=True):
            _draw_panel(panel, [line[line["shot"] == shot] for line in lines], across)
            panel.set_title(f"{shot}-shot", fontsize=FONT_SIZE)
        panels[0].set_ylabel("validation accuracy, %")
        handles, labels = panels[-1].get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda number: labels[number] == _CHOSEN)
        panels[-1].legend(
            [handles[number] for number in order],
            [labels[number] for number in order],
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
        )
        width = _LETTERS_PER_PANEL * len(shots)
        wrapped = [textwrap.fill(line, width) for line in title.splitlines()]
        figure.suptitle("\n".join(wrapped), fontsize=FONT_SIZE)
        return save_picture(figure, stem)


def horizontal_axis(frame: pd.DataFrame) -> str:
    """Lambda, or the first axis of at least two numbers.

    Raises:
        NoPictureError: there is none.
    """
    numeric = [axis for axis in axes_of(frame) if _is_numeric(frame[axis]) and frame[axis].nunique() > 1]
    if not numeric:
        raise NoPictureError("no picture: no axis of the grid has two numbers to draw along.")
    return "lambda" if "lambda" in numeric else numeric[0]


def lines_of(frame: pd.DataFrame, across: str) -> list[pd.DataFrame]:
    """The rows of each combination of the other axes; of too many, those that come closest to the best point.

    Args:
        frame: as `sweep_frame` returns it.
        across: the horizontal axis.

    Returns:
        At most `MOST_LINES` frames in the order of the grid, each sorted along the horizontal axis.
    """
    others = [axis for axis in axes_of(frame) if axis != across]
    groups = [rows for _, rows in frame.groupby(others, sort=False)] if others else [frame]
    highest = sorted(groups, key=lambda rows: -float(mean_over_shots(rows)["mean"].max()))[:MOST_LINES]
    kept = [rows for rows in groups if any(rows is one for one in highest)]
    return [rows.sort_values(across, kind="stable") for rows in kept]


def _is_numeric(column: pd.Series) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in column.tolist())


def _draw_panel(panel: Any, lines: Sequence[pd.DataFrame], across: str) -> None:
    ticks = sorted(set(pd.concat(lines)[across]))
    is_logarithmic = ticks[0] > 0 and ticks[-1] / ticks[0] >= _LOGARITHMIC_FROM
    ring = None
    for number, rows in enumerate(lines):
        shift = _SPREAD * (number - (len(lines) - 1) / 2)
        places = _shifted(rows[across].tolist(), shift, ticks, is_logarithmic)
        panel.errorbar(
            places,
            rows["mean"],
            yerr=rows["ci95"].fillna(0),
            label=_label(rows, across),
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linewidth=1.4,
            elinewidth=1.1,
            capsize=2.5,
            color=f"C{number}",
        )
        chosen = rows["is_best"].tolist()
        if any(chosen):
            at = chosen.index(True)
            ring = (places[at], float(rows["mean"].iloc[at]))
    if ring is not None:
        panel.plot(*ring, "o", markersize=12, fillstyle="none", color="black", label=_CHOSEN, linestyle="none")
    if is_logarithmic:
        panel.set_xscale("log")
    panel.set_xticks(ticks, [value_text(tick) for tick in ticks])
    panel.minorticks_off()
    panel.set_xlabel(_symbol(across))
    panel.grid(axis="y", color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _label(line: pd.DataFrame, across: str) -> str:
    values = line.iloc[0]
    others = [axis for axis in axes_of(line) if axis != across]
    label = ", ".join(f"{_symbol(axis)} = {value_text(values[axis])}" for axis in others) or "mean, 95% CI"
    return marked_line(label, line)


def _shifted(values: Sequence[float], shift: float, ticks: Sequence[float], is_logarithmic: bool) -> list[float]:
    """Values moved aside by a share of the axis."""
    if is_logarithmic:
        return [value * (ticks[-1] / ticks[0]) ** shift for value in values]
    return [value + shift * (ticks[-1] - ticks[0]) for value in values]


def _symbol(axis: str) -> str:
    return {"lambda": "λ", "tau": "τ"}.get(axis, axis.replace("_", " "))
