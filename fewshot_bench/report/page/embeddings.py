"""The section of the page about embeddings: Figures 3 and 4 of two networks side by side, and a card per network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import fewshot_bench.report.page.plotly as plotly
from fewshot_bench.report.embeddings.cards import EmbeddingCard, PairCard, Thumbnails
from fewshot_bench.report.embeddings.figures import layout_figure, similarity_figure
from fewshot_bench.report.embeddings.output import by_label, isotropy_of_papers, labels, measure_text, number_text

ANCHOR = "embeddings"
_NO_LAYOUT = "No layout is stored. Run fewshot-bench embeddings with --layout tsne."
_NO_PAIR = "No two classes were chosen. Run fewshot-bench embeddings with --classes A,B."


@dataclass(frozen=True)
class Table:
    """A table of texts: a title, a header for each column, and rows that begin with their name."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Card:
    """The card of a network: its id in the page, title, measures, and identity as a text."""

    anchor: str
    title: str
    measures: Sequence[tuple[str, str]]
    identity: str


@dataclass(frozen=True)
class EmbeddingSection:
    """What the section shows.

    Attributes:
        options: names of the networks to choose from.
        chosen: numbers of the networks that are shown at first, on the left and on the right; one for one network.
        figures: names of the figures of each network, from top to bottom.
        data: for the script: the figures of each network and the thumbnails.
        tables: measures of the networks of each split, differences, and published numbers.
        cards: one per network.
    """

    options: Sequence[str]
    chosen: Sequence[tuple[str, int]]
    figures: Sequence[str]
    data: Mapping[str, Any]
    tables: Sequence[Table]
    cards: Sequence[Card]


def anchor_of(key: str) -> str:
    """The id of a card in the page."""
    return f"embedding-{key}"


def embedding_section(cards: Sequence[EmbeddingCard], pairs: Sequence[PairCard]) -> EmbeddingSection | None:
    """The section of all stored cards; None where there are none.

    Args:
        cards: networks of the same images follow each other.
        pairs: the differences of pairs.
    """
    if not cards:
        return None
    sprites = list(dict.fromkeys(card.thumbnails for card in cards if card.thumbnails is not None))
    has_pairs = any(card.two_classes is not None for card in cards)
    return EmbeddingSection(
        options=[f"{card.network.name}, {card.network.images_title}" for card in cards],
        chosen=list(zip(("left", "right"), _first_pair(cards), strict=False)),
        figures=["similarities", *(["classes"] if has_pairs else []), "layout"],
        data={
            "networks": [_network(card, cards, sprites, has_pairs) for card in cards],
            "sprites": [_sprite(thumbnails) for thumbnails in sprites],
        },
        tables=[*_measures(cards), *_differences(pairs), *_published()],
        cards=[_card(card) for card in cards],
    )


def _first_pair(cards: Sequence[EmbeddingCard]) -> tuple[int, ...]:
    """The first two networks of the same images, or the first two."""
    for number in range(len(cards) - 1):
        if cards[number].network.split_fingerprint == cards[number + 1].network.split_fingerprint:
            return number, number + 1
    return tuple(range(min(2, len(cards))))


def _network(
    card: EmbeddingCard, cards: Sequence[EmbeddingCard], sprites: Sequence[Thumbnails], has_pairs: bool
) -> dict[str, Any]:
    same = [other for other in cards if other.network.split_fingerprint == card.network.split_fingerprint]
    layout, title = layout_figure(card), card.network.name
    figures = {
        "similarities": plotly.similarities_plot(similarity_figure(card), [similarity_figure(other) for other in same]),
        "layout": plotly.nothing(title, _NO_LAYOUT) if layout is None else plotly.layout_plot(layout),
    }
    if has_pairs:
        two = [similarity_figure(other, other.two_classes) for other in same if other.two_classes is not None]
        figures["classes"] = (
            plotly.nothing(title, _NO_PAIR)
            if card.two_classes is None
            else plotly.similarities_plot(similarity_figure(card, card.two_classes), two)
        )
    return {"figures": figures, "sprite": None if card.thumbnails is None else sprites.index(card.thumbnails)}


def _sprite(thumbnails: Thumbnails) -> dict[str, Any]:
    uri = f"data:image/png;base64,{thumbnails.png}"
    return {"image": uri, "side": thumbnails.side, "columns": thumbnails.columns, "count": thumbnails.count}


def _measures(cards: Sequence[EmbeddingCard]) -> list[Table]:
    tables = []
    for _, same in groupby(cards, key=lambda card: card.network.split_fingerprint):
        group = list(same)
        first, columns = group[0], [by_label(card.measures) for card in group]
        rows = [[name, *(measure_text(column.get(name)) for column in columns)] for name in labels(group)]
        title = f"{first.network.images_title}: {first.images:,} images of {first.classes:,} classes, 95% intervals"
        tables.append(Table(title, ["Measure", *(card.network.name for card in group)], rows))
    return tables


def _differences(pairs: Sequence[PairCard]) -> list[Table]:
    return [
        Table(
            f"{pair.b.name} minus {pair.a.name}, {pair.a.images_title}, on the same images",
            ["Measure", "Difference"],
            [[measure.label, measure_text(measure)] for measure in pair.measures],
        )
        for pair in pairs
    ]


def _published() -> list[Table]:
    rows = [
        [f"{row.backbone} {row.method}", row.dataset, number_text(row.value), f"{row.table}. {row.note}"]
        for row in isotropy_of_papers()
    ]
    title = "Published isotropy, of other networks and images"
    return [Table(title, ["Network", "Dataset", "Isotropy", "Reported in"], rows)] if rows else []


def _card(card: EmbeddingCard) -> Card:
    network = card.network
    facts = {
        "backbone": network.backbone,
        "weights": network.weights,
        "pretraining": network.pretraining or "not recorded",
        "embedding size": network.embedding_size,
        "preprocessing": json.dumps(network.preprocessing, sort_keys=True, ensure_ascii=False),
        "dataset": f"{network.dataset}, fingerprint {network.dataset_fingerprint}",
        "split": f"{network.split}, fingerprint {network.split_fingerprint}",
        "seed": card.seed,
        "versions": json.dumps(card.versions, sort_keys=True, ensure_ascii=False),
    }
    return Card(
        anchor_of(network.key),
        f"{network.name}, {network.images_title}",
        [(measure.label, measure_text(measure)) for measure in card.measures],
        "\n".join(f"{name:<22}{value}" for name, value in facts.items()),
    )
