"""The figures of a paper, through Matplotlib: SVG and PNG whose bytes depend on what is drawn alone.

What is drawn is described by `report.figures`, as for the page.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

import fewshot_bench.report.figures as figures
from fewshot_bench._io.locations import Location, location_of
from fewshot_bench._io.storage import write_atomically
from fewshot_bench.report.content import PageContent
from fewshot_bench.report.figures import Curve, MatrixFigure, RanksFigure, Role, RowsFigure, SweepFigure, Symbol
from fewshot_bench.report.shots import ShotsFigure, shots_figures

_FONT_SIZE = 11
_MOST_ROWS = 40
_LONGEST_RANKED = 32  # letters
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#6d737b"
_COLOURS: dict[Role, str] = {"better": _BLUE, "worse": _ORANGE, "neutral": _GREY}
_SYMBOLS: dict[Symbol, str] = {"right": ">", "left": "<", "diamond": "D", "circle": "o"}
_PANEL = (5.2, 4.0)  # inches
_LETTERS_PER_PANEL, _LETTERS, _LETTERS_OF_RANKS = 58, 72, 100
_CURVE_MARKERS = "osD^vP*X"
_SPREAD = 0.012  # of the axis: how far apart curves stand, so that intervals do not hide each other


class NoPictureError(Exception):
    """Something cannot be drawn; the message says why."""


def draw_figures(content: PageContent, folder: str | Location) -> list[Location]:
    """Draw the figures of the page as SVG and PNG; the same content gives the same bytes.

    Args:
        content: as `gather` collects it.
        folder: where the files go; those of an earlier call are replaced.

    Returns:
        The files: forest-*, distributions-*, confused-* and confusion-* per protocol, shots-* per kind of task, ranks-*
        per size of task, sweep-* per sweep.

    Raises:
        NoPictureError: Matplotlib or scikit-posthocs is not installed.

    >>> import fewshot_bench as fb
    >>> content = fb.write_page("results", "page.html")  # doctest: +SKIP
    >>> [file.name for file in fb.draw_figures(content, "figures")]  # doctest: +SKIP
    ['distributions-1-glyphs-5-way-5-shot.svg', 'distributions-1-glyphs-5-way-5-shot.png']
    """
    folder = location_of(folder)
    files: list[Location] = []
    for number, protocol in enumerate(content.protocols, 1):
        name = f"{number}-{file_name(protocol.name)}"
        rows = figures.forest(protocol, _MOST_ROWS)
        if not rows.why_empty:
            files += draw_forest(rows, folder / f"forest-{name}")
        boxes = figures.distributions(protocol)
        if not boxes.why_empty:
            files += draw_distributions(boxes, folder / f"distributions-{name}")
        pairs, matrix = figures.confused_pairs(protocol), figures.confusion_matrix(protocol)
        if not pairs.why_empty:
            files += draw_confused_pairs(pairs, folder / f"confused-{name}")
        if not matrix.why_empty:
            files += draw_confusion(matrix, folder / f"confusion-{name}")
    for number, shots in enumerate(shots_figures(content.frame), 1):
        files += draw_shots(shots, folder / f"shots-{number}-{file_name(shots.title)}")
    for number, ranking in enumerate(content.rankings, 1):
        ranks = figures.ranks(ranking, _LONGEST_RANKED)
        files += draw_critical_difference(ranks, folder / f"ranks-{number}-{file_name(ranking.name)}")
    for number, stored in enumerate(content.sweeps, 1):
        sweep = figures.sweep(stored.frame, stored.name)
        if not sweep.why_empty:
            files += _draw_sweep(sweep, folder / f"sweep-{number}-{file_name(stored.name)}")
    return files


def draw_forest(figure: RowsFigure, stem: Location) -> list[Location]:
    """Draw differences to a baseline: thick lines over episodes, thin lines over classes and images.

    Args:
        figure: with at least one row.
        stem: the files without their suffix.

    Raises:
        NoPictureError: Matplotlib is not installed.
    """
    with _rows_drawing(figure) as axes:
        axes.axvline(0, color=_GREY, linewidth=1, zorder=0)
        thin = [(number, *row.data_interval) for number, row in enumerate(figure.rows)]
        thin = [line for line in thin if line[1] == line[1]]
        if thin:
            axes.hlines(*zip(*thin, strict=True), color=_GREY, linewidth=1, label=figure.data_label)
        for verdict, role, symbol, numbers in figure.by_verdict():
            rows = [figure.rows[number] for number in numbers]
            style: dict[str, Any] = {
                "color": _COLOURS[role], "marker": _SYMBOLS[symbol], "linestyle": "", "markersize": 5.5
            }  # fmt: skip
            low, high = zip(*(row.interval for row in rows), strict=True)
            axes.hlines(numbers, low, high, color=_COLOURS[role], linewidth=3)
            axes.plot([row.value for row in rows], numbers, label=verdict, markerfacecolor="none", **style)
            measured = [(row.value, number) for row, number in zip(rows, numbers, strict=True) if row.is_measured]
            axes.plot([value for value, _ in measured], [number for _, number in measured], **style)
        axes.figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
        return save_picture(axes.figure, stem)


def draw_distributions(figure: RowsFigure, stem: Location) -> list[Location]:
    """Draw quartiles, 5% and 95%, median (line) and mean (diamond) over episodes; see `draw_forest`."""
    boxes = [row.box for row in figure.rows if row.box is not None]
    keys = ("whislo", "q1", "med", "q3", "whishi", "mean")
    values = [(box.low, box.first_quartile, box.median, box.third_quartile, box.high, box.mean) for box in boxes]
    with _rows_drawing(figure) as axes:
        axes.bxp(
            [dict(zip(keys, numbers, strict=True)) for numbers in values],
            positions=range(len(boxes)),
            orientation="horizontal",
            widths=0.5,
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            boxprops={"facecolor": "#cfe3f2", "edgecolor": _BLUE},
            medianprops={"color": _BLUE, "linewidth": 1.8},
            whiskerprops={"color": _BLUE},
            capprops={"color": _BLUE},
            meanprops={"marker": "D", "markersize": 4, "markerfacecolor": "white", "markeredgecolor": _BLUE},
            manage_ticks=False,
        )
        return save_picture(axes.figure, stem)


def draw_confused_pairs(figure: RowsFigure, stem: Location) -> list[Location]:
    """Draw a bar for each pair of classes; see `draw_forest`."""
    with _rows_drawing(figure) as axes:
        axes.barh(range(len(figure.rows)), [row.value for row in figure.rows], height=0.6, color=_BLUE)
        return save_picture(axes.figure, stem)


def draw_confusion(figure: MatrixFigure, stem: Location) -> list[Location]:
    """Draw the share of the row's class that is taken for the column's, in %; see `draw_forest`."""
    count = len(figure.labels)
    with drawing(0.22 * count + 3.2, 0.22 * count + 1.6) as canvas:
        axes = canvas.subplots()
        picture = axes.imshow(np.array(figure.values), cmap="Blues", vmin=0, vmax=figure.limit, aspect="auto")
        axes.set_yticks(range(count), figure.labels, fontsize=8)
        axes.set_xticks(range(count), range(1, count + 1), fontsize=8)
        axes.xaxis.tick_top()
        axes.spines[:].set_visible(False)
        canvas.colorbar(picture, ax=axes, label="%", shrink=0.8)
        canvas.suptitle(f"{figure.title}, {figure.note}", fontsize=10)
        return save_picture(canvas, stem)


def draw_shots(figure: ShotsFigure, stem: Location) -> list[Location]:
    """Draw accuracy against shots: thick lines over episodes, thin ones over classes and images; see `draw_forest`."""
    middle, apart = (len(figure.curves) - 1) / 2, (figure.ticks[-1] / figure.ticks[0]) ** _SPREAD
    with drawing(_PANEL[0] + 3, _PANEL[1]) as canvas:
        axes = canvas.subplots()
        for number, curve in enumerate(figure.curves):
            places = [shot * apart ** (number - middle) for shot in curve.shots]
            colour, width = f"C{number % 10}", 2.4 if curve.is_own else 1.4
            axes.errorbar(places, curve.means, yerr=curve.data_half_widths, fmt="none", ecolor=colour, elinewidth=0.8)
            axes.errorbar(
                places,
                curve.means,
                yerr=curve.half_widths,
                label=curve.label,
                color=colour,
                linewidth=width,
                elinewidth=3,
                marker=_CURVE_MARKERS[number % len(_CURVE_MARKERS)],
                markersize=5,
            )
        axes.set_xscale("log")
        axes.set_xticks(figure.ticks, list(map(str, figure.ticks)))
        axes.minorticks_off()
        axes.set_xlabel(" ".join(figure.label))
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        canvas.legend(loc="outside right center", frameon=False, fontsize=9)
        canvas.suptitle(f"{figure.title}{f', {figure.note}' if figure.note else ''}", fontsize=_FONT_SIZE)
        return save_picture(canvas, stem)


@contextmanager
def _rows_drawing(figure: RowsFigure) -> Iterator[Any]:
    """Axes with a row per method: names on the left, first on top, one label below, nothing else."""
    with drawing(8.4, 0.3 * len(figure.rows) + 1.3) as canvas:
        axes = canvas.subplots()
        axes.set_yticks(range(len(figure.rows)), figure.labels)
        for tick, row in zip(axes.get_yticklabels(), figure.rows, strict=True):
            tick.set_fontweight("bold" if row.is_own else "normal")
        if figure.first_transductive:
            axes.axhline(figure.first_transductive - 0.5, color=_GREY, linewidth=0.8, linestyle=":")
        axes.set_ylim(len(figure.rows) - 0.4, -0.6)
        canvas.supxlabel(textwrap.fill(figure.caption, _LETTERS), fontsize=_FONT_SIZE)
        axes.grid(axis="x", color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        yield axes


def draw_critical_difference(figure: RanksFigure, stem: Location) -> list[Location]:
    """Draw mean ranks on a line; bars join methods that are not further apart than the critical difference.

    Args:
        figure: of three methods or more.
        stem: the files without their suffix.

    Raises:
        NoPictureError: Matplotlib or scikit-posthocs is not installed.
    """
    with drawing(10, 0.2 * len(figure.rows) + 1.8) as canvas:
        try:
            from scikit_posthocs import critical_difference_diagram
        except ImportError as error:
            missing = "no picture: scikit-posthocs is missing. Install it with: pip install scikit-posthocs"
            raise NoPictureError(missing) from error
        axes, names = canvas.subplots(), figure.labels
        critical_difference_diagram(
            pd.Series([row.value for row in figure.rows], index=names),
            pd.DataFrame(np.where(figure.differ, 0.0, 1.0), index=names, columns=names),
            ax=axes,
            label_fmt_left="{label} ({rank:.2f})  ",
            label_fmt_right="  {label} ({rank:.2f})",
            label_props={"fontsize": 9},
        )
        axes.set_title(textwrap.fill(f"{figure.title}: {figure.note}", _LETTERS_OF_RANKS), fontsize=10)
        return save_picture(canvas, stem)


def draw_sweep(frame: pd.DataFrame, title: str, stem: Location) -> list[Location]:
    """Draw a sweep: a panel per number of shots, a line per combination of the other axes.

    Args:
        frame: as `sweep_frame` returns it.
        title: above the panels, in lines.
        stem: the files without their suffix.

    Returns:
        The SVG and the PNG; the same frame gives the same bytes.

    Raises:
        NoPictureError: Matplotlib is not installed, or no axis of the grid has numbers.
    """
    figure = figures.sweep(frame, title)
    if figure.why_empty:
        raise NoPictureError(figure.why_empty)
    return _draw_sweep(figure, stem)


def _draw_sweep(figure: SweepFigure, stem: Location) -> list[Location]:
    count = len(figure.shots)
    with drawing(_PANEL[0] * count + 1.3, _PANEL[1]) as canvas:
        panels = canvas.subplots(1, count, squeeze=False)[0]
        for shot, panel in zip(figure.shots, panels, strict=True):
            _draw_panel(panel, figure, [curve for curve in figure.curves if curve.shot == shot])
            panel.set_title(f"{shot}-shot", fontsize=_FONT_SIZE)
        panels[0].set_ylabel(figure.vertical_label)
        entries = sorted(
            zip(*panels[-1].get_legend_handles_labels(), strict=True), key=lambda e: e[1] == figures.CHOSEN
        )
        handles, labels = zip(*entries, strict=True)
        panels[-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        wrapped = [textwrap.fill(line, _LETTERS_PER_PANEL * count) for line in figure.title.splitlines()]
        canvas.suptitle("\n".join(wrapped), fontsize=_FONT_SIZE)
        return save_picture(canvas, stem)


def _draw_panel(panel: Any, figure: SweepFigure, curves: Sequence[Curve]) -> None:
    chosen = []
    for curve in curves:
        places = _spread(figure, curve.x, _SPREAD * (curve.line - (len(curves) - 1) / 2))
        panel.errorbar(
            places,
            curve.means,
            yerr=curve.half_widths,
            label=curve.label,
            marker=_CURVE_MARKERS[curve.line % len(_CURVE_MARKERS)],
            markersize=5,
            linewidth=1.4,
            elinewidth=1.1,
            capsize=2.5,
            color=f"C{curve.line}",
        )
        if curve.chosen is not None:
            chosen = [places[curve.chosen], curve.means[curve.chosen]]
    if chosen:
        ring: dict[str, Any] = {"markersize": 12, "fillstyle": "none", "color": "black", "linestyle": "none"}
        panel.plot(*chosen, "o", label=figures.CHOSEN, **ring)
    if figure.is_logarithmic:
        panel.set_xscale("log")
    panel.set_xticks(list(figure.ticks), list(figure.ticks.values()))
    panel.minorticks_off()
    panel.set_xlabel(" ".join(figure.label))
    panel.grid(axis="y", color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _spread(figure: SweepFigure, values: Sequence[float], shift: float) -> list[float]:
    """Values moved aside by a share of the axis."""
    low, high = min(figure.ticks), max(figure.ticks)
    return [
        value * (high / low) ** shift if figure.is_logarithmic else value + shift * (high - low) for value in values
    ]


@contextmanager
def drawing(width: float, height: float) -> Iterator[Any]:
    """A Matplotlib figure of so many inches that no setting of the user's changes.

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
        matplotlib.rc("font", family="DejaVu Sans", size=_FONT_SIZE)
        matplotlib.rc("text", parse_math=False)  # a dollar in a method's name is a dollar
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def save_picture(figure: Any, stem: Location) -> list[Location]:
    """Write a figure as SVG and as PNG, each all or nothing, without dates or versions."""
    files = []
    for suffix, metadata in ((".svg", {"Date": None, "Creator": None}), (".png", {"Software": None})):
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], dpi=160, metadata=metadata)
        files.append(stem.with_name(stem.name + suffix))
        write_atomically(files[-1], content.getvalue())
    return files


def file_name(text: str) -> str:
    """Letters, digits and dashes of a name, at most 60."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "unnamed"
