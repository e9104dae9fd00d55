"""Accuracy against lambda, one line per tau: a sweep as Figure 2 of Long et al. (2023), with intervals."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fewshot_bench.report.page.content import SweepResults
from fewshot_bench.report.page.plots.style import (
    DASHES,
    GREY,
    MARKERS,
    SERIES,
    Figure,
    empty_figure,
    figure,
    rounded,
    shown,
)
from fewshot_bench.report.pictures import NoPictureError, horizontal_axis, lines_of
from fewshot_bench.report.sweeps import axes_of, marked_line
from fewshot_bench.report.wording import value_text


def sweep_figure(sweep: SweepResults) -> Figure:
    """Draw the curves of a sweep; the chosen point has a ring."""
    try:
        across = horizontal_axis(sweep.frame)
    except NoPictureError as error:
        return empty_figure(sweep.name, str(error))
    shots = list(dict.fromkeys(sweep.frame["shot"]))
    traces = []
    for place, line in enumerate(lines_of(sweep.frame, across)):
        for number, shot in enumerate(shots):
            rows = line[line["shot"] == shot]
            traces.append(_line(rows, across, _label(rows, across, shot, len(shots) > 1), place, number))
    chosen = sweep.frame[sweep.frame["is_best"]]
    ring = {"symbol": "circle-open", "size": 17, "color": GREY, "line": {"width": 2.5}}
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "chosen",
            "x": chosen[across].tolist(),
            "y": rounded(chosen["mean"]),
            "marker": ring,
            "hoverinfo": "skip",
        }
    )
    return figure(
        traces,
        sweep.name,
        460,
        {"title": {"text": shown(_symbol(across))}},
        {"title": {"text": "validation accuracy, %"}},
        showlegend=True,
        margin={"l": 52, "r": 12, "t": 34, "b": 44},
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "itemclick": False},
    )


def _line(rows: pd.DataFrame, across: str, label: str, place: int, number: int) -> dict[str, Any]:
    colour = SERIES[place % len(SERIES)]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label,
        "x": rows[across].tolist(),
        "y": rounded(rows["mean"]),
        "error_y": {"type": "data", "array": rounded(rows["ci95"].fillna(0)), "thickness": 1, "width": 3},
        "line": {"color": colour, "dash": DASHES[number % len(DASHES)], "width": 1.8},
        "marker": {"color": colour, "symbol": MARKERS[place % len(MARKERS)], "size": 7},
        "text": [label] * len(rows),
        "hovertemplate": "%{text}<br>%{x}: %{y:.2f} %<extra></extra>",
    }


def _label(rows: pd.DataFrame, across: str, shot: int, several: bool) -> str:
    first = rows.iloc[0]
    parts = [f"{_symbol(axis)} = {value_text(first[axis])}" for axis in axes_of(rows) if axis != across]
    if several or not parts:
        parts.append(f"{shot}-shot")
    return shown(marked_line(", ".join(parts), rows))


def _symbol(axis: str) -> str:
    return {"lambda": "λ", "tau": "τ"}.get(axis, axis.replace("_", " "))
