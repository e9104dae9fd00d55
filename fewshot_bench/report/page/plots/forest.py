"""Forest plot: how far each method is from the baseline, with the task and the data interval."""

from __future__ import annotations

from typing import Any

import pandas as pd

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
    names_above,
    rounded,
    rows_axis,
    shown,
)
from fewshot_bench.report.short_names import short_name
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.wording import NOTHING_SHOWN, p_equation, p_header, verdict

MOST_ROWS = 30
_LOOKS = {
    "better": (BLUE, "triangle-right"),
    "better here": (BLUE, "diamond"),
    "worse": (ORANGE, "triangle-left"),
    "worse here": (ORANGE, "diamond"),
    NOTHING_SHOWN: (GREY, "circle"),
}


def tested_rows(protocol: ProtocolResults) -> pd.DataFrame:
    """The rows of a protocol that are tested against its baseline, best difference first.

    The verdict of the terminal is in a column `verdict`, the p that it goes by in `p_shown`, what that p is called in
    `p_name`.
    """
    rows = protocol.rows[protocol.rows["difference"].notna()].copy()
    is_corrected = rows["p_corrected"].notna()
    rows["p_shown"] = rows["p_corrected"].where(is_corrected, rows["p"])
    rows["p_name"] = [p_header(how) for how in rows["correction"].where(is_corrected, "none")]
    half_widths = rows["diff_data_ci95_high"] - rows["difference"]
    rows["verdict"] = [
        verdict(*numbers) for numbers in zip(rows["difference"], rows["p_shown"], half_widths, strict=True)
    ]
    return rows.sort_values("difference", ascending=False, kind="stable", ignore_index=True)


def forest_figure(protocol: ProtocolResults) -> Figure:
    """Draw the differences of a protocol; at most `MOST_ROWS`, and the title says how many there are."""
    rows = tested_rows(protocol)
    if not len(rows):
        return empty_figure(protocol.name, "No baseline here. Name one with --baseline to see differences.")
    kept = rows.head(MOST_ROWS)
    names = kept["method"].tolist()
    traces = [_data_intervals(kept)] if kept["diff_data_ci95_low"].notna().any() else []
    for word in _LOOKS:
        group = kept[kept["verdict"] == word]
        if len(group):
            traces.append(_task_intervals(group, word))
    baseline = next(name for name in rows["baseline"] if name)
    some = f"the best {MOST_ROWS} of {len(rows)}" if len(rows) > MOST_ROWS else ""
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": GREY, "width": 1.5}}
    return figure(
        [*traces, names_above(names)],
        protocol.name,
        ROW * len(names) + 150,
        {"title": {"text": f"points above or below<br>{shown(short_name(baseline, LONGEST))}"}},
        rows_axis(len(names)),
        note=some,
        xaxis2=NAMES_AXIS,
        shapes=[zero | {"layer": "below"}],
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
        f"<b>{shown(row['method'])}</b>",
        f"{row['difference']:+.2f} points: {row['verdict']}",
        f"95% over tasks: {row['diff_ci95_low']:+.2f} to {row['diff_ci95_high']:+.2f}",
    ]
    if row["diff_data_ci95_low"] == row["diff_data_ci95_low"]:
        lines.append(f"95% over data: {row['diff_data_ci95_low']:+.2f} to {row['diff_data_ci95_high']:+.2f}")
    if row["p_shown"] == row["p_shown"]:
        lines.append(shown(p_equation(row["p_shown"], row["p_name"])))
    if row["source"] != MEASURED:
        lines.append(f"published: {shown(row['source'])}")
    return "<br>".join(lines)
