"""Support set to predictions: one file per method, all batched over episodes."""

from fewshot_bench.adaptation.base import (
    ADAPTATIONS,
    Adaptation,
    EmbeddingAdaptation,
    WholeAdaptation,
    check_fields,
    code_of_adaptation,
)
from fewshot_bench.adaptation.baseline_plus_plus import BaselinePlusPlus
from fewshot_bench.adaptation.centroid import Centroid, nearest_centroid
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, Features
from fewshot_bench.adaptation.finetune import Finetune
from fewshot_bench.adaptation.finetune_head import FinetuneHead
from fewshot_bench.adaptation.knn import KNearestNeighbours, Matching, log_attention, votes_of_nearest
from fewshot_bench.adaptation.lda import LDA, lda_in_span
from fewshot_bench.adaptation.logistic import Logistic, logistic_in_span
from fewshot_bench.adaptation.maml import MAML
from fewshot_bench.adaptation.ridge import Ridge, ridge_in_span
from fewshot_bench.adaptation.svm import SupportVectorMachine, svm_in_span
from fewshot_bench.adaptation.transductive.bd_cspn import BDCSPN, rectified_prototypes
from fewshot_bench.adaptation.transductive.ilpc import ILPC
from fewshot_bench.adaptation.transductive.label_propagation import LabelPropagation, propagated_labels
from fewshot_bench.adaptation.transductive.laplacian_shot import LaplacianShot, laplacian_assignments
from fewshot_bench.adaptation.transductive.prototype_descent import Entropy
from fewshot_bench.adaptation.transductive.pt_map import PTMAP, map_assignment
from fewshot_bench.adaptation.transductive.sinkhorn import transport_plan
from fewshot_bench.adaptation.transductive.tim import TIM, alternating_information_maximisation
from fewshot_bench.adaptation.whole_datasets import KNNProbing, LinearProbing, Probe, TrainedClassifier

__all__ = [
    "ADAPTATIONS",
    "BDCSPN",
    "ILPC",
    "LDA",
    "MAML",
    "PTMAP",
    "TIM",
    "Adaptation",
    "BaselinePlusPlus",
    "Centroid",
    "EmbeddedSplit",
    "EmbeddingAdaptation",
    "Entropy",
    "Features",
    "Finetune",
    "FinetuneHead",
    "KNNProbing",
    "KNearestNeighbours",
    "LabelPropagation",
    "LaplacianShot",
    "LinearProbing",
    "Logistic",
    "Matching",
    "Probe",
    "Ridge",
    "SupportVectorMachine",
    "TrainedClassifier",
    "WholeAdaptation",
    "alternating_information_maximisation",
    "check_fields",
    "code_of_adaptation",
    "laplacian_assignments",
    "lda_in_span",
    "log_attention",
    "logistic_in_span",
    "map_assignment",
    "nearest_centroid",
    "propagated_labels",
    "rectified_prototypes",
    "ridge_in_span",
    "svm_in_span",
    "transport_plan",
    "votes_of_nearest",
]
