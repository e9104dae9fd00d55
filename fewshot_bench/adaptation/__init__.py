"""Support set to predictions: one file per method, all batched over episodes."""

from fewshot_bench.adaptation.base import ADAPTATIONS, Adaptation, EmbeddingAdaptation, check_fields, code_of_adaptation
from fewshot_bench.adaptation.centroid import Centroid, nearest_centroid
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, Features
from fewshot_bench.adaptation.entropy import Entropy
from fewshot_bench.adaptation.finetune import Finetune
from fewshot_bench.adaptation.finetune_head import FinetuneHead
from fewshot_bench.adaptation.logistic import Logistic, logistic_in_span
from fewshot_bench.adaptation.tim import TIM, alternating_information_maximisation

__all__ = [
    "ADAPTATIONS",
    "TIM",
    "Adaptation",
    "Centroid",
    "EmbeddedSplit",
    "EmbeddingAdaptation",
    "Entropy",
    "Features",
    "Finetune",
    "FinetuneHead",
    "Logistic",
    "alternating_information_maximisation",
    "check_fields",
    "code_of_adaptation",
    "logistic_in_span",
    "nearest_centroid",
]
