"""How a backbone is fine-tuned on one support set: hyper-parameters, optimiser and learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fewshot_bench.errors import StudyError
from fewshot_bench.losses import LOSSES, Anchors, Reading, StopGradient, extra_settings, other_reading, reading_of
from fewshot_bench.training.recipe import AugmentationName, Decays

BatchNormMode = Literal["frozen", "support", "transductive"]
HeadStart = Literal["centroid", "zero", "support", "trained"]
HeadInput = Literal["embeddings", "logits"]
OptimizerName = Literal["adamw", "adam", "sgd"]
EpisodeSchedule = Literal["constant", "cosine"]
EpisodePrecision = Literal["float32", "bf16", "float64"]

TRAINING_VERSION = 1
"""Raised when the same recipe gives other weights; recorded from 2 on."""

REDRAWN = 0
VIEWS_OF_A_FROZEN_PREFIX = 8


@dataclass(frozen=True, kw_only=True)
class EpisodeRecipe:
    """Hyper-parameters of a fine-tuning on each support set; docs/paper.md compares the defaults with the SCHaNe paper.

    Attributes:
        loss: name of a loss; cross-entropy takes the head's logits, a contrastive term the L2-normalised output of
            the encoder. Every support image is seen in two augmented views per step, whatever the loss: in 1-shot
            episodes they are the positive pair.
        lambda_: share of the contrastive term.
        tau: temperature of the contrastive term.
        reading: how the contrastive term takes the mean over positives; None for the default of the loss.
        tune: which weights of the backbone are trained besides the head: "all", "last:N" blocks, "norm", "bias",
            "lora[:rank]", "head" for none; "norm+last:2", "bias+last:2" and "lora:8+last:2" within the last blocks.
        bn: what batch normalisation normalises with. "frozen": the statistics of the pretrained network. "support":
            those of the views in each step, and of the plain support set for the queries. "transductive": those of
            the views in each step, and of the episode's queries for the queries, which makes the method transductive.
        views: 0 makes two new augmented views of every support image in every step; V of 2 or more draws two of V
            views made once. None is 8 for "head" and "last:N", so that the frozen layers run once per view, and 0
            otherwise.
        epochs: passes over the support set.
        batch_size: images per step; never more than the support set has.
        optimizer: "adamw" decouples the weight decay, "adam" and "sgd" add it to the gradient; "sgd" has no momentum.
        learning_rate: at its highest. None takes those that the head was trained with, for start="trained" alone.
        weight_decay: of the weights that `decays` names.
        dropout: before the linear head.
        schedule: of the learning rate after the warm-up.
        warmup_epochs: epochs in which the learning rate rises linearly from zero.
        label_smoothing: share of the label that cross-entropy spreads over all classes.
        patience: epochs without a lower training loss of the support set after which an episode keeps its weights;
            0 never stops early.
        augmentation: what makes the views; "auto" is AutoAugment for colour images and affine for gray ones.
        start: the head's first weights. "centroid" makes the untrained method the nearest class centroid by cosine,
            "zero" leaves all classes alike. "support" is the support-based initialisation of Dhillon et al. (2020):
            the head sees L2-normalised features, also during training, and each class starts at the mean of its
            support features before normalisation, scaled to length one. "trained" is the head that gradient-based
            meta-learning trained with the network, for as many classes.
        on: what the head sees. "embeddings": the output of the encoder. "logits": those of the classifier that the
            backbone was trained with on the base split, which stays in front of the head; rectified (ReLU) where
            start is "support". It is trained with the backbone by tune="all" and "last:N", its biases by "bias".
        scale: length of the head's first weights, in units of one over the mean norm of the support embeddings. Not
            for start="support", whose weights have length one.
        query_entropy: weight of the Shannon entropy of the predictions for the episode's queries; 0 leaves it out.
            Above 0, each epoch ends with one more update that lowers it, on the queries as they are and without
            dropout, which makes the method transductive. Dhillon et al. (2020) use 1.
        precision: "bf16" runs the network under autocast; weights, head, losses and optimiser stay in float32.
            "float64" is for checks and several times slower.
        seed: of the views, dropout and the order of the images; each episode draws numbers of its own from it.
        stop_gradient: "beta" takes the weights of SCHaNe's negatives as constants; "none" differentiates them.
        anchors: whether the contrastive term is the "mean" or the "sum" over anchors.
        decays: "matrices" decays weight matrices and filters, "all" biases and normalisations too.
    """

    loss: str = "ce"
    lambda_: float = 0.9
    tau: float = 0.5
    reading: Reading | None = None
    tune: str = "all"
    bn: BatchNormMode = "frozen"
    views: int | None = None
    epochs: int = 100
    batch_size: int = 1024
    optimizer: OptimizerName = "adamw"
    learning_rate: float | None = 1e-4
    weight_decay: float = 0.05
    dropout: float = 0.1
    schedule: EpisodeSchedule = "constant"
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    patience: int = 0
    augmentation: AugmentationName = "auto"
    start: HeadStart = "centroid"
    on: HeadInput = "embeddings"
    scale: float = 10.0
    query_entropy: float = 0.0
    precision: EpisodePrecision = "float32"
    seed: int = 0
    stop_gradient: StopGradient = "none"
    anchors: Anchors = "mean"
    decays: Decays = "matrices"

    def __post_init__(self) -> None:
        """Store the default reading of the loss as None.

        Raises:
            UnknownNameError: the loss is not known.
            StudyError: the loss has no such reading or setting.
        """
        object.__setattr__(self, "reading", other_reading(self.loss, self.reading))
        extra_settings(self.loss, **self.contrast)

    def check(self) -> None:
        """Raise StudyError for a value out of its range."""
        for name, choices in _CHOICES.items():
            self._expect(getattr(self, name) in choices, name, f"one of {', '.join(choices)}")
        for name, least in (("epochs", 0), ("batch_size", 1), ("warmup_epochs", 0), ("patience", 0)):
            value = getattr(self, name)
            self._expect(_is_whole(value) and value >= least, name, f"a whole number of {least} or more")
        self._expect(_is_whole(self.seed) and abs(self.seed) < 1 << 63, "seed", "a whole number of 64 bits")
        is_number_of_views = self.views is None or (_is_whole(self.views) and self.views != 1 and self.views >= 0)
        self._expect(is_number_of_views, "views", "0 for new ones in every step, or 2 or more")
        takes_trained_rates = self.learning_rate is None and self.start == "trained"
        for name in ("tau", "scale") if takes_trained_rates else ("learning_rate", "tau", "scale"):
            value = getattr(self, name)
            self._expect(_is_finite(value) and value > 0, name, "positive")
        for name in ("weight_decay", "query_entropy"):
            value = getattr(self, name)
            self._expect(_is_finite(value) and value >= 0, name, "0 or more")
        self._expect(_is_finite(self.lambda_) and 0 <= self.lambda_ <= 1, "lambda_", "between 0 and 1")
        for name in ("dropout", "label_smoothing"):
            value = getattr(self, name)
            self._expect(_is_finite(value) and 0 <= value < 1, name, "at least 0 and less than 1")
        if self.tune == "head" and self.is_contrastive:
            raise StudyError(
                f"--tune head does not change the encoder, so the contrastive term of {self.loss} has nothing to move. "
                "Use --tune last:1, or --adapt finetune-head, whose contrast acts on the head."
            )
        if self.on == "logits" and self.is_contrastive:
            raise StudyError(
                f"on=logits puts the base classifier between encoder and head, and the contrastive term of {self.loss} "
                "compares the encoder's embeddings. Use --loss ce, or on=embeddings."
            )
        if self.start == "support" and self.scale != EpisodeRecipe.scale:
            raise StudyError("start=support starts with weights of length one. Leave scale out, or use start=centroid.")
        if self.sees_queries and self.epochs == 0:
            raise StudyError("query_entropy is lowered once per epoch, and there are 0 epochs. Use 1 or more.")

    def _expect(self, is_right: bool, name: str, expectation: str) -> None:
        if not is_right:
            raise StudyError(f"{name.rstrip('_')} of finetune should be {expectation}, not {getattr(self, name)}.")

    @property
    def highest_rate(self) -> float:
        """The learning rate of the optimiser, by which trained rates are multiplied."""
        return 1.0 if self.learning_rate is None else self.learning_rate

    @property
    def is_contrastive(self) -> bool:
        """Whether the loss compares embeddings with each other."""
        return bool(LOSSES[self.loss].facts.get("is_contrastive", True))

    @property
    def contrast(self) -> dict[str, str]:
        """The settings of the contrastive term that only some losses take."""
        return {"stop_gradient": self.stop_gradient, "anchors": self.anchors}

    @property
    def sees_queries(self) -> bool:
        """Whether the queries take part in the training."""
        return self.query_entropy > 0

    @property
    def rectifies(self) -> bool:
        """Whether negative logits of the base classifier count as zero, as in support-based initialisation."""
        return self.on == "logits" and self.start == "support"

    @property
    def fixed_views(self) -> int:
        """How many views of each image are made once; 0 for new views in every step."""
        if self.views is not None:
            return self.views
        return VIEWS_OF_A_FROZEN_PREFIX if self.tune == "head" or "last:" in self.tune else REDRAWN

    def steps(self, support_images: int) -> int:
        """Optimiser steps on a support set of that many images."""
        return self.epochs * self.steps_per_epoch(support_images)

    def steps_per_epoch(self, support_images: int) -> int:
        """Steps in which every support image is seen."""
        return math.ceil(support_images / self.batch_size)

    def recorded(self) -> dict[str, Any]:
        """Everything that affects the result, by name."""
        unused = set() if self.is_contrastive else {"lambda_", "tau", "reading"}
        # Fields added after the first release are recorded only where used, so old fingerprints hold.
        unused |= self.contrast.keys() - extra_settings(self.loss, **self.contrast)
        unused |= {"decays"} if self.decays == "matrices" else set()
        unused |= {"on"} if self.on == "embeddings" else set()
        unused |= set() if self.sees_queries else {"query_entropy"}
        unused |= {"scale"} if self.start == "support" else set()
        version = {} if TRAINING_VERSION == 1 else {"version": TRAINING_VERSION}
        values = asdict(self) | {"reading": reading_of(self.loss, self.reading)}
        return {name: value for name, value in values.items() if name not in unused} | version


_CHOICES: dict[str, tuple[str, ...]] = {
    "bn": get_args(BatchNormMode),
    "optimizer": get_args(OptimizerName),
    "schedule": get_args(EpisodeSchedule),
    "augmentation": get_args(AugmentationName),
    "start": get_args(HeadStart),
    "on": get_args(HeadInput),
    "precision": get_args(EpisodePrecision),
    "decays": get_args(Decays),
}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def stacked_optimizer(
    recipe: EpisodeRecipe, trained: Mapping[str, Tensor], decayed: frozenset[str], device: torch.device
) -> torch.optim.Optimizer:
    """The optimiser over the stacked weights of all episodes; those named in `decayed` are decayed.

    It works element by element, so each episode's weights go exactly where they would go alone.
    """
    groups = [
        {"params": [w for name, w in trained.items() if name in decayed], "weight_decay": recipe.weight_decay},
        {"params": [w for name, w in trained.items() if name not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        rate = recipe.highest_rate if device.type == "cpu" else torch.tensor(recipe.highest_rate, device=device)
        return torch.optim.SGD(groups, lr=rate, fused=True)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    if device.type == "cuda":
        # In a tensor, a captured step sees the learning rate change.
        rate = torch.tensor(recipe.highest_rate, device=device)
        return kind(groups, lr=rate, fused=True, capturable=True)
    # One fused pass over the weights, instead of a dozen.
    return kind(groups, lr=recipe.highest_rate, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use that learning rate from the next step on."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def reset_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Zero the state of an optimiser, keeping its tensors in place."""
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()


def learning_rate(recipe: EpisodeRecipe, step: int, steps: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0, of a training of that many steps."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.highest_rate * (step + 1) / warmup
    if recipe.schedule == "constant":
        return recipe.highest_rate
    return recipe.highest_rate * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2
