"""The page's figures as plain data for Plotly: traces and layout of what `report.figures` describes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import escape

from fewshot_bench.report.embeddings.figures import DIFFERENT, SAME, LayoutFigure, SimilarityFigure
from fewshot_bench.report.figures import (
    CHOSEN,
    CostFigure,
    FigureData,
    FigureRow,
    MatrixFigure,
    RanksFigure,
    Role,
    RowsFigure,
    SweepFigure,
    Symbol,
)
from fewshot_bench.report.shots import ShotCurve, ShotsFigure

_APART = 0.006  # of the axis: curves stand beside each other, so that their intervals can be told apart
PlotlyFigure = dict[str, Any]

MOST_ROWS = 30
# Okabe and Ito's (2008) hues, shifted to lie between light and dark: at least 3:1 on white and on #14171c.
_BLUE, _ORANGE, _GREY = "#2b7fc0", "#d2610c", "#82878f"
_SERIES = (_BLUE, _ORANGE, "#0f8f6f", "#b0619c", "#9a7d0a", "#3d9ad1", _GREY, "#c0504d")
_COLOURS: dict[Role, str] = {"better": _BLUE, "worse": _ORANGE, "neutral": _GREY}
_SYMBOLS: dict[Symbol, str] = {
    "right": "triangle-right", "left": "triangle-left", "diamond": "diamond", "circle": "circle"
}  # fmt: skip
_MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")
_DASHES = ("solid", "dash", "dot", "dashdot")
_ROW, _CLASS_ROW = 42, 19  # pixels; a method's name stands above its mark, clear of the lines of the mark
_NAME_ABOVE = 0.22  # rows
_NAMES_AXIS = {"overlaying": "x", "range": [0, 1], "visible": False, "fixedrange": True}
_COLOUR_BAR = {
    "title": {"text": "points", "side": "bottom"}, "orientation": "h", "thickness": 10, "outlinewidth": 0, "y": 0,
    "yanchor": "top",
}  # fmt: skip
_ACCURACY = "%{y:.2f} ± %{error_y.array:.2f} %"
_HOVER = {"hovertemplate": "%{text}<extra></extra>"}
_DOTS = {"type": "scatter", "mode": "markers"}
_SILENT = {"hoverinfo": "skip", "showlegend": False}


def forest_plot(figure: RowsFigure) -> PlotlyFigure:
    """Thick lines over episodes, thin lines over classes and images, a trace per verdict."""
    if figure.why_empty:
        return _empty(figure)
    rows = figure.rows
    traces = []
    if figure.data_label:
        thin = _ends(rows, [row.data_interval for row in rows], thickness=1.2, width=4, color=_GREY)
        marker = {"color": _GREY, "size": 1}
        traces.append({**_DOTS, **_places(rows, range(len(rows))), "error_x": thin, "marker": marker, **_SILENT})
    for verdict, role, symbol, numbers in figure.by_verdict():
        group, colour, name = [rows[number] for number in numbers], _COLOURS[role], _SYMBOLS[symbol]
        symbols = [name if row.is_measured else f"{name}-open" for row in group]
        traces.append(
            {
                **_DOTS,
                **_places(group, numbers),
                "name": verdict,
                "error_x": _ends(group, [row.interval for row in group], thickness=4, width=0, color=colour),
                "marker": {"color": colour, "symbol": symbols, "size": 11},
                "text": _hover_texts(group),
                **_HOVER,
            }
        )
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": _GREY, "width": 1.5}}
    return _rows_plot(figure, traces, 150, (72, 68), shapes=[zero | {"layer": "below"}], showlegend=True)


def distributions_plot(figure: RowsFigure) -> PlotlyFigure:
    """Box plots from quantiles: the episodes themselves stay on the disk."""
    if figure.why_empty:
        return _empty(figure)
    rows = figure.rows
    boxes = [row.box for row in rows if row.box is not None]
    trace = {
        "type": "box",
        "orientation": "h",
        "y": list(range(len(rows))),
        "lowerfence": _rounded(box.low for box in boxes),
        "q1": _rounded(box.first_quartile for box in boxes),
        "median": _rounded(box.median for box in boxes),
        "q3": _rounded(box.third_quartile for box in boxes),
        "upperfence": _rounded(box.high for box in boxes),
        "mean": _rounded(box.mean for box in boxes),
        "boxmean": True,
        "width": 0.3,
        "fillcolor": "rgba(43, 127, 192, 0.25)",
        "line": {"color": _BLUE, "width": 1.5},
        "whiskerwidth": 0.6,
        "name": "",
        **_SILENT,
    }
    # An invisible mark carries the numbers, because a box of quantiles has no text of its own.
    numbers = {**_DOTS, **_places(rows, range(len(rows))), "marker": {"size": 16, "opacity": 0}}
    traces = [trace, {**numbers, "text": _hover_texts(rows), **_HOVER}]
    return _rows_plot(figure, traces, 90, (46 if figure.note else 30, 48))


def ranks_plot(figure: RanksFigure) -> PlotlyFigure:
    """Critical-difference diagram: two methods differ if and only if their lines part."""
    rows = figure.rows
    trace = {
        **_DOTS,
        **_places(rows, range(len(rows))),
        "error_x": {
            "type": "data",
            "array": _rounded(row.interval[1] - row.value for row in rows),
            "thickness": 3,
            "width": 0,
            "color": _BLUE,
        },
        "marker": {"color": _BLUE, "size": 10},
        "text": _hover_texts(rows),
        **_HOVER,
    }
    return _rows_plot(figure, [trace], 106, (46, 48))


def _rows_plot(
    figure: RowsFigure,
    traces: Sequence[dict[str, Any]],
    around: int,
    margins: tuple[int, int],
    shapes: Sequence[dict[str, Any]] = (),
    **layout: Any,
) -> PlotlyFigure:
    """A figure with a row per method and its name above it, in a trace: Plotly's annotations are slow."""
    count = len(figure.rows)
    names = {
        "type": "scatter",
        "mode": "text",
        "x": [0] * count,
        "y": [row - _NAME_ABOVE for row in range(count)],
        "text": [_name(row) for row in figure.rows],
        "textposition": "top right",
        "textfont": {"size": 12},
        "xaxis": "x2",
        "cliponaxis": False,
        **_SILENT,
    }
    rule = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "layer": "below"}
    rule |= dict.fromkeys(("y0", "y1"), figure.first_transductive - 0.6)
    rules = [{**rule, "line": {"color": _GREY, "width": 1, "dash": "dot"}}] if figure.first_transductive else []
    return _plot(
        figure,
        [*traces, names],
        _ROW * count + around,
        {},
        {"range": [count - 0.65, -0.85], "visible": False},
        xaxis2=_NAMES_AXIS,
        shapes=[*shapes, *rules],
        margin={"l": 8, "r": 12, "t": margins[0], "b": margins[1]},
        **layout,
    )


def confused_plot(figure: RowsFigure) -> PlotlyFigure:
    """A bar for each pair of classes."""
    if figure.why_empty:
        return _empty(figure)
    rows = figure.rows
    trace = {
        "type": "bar",
        "orientation": "h",
        **_places(rows, range(len(rows)), 2),
        "width": 0.3,
        "marker": {"color": _BLUE},
        "hovertext": _hover_texts(rows),
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    return _rows_plot(figure, [trace], 106, (46, 62))


def confusion_plot(figure: MatrixFigure) -> PlotlyFigure:
    """The row's class taken for the column's: the darker, the more often."""
    if figure.why_empty:
        return _empty(figure)
    count = len(figure.labels)
    places = list(range(1, count + 1))
    trace = {
        "type": "heatmap",
        "x": places,
        "y": places,
        "z": [_rounded(row, 1) for row in figure.values],
        "zmin": 0,
        "zmax": figure.limit,
        "colorscale": [[0, "rgba(43,127,192,0.03)"], [1, "rgba(43,127,192,1)"]],
        "colorbar": {**_COLOUR_BAR, "title": {"text": "%", "side": "bottom"}},
        "customdata": [[_escaped(text) for text in row] for row in figure.details],
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
    }
    names = {"tickvals": places, "ticktext": [_escaped(label) for label in figure.labels], "tickfont": {"size": 10}}
    columns = {"tickvals": [1, *range(5, count + 1, 5)], "side": "top", "range": [0.5, count + 0.5]}
    bare = {"showgrid": False, "ticks": ""}
    return _plot(
        figure,
        [trace],
        max(20 * count, 160) + 150,
        {**columns, **bare},
        {**names, "automargin": True, "range": [count + 0.5, 0.5], **bare},
        margin={"l": 8, "r": 8, "t": 66, "b": 16},
    )


def shots_plot(figure: ShotsFigure) -> PlotlyFigure:
    """A line per method: thick intervals over episodes, thin ones over classes and images, beside each other."""
    traces: list[dict[str, Any]] = []
    middle, apart = (len(figure.curves) - 1) / 2, (figure.ticks[-1] / figure.ticks[0]) ** _APART
    for number, curve in enumerate(figure.curves):
        colour, label = _SERIES[number % len(_SERIES)], _escaped(curve.label)
        x = _rounded((shot * apart ** (number - middle) for shot in curve.shots), 4)
        common = {"type": "scatter", "x": x, "y": _rounded(curve.means)}
        bars = {"type": "data", "color": colour, "width": 0}
        wide = {**bars, "array": _rounded(0.0 if w != w else w for w in curve.data_half_widths), "thickness": 1}
        traces.append({**common, "mode": "markers", "error_y": wide, "marker": {"size": 1, "color": colour}, **_SILENT})
        traces.append(
            {
                **common,
                "mode": "lines+markers",
                "name": f"<b>{label}</b>" if curve.is_own else label,
                "error_y": {**bars, "array": _rounded(curve.half_widths), "thickness": 3},
                "line": {"color": colour, "width": 2.6 if curve.is_own else 1.6},
                "marker": {"color": colour, "symbol": _MARKERS[number % len(_MARKERS)], "size": 7},
                "text": [_shot_text(curve, place) for place in range(len(curve.shots))],
                **_HOVER,
            }
        )
    ticks = {"tickvals": figure.ticks, "ticktext": list(map(str, figure.ticks))}
    return _plot(
        figure,
        traces,
        480 + 18 * len(figure.curves),
        {"type": "log", **ticks},
        {"title": {"text": "accuracy, %"}},
        showlegend=True,
        margin={"l": 52, "r": 12, "t": 46 if figure.note else 34, "b": 44},
        legend={"orientation": "h", "x": 0, "y": -0.14, "yanchor": "top", "itemclick": False},
    )


def _shot_text(curve: ShotCurve, place: int) -> str:
    """What a point says when it is pointed at."""
    half_width, data = curve.half_widths[place], curve.data_half_widths[place]
    beyond = f", ± {data:.2f} over classes and images" if data == data else ""
    numbers = f"{curve.means[place]:.2f}% ± {half_width:.2f} over episodes{beyond}"
    return f"<b>{_escaped(curve.name)}</b><br>{curve.shots[place]} per class: {numbers}"


def classes_plot(figure: RowsFigure) -> PlotlyFigure:
    """Two methods class by class."""
    if figure.why_empty:
        return _empty(figure)
    rows, count = figure.rows, len(figure.rows)
    verdicts = {number: _COLOURS[role] for _, role, _, numbers in figure.by_verdict() for number in numbers}
    widths = _rounded((row.interval[1] - row.value for row in rows), 2)
    trace = {
        **_DOTS,
        **_places(rows, range(count), 2),
        "error_x": {"type": "data", "array": widths, "thickness": 1.5, "width": 0, "color": _GREY},
        "marker": {"color": [verdicts[number] for number in range(count)], "size": 8},
        "text": _hover_texts(rows),
        **_HOVER,
    }
    names = {"tickvals": list(range(count)), "ticktext": [_escaped(label) for label in figure.labels]}
    vertical = {**names, "range": [count - 0.4, -0.6], "automargin": True, "showgrid": False}
    margin = {"l": 8, "r": 12, "t": 46 if figure.note else 30, "b": 62}
    return _plot(figure, [trace], _CLASS_ROW * count + 110, {"zeroline": True}, vertical, margin=margin)


def sweep_plot(figure: SweepFigure) -> PlotlyFigure:
    """Accuracy along an axis of a sweep: a colour per line, a dash per number of shots, a ring for the chosen point."""
    if figure.why_empty:
        return _empty(figure)
    traces = []
    for curve in figure.curves:
        colour = _SERIES[curve.line % len(_SERIES)]
        label = _escaped(curve.label_with_shot)
        dash = _DASHES[figure.shots.index(curve.shot) % len(_DASHES)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label,
                "x": list(curve.x),
                "y": _rounded(curve.means),
                "error_y": {"type": "data", "array": _rounded(curve.half_widths), "thickness": 1, "width": 3},
                "line": {"color": colour, "dash": dash, "width": 1.8},
                "marker": {"color": colour, "symbol": _MARKERS[curve.line % len(_MARKERS)], "size": 7},
                "text": [label] * len(curve.x),
                "hovertemplate": "%{text}<br>%{x}: %{y:.2f} %<extra></extra>",
            }
        )
    chosen = [(curve.x[curve.chosen], curve.means[curve.chosen]) for curve in figure.curves if curve.chosen is not None]
    ring = {"symbol": "circle-open", "size": 17, "color": _GREY, "line": {"width": 2.5}}
    x, means = [x for x, _ in chosen], _rounded(mean for _, mean in chosen)
    traces.append({**_DOTS, "name": CHOSEN, "x": x, "y": means, "marker": ring, "hoverinfo": "skip"})
    return _plot(
        figure,
        traces,
        460,
        {},
        {"title": {"text": figure.vertical_label}},
        showlegend=True,
        margin={"l": 52, "r": 12, "t": 34, "b": 44},
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "itemclick": False},
    )


def cost_plot(figure: CostFigure) -> PlotlyFigure:
    """Accuracy against seconds per episode, and below against peak memory."""
    if figure.why_empty:
        return _empty(figure)
    traces = []
    for number, (kind, rows) in enumerate(figure.rows.groupby("kind", sort=False)):
        marker = {"color": _SERIES[number % len(_SERIES)], "symbol": _MARKERS[number % len(_MARKERS)], "size": 9}
        widths = {"type": "data", "array": _rounded(rows["ci95"].fillna(0)), "thickness": 1.2, "width": 0}
        panels: list[tuple[str, str, dict[str, Any]]] = [("seconds", f"%{{x:.3g}} s per {figure.unit}", {})]
        if figure.has_memory:
            below = {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
            panels.append(("gib", "%{x:.2f} GiB at most", below))
        for column, unit, axes in panels:
            traces.append(
                {
                    **_DOTS,
                    "name": _escaped(kind or "accuracy"),
                    "x": _rounded(rows[column], 6),
                    "y": _rounded(rows["mean"]),
                    "error_y": {**widths, "visible": figure.has_intervals},
                    "marker": marker,
                    "text": [_escaped(label) for label in rows["label"]],
                    "hovertemplate": f"<b>%{{text}}</b><br>{_ACCURACY}<br>{unit}<extra></extra>",
                    **axes,
                }
            )
    below = {}
    if figure.has_memory:
        common = {"fixedrange": True, "zeroline": False}
        below = {
            "xaxis2": {**common, "title": {"text": "peak memory, GiB"}, "anchor": "y2", "rangemode": "tozero"},
            "yaxis2": {**common, "title": {"text": "accuracy, %"}, "domain": [0, 0.4], "anchor": "x2"},
        }
    ticks = {"tickvals": list(figure.ticks), "ticktext": list(figure.ticks.values())}
    return _plot(
        figure,
        traces,
        700 if figure.has_memory else 420,
        {"title": {"text": f"time per {figure.unit}, logarithmic"}, "type": "log", "anchor": "y", **ticks},
        {"title": {"text": "accuracy, %"}, "domain": [0.58, 1] if figure.has_memory else [0, 1]},
        showlegend=figure.needs_legend,
        margin={"l": 52, "r": 12, "t": 62, "b": 48},
        **below,
    )


def matrix_plot(figure: MatrixFigure) -> PlotlyFigure:
    """Every method against every other: orange below 0, blue above, the paler the smaller."""
    if figure.why_empty:
        return _empty(figure)
    count, is_small = len(figure.labels), bool(figure.texts)
    places, pale = list(range(1, count + 1)), 0.05 if is_small else 0.3
    worse, better = "rgba(210,97,12,{})", "rgba(43,127,192,{})"
    trace = {
        "type": "heatmap",
        "x": places,
        "y": places,
        "z": [_rounded(row, 2) for row in figure.values],
        "zmin": -figure.limit,
        "zmax": figure.limit,
        "colorscale": [
            [0, worse.format(0.95)], [0.5, worse.format(pale)], [0.5, better.format(pale)], [1, better.format(0.95)]
        ],
        "colorbar": _COLOUR_BAR,
        "customdata": [[_lines(details) for details in row] for row in figure.details],
        "hovertemplate": "%{y}<br>against %{x}: %{z:+.2f} points<br>%{customdata}<extra></extra>",
        "hoverongaps": False,
        "xgap": 2,
        "ygap": 2,
        **({"text": [list(row) for row in figure.texts], "texttemplate": "%{text}"} if is_small else {}),
    }  # fmt: skip
    bare = {"showgrid": False, "ticks": ""}  # with a range, because Plotly finds none where all cells are empty
    columns = places if is_small else [1, *range(5, count + 1, 5)]
    names = {"tickvals": places, "ticktext": [_escaped(label) for label in figure.labels], "tickfont": {"size": 10}}
    return _plot(
        figure,
        [trace],
        (44 if is_small else 24) * count + 170,
        {"tickvals": columns, "side": "top", "range": [0.5, count + 0.5], **bare},
        {**names, "automargin": True, "range": [count + 0.5, 0.5], **bare},
        margin={"l": 8, "r": 8, "t": 66, "b": 16},
        plot_bgcolor="rgba(130,135,143,0.1)",
    )


def similarities_plot(figure: SimilarityFigure, beside: Sequence[SimilarityFigure]) -> PlotlyFigure:
    """Two histograms of cosine similarities; all figures that may stand beside each other have the same axes."""
    every = (figure, *beside)
    highest = max(max((*other.same, *other.different), default=0.0) for other in every)
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": _rounded(figure.centres, 5),
            "y": _rounded(densities, 4),
            "width": _rounded(figure.widths, 5),
            "marker": {"color": colour, "opacity": 0.55, "line": {"width": 0}},
            "hovertemplate": f"{name}<br>%{{x:.3f}}: density %{{y:.3g}}<extra></extra>",
        }
        for name, colour, densities in ((SAME, _BLUE, figure.same), (DIFFERENT, _ORANGE, figure.different))
    ]
    return _plot(
        figure,
        traces,
        340,
        {"range": [min(other.edges[0] for other in every), max(other.edges[-1] for other in every)]},
        {"range": [0, 1.05 * highest], "title": {"text": "density"}},
        barmode="overlay",
        showlegend=True,
        margin={"l": 52, "r": 12, "t": 62, "b": 44},
    )


def layout_plot(figure: LayoutFigure) -> PlotlyFigure:
    """A trace of marks per class, which say its name when they are pointed at."""
    traces = []
    for label, name in enumerate(figure.classes):
        points = figure.points_of(label)
        symbol = _MARKERS[label // len(_SERIES) % len(_MARKERS)]
        traces.append(
            {
                **_DOTS,
                "name": _escaped(name),
                "x": _rounded(figure.x[point] for point in points),
                "y": _rounded(figure.y[point] for point in points),
                "customdata": points,
                "marker": {"color": _SERIES[label % len(_SERIES)], "symbol": symbol, "size": 6, "opacity": 0.85},
                "hovertemplate": f"{_escaped(name)}<extra></extra>",
            }
        )
    bare = {"showgrid": False, "showticklabels": False, "ticks": ""}
    square = {**bare, "scaleanchor": "x"}
    return _plot(figure, traces, 460, bare, square, hovermode="closest", margin={"l": 8, "r": 8, "t": 46, "b": 34})


def nothing(title: str, why: str) -> PlotlyFigure:
    """A figure that says why there is nothing in it."""
    return _empty(FigureData(title=title, why_empty=why))


def _plot(
    figure: FigureData,
    traces: Sequence[dict[str, Any]],
    height: int,
    x: dict[str, Any],
    y: dict[str, Any],
    **layout: Any,
) -> PlotlyFigure:
    """A figure in the style of the page.

    Args:
        figure: its title, note and label; short, for nothing wraps in Plotly and a phone has room for 50 letters.
        traces: Plotly's.
        height: in pixels; the width is that of the page.
        x: the horizontal axis.
        y: the vertical axis.
        layout: what else Plotly's layout has.
    """
    common = {"gridcolor": _GREY, "zeroline": False, "fixedrange": True, "ticklabeloverflow": "allow"}
    label = {"title": {"text": _lines(figure.label)}} if figure.label else {}
    return {
        "data": list(traces),
        "layout": {
            "title": {
                "text": _lines([line for line in (figure.title, figure.note) if line]),
                "x": 0,
                "xanchor": "left",
                "font": {"size": 13},
                "y": 1,
                "yanchor": "top",
                "pad": {"t": 16 if figure.note else 4},
            },
            "height": height,
            "autosize": True,
            "margin": {"l": 8, "r": 12, "t": 34, "b": 44},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": _GREY},
            "hoverlabel": {
                "bgcolor": "#22272e", "bordercolor": "#22272e", "font": {"color": "#ffffff"}, "align": "left"
            },
            "dragmode": False,
            "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "itemclick": False},
            "showlegend": False,
            "xaxis": {**common, **label, **x},
            "yaxis": {**common, **y},
            **layout,
        },
    }  # fmt: skip


def _empty(figure: FigureData) -> PlotlyFigure:
    """A figure that says why there is nothing in it."""
    hidden = {"visible": False}
    text = {"text": _escaped(figure.why_empty), "showarrow": False, "x": 0, "xref": "paper", "y": 0.5, "yref": "paper"}
    return _plot(figure, [], 110, hidden, hidden, annotations=[text | {"xanchor": "left", "align": "left"}])


def _places(rows: Sequence[FigureRow], numbers: Iterable[int], decimals: int = 3) -> dict[str, Any]:
    return {"x": _rounded((row.value for row in rows), decimals), "y": list(numbers)}


def _ends(rows: Sequence[FigureRow], ends: Sequence[tuple[float, float]], **style: Any) -> dict[str, Any]:
    """Error bars; one whose ends are unknown has no length."""
    gaps = [(high - row.value, row.value - low) for row, (low, high) in zip(rows, ends, strict=True)]
    above, below = ([gap if gap == gap else 0.0 for gap in side] for side in zip(*gaps, strict=True))
    return {"type": "data", "symmetric": False, "array": _rounded(above), "arrayminus": _rounded(below), **style}


def _hover_texts(rows: Sequence[FigureRow]) -> list[str]:
    """What rows say when they are pointed at, the name in bold."""
    return ["<br>".join((f"<b>{_escaped(row.details[0])}</b>", *map(_escaped, row.details[1:]))) for row in rows]


def _name(row: FigureRow) -> str:
    """The label of a row, bold if it is the author's own."""
    return f"<b>{_escaped(row.label)}</b>" if row.is_own else _escaped(row.label)


def _lines(texts: Iterable[str]) -> str:
    return "<br>".join(map(_escaped, texts))


def _escaped(text: object) -> str:
    """A text as Plotly shows it: Plotly reads some HTML as style and dollars as TeX, so a text must have neither."""
    return str(escape(str(text))).replace("$", "&#36;")


def _rounded(values: Iterable[float], decimals: int = 3) -> list[float | None]:
    """Numbers for JSON; what does not exist is None."""
    return [None if value != value else round(float(value), decimals) + 0.0 for value in values]
