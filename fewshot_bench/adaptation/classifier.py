"""The network's own classifier: what its training told apart on the train split, it tells apart on the test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fewshot_bench.adaptation.base import ADAPTATIONS, WholeAdaptation


@ADAPTATIONS.register(
    "classifier",
    "the classifier that was trained with the network, for whole datasets",
    paper="Goodfellow et al., 2016, Deep Learning, section 6.2.2",
    family="whole datasets",
)
@dataclass(frozen=True, kw_only=True)
class TrainedClassifier(WholeAdaptation):
    """The most probable class by the softmax of the trained head."""

    name: ClassVar[str] = "classifier"
