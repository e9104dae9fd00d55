"""Every adaptation of embeddings, in the variants that tests of all of them go through."""

from __future__ import annotations

from fewshot_bench.adaptation import TIM, Centroid, Entropy, FinetuneHead, Logistic

INDUCTIVE = {
    "centroid-cosine": Centroid(),
    "centroid-euclidean": Centroid(metric="euclidean", features="raw"),
    "logistic": Logistic(),
    "logistic-raw": Logistic(features="raw", C=0.1),
    "linear": FinetuneHead(steps=8),
    "cosine": FinetuneHead(head="cosine", steps=8),
    "projection": FinetuneHead(head="projection", steps=3),
    "linear-full": FinetuneHead(steps=8, coordinates="full"),
    "linear-zero": FinetuneHead(steps=8, start="zero"),
    "projection-schane": FinetuneHead(head="projection", loss="ce+schane", steps=3),
    "linear-schane": FinetuneHead(loss="ce+schane", steps=3),
}

TRANSDUCTIVE = {
    "entropy": Entropy(),
    "entropy-distance": Entropy(head="distance", updates="joint", temperature=10.0),
    "tim": TIM(steps=50),
    "tim-raw": TIM(features="raw", steps=50),
    "tim-gd": TIM(solver="gd", steps=20),
    "tim-gd-cosine": TIM(solver="gd", steps=20, metric="cosine"),
    "tim-gd-span": TIM(solver="gd", steps=20, coordinates="span"),
    "alpha-tim": TIM(alpha=5.0, steps=20),
}

ADAPTATIONS = INDUCTIVE | TRANSDUCTIVE
