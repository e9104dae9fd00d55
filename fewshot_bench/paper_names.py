"""What to type for method names of the literature that are not registered here.

Many are recipes for training a network, whose classifier is registered under its own name. Imports nothing heavy.
"""

from __future__ import annotations

import re

_TRAINING = "is a training recipe; its classifier is"
_ANSWERS_BY_NAMES = {
    "protonet protonets prototypical prototypical-network prototypical-networks protonet-classifier": (
        f"ProtoNet {_TRAINING}: --adapt centroid --set metric=euclidean --set features=raw"
    ),
    "r2d2": f"R2D2 {_TRAINING}: --adapt ridge",
    "metaoptnet-rr metaoptnet-ridge": f"MetaOptNet-RR {_TRAINING}: --adapt ridge",
    "metaoptnet metaoptnet-svm metaopt": f"MetaOptNet {_TRAINING}: --adapt svm",
    "matchingnet matching-network matching-networks": f"MatchingNet {_TRAINING}: --adapt matching",
    "maml fomaml first-order-maml reptile meta-sgd boil": (
        "It trains a network that a few gradient steps adapt. The steps alone, from any network: --adapt finetune"
    ),
    "anil": (
        "ANIL trains a network of which a few gradient steps adapt the head. The steps alone, from any network: "
        "--adapt finetune-head"
    ),
    "meta-baseline": f"Meta-Baseline {_TRAINING}: --adapt centroid",
    "tpn transductive-propagation-network": f"TPN {_TRAINING}: --adapt label-propagation",
    "relationnet relation-network relation-networks": (
        "RelationNet trains its own measure of similarity, which is not here. The nearest is: --adapt centroid"
    ),
    "deepemd feat can frn dn4": (
        "It compares feature maps or trains a module of its own, which is not here. The nearest is: --adapt centroid"
    ),
    "nearest-centroid nearest-class-mean nearest-mean nearest-prototype ncm nmc prototype": (
        "It is called centroid: --adapt centroid"
    ),
    "cosine cosine-similarity cosine-distance": (
        "Cosine similarity to the mean of each class: --adapt centroid. A trained head of cosines: --adapt baseline++"
    ),
    "euclidean": "Euclidean distance to the mean of each class: --adapt centroid --set metric=euclidean",
    "linear-probe linear-probing linear lr logreg logistic-regression softmax linear-classifier": (
        "It is called logistic: --adapt logistic"
    ),
    "rfs rfs-simple good-embedding": (
        "RFS classifies by logistic regression on five augmented views: --adapt logistic --set views=5"
    ),
    "baseline": "The Baseline of Chen et al. trains a linear head on frozen embeddings: --adapt finetune-head",
    "baseline-plus-plus baselinepp cosine-head": "It is called baseline++: --adapt baseline++",
    "simple-shot cl2n simpleshot-cl2n": "It is called simpleshot: --adapt simpleshot",
    "nn 1nn nearest-neighbor nearest-neighbour k-nn k-nearest-neighbors k-nearest-neighbours": (
        "It is called knn: --adapt knn"
    ),
    "svc linear-svm support-vector-machine crammer-singer": "It is called svm: --adapt svm",
    "rr ridge-regression least-squares": "It is called ridge: --adapt ridge",
    "linear-discriminant-analysis discriminant": "It is called lda: --adapt lda",
    "tim-gd": "TIM by gradient descent: --adapt tim --set solver=gd",
    "tim-adm": "TIM by alternating updates: --adapt tim --set solver=adm",
    "alpha-tim": "alpha-TIM is TIM with other entropies: --adapt tim --set alpha=5",
    "ptmap pt-map-sinkhorn": "It is called pt-map: --adapt pt-map",
    "bdcspn cspn": "It is called bd-cspn: --adapt bd-cspn",
    "laplacianshot laplacian": "It is called laplacian-shot: --adapt laplacian-shot",
    "labelpropagation label-prop lp": "It is called label-propagation: --adapt label-propagation",
    "dhillon transductive-finetuning transductive-fine-tuning transductive-finetune tft": (
        "Transductive fine-tuning of a head on frozen embeddings: --adapt entropy"
    ),
    "fine-tune finetuning fine-tuning full-finetuning": "It is called finetune: --adapt finetune",
}


def _plain(name: str) -> str:
    """A name without case, hyphens, underscores and spaces."""
    return re.sub(r"[-_\s]", "", name.lower())


_ANSWERS = {_plain(name): answer for names, answer in _ANSWERS_BY_NAMES.items() for name in names.split()}


def what_to_type(name: str) -> str:
    """What to type for a name of the literature, in one sentence; empty for any other name.

    >>> what_to_type("Nearest_Centroid")
    'It is called centroid: --adapt centroid'
    """
    return _ANSWERS.get(_plain(name), "")


def answered_names() -> list[str]:
    """All names with an answer, without hyphens."""
    return list(_ANSWERS)
