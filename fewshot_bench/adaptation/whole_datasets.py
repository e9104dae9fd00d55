"""Classifiers of whole datasets: the network's own, and linear and kNN probes of frozen embeddings.

Probes learn from the embeddings of the train split. Hyper-parameters that are not set are chosen on a validation part:
the dataset's validation split, or a share of the train split that is held out class by class. No test image is read
before the last fit. `fewshot_bench.embeddings` has the mathematics.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, get_args

from fewshot_bench.adaptation.base import ADAPTATIONS, WholeAdaptation
from fewshot_bench.arguments import checked_names
from fewshot_bench.embeddings.labelled_embeddings import ProbeFeatures
from fewshot_bench.errors import StudyError


@ADAPTATIONS.register(
    "classifier",
    "the classifier that was trained with the network, for whole datasets",
    paper="Goodfellow et al., 2016, Deep Learning, section 6.2.2",
    family="whole datasets",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class TrainedClassifier(WholeAdaptation):
    """The most probable class by the softmax of the classifier that was trained with the network."""

    name: ClassVar[str] = "classifier"


@dataclass(frozen=True, kw_only=True)
class Probe(WholeAdaptation):
    """A probe of frozen embeddings.

    Attributes:
        features: raw embeddings, l2 divides by the norm, standard takes mean and deviation of the training images.
        validation_share: share of the train split that is held out to choose hyper-parameters, where a dataset has no
            validation split; the same images that a training with this share holds out.
    """

    features: ProbeFeatures = "raw"
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            StudyError: a hyper-parameter is not one of the words of its type, or out of range.
        """
        self._expect(
            "features", self.features in get_args(ProbeFeatures), f"one of {', '.join(get_args(ProbeFeatures))}"
        )
        self._expect("validation_share", 0 < self.validation_share < 1, "between 0 and 1")

    @property
    @abstractmethod
    def chooses(self) -> bool:
        """Whether a hyper-parameter is chosen on the validation part."""

    def _expect(self, name: str, is_right: bool, expectation: str) -> None:
        if not is_right:
            raise StudyError(f"{name} of {self.name} should be {expectation}, not {getattr(self, name)}.")


@ADAPTATIONS.register(
    "linear-probe",
    "logistic regression on the embeddings of the train split, for whole datasets",
    paper="Oquab et al., 2024, DINOv2: Learning Robust Visual Features without Supervision",
    family="whole datasets",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class LinearProbing(Probe):
    """Multinomial logistic regression with an L2 penalty, fitted by L-BFGS to all images.

    Attributes:
        C: inverse strength of the penalty, as in scikit-learn; without a value, the most accurate of 45 values from
            1e-6 to 1e5 on the validation part.
        max_iterations: most iterations of L-BFGS.
    """

    name: ClassVar[str] = "linear-probe"
    C: float | None = None
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("C", self.C is None or 0 < self.C < math.inf, "positive")
        self._expect("max_iterations", self.max_iterations > 0, "positive")

    @property
    def chooses(self) -> bool:
        """Whether C is chosen."""
        return self.C is None


@ADAPTATIONS.register(
    "knn-probe",
    "vote of the nearest images of the train split, for whole datasets",
    paper="Wu et al., 2018, Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    family="whole datasets",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class KNNProbing(Probe):
    """Weighted vote of the nearest training images.

    Attributes:
        k: how many vote; without a value, the most accurate of 1, 5, 10, 20, 50, 100 and 200 on the validation part.
        is_weighted: whether a vote counts softmax(nearness / temperature); otherwise all votes are equal, and of
            classes with equal votes the first wins.
        temperature: without a value, the most accurate of 0.02, 0.07 and 0.2 on the validation part.
    """

    name: ClassVar[str] = "knn-probe"
    features: ProbeFeatures = "l2"
    k: int | None = None
    is_weighted: bool = True
    temperature: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect("k", self.k is None or self.k > 0, "positive")
        self._expect("is_weighted", isinstance(self.is_weighted, bool), "true or false")
        self._expect("temperature", self.temperature is None or 0 < self.temperature < math.inf, "positive")
        self._expect("temperature", self.temperature is None or self.is_weighted, "left out where votes are equal")

    @property
    def chooses(self) -> bool:
        """Whether k or the temperature is chosen."""
        return self.k is None or (self.is_weighted and self.temperature is None)
