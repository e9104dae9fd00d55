"""The adaptation of gradient-based meta-learning: a few steps from weights, head and rates that were trained for it.

Finn et al. (2017), "Model-agnostic meta-learning for fast adaptation of deep networks" (MAML), train weights from which
a few steps of gradient descent on a support set classify its queries. This takes those steps:

    w <- w - a * dL/dw,    L the cross-entropy of the support set,

with the rates a of the training, which Meta-SGD (Li et al., 2017) learns for each number. What moves is what moved in
training: ANIL (Raghu et al., 2020) moves the head alone. The work is done by the engine of `finetune`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, get_args

from fewshot_bench.adaptation.base import ADAPTATIONS, Adaptation
from fewshot_bench.adaptation.finetune import Finetune
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.recipe import BatchNormMode
from fewshot_bench.training.recipe import Recipe, Statistics


@ADAPTATIONS.register(
    "maml",
    "gradient steps from where MAML, ANIL or Meta-SGD trained the network and its head to start",
    paper="Finn et al., 2017, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
    family="fine-tuning",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class MAML(Adaptation):
    """Gradient steps on the support set, for networks that were trained by gradient-based meta-learning.

    Attributes:
        steps: on the whole support set; MAML trains with 5 and tests with 10. For Meta-SGD a study takes those of the
            training, whose learned rates are for that many, unless it names others.
        learning_rate: of all weights, instead of the rates of the training.
        statistics: of batch normalisation; a study takes those of the training unless it names others. "batch": those
            of the support set in each step, and of an episode's queries for the queries, as in MAML's code and
            learn2learn, which makes the method transductive. "support": those of the support set, for the queries too.

    >>> import fewshot_bench as fb
    >>> fb.MAML(steps=5).hyper_parameters()
    {'steps': 5, 'learning_rate': None, 'statistics': 'batch'}
    >>> fb.MAML(statistics="support").is_transductive
    False
    """

    name: ClassVar[str] = "maml"

    steps: int = 10
    learning_rate: float | None = None
    statistics: Statistics = "batch"

    def __post_init__(self) -> None:
        """Raise StudyError for a value out of its range."""
        self._expect(type(self.steps) is int and self.steps >= 0, "steps", "a whole number of 0 or more")
        rate = self.learning_rate
        is_number = isinstance(rate, int | float) and not isinstance(rate, bool) and math.isfinite(rate)
        self._expect(rate is None or (is_number and rate > 0), "learning_rate", "positive, or left out")
        choices = get_args(Statistics)
        self._expect(self.statistics in choices, "statistics", f"one of {', '.join(choices)}")

    def _expect(self, is_right: bool, name: str, expectation: str) -> None:
        if not is_right:
            raise StudyError(f"{name} of maml should be {expectation}, not {getattr(self, name)}.")

    @property
    def is_transductive(self) -> bool:
        """Whether the queries of an episode are normalised by their own statistics."""
        return self.statistics == "batch"

    @staticmethod
    def shared_with(training: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that it takes from a training by default, given the recorded hyper-parameters of the recipe."""
        shared = {"statistics": training.get("inner_statistics", Recipe.inner_statistics)}
        if training.get("objective") == "meta-sgd":
            shared["steps"] = training.get("inner_steps", Recipe.inner_steps)
        return shared

    def after(self, training: Mapping[str, Any], named: Collection[str]) -> MAML:
        """This adaptation with the settings of a training, except those that are named."""
        return replace(self, **{name: value for name, value in self.shared_with(training).items() if name not in named})

    def as_finetune(self, *, moves_backbone: bool, normalises: bool) -> Finetune:
        """The settings of the fine-tuning engine that take these steps.

        Args:
            moves_backbone: whether the network was trained to move, and not its head alone.
            normalises: whether it has batch normalisation.

        Raises:
            StudyError: it has none, and statistics of a batch are asked for.
        """
        if self.statistics == "batch" and not normalises:
            raise StudyError("statistics=batch of maml needs batch normalisation. Use --set statistics=support.")
        bn: BatchNormMode = "transductive" if self.statistics == "batch" else "support" if normalises else "frozen"
        return Finetune(
            tune="all" if moves_backbone else "head",
            bn=bn,
            views=0,
            epochs=self.steps,
            batch_size=1 << 20,
            optimizer="sgd",
            learning_rate=self.learning_rate,
            weight_decay=0.0,
            dropout=0.0,
            augmentation="none",
            start="trained",
        )
