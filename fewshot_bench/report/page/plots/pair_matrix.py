"""Every method against every other: a matrix of mean differences that says where the corrected test shows one."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewshot_bench.report.names import marked_names
from fewshot_bench.report.page.content import Pairs, ProtocolResults
from fewshot_bench.report.page.plots.style import Figure, empty_figure, figure, rounded, shown
from fewshot_bench.report.verdicts import NOTHING_SHOWN, ON_THIS_SPLIT
from fewshot_bench.report.wording import ACROSS, p_text

_NUMBERS_UP_TO = 10
_MARK = " [T]"
"""Behind the name of a transductive method: a matrix has no room for the word, so the caption says what it means."""
_COLOUR_BAR = {
    "title": {"text": "points", "side": "bottom"},
    "orientation": "h",
    "thickness": 10,
    "outlinewidth": 0,
    "y": 0,
    "yanchor": "top",
}
_WORSE, _BETTER = "rgba(210,97,12,{})", "rgba(43,127,192,{})"


def pair_matrix_figure(protocol: ProtocolResults) -> Figure:
    """Draw the pairs of a protocol; the title says if methods are left out.

    A small matrix has its numbers, starred where a difference is shown beyond this split; a pair without common
    episodes is blank. In a large one a cell without a star is blank too: hundreds of numbers can neither be read nor
    drawn quickly.
    """
    pairs = protocol.pairs
    if pairs is None:
        return empty_figure(protocol.name, "No two methods have episodes in common here.")
    count = len(pairs.methods)
    is_small = count <= _NUMBERS_UP_TO
    some = f", the best {count} of {count + pairs.left_out}" if pairs.left_out else ""
    places = list(range(1, count + 1))
    names = marked_names(pairs.methods, protocol.transductive, 26 if is_small else 20, _MARK)
    return figure(
        [{**_cells(pairs, places, protocol.transductive), **(_with_numbers(pairs) if is_small else _with_gaps(pairs))}],
        protocol.name,
        (44 if is_small else 24) * count + 170,
        {"tickvals": places if is_small else [1, *range(5, count + 1, 5)], "side": "top", **_bare(0.5, count + 0.5)},
        {
            "tickvals": places,
            "ticktext": [f"{shown(name)}  {place}" for place, name in enumerate(names, 1)],
            "tickfont": {"size": 10},
            "automargin": True,
            **_bare(count + 0.5, 0.5),
        },
        note=f"{_episodes(pairs)}{some}",
        margin={"l": 8, "r": 8, "t": 66, "b": 16},
        plot_bgcolor="rgba(130,135,143,0.1)",
    )


def _episodes(pairs: Pairs) -> str:
    counts = pairs.episodes[np.triu_indices(len(pairs.methods), 1)]
    least, most = int(counts.min()), int(counts.max())
    return f"{most:,} common episodes" if least == most else f"{least:,} to {most:,} common episodes"


def _bare(start: float, end: float) -> dict[str, Any]:
    """An axis of cells without lines; its range is said, for Plotly finds none where all cells are empty."""
    return {"range": [start, end], "showgrid": False, "ticks": ""}


def _cells(pairs: Pairs, places: list[int], transductive: frozenset[str]) -> dict[str, Any]:
    """The cells, coloured by their difference: orange below 0, blue above, the paler the smaller."""
    limit = max(float(np.nanmax(np.abs(pairs.difference))), 0.01)
    pale = 0.05 if len(places) <= _NUMBERS_UP_TO else 0.3
    return {
        "type": "heatmap",
        "x": places,
        "y": places,
        "zmin": -limit,
        "zmax": limit,
        "colorscale": [
            [0, _WORSE.format(0.95)],
            [0.5, _WORSE.format(pale)],
            [0.5, _BETTER.format(pale)],
            [1, _BETTER.format(0.95)],
        ],
        "colorbar": _COLOUR_BAR,
        "customdata": [
            [_words(pairs, row, column, transductive) for column in range(len(places))] for row in range(len(places))
        ],
        "hovertemplate": "%{y}<br>against %{x}: %{z:+.2f} points<br>%{customdata}<extra></extra>",
        "hoverongaps": False,
        "xgap": 2,
        "ygap": 2,
    }


def _words(pairs: Pairs, row: int, column: int, transductive: frozenset[str]) -> str:
    """What a cell says when it is pointed at."""
    split, beyond = float(pairs.p[row, column]), float(pairs.p_beyond[row, column])
    if split != split or row == column:
        return ""
    is_across = (pairs.methods[row] in transductive) != (pairs.methods[column] in transductive)
    found = f"{pairs.verdict(row, column)}; {ACROSS}" if is_across else pairs.verdict(row, column)
    return f"{found}<br>{shown(f'p {p_text(split)} on this split, {p_text(beyond)} beyond it')}"


def _marks(pairs: Pairs) -> list[list[str]]:
    """A star where a difference is shown beyond this split, a ring where on this split alone, else nothing."""
    places = range(len(pairs.methods))
    verdicts = [[pairs.verdict(row, column) for column in places] for row in places]
    return [
        ["" if words == NOTHING_SHOWN else "°" if words.endswith(ON_THIS_SPLIT) else "*" for words in row]
        for row in verdicts
    ]


def _with_numbers(pairs: Pairs) -> dict[str, Any]:
    others = pairs.difference.copy()
    np.fill_diagonal(others, np.nan)
    texts = [
        [_number(value, mark) for value, mark in zip(row, marks, strict=True)]
        for row, marks in zip(others.tolist(), _marks(pairs), strict=True)
    ]
    return {"z": [rounded(row, 2) for row in pairs.difference], "text": texts, "texttemplate": "%{text}"}


def _number(value: float, mark: str) -> str:
    return "" if value != value else f"{value:+.1f}{mark}"


def _with_gaps(pairs: Pairs) -> dict[str, Any]:
    kept = [rounded(row, 2) for row in pairs.difference]
    return {
        "z": [
            [value if mark == "*" else None for value, mark in zip(row, marks, strict=True)]
            for row, marks in zip(kept, _marks(pairs), strict=True)
        ]
    }
