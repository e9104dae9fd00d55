"""Forest plot: how far each method is from the baseline, with the task and the data interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fewshot_bench.report.leaderboard import kind_order
from fewshot_bench.report.names import marked_names
from fewshot_bench.report.page.content import ProtocolResults
from fewshot_bench.report.page.plots.style import (
    BLUE,
    GREY,
    LONGEST,
    NAMES_AXIS,
    ORANGE,
    ROW,
    Figure,
    empty_figure,
    figure,
    kind_rule,
    names_above,
    rounded,
    rows_axis,
    shown,
)
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.verdicts import FOR_THESE_CLASSES, NOTHING_SHOWN, ON_THIS_SPLIT
from fewshot_bench.report.wording import ACROSS, is_across, p_text, row_name

MOST_ROWS = 30
_LOOKS = {
    "better": (BLUE, "triangle-right"),
    f"better{FOR_THESE_CLASSES}": (BLUE, "triangle-right"),
    f"better{ON_THIS_SPLIT}": (BLUE, "diamond"),
    "worse": (ORANGE, "triangle-left"),
    f"worse{FOR_THESE_CLASSES}": (ORANGE, "triangle-left"),
    f"worse{ON_THIS_SPLIT}": (ORANGE, "diamond"),
    NOTHING_SHOWN: (GREY, "circle"),
}


def tested_rows(protocol: ProtocolResults) -> pd.DataFrame:
    """The rows of a protocol that are tested against its baseline, best difference first."""
    rows = protocol.rows[protocol.rows["difference"].notna()]
    return rows.sort_values("difference", ascending=False, kind="stable", ignore_index=True)


def kept_by_kind(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """The best rows of `tested_rows`, at most so many, those of inductive methods before those of transductive ones."""
    kept = rows.head(most)
    return kept.iloc[np.argsort(kind_order(kept), kind="stable")].reset_index(drop=True)


def forest_figure(protocol: ProtocolResults) -> Figure:
    """Draw the differences of a protocol; at most `MOST_ROWS`, and the title says how many there are."""
    rows = tested_rows(protocol)
    if not len(rows):
        return empty_figure(protocol.name, "No baseline here. Name one with --baseline to see differences.")
    kept = kept_by_kind(rows, MOST_ROWS)
    names = kept["method"].tolist()
    traces = [_data_intervals(kept)] if kept["diff_data_ci95_low"].notna().any() else []
    for word in _LOOKS:
        group = kept[kept["verdict"] == word]
        if len(group):
            traces.append(_task_intervals(group, word))
    baseline = next(name for name in rows["baseline"] if name)
    named = marked_names([baseline], protocol.transductive, LONGEST)[0]
    some = f"the best {MOST_ROWS} of {len(rows)}" if len(rows) > MOST_ROWS else ""
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": GREY, "width": 1.5}}
    return figure(
        [*traces, names_above(names, protocol.transductive)],
        protocol.name,
        ROW * len(names) + 150,
        {"title": {"text": f"points above or below<br>{shown(named)}"}},
        rows_axis(len(names)),
        note=some,
        xaxis2=NAMES_AXIS,
        shapes=[zero | {"layer": "below"}, *kind_rule(names, protocol.transductive)],
        showlegend=True,
        margin={"l": 8, "r": 12, "t": 72, "b": 68},
    )


def _task_intervals(rows: pd.DataFrame, word: str) -> dict[str, Any]:
    colour, symbol = _LOOKS[word]
    hollow = [f"{symbol}-open" if source != MEASURED else symbol for source in rows["source"]]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": word,
        "x": rounded(rows["difference"]),
        "y": rows.index.tolist(),
        "error_x": _ends(rows, "diff_ci95") | {"thickness": 4, "width": 0, "color": colour},
        "marker": {"color": colour, "symbol": hollow, "size": 11},
        "text": [_words(row) for row in rows.to_dict("records")],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _data_intervals(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": rounded(rows["difference"]),
        "y": rows.index.tolist(),
        "error_x": _ends(rows, "diff_data_ci95") | {"thickness": 1.2, "width": 4, "color": GREY},
        "marker": {"color": GREY, "size": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _ends(rows: pd.DataFrame, name: str) -> dict[str, Any]:
    above = (rows[f"{name}_high"] - rows["difference"]).fillna(0)
    below = (rows["difference"] - rows[f"{name}_low"]).fillna(0)
    return {"type": "data", "symmetric": False, "array": rounded(above), "arrayminus": rounded(below)}


def _words(row: dict[Any, Any]) -> str:
    lines = [
        f"<b>{shown(row_name(row))}</b>",
        f"{row['difference']:+.2f} points: {row['verdict']}",
        *([ACROSS] if is_across(row) else []),
        f"95% over episodes: {row['diff_ci95_low']:+.2f} to {row['diff_ci95_high']:+.2f}",
    ]
    if row["diff_data_ci95_low"] == row["diff_data_ci95_low"]:
        ends = f"{row['diff_data_ci95_low']:+.2f} to {row['diff_data_ci95_high']:+.2f}"
        lines.append(f"95% over {shown(row['beyond'])}: {ends}")
    for name, where in (("p_corrected", "on this split"), ("p_beyond_corrected", "beyond it")):
        if row[name] == row[name]:
            lines.append(f"p {shown(p_text(row[name]))} {where}")
    if row["source"] != MEASURED:
        lines.append(f"published: {shown(row['source'])}")
    return "<br>".join(lines)
