"""The forest plot of one protocol for a paper."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fewshot_bench.paths import Place
from fewshot_bench.report.figures.rows import BLUE, GREY, MOST_ROWS, ORANGE, finish_rows, row_height
from fewshot_bench.report.page.content import ProtocolResults
from fewshot_bench.report.page.plots.forest import kept_by_kind, tested_rows
from fewshot_bench.report.picture import drawing, save_picture
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.verdicts import FOR_THESE_CLASSES, NOTHING_SHOWN, ON_THIS_SPLIT

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
