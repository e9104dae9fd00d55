"""Made-up embedding cards, for the tests of the report."""

from __future__ import annotations

import base64
import io

from PIL import Image
from stored_cells import PROTOCOL

from fewshot_bench.report.embeddings.cards import (
    EmbeddingCard,
    Layout,
    Measure,
    NetworkCard,
    PairCard,
    Similarities,
    Thumbnails,
)

PREPROCESSING = {"image_size": 8, "interpolation": "bilinear", "mean": [0.5], "std": [0.5]}


def network(name: str = "conv", **changes: object) -> NetworkCard:
    values = {
        "name": name,
        "backbone": "conv4_32",
        "weights": f"weights of {name}",
        "preprocessing": PREPROCESSING,
        "embedding_size": 32,
        "dataset": PROTOCOL.dataset,
        "dataset_fingerprint": PROTOCOL.dataset_fingerprint,
        "split": PROTOCOL.split,
        "split_fingerprint": "cd" * 32,
    }
    return NetworkCard(**{**values, **changes})


def sheet(count: int = 4, side: int = 3) -> Thumbnails:
    content = io.BytesIO()
    Image.new("L", (2 * side, (count + 1) // 2 * side), 120).save(content, "PNG")
    return Thumbnails(png=base64.b64encode(content.getvalue()).decode(), side=side, columns=2, count=count)


def card(name: str = "conv", isotropy: float = 0.4, **changes: object) -> EmbeddingCard:
    values = {
        "network": network(name),
        "images": 40,
        "classes": 2,
        "measures": (
            measure(isotropy),
            Measure(name="rankme", title="RankMe", variant="l2", value=12.5),
            Measure(name="nc1", title="NC1", variant="raw"),
        ),
        "similarities": Similarities(edges=(0.0, 0.5, 1.0), same=(1, 3), different=(2, 2), auc=0.625, auc_bound=0.25),
        "layout": Layout(
            method="tsne",
            seed=0,
            settings={"perplexity": 1.0},
            classes=("cat", "dog"),
            labels=(0, 0, 1, 1),
            images=(0, 1, 20, 21),
            x=(0.0, 1.0, 5.0, 6.0),
            y=(0.0, 1.0, 5.0, 6.0),
        ),
    }
    return EmbeddingCard(**{**values, **changes})


def measure(value: float, spread: float = 0.1) -> Measure:
    return Measure(
        name="isotropy_score",
        title="isotropy score",
        variant="raw",
        value=value,
        low=value - spread,
        high=value + spread,
    )


def pair(a: str = "conv", b: str = "deep") -> PairCard:
    return PairCard(a=network(a), b=network(b), measures=(measure(0.25, 0.05),))
