"""Every method against every other: a matrix of mean differences, starred where the corrected test shows one."""

from __future__ import annotations

from fewshot_bench.report.page.content import Pairs, ProtocolResults
from fewshot_bench.report.page.plots.style import Figure, empty_figure, figure, rounded, shown
from fewshot_bench.report.short_names import short_names
from fewshot_bench.report.wording import SIGNIFICANCE, p_text, verdict

_NUMBERS_UP_TO = 10
_COLOUR_BAR = {
    "title": {"text": "points", "side": "bottom"},
    "orientation": "h",
    "thickness": 10,
    "outlinewidth": 0,
    "y": 0,
    "yanchor": "top",
}
_STAR, _EQUAL = "*", "="


def pair_matrix_figure(protocol: ProtocolResults) -> Figure:
    """Draw the pairs of a protocol; the title says if methods are left out."""
    pairs = protocol.pairs
    if pairs is None:
        return empty_figure(protocol.name, "Fewer than two methods have episodes in common here.")
    count = len(pairs.methods)
    some = f", the best {count} of {count + pairs.left_out}" if pairs.left_out else ""
    places = list(range(1, count + 1))
    limit = max(abs(float(pairs.difference.min())), abs(float(pairs.difference.max())), 0.01)
    heatmap = {
        "type": "heatmap",
        "x": places,
        "y": places,
        "z": [rounded(row, 2) for row in pairs.difference],
        "zmin": -limit,
        "zmax": limit,
        "colorscale": [[0, "rgba(210,97,12,0.95)"], [0.5, "rgba(130,135,143,0.08)"], [1, "rgba(43,127,192,0.95)"]],
        "colorbar": _COLOUR_BAR,
        "text": _texts(pairs),
        "texttemplate": "%{text}",
        "hovertext": _hover(pairs),
        "hovertemplate": "%{hovertext}<extra></extra>",
        "xgap": 2,
        "ygap": 2,
    }
    longest = 26 if count <= _NUMBERS_UP_TO else 20
    labels = [f"{shown(name)}  {place}" for place, name in enumerate(short_names(pairs.methods, longest), 1)]
    numbered = places if count <= _NUMBERS_UP_TO else [1, *range(5, count + 1, 5)]
    step = 44 if count <= _NUMBERS_UP_TO else 24
    return figure(
        [heatmap],
        protocol.name,
        step * count + 170,
        {
            "tickvals": numbered,
            "side": "top",
            "showgrid": False,
            "ticks": "",
        },
        {
            "tickvals": places,
            "ticktext": labels,
            "automargin": True,
            "tickfont": {"size": 10},
            "autorange": "reversed",
            "showgrid": False,
            "ticks": "",
        },
        note=f"{pairs.episodes:,} common episodes{some}",
        margin={"l": 8, "r": 8, "t": 66, "b": 16},
    )


def _texts(pairs: Pairs) -> list[list[str]]:
    """The difference where there is room for it, and a star where it is shown to be one."""
    with_numbers = len(pairs.methods) <= _NUMBERS_UP_TO
    texts = []
    for row, of in enumerate(pairs.methods):
        line = []
        for column, other in enumerate(pairs.methods):
            is_shown = pairs.p[row, column] < SIGNIFICANCE
            mark = "" if of == other else _STAR if is_shown else _EQUAL
            number = f"{pairs.difference[row, column]:+.1f}" if with_numbers and mark else ""
            line.append(f"{number}{mark if is_shown or not with_numbers else ''}")
        texts.append(line)
    return texts


def _hover(pairs: Pairs) -> list[list[str]]:
    texts = []
    for row, of in enumerate(pairs.methods):
        line = []
        for column, other in enumerate(pairs.methods):
            difference, p = float(pairs.difference[row, column]), float(pairs.p[row, column])
            words = (
                f"<b>{shown(of)}</b><br>against {shown(other)}<br>{difference:+.2f} points: {verdict(difference, p)}"
            )
            line.append("" if of == other else f"{words}<br>p by Holm: {shown(p_text(p))}")
        texts.append(line)
    return texts
