"""Two methods class by class: which classes carry the difference."""

from __future__ import annotations

from fewshot_bench.report.names import marked_names, short_names
from fewshot_bench.report.page.content import ProtocolResults
from fewshot_bench.report.page.plots.style import BLUE, GREY, ORANGE, Figure, empty_figure, figure, rounded, shown
from fewshot_bench.report.wording import ACROSS

MOST_CLASSES = 40
_ROW, _LONGEST_CLASS, _LONGEST_METHOD = 19, 24, 40


def class_figure(protocol: ProtocolResults) -> Figure:
    """Draw the differences of the best method and the baseline, or of the two best, by class, the largest first."""
    pair = protocol.by_class
    if pair is None:
        return empty_figure(protocol.name, "Not known: it takes two methods, their predictions and the class sizes.")
    classes = pair.classes
    order = classes.order[:MOST_CLASSES].tolist()
    differences, widths = 100 * classes.differences[order], 100 * classes.half_widths[order]
    names = [classes.names[one] for one in order]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": rounded(differences, 2),
        "y": list(range(len(order))),
        "error_x": {"type": "data", "array": rounded(widths, 2), "thickness": 1.5, "width": 0, "color": GREY},
        "marker": {"color": [BLUE if difference >= 0 else ORANGE for difference in differences], "size": 8},
        "text": [
            f"<b>{shown(classes.names[one])}</b><br>{100 * classes.accuracy_a[one]:.1f}% against "
            f"{100 * classes.accuracy_b[one]:.1f}%, {classes.episodes[one]:,} episodes"
            for one in order
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }
    some = f"the {len(order)} largest of {len(classes.names)} classes" if len(classes.names) > len(order) else ""
    a, b = (shown(marked_names([name], protocol.transductive, _LONGEST_METHOD)[0]) for name in (pair.a, pair.b))
    if (pair.a in protocol.transductive) != (pair.b in protocol.transductive):
        some = "; ".join(filter(None, [some, ACROSS]))
    return figure(
        [trace],
        protocol.name,
        _ROW * len(order) + 110,
        {"title": {"text": f"points by which {a}<br>is above {b}"}, "zeroline": True},
        {
            "tickvals": list(range(len(order))),
            "ticktext": [shown(name) for name in short_names(names, _LONGEST_CLASS)],
            "range": [len(order) - 0.4, -0.6],
            "automargin": True,
            "showgrid": False,
        },
        note=some,
        margin={"l": 8, "r": 12, "t": 46 if some else 30, "b": 62},
    )
