"""One method evaluated, kept and used, in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench._io.versions import lazily

if TYPE_CHECKING:
    from fewshot_bench.evaluation.classifier import Classifier as Classifier
    from fewshot_bench.evaluation.evaluation import Evaluation as Evaluation
    from fewshot_bench.evaluation.predictions import Predictions as Predictions

# `fit` and `evaluate` are imported from their modules: an attribute of that name here is the module.
_HOMES = {"Classifier": "classifier", "Evaluation": "evaluation", "Predictions": "predictions"}
__all__ = sorted(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
