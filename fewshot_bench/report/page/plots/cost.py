"""What accuracy costs: seconds per episode, and memory where it was measured."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from fewshot_bench.outcomes import marked
from fewshot_bench.report.names import short_name
from fewshot_bench.report.page.content import ProtocolResults
from fewshot_bench.report.page.plots.style import (
    MARKERS,
    SERIES,
    Figure,
    empty_figure,
    figure,
    rounded,
    shown,
)
from fewshot_bench.report.wording import is_transductive

_MOST_KINDS = 7
_OTHERS = "others"
_UNITS = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))
_MOST_TICKS = 9
_LONGEST = 60
_MOST_INTERVALS = 100  # beyond that they hide each other and take long to draw; the text of a mark has them
_PER_EPISODE, _OF_MEMORY = "%{x:.3g} s per episode", "%{x:.2f} GiB at most"


def cost_figure(protocol: ProtocolResults) -> Figure:
    """Draw accuracy against seconds per episode, and below against peak memory if anybody measured it."""
    rows = protocol.measured
    rows = rows[rows["episodes_per_second"] > 0]
    if not len(rows):
        return empty_figure(protocol.name, "Nobody measured how long an episode takes here.")
    rows = rows.assign(seconds=1 / rows["episodes_per_second"], gib=rows["peak_bytes"] / 2**30, kind=_kinds(rows))
    traces = []
    has_intervals = len(rows) <= _MOST_INTERVALS
    has_memory = bool(rows["gib"].notna().any())
    for place, (kind, group) in enumerate(rows.groupby("kind", sort=False)):
        looks = {"color": SERIES[place % len(SERIES)], "symbol": MARKERS[place % len(MARKERS)], "size": 9}
        name = shown(kind or "accuracy")
        traces.append(_trace(group, "seconds", _PER_EPISODE, name, looks, has_intervals))
        if has_memory:
            traces.append(
                _trace(group, "gib", _OF_MEMORY, name, looks, has_intervals)
                | {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
            )
    below: dict[str, Any] = {}
    if has_memory:
        axis = {"fixedrange": True, "zeroline": False}
        below = {
            "xaxis2": {**axis, "title": {"text": "peak memory, GiB"}, "anchor": "y2", "rangemode": "tozero"},
            "yaxis2": {**axis, "title": {"text": "accuracy, %"}, "domain": [0, 0.4], "anchor": "x2"},
        }
    return figure(
        traces,
        protocol.name,
        700 if has_memory else 420,
        {"title": {"text": "time per episode, logarithmic"}, "type": "log", "anchor": "y", **_ticks(rows["seconds"])},
        {"title": {"text": "accuracy, %"}, "domain": [0.58, 1] if has_memory else [0, 1]},
        showlegend=rows["kind"].nunique() > 1 or bool(protocol.transductive),
        margin={"l": 52, "r": 12, "t": 62, "b": 48},
        **below,
    )


def _kinds(rows: pd.DataFrame) -> list[str]:
    """The adaptation of each row; the rarer ones together if there are more than can be told apart.

    Transductive ones say so, and are never together with others.
    """
    common = rows["adaptation"].value_counts().index[:_MOST_KINDS].tolist()
    return [
        marked(row["adaptation"] if row["adaptation"] in common else _OTHERS, is_transductive(row))
        for row in rows.to_dict("records")
    ]


def _ticks(seconds: pd.Series) -> dict[str, Any]:
    """Marks at 1, 2 and 5 of each power of ten, or at 1 alone, with their unit: Plotly writes 2m for 2 ms."""
    first, last = math.floor(math.log10(seconds.min())), math.ceil(math.log10(seconds.max()))
    digits = (1, 2, 5) if 3 * (last - first) < _MOST_TICKS else (1,)
    places = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
    return {"tickvals": places, "ticktext": [_time(place) for place in places]}


def _time(seconds: float) -> str:
    size, unit = next(found for found in reversed(_UNITS) if seconds >= 0.999 * found[0] or found is _UNITS[0])
    return f"{seconds / size:.3g} {unit}"


def _trace(
    rows: pd.DataFrame, across: str, unit: str, name: str, looks: dict[str, Any], has_intervals: bool
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": rounded(rows[across], 6),
        "y": rounded(rows["mean"]),
        "error_y": {
            "type": "data",
            "array": rounded(rows["ci95"].fillna(0)),
            "thickness": 1.2,
            "width": 0,
            "visible": has_intervals,
        },
        "marker": looks,
        "text": [
            shown(marked(short_name(row["method"], _LONGEST), is_transductive(row))) for row in rows.to_dict("records")
        ],
        "hovertemplate": f"<b>%{{text}}</b><br>%{{y:.2f}} ± %{{error_y.array:.2f}} %<br>{unit}<extra></extra>",
    }
