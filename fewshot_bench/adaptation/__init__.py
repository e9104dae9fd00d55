"""Support set to predictions: one file per method, all batched over episodes."""

from fewshot_bench.adaptation.base import ADAPTATIONS, Adaptation, EmbeddingAdaptation, check_fields, code_of_adaptation
from fewshot_bench.adaptation.baseline_plus_plus import BaselinePlusPlus
from fewshot_bench.adaptation.centroid import Centroid, nearest_centroid
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, Features
from fewshot_bench.adaptation.finetune import Finetune
from fewshot_bench.adaptation.finetune_head import FinetuneHead
from fewshot_bench.adaptation.lda import LDA, lda_in_span
from fewshot_bench.adaptation.logistic import Logistic, logistic_in_span

__all__ = [
    "ADAPTATIONS",
    "LDA",
    "Adaptation",
    "BaselinePlusPlus",
    "Centroid",
    "EmbeddedSplit",
    "EmbeddingAdaptation",
    "Features",
    "Finetune",
    "FinetuneHead",
    "Logistic",
    "check_fields",
    "code_of_adaptation",
    "lda_in_span",
    "logistic_in_span",
    "nearest_centroid",
]
