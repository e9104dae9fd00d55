"""Losses as pure functions, batched over any leading dimensions, in log space.

>>> from fewshot_bench import losses
>>> losses.supcon([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [0, 0, 1], tau=1.0)
tensor(0.3133)
"""

from fewshot_bench.losses.contrastive import Anchors, Beta, Reading, StopGradient, contrastive_loss
from fewshot_bench.losses.cosine import cosine_logits
from fewshot_bench.losses.cross_entropy import cross_entropy
from fewshot_bench.losses.distillation import distillation
from fewshot_bench.losses.registry import (
    EXTRA_SETTINGS,
    LOSSES,
    Loss,
    extra_settings,
    loss_function,
    other_reading,
    reading_of,
    readings_of,
    takes,
)
from fewshot_bench.losses.schane import hard_negative_weights, schane
from fewshot_bench.losses.simclr import simclr
from fewshot_bench.losses.supcon import supcon

__all__ = [
    "EXTRA_SETTINGS",
    "LOSSES",
    "Anchors",
    "Beta",
    "Loss",
    "Reading",
    "StopGradient",
    "contrastive_loss",
    "cosine_logits",
    "cross_entropy",
    "distillation",
    "extra_settings",
    "hard_negative_weights",
    "loss_function",
    "other_reading",
    "reading_of",
    "readings_of",
    "schane",
    "simclr",
    "supcon",
    "takes",
]
