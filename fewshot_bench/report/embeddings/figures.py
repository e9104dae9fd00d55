"""The content of the figures of embedding cards, for the page and for papers: see `report.figures`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewshot_bench.report.embeddings.cards import EmbeddingCard, Similarities
from fewshot_bench.report.figures import FigureData

SAME, DIFFERENT = "same class", "different classes"
_LAYOUTS = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}


@dataclass(frozen=True, kw_only=True)
class SimilarityFigure(FigureData):
    """Two histograms, each with an area of 1, since the bins of two networks need not be equally wide.

    Attributes:
        edges: of the bins, [B + 1].
        same: density of the pairs of one class in each bin, [B].
        different: density of the pairs of two classes, [B].
    """

    edges: Sequence[float]
    same: Sequence[float]
    different: Sequence[float]

    @property
    def centres(self) -> list[float]:
        """The middle of each bin."""
        return [(low + high) / 2 for low, high in zip(self.edges, self.edges[1:], strict=False)]

    @property
    def widths(self) -> list[float]:
        """Of the bins."""
        return [high - low for low, high in zip(self.edges, self.edges[1:], strict=False)]


@dataclass(frozen=True, kw_only=True)
class LayoutFigure(FigureData):
    """Points of the plane with their classes.

    Attributes:
        classes: their names, [C].
        labels: class of each point, [P].
        x: [P].
        y: [P].
    """

    classes: Sequence[str]
    labels: Sequence[int]
    x: Sequence[float]
    y: Sequence[float]

    def points_of(self, label: int) -> list[int]:
        """The numbers of a class's points."""
        return [number for number, found in enumerate(self.labels) if found == label]


def similarity_figure(card: EmbeddingCard, similarities: Similarities | None = None) -> SimilarityFigure:
    """The similarities of all classes, or those of two classes, as in Figure 3 of the paper."""
    found = similarities or card.similarities
    pairs = f"classes {' and '.join(found.classes)}" if found.classes else f"all pairs of {card.classes:,} classes"
    bound = f" ± {found.auc_bound:.1g}" if found.auc_bound >= 5e-4 else ""
    auc = "no AUC: one kind of pair is missing" if found.auc is None else f"AUC {found.auc:.3f}{bound}"
    return SimilarityFigure(
        title=card.network.name,
        note=f"{card.network.images_title}, {pairs}, {auc}",
        label=("cosine similarity of two images",),
        edges=found.edges,
        same=_densities(found.same, found.edges),
        different=_densities(found.different, found.edges),
    )


def _densities(counts: Sequence[int], edges: Sequence[float]) -> list[float]:
    total = max(1, sum(counts))
    return [count / total / (edges[place + 1] - edges[place]) for place, count in enumerate(counts)]


def layout_figure(card: EmbeddingCard) -> LayoutFigure | None:
    """The layout of a card, as in Figure 4 of the paper; None where it has none."""
    layout = card.layout
    if layout is None:
        return None
    return LayoutFigure(
        title=card.network.name,
        note=f"{card.network.images_title}, {_LAYOUTS[layout.method]} of {len(layout.x):,} images of "
        f"{len(layout.classes)} classes, seed {layout.seed}",
        label=("an illustration: distances and cluster sizes have no meaning",),
        classes=layout.classes,
        labels=layout.labels,
        x=layout.x,
        y=layout.y,
    )
