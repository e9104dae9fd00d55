"""Every adaptation of embeddings, in the variants that tests of all of them go through."""

from __future__ import annotations

from fewshot_bench.adaptation import LDA, BaselinePlusPlus, Centroid, FinetuneHead, Logistic

INDUCTIVE = {
    "centroid-cosine": Centroid(),
    "centroid-euclidean": Centroid(metric="euclidean", features="raw"),
    "logistic": Logistic(),
    "logistic-raw": Logistic(features="raw", C=0.1),
    "logistic-views": Logistic(views=2),
    "lda": LDA(shrinkage=0.5),
    "lda-raw": LDA(shrinkage=0.9, features="raw"),
    "lda-base": LDA(shrinkage=0.9, covariance="base"),
    "baseline++": BaselinePlusPlus(epochs=20),
    "baseline++-learned": BaselinePlusPlus(epochs=20, class_norms="learned", learning_rate=0.05, features="raw"),
    "linear": FinetuneHead(steps=8),
    "cosine": FinetuneHead(head="cosine", steps=8),
    "projection": FinetuneHead(head="projection", steps=3),
    "linear-full": FinetuneHead(steps=8, coordinates="full"),
    "linear-zero": FinetuneHead(steps=8, start="zero"),
    "projection-schane": FinetuneHead(head="projection", loss="ce+schane", steps=3),
    "linear-schane": FinetuneHead(loss="ce+schane", steps=3),
}

TRANSDUCTIVE = {}

ADAPTATIONS = INDUCTIVE | TRANSDUCTIVE
