"""Figures 3 and 4 of embedding cards for a paper, through Matplotlib: networks side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from fewshot_bench._io.locations import Location
from fewshot_bench.report.embeddings.cards import EmbeddingCard
from fewshot_bench.report.embeddings.figures import (
    DIFFERENT,
    SAME,
    LayoutFigure,
    SimilarityFigure,
    layout_figure,
    similarity_figure,
)
from fewshot_bench.report.paper_figures import drawing, file_name, save_picture

_BLUE, _ORANGE = "#0072b2", "#d55e00"
_PANEL = (4.6, 3.4)  # inches
_SQUARE = 4.6
_LETTERS = 60
_MARKERS = "osD^v"
_MOST_SIDE_BY_SIDE = 4


def draw_cards(cards: Sequence[EmbeddingCard], folder: Location) -> list[Location]:
    """Draw similarities and layouts of networks on the same images, at most four side by side, as SVG and PNG.

    Args:
        cards: of one split.
        folder: where the files go; those of an earlier call are replaced.

    Returns:
        The files: similarities-*, two-classes-* and layout-*, with more after a number for further networks.

    Raises:
        NoPictureError: Matplotlib is not installed.
    """
    files: list[Location] = []
    images = file_name(cards[0].network.images_title)
    for number, start in enumerate(range(0, len(cards), _MOST_SIDE_BY_SIDE)):
        shown = cards[start : start + _MOST_SIDE_BY_SIDE]
        end = f"-{number + 1}" if number else ""
        files += draw_similarities([similarity_figure(card) for card in shown], folder / f"similarities-{images}{end}")
        pairs = [similarity_figure(card, card.two_classes) for card in shown if card.two_classes is not None]
        if pairs:
            files += draw_similarities(pairs, folder / f"two-classes-{images}{end}")
        layouts = [figure for figure in map(layout_figure, shown) if figure is not None]
        if layouts:
            files += draw_layouts(layouts, folder / f"layout-{images}{end}")
    return files


def draw_similarities(panels: Sequence[SimilarityFigure], stem: Location) -> list[Location]:
    """Draw histograms of cosine similarities side by side on the same axes, as Figure 3 of the paper."""
    low, high = min(panel.edges[0] for panel in panels), max(panel.edges[-1] for panel in panels)
    with drawing(_PANEL[0] * len(panels), _PANEL[1]) as canvas:
        row = canvas.subplots(1, len(panels), squeeze=False, sharey=True, sharex=True)[0]
        for axes, panel in zip(row, panels, strict=True):
            for densities, colour, name in ((panel.same, _BLUE, SAME), (panel.different, _ORANGE, DIFFERENT)):
                axes.stairs(densities, panel.edges, fill=True, color=colour, alpha=0.5, label=name)
            _finish(axes, panel)
        row[0].set_xlim(low, high)
        row[0].set_ylabel("density of pairs")
        row[0].legend(frameon=False, fontsize=9)
        canvas.supxlabel(" ".join(panels[0].label), fontsize=10)
        return save_picture(canvas, stem)


def draw_layouts(panels: Sequence[LayoutFigure], stem: Location) -> list[Location]:
    """Draw layouts side by side, a colour and a marker per class, as Figure 4 of the paper."""
    with drawing(_SQUARE * len(panels) + 1.8, _SQUARE) as canvas:
        row = canvas.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(row, panels, strict=True):
            for label, name in enumerate(panel.classes):
                points = panel.points_of(label)
                style: dict[str, Any] = {"color": f"C{label}", "marker": _MARKERS[label // 10 % len(_MARKERS)]}
                x, y = ([values[point] for point in points] for values in (panel.x, panel.y))
                axes.scatter(x, y, s=7, linewidths=0, label=name, **style)
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_xticks([])
            axes.set_yticks([])
            _finish(axes, panel)
        handles, labels = row[0].get_legend_handles_labels()
        legend = {"loc": "outside right center", "frameon": False, "fontsize": 8, "markerscale": 2}
        canvas.legend(handles, labels, **legend)
        canvas.supxlabel(" ".join(panels[0].label), fontsize=10)
        return save_picture(canvas, stem)


def _finish(axes: Any, panel: SimilarityFigure | LayoutFigure) -> None:
    axes.set_title("\n".join(textwrap.wrap(panel.title, _LETTERS) + textwrap.wrap(panel.note, _LETTERS)), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
