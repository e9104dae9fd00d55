"""Box plots of the accuracies over episodes, from quantiles: the episodes themselves stay on the disk."""

from __future__ import annotations

from fewshot_bench.report.page.content import ProtocolResults
from fewshot_bench.report.page.plots.style import (
    BLUE,
    NAMES_AXIS,
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


def distribution_figure(protocol: ProtocolResults) -> Figure:
    """Draw how the episodes of each method of a protocol spread; the title says if methods are left out."""
    if not protocol.quantiles:
        return empty_figure(protocol.name, "No outcomes here.")
    names, boxes = list(protocol.quantiles), list(protocol.quantiles.values())
    methods = len(protocol.measured)
    some = f"the best {len(names)} of {methods}" if methods > len(names) else ""
    trace = {
        "type": "box",
        "orientation": "h",
        "y": list(range(len(names))),
        "lowerfence": rounded([box.low for box in boxes]),
        "q1": rounded([box.first_quartile for box in boxes]),
        "median": rounded([box.median for box in boxes]),
        "q3": rounded([box.third_quartile for box in boxes]),
        "upperfence": rounded([box.high for box in boxes]),
        "mean": rounded([box.mean for box in boxes]),
        "boxmean": True,
        "width": 0.3,
        "fillcolor": "rgba(43, 127, 192, 0.25)",
        "line": {"color": BLUE, "width": 1.5},
        "whiskerwidth": 0.6,
        "name": "",
        "hoverinfo": "skip",
        "showlegend": False,
    }
    # A mark that cannot be seen carries the numbers, for a box of quantiles has no text of its own.
    numbers = {
        "type": "scatter",
        "mode": "markers",
        "x": rounded([box.median for box in boxes]),
        "y": list(range(len(names))),
        "marker": {"size": 16, "opacity": 0},
        "text": [
            f"<b>{shown(protocol.shown(name))}</b><br>median {box.median:.1f}, mean {box.mean:.2f}<br>half of the "
            f"episodes: {box.first_quartile:.1f} to {box.third_quartile:.1f}<br>nine in ten: {box.low:.1f} to "
            f"{box.high:.1f}"
            for name, box in protocol.quantiles.items()
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }
    return figure(
        [trace, numbers, names_above(names, protocol.transductive)],
        protocol.name,
        ROW * len(names) + 90,
        {"title": {"text": "accuracy of an episode, %"}},
        rows_axis(len(names)),
        note=some,
        xaxis2=NAMES_AXIS,
        shapes=kind_rule(names, protocol.transductive),
        margin={"l": 8, "r": 12, "t": 46 if some else 30, "b": 48},
    )
