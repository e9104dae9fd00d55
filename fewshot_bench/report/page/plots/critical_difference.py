"""Critical-difference diagram: mean ranks over datasets, each with a line as long as Nemenyi's critical difference."""

from __future__ import annotations

from fewshot_bench.outcomes import marked
from fewshot_bench.report.page.content import Ranking
from fewshot_bench.report.page.plots.style import (
    BLUE,
    NAMES_AXIS,
    ROW,
    Figure,
    figure,
    names_above,
    rounded,
    rows_axis,
    shown,
)
from fewshot_bench.report.wording import p_equation, ranks_text


def ranking_figure(ranking: Ranking) -> Figure:
    """Draw mean ranks; two methods differ if and only if their lines, half a critical difference each way, part."""
    count = len(ranking.methods)
    some = f", the best {count} of {count + ranking.left_out}" if ranking.left_out else ""
    half = ranking.critical_difference / 2
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": rounded(ranking.mean_ranks),
        "y": list(range(count)),
        "error_x": {"type": "data", "array": rounded([half] * count), "thickness": 3, "width": 0, "color": BLUE},
        "marker": {"color": BLUE, "size": 10},
        "text": [
            f"<b>{shown(marked(name, name in ranking.transductive))}</b><br>mean rank {rank:.2f}"
            for name, rank in zip(ranking.methods, ranking.mean_ranks, strict=True)
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }
    p = p_equation(ranking.p)
    return figure(
        [trace, names_above(ranking.methods, ranking.transductive)],
        ranking.name,
        ROW * count + 106,
        {"title": {"text": f"mean rank{some}"}},
        rows_axis(count),
        xaxis2=NAMES_AXIS,
        note=f"{ranks_text(count, ranking.critical_difference)}; Friedman {p}",
        margin={"l": 8, "r": 12, "t": 46, "b": 48},
    )
