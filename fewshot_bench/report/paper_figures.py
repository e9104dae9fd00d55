"""Every figure of a page as files.

The critical-difference diagram of Demsar (2006), through scikit-posthocs.

Box plots of the accuracies over episodes, for a paper.

The forest plot of one protocol for a paper.

What figures with one row per method have in common.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fewshot_bench._io.locations import Place
from fewshot_bench.report.names import marked_names
from fewshot_bench.report.page.content import PageContent, ProtocolResults, Quantiles, Ranking
from fewshot_bench.report.page.plots.forest import kept_by_kind, tested_rows
from fewshot_bench.report.pictures import FONT_SIZE, NoPictureError, draw_sweep, drawing, horizontal_axis, save_picture
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.verdicts import FOR_THESE_CLASSES, NOTHING_SHOWN, ON_THIS_SPLIT
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


BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#6d737b"
MOST_ROWS = 40
_LETTERS_ROWS = 72
_LONGEST_ROWS = 44


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
    axes.set_yticks(range(len(names)), marked_names(names, transductive, _LONGEST_ROWS))
    first = next((row for row, name in enumerate(names) if name in transductive), 0)
    if first:
        axes.axhline(first - 0.5, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.figure.supxlabel(textwrap.fill(label, _LETTERS_ROWS), fontsize=FONT_SIZE)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def draw_distributions(protocol: ProtocolResults, stem: Place) -> list[Place]:
    """Draw how the episodes of each method spread: quartiles, 5% and 95%, median (line) and mean (diamond).

    Args:
        protocol: with the quantiles of at least one method.
        stem: the files without their suffix.

    Raises:
        NoPictureError: Matplotlib is not installed.
    """
    shown = dict(list(protocol.quantiles.items())[:MOST_ROWS])
    methods = len(protocol.measured)
    some = f", the best {len(shown)} of {methods}" if methods > len(shown) else ""
    with drawing(8.4, row_height(len(shown))) as figure:
        axes = figure.subplots()
        axes.bxp(
            [_box(quantiles) for quantiles in shown.values()],
            positions=range(len(shown)),
            orientation="horizontal",
            widths=0.5,
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            boxprops={"facecolor": "#cfe3f2", "edgecolor": BLUE},
            medianprops={"color": BLUE, "linewidth": 1.8},
            whiskerprops={"color": BLUE},
            capprops={"color": BLUE},
            meanprops={"marker": "D", "markersize": 4, "markerfacecolor": "white", "markeredgecolor": BLUE},
        )
        finish_rows(axes, list(shown), f"{protocol.name}{some}: accuracy of an episode, %", protocol.transductive)
        return save_picture(figure, stem)


def _box(quantiles: Quantiles) -> dict[str, float]:
    return {
        "whislo": quantiles.low,
        "q1": quantiles.first_quartile,
        "med": quantiles.median,
        "q3": quantiles.third_quartile,
        "whishi": quantiles.high,
        "mean": quantiles.mean,
    }


_LOOKS = {
    "better": (BLUE, ">"),
    f"better{FOR_THESE_CLASSES}": (BLUE, ">"),
    f"better{ON_THIS_SPLIT}": (BLUE, "D"),
    "worse": (ORANGE, "<"),
    f"worse{FOR_THESE_CLASSES}": (ORANGE, "<"),
    f"worse{ON_THIS_SPLIT}": (ORANGE, "D"),
    NOTHING_SHOWN: (GREY, "o"),
}


def draw_forest(protocol: ProtocolResults, stem: Place) -> list[Place]:
    """Draw the differences of a protocol to its baseline: thick over episodes, thin over classes and images.

    Args:
        protocol: whose rows are tested against a baseline, at least one of them.
        stem: the files without their suffix.

    Raises:
        NoPictureError: Matplotlib is not installed.
    """
    rows = tested_rows(protocol)
    kept = kept_by_kind(rows, MOST_ROWS)
    baseline = protocol.shown(next(name for name in rows["baseline"] if name))
    with drawing(8.4, row_height(len(kept))) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=GREY, linewidth=1, zorder=0)
        _data_intervals(axes, kept)
        for word, (colour, marker) in _LOOKS.items():
            group = kept[kept["verdict"] == word]
            if len(group):
                _task_intervals(axes, group, word, colour, marker)
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
        some = f", the best {MOST_ROWS} of {len(rows)}" if len(rows) > MOST_ROWS else ""
        label = f"{protocol.name}{some}: points above or below {baseline}"
        finish_rows(axes, kept["method"].tolist(), label, protocol.transductive)
        return save_picture(figure, stem)


def _task_intervals(axes: Any, rows: pd.DataFrame, word: str, colour: str, marker: str) -> None:
    axes.hlines(rows.index, rows["diff_ci95_low"], rows["diff_ci95_high"], color=colour, linewidth=3)
    measured = rows["source"] == MEASURED
    axes.plot(rows["difference"], rows.index, marker, color=colour, markersize=5.5, label=word, markerfacecolor="none")
    axes.plot(rows["difference"][measured], rows.index[measured], marker, color=colour, markersize=5.5)


def _data_intervals(axes: Any, rows: pd.DataFrame) -> None:
    known = rows[rows["diff_data_ci95_low"].notna()]
    if len(known):
        ends = (known["diff_data_ci95_low"], known["diff_data_ci95_high"])
        covers = " or ".join(sorted(set(known["beyond"])))
        axes.hlines(known.index, *ends, color=GREY, linewidth=1, label=f"thin: over {covers}")


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
