"""Every adaptation of embeddings, in the variants that tests of all of them go through."""

from __future__ import annotations

from fewshot_bench.adaptation import (
    BDCSPN,
    TIM,
    Centroid,
    Entropy,
    FinetuneHead,
    Ilpc,
    KNearestNeighbours,
    LabelPropagation,
    LaplacianShot,
    Logistic,
    Matching,
    PtMap,
    Ridge,
    SupportVectorMachine,
)

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
    "ridge": Ridge(),
    "ridge-raw": Ridge(features="raw", penalty=50.0),
    "ridge-intercept": Ridge(intercept=True, penalty=0.1),
    "svm": SupportVectorMachine(),
    "svm-raw": SupportVectorMachine(features="raw", C=0.1),
    "svm-diagonal": SupportVectorMachine(diagonal=1.0, C=0.1),
    "knn": KNearestNeighbours(),
    "knn-euclidean": KNearestNeighbours(metric="euclidean", features="raw"),
    "knn-5": KNearestNeighbours(k=5),
    "matching": Matching(),
    "matching-100": Matching(scale=100.0),
}

TRANSDUCTIVE = {
    "bd-cspn": BDCSPN(),
    "bd-cspn-classes": BDCSPN(weighting="classes", temperature=10.0, pseudo_labels=0, shift="prototypes"),
    "bd-cspn-raw": BDCSPN(features="raw", pseudo_labels=2),
    "label-propagation": LabelPropagation(),
    "label-propagation-full": LabelPropagation(knn=0, features="raw"),
    "laplacian-shot": LaplacianShot(),
    "laplacian-shot-mean": LaplacianShot(prototypes="mean", knn=1),
    "ilpc": Ilpc(features="signed-power", cleaning_steps=50),
    "ilpc-unbalanced": Ilpc(features="l2", centering="none", balanced=False, neighbours=5, cleaning_steps=50),
    "pt-map": PtMap(features="signed-power"),
    "pt-map-joint": PtMap(features="l2", centering="joint", alpha=0.3),
    "pt-map-unbalanced": PtMap(features="l2", centering="none", balanced=False),
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
