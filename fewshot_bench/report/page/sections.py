"""Which figures the page has, in which order, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewshot_bench.report.page.content import PageContent, ProtocolResults
from fewshot_bench.report.page.plots import (
    class_figure,
    cost_figure,
    distribution_figure,
    forest_figure,
    pair_matrix_figure,
    ranking_figure,
    sweep_figure,
)
from fewshot_bench.report.wording import correction_words

Figure = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """A figure that changes with the chosen protocol.

    Attributes:
        anchor: its id in the page.
        heading: above it.
        caption: how to read it; `{correction}` stands for how p values are corrected.
        draw: makes it for a protocol.
    """

    anchor: str
    heading: str
    caption: str
    draw: Callable[[ProtocolResults], Figure]


@dataclass(frozen=True)
class ProtocolPlots:
    """The sections, and the figures of each protocol by the id of the place where they are drawn."""

    sections: Sequence[Section]
    figures: Sequence[dict[str, Figure]]


@dataclass(frozen=True)
class FixedPlot:
    """Figures that belong to no single protocol, by the id of their place."""

    anchor: str
    heading: str
    caption: str
    figures: Mapping[str, Figure]

    @property
    def places(self) -> list[str]:
        """The ids, in order."""
        return list(self.figures)


SECTIONS = (
    Section(
        "differences",
        "Differences to the baseline",
        "The mark is the mean difference on the episodes that both have seen. The thick line is the 95% interval over "
        "episodes of this split. The thin line, where it is known, covers other classes and images too. Open marks are "
        "published numbers. Triangles: shown at 5%, {correction} for the number of methods, beyond this split; "
        "diamonds: shown on this split alone, for these classes and images.",
        forest_figure,
    ),
    Section(
        "distributions",
        "Accuracies of the episodes",
        "Half of the episodes lie within the box, nine in ten within the whiskers; the line is the median, the dashed "
        "line the mean. Episodes differ far more than methods do, which is why methods are compared episode by "
        "episode.",
        distribution_figure,
    ),
    Section(
        "pairs",
        "Every method against every other",
        "Points by which the method of the row is better than that of the column. A star, or in a large matrix a "
        "colour: a difference is shown beyond this split at 5%, {correction} over all pairs of the protocol, as in the "
        "letters of the leaderboard. A ring: it is shown on this split alone. A bare number: none is shown. An empty "
        "cell: the pair has no common episodes. [T] marks transductive methods, which see all queries of an episode at "
        "once.",
        pair_matrix_figure,
    ),
    Section(
        "classes",
        "Class by class",
        "How much better one method classifies the queries of each class: the best method against the baseline, or the "
        "two best; where there are both kinds, of the inductive ones. Lines are 95% intervals over the episodes that "
        "have the class. Where a few classes carry the difference, another split may hold none of them.",
        class_figure,
    ),
    Section(
        "cost",
        "Accuracy and cost",
        "Mean accuracy, with its 95% task interval for up to 100 methods, against the time that one episode takes, and "
        "against the most memory that the run took where that is recorded. Times are those of the machine of the run "
        "card.",
        cost_figure,
    ),
)
_SWEEPS = (
    "Accuracy on the validation split for each setting that was tried, with 95% intervals; the ring is the chosen "
    "one. The best of many settings looks better than it is: that is what the novel split is for."
)
_RANKS = (
    "The mean rank of each method over the datasets, 1 for the best. Two methods differ (Nemenyi, 5%) where their "
    "lines, each as long as the critical difference, do not overlap. With few datasets only large differences show, "
    "with two datasets none."
)


def protocol_plots(content: PageContent) -> ProtocolPlots:
    """The figures of each protocol, with captions that say how p values are corrected."""
    if not content.protocols:
        return ProtocolPlots((), ())
    words = correction_words(content.correction)
    sections = [replace(section, caption=section.caption.replace("{correction}", words)) for section in SECTIONS]
    figures = [
        {f"{section.anchor}-plot": section.draw(protocol) for section in SECTIONS} for protocol in content.protocols
    ]
    return ProtocolPlots(sections, figures)


def fixed_plots(content: PageContent) -> list[FixedPlot]:
    """The figures that belong to no single protocol; empty ones are left out."""
    plots = []
    if content.rankings:
        ranks = {f"ranking-{place}": ranking_figure(ranking) for place, ranking in enumerate(content.rankings)}
        plots.append(FixedPlot("ranks", "Ranks over datasets", _RANKS, ranks))
    if content.sweeps:
        curves = {f"sweep-{place}": sweep_figure(sweep) for place, sweep in enumerate(content.sweeps)}
        plots.append(FixedPlot("sweeps", "Sweeps", _SWEEPS, curves))
    return plots
