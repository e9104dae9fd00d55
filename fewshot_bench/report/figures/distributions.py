"""Box plots of the accuracies over episodes, for a paper."""

from __future__ import annotations

from fewshot_bench.paths import Place
from fewshot_bench.report.figures.rows import BLUE, MOST_ROWS, finish_rows, row_height
from fewshot_bench.report.page.content import ProtocolResults, Quantiles
from fewshot_bench.report.picture import drawing, save_picture


def draw_distributions(protocol: ProtocolResults, stem: Place) -> list[Place]:
    """Draw how the episodes of each method spread: quartiles, 5% and 95%, median (line) and mean (diamond).

    Args:
        protocol: with the quantiles of at least one method.
        stem: the files without their suffix.

    Raises:
        NoPictureError: Matplotlib is not installed.
    """
    shown = dict(list(protocol.quantiles.items())[:MOST_ROWS])
    methods = len(protocol.measured)
    some = f", the best {len(shown)} of {methods}" if methods > len(shown) else ""
    with drawing(8.4, row_height(len(shown))) as figure:
        axes = figure.subplots()
        axes.bxp(
            [_box(quantiles) for quantiles in shown.values()],
            positions=range(len(shown)),
            orientation="horizontal",
            widths=0.5,
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            boxprops={"facecolor": "#cfe3f2", "edgecolor": BLUE},
            medianprops={"color": BLUE, "linewidth": 1.8},
            whiskerprops={"color": BLUE},
            capprops={"color": BLUE},
            meanprops={"marker": "D", "markersize": 4, "markerfacecolor": "white", "markeredgecolor": BLUE},
        )
        finish_rows(axes, list(shown), f"{protocol.name}{some}: accuracy of an episode, %", protocol.transductive)
        return save_picture(figure, stem)


def _box(quantiles: Quantiles) -> dict[str, float]:
    return {
        "whislo": quantiles.low,
        "q1": quantiles.first_quartile,
        "med": quantiles.median,
        "q3": quantiles.third_quartile,
        "whishi": quantiles.high,
        "mean": quantiles.mean,
    }
