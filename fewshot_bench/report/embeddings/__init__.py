"""What is measured of embeddings, for people: stored cards, tables, figures, and how measures follow accuracy."""

from fewshot_bench.report.embeddings.cards import (
    DIFFERENCES_FILE,
    MEASURES_FILE,
    EmbeddingCard,
    Layout,
    Measure,
    NetworkCard,
    PairCard,
    Similarities,
    Thumbnails,
    card_of_cell,
    store_cards,
    stored_cards,
)
from fewshot_bench.report.embeddings.output import cards_record, print_cards

__all__ = [
    "DIFFERENCES_FILE", "MEASURES_FILE", "EmbeddingCard", "Layout", "Measure", "NetworkCard", "PairCard",
    "Similarities", "Thumbnails", "card_of_cell", "cards_record", "print_cards", "store_cards", "stored_cards",
]  # fmt: skip
