"""Embedding cards in a terminal and as JSON: values with their intervals, differences, and published numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from fewshot_bench._io.text import printable
from fewshot_bench.report.embeddings.cards import EmbeddingCard, Measure, NetworkCard, PairCard
from fewshot_bench.report.leaderboard_output import new_table, print_table
from fewshot_bench.report.published import PublishedMetric, published_metrics

_MOST_COLUMNS = 4


def measure_text(measure: Measure | None) -> str:
    """A value with its interval; "-" where it does not exist.

    >>> measure_text(Measure(name="isoscore", title="IsoScore", value=0.4267, low=0.4, high=0.452))
    '0.427 [0.400, 0.452]'
    """
    if measure is None or measure.value is None:
        return "-"
    if measure.low is None or measure.high is None:
        return number_text(measure.value)
    return f"{number_text(measure.value)} [{number_text(measure.low)}, {number_text(measure.high)}]"


def number_text(value: float) -> str:
    """A number to three digits, or three decimals where it is below 1000."""
    if value == 0:
        return "0"
    size = abs(value)
    return f"{value:.2e}" if size < 1e-3 or size >= 1e5 else f"{value:.3f}" if size < 100 else f"{value:.1f}"


def by_label(measures: Sequence[Measure]) -> dict[str, Measure]:
    """Measures by name and variant."""
    return {measure.label: measure for measure in measures}


def labels(cards: Sequence[EmbeddingCard]) -> list[str]:
    """The names and variants that cards have, in their order."""
    return list(dict.fromkeys(measure.label for card in cards for measure in card.measures))


def print_cards(cards: Sequence[EmbeddingCard], pairs: Sequence[PairCard], console: Console) -> None:
    """Print the measures of networks side by side, the differences to the first, and published isotropy."""
    first = cards[0]
    has_intervals = any(measure.low is not None for measure in first.measures)
    interval = ", with 95% intervals over classes" if has_intervals else ""
    if first.has_intervals and not has_intervals:
        interval = ", too few for intervals over classes"
    title = f"{printable(first.network.images_title)}, {first.images:,} images of {first.classes:,} classes{interval}"
    for start in range(0, len(cards), _MOST_COLUMNS):
        shown = cards[start : start + _MOST_COLUMNS]
        table = new_table("measure", *(printable(card.network.name) for card in shown))
        found = [by_label(card.measures) for card in shown]
        for name in labels(shown):
            table.add_row(Text(printable(name)), *(Text(measure_text(column.get(name))) for column in found))
        print_table(console, title, table)
    for pair in pairs:
        table = new_table("measure", "difference" if not has_intervals else "difference [95% interval]")
        for measure in pair.measures:
            table.add_row(Text(printable(measure.label)), Text(measure_text(measure)))
        print_table(console, f"{printable(pair.b.name)} minus {printable(pair.a.name)}, on the same images", table)
    published = isotropy_of_papers(first.network.dataset)
    if published:
        table = new_table("published isotropy", "value", "reported in")
        for row in published:
            name = f"{row.backbone} {row.method}"
            table.add_row(Text(printable(name)), Text(number_text(row.value)), Text(printable(row.table)))
        print_table(console, f"published for {printable(first.network.dataset)}, other networks and images", table)


def isotropy_of_papers(dataset: str | None = None) -> list[PublishedMetric]:
    """The isotropy scores that papers print, of one dataset or of all."""
    return [row for row in published_metrics("isotropy") if dataset in (None, row.dataset)]


def cards_record(cards: Sequence[EmbeddingCard], pairs: Sequence[PairCard]) -> dict[str, Any]:
    """Cards and differences as plain data, without layouts and thumbnails."""
    return {
        "networks": [
            {
                **card.network.model_dump(mode="json"),
                "key": card.network.key,
                "images": card.images,
                "classes": card.classes,
                "seed": card.seed,
                "measures": _records(card.measures),
                "auc": card.similarities.auc,
                "auc_bound": card.similarities.auc_bound,
            }
            for card in cards
        ],
        "differences": [
            {"a": _short(pair.a), "b": _short(pair.b), "measures": _records(pair.measures)} for pair in pairs
        ],
        "published": [
            {
                "dataset": row.dataset,
                "backbone": row.backbone,
                "method": row.method,
                "isotropy": row.value,
                "reported_in": row.table,
                "note": row.note,
            }
            for row in isotropy_of_papers(cards[0].network.dataset)
        ],
    }


def _records(measures: Sequence[Measure]) -> list[dict[str, Any]]:
    return [measure.model_dump(mode="json") for measure in measures]


def _short(network: NetworkCard) -> dict[str, str]:
    return {"name": network.name, "key": network.key, "weights": network.weights}
