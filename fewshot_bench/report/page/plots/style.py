"""What all figures have in common: colours that everybody can tell apart, on light and dark paper, and escaped text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from markupsafe import escape

from fewshot_bench.report.names import marked_names

Figure = dict[str, Any]

# Okabe and Ito's (2008) hues, shifted to lie between light and dark: at least 3:1 on white and on #14171c.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#2b7fc0", "#d2610c", "#0f8f6f", "#b0619c", "#82878f"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, "#9a7d0a", "#3d9ad1", GREY, "#c0504d")
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")
DASHES = ("solid", "dash", "dot", "dashdot")
ROW = 42  # pixels for one method: its name above its mark, clear of the lines of the mark
_NAME_ABOVE = 0.22  # rows
LONGEST = 46
NAMES_AXIS = {"overlaying": "x", "range": [0, 1], "visible": False, "fixedrange": True}


def shown(text: object) -> str:
    """A name as Plotly shows it: Plotly takes some HTML for style and dollars for TeX, so a name must have neither."""
    return str(escape(str(text))).replace("$", "&#36;")


def figure(
    data: Sequence[dict[str, Any]],
    title: str,
    height: int,
    x: dict[str, Any],
    y: dict[str, Any],
    *,
    note: str = "",
    **layout: Any,
) -> Figure:
    """A figure in the style of the page.

    Args:
        data: Plotly's traces.
        title: plain text; it is escaped here.
        height: in pixels; the width is that of the page.
        x: the horizontal axis.
        y: the vertical axis.
        note: a second line of the title; short, for nothing wraps in Plotly and a phone has room for 50 letters.
        layout: what else Plotly's layout has.
    """
    common = {"gridcolor": GREY, "zeroline": False, "fixedrange": True, "ticklabeloverflow": "allow"}
    return {
        "data": list(data),
        "layout": {
            "title": {
                "text": "<br>".join(shown(line) for line in (title, note) if line),
                "x": 0,
                "xanchor": "left",
                "font": {"size": 13},
                "y": 1,
                "yanchor": "top",
                "pad": {"t": 16 if note else 4},
            },
            "height": height,
            "autosize": True,
            "margin": {"l": 8, "r": 12, "t": 34, "b": 44},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": GREY},
            "hoverlabel": {
                "bgcolor": "#22272e",
                "bordercolor": "#22272e",
                "font": {"color": "#ffffff"},
                "align": "left",
            },
            "dragmode": False,
            "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "itemclick": False},
            "showlegend": False,
            "xaxis": {**common, **x},
            "yaxis": {**common, **y},
            **layout,
        },
    }


def empty_figure(title: str, reason: str) -> Figure:
    """A figure that says why there is nothing in it."""
    hidden = {"visible": False}
    words = {"text": shown(reason), "showarrow": False, "x": 0, "xref": "paper", "y": 0.5, "yref": "paper"}
    return figure([], title, 110, hidden, hidden, annotations=[words | {"xanchor": "left", "align": "left"}])


def names_above(names: Sequence[str], transductive: Collection[str] = ()) -> Figure:
    """The names of the methods, each above its row at the left end, where a phone has room for them too.

    A transductive one says so behind its name, however short that is cut. They are a trace on an axis of their own,
    `NAMES_AXIS`, because Plotly takes much longer for annotations.
    """
    return {
        "type": "scatter",
        "mode": "text",
        "x": [0] * len(names),
        "y": [row - _NAME_ABOVE for row in range(len(names))],
        "text": [shown(name) for name in marked_names(names, transductive, LONGEST)],
        "textposition": "top right",
        "textfont": {"size": 12},
        "xaxis": "x2",
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def kind_rule(names: Sequence[str], transductive: Collection[str]) -> list[dict[str, Any]]:
    """A line between inductive and transductive methods, as Plotly's shapes; none where there is one kind.

    Args:
        names: of the methods, from top to bottom, inductive ones first.
        transductive: which of them are.
    """
    first = next((row for row, name in enumerate(names) if name in transductive), 0)
    if not first:
        return []
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": first - 0.6, "y1": first - 0.6, "layer": "below"}
    return [{**line, "line": {"color": GREY, "width": 1, "dash": "dot"}}]


def rows_axis(count: int) -> dict[str, Any]:
    """A vertical axis for `count` methods from top to bottom, without marks of its own."""
    return {"range": [count - 0.65, -0.85], "visible": False}


def rounded(values: Iterable[float], decimals: int = 3) -> list[float | None]:
    """Numbers for JSON; what does not exist is None."""
    return [None if value != value else round(float(value), decimals) + 0.0 for value in values]
