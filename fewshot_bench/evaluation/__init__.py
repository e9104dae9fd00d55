"""One method evaluated, kept and used, in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench._io.versions import lazily

if TYPE_CHECKING:
    from fewshot_bench.evaluation.classifier import Classifier as Classifier
    from fewshot_bench.evaluation.fit import fit as fit
    from fewshot_bench.evaluation.predictions import Predictions as Predictions

_HOMES = {"Classifier": "classifier", "Predictions": "predictions", "fit": "fit"}
__all__ = sorted(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
