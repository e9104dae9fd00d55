"""How a backbone is trained on the base split: its hyper-parameters as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from fewshot_bench._io.notebooks import ShownByFields
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import StudyError

if TYPE_CHECKING:
    from fewshot_bench.losses import Anchors, Reading, StopGradient

Objective = Literal["classification", "cosine", "distillation", "episodic", "maml", "anil", "meta-sgd"]
Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["constant", "cosine", "one-cycle", "steps"]
Decays = Literal["matrices", "all"]
DropoutPlace = Literal["head", "network"]
EpisodicHead = Literal["centroid", "matching", "ridge", "svm"]
Statistics = Literal["batch", "support"]
KeptEpoch = Literal["last", "best"]
AugmentationName = Literal["auto", "autoaugment", "autoaugment-policy", "jitter", "affine", "none"]
PrecisionName = Literal["float32", "bf16", "fp16"]


@checked_names
@dataclass(frozen=True, kw_only=True, repr=False)
class Recipe(ShownByFields):
    """Hyper-parameters of a training on the base split; docs/paper.md compares the defaults with the SCHaNe paper.

    Attributes:
        loss: name of a loss.
        lambda_: share of the contrastive term.
        tau: temperature of the contrastive term.
        reading: how the contrastive term takes the mean over positives; None for the default of the loss.
        epochs: passes over the split.
        batch_size: images per step, unless the objective learns from tasks.
        optimizer: "adamw" decouples the weight decay, "adam" and "sgd" add it to the gradient. The paper writes Adam
            with a weight decay of 0.05, a value that fine-tuning of BEiT uses with AdamW.
        learning_rate: at its highest.
        weight_decay: of the weights that `decays` names.
        dropout: rate, where `dropout_place` says.
        schedule: of the learning rate, over all steps; "steps" follows `drops`.
        warmup_epochs: in which the learning rate of a constant or cosine schedule rises from nearly 0.
        label_smoothing: of the cross-entropy.
        augmentation: what makes the views; "auto" is AutoAugment for colour images and affine for gray ones.
        seed: of the head, the order of the images, the views and dropout.
        threads: of a CPU, None for PyTorch's setting; weights are the same bit for bit only with the same number,
            since sums over more threads round differently.
        precision: of the network's products and convolutions; "bf16" and "fp16" compute them in half the bits
            (autocast), fp16 with its gradients scaled. Weights, moments and losses stay in float32.
        objective: what a step minimises. "classification", "cosine" and "distillation" train a classifier of the base
            classes: with a linear head, with a cosine head, or with a teacher. "episodic" minimises the loss of tasks,
            "maml", "anil" and "meta-sgd" their loss after gradient steps on the support sets.
        views: of each image in a step, 1 or 2.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        decays: "matrices" decays weight matrices and filters, "all" biases and normalisations too.
        drops: pairs of an epoch and a share: from that epoch on, the learning rate is this share of its highest. The
            schedule "steps" needs them; a cosine restarts there, at that share.
        steps_per_epoch: for objectives that learn from tasks.
        tasks: in each step.
        way: classes of a task.
        shot: support images per class.
        query: query images per class.
        episodic_head: classifies the queries of a task.
        head_penalty: of "ridge", or C of "svm"; None for MetaOptNet's, 50 or 0.1.
        head_scale: factor of the head's scores; of the cosines in the attention of "matching".
        learned_scale: whether a second factor, 1 at first, is trained with the network, as in MetaOptNet's code; None
            for "ridge" and "svm" alone. It changes no prediction.
        cosine_scale: of the logits of a "cosine" head.
        mixup: both parameters of the Beta distribution of the shares in which images are mixed; 0 for no mixup.
        drop_block: rate at which ResNet-12 drops single values after its first two blocks, and squares after the last
            two.
        drop_block_size: side of the squares.
        drop_block_steps: over which the rate of the squares rises from 0.
        teacher: what a distillation learns from: a checkpoint by name, or a recipe, for its checkpoint on the dataset.
        teacher_weights: digest of the teacher's weights and base head, which the training fills in.
        temperature: of a distillation.
        soft_share: weight of the divergence from the teacher in the loss; the labels have the rest.
        stop_gradient: "beta" takes the weights of SCHaNe's negatives as constants; "none" differentiates them.
        anchors: whether the contrastive term is the "mean" or the "sum" over anchors.
        dropout_place: "head" drops before the linear head, "network" in the network's own dropout layers.
        inner_steps: gradient steps on a support set, for "maml", "anil" and "meta-sgd".
        inner_learning_rate: of these steps; "meta-sgd" starts there and learns one for each number in the weights.
        first_order: whether second derivatives are left out: the gradients of these steps count as constants.
        train_share: share of the images of each class that is learned from, without the validation part.
        validation_share: share of the images of each class that is held out, to measure the accuracy on.
        kept_epoch: whether the weights are those of the "last" epoch, or of the "best" on the validation images.
        ema: decay per step of a moving average of weights, which is then the result; 0 for none.
        layer_decay: factor of the learning rate from each block of a timm network to the one before; 1 for none.
        tune: "all" trains the whole network, "last:N" its last N blocks and what follows them.
        inner_statistics: of batch normalisation. "batch" normalises support set and queries of a task each by their
            own statistics, "support" both by those of the support set.

    >>> import fewshot_bench as fb
    >>> fb.Recipe(loss="ce+schane", epochs=20)
    Recipe(loss='ce+schane', epochs=20)
    >>> fb.Recipe(epochs=0)
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.StudyError: epochs of a training on the base split should be 1 or more, not 0.
    """

    loss: str = "ce"
    lambda_: float = 0.9
    tau: float = 0.5
    reading: Reading | None = None
    epochs: int = 100
    batch_size: int = 1024
    optimizer: Optimizer = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    dropout: float = 0.1
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    augmentation: AugmentationName = "auto"
    seed: int = 0
    threads: int | None = None
    precision: PrecisionName = "float32"
    objective: Objective = "classification"
    views: int = 2
    momentum: float = 0.9
    nesterov: bool = False
    decays: Decays = "matrices"
    drops: tuple[tuple[float, float], ...] = ()
    steps_per_epoch: int = 100
    tasks: int = 1
    way: int = 5
    shot: int = 5
    query: int = 15
    episodic_head: EpisodicHead = "centroid"
    head_penalty: float | None = None
    head_scale: float = 1.0
    learned_scale: bool | None = None
    cosine_scale: float = 2.0
    mixup: float = 0.0
    drop_block: float = 0.0
    drop_block_size: int = 5
    drop_block_steps: int = 40_000
    teacher: str | None = None
    teacher_weights: str | None = None
    temperature: float = 4.0
    soft_share: float = 0.5
    stop_gradient: StopGradient = "none"
    anchors: Anchors = "mean"
    dropout_place: DropoutPlace = "head"
    inner_steps: int = 5
    inner_learning_rate: float = 0.01
    first_order: bool = False
    inner_statistics: Statistics = "batch"
    train_share: float = 1.0
    validation_share: float = 0.0
    kept_epoch: KeptEpoch = "last"
    ema: float = 0.0
    layer_decay: float = 1.0
    tune: str = "all"

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UnknownNameError: the loss is not known; a plug-in's loss is looked up only to train with it.
            StudyError: a value is out of its range, or the loss has no such reading or setting.
        """
        from fewshot_bench.losses import extra_settings, other_reading

        for setting in fields(self):
            value, kind = getattr(self, setting.name), str(setting.type)
            is_missing = value is None and kind.endswith("None")
            if kind.partition(" ")[0] in ("int", "float") and not is_missing:
                self._expect(isinstance(value, int | float), setting.name, "a number")
            if kind.partition(" ")[0] == "str" and not is_missing:
                self._expect(isinstance(value, str), setting.name, "text")
            if kind.startswith("tuple"):
                are_pairs = isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) for pair in value)
                self._expect(are_pairs, setting.name, "a list of pairs")
        object.__setattr__(self, "reading", other_reading(self.loss, self.reading))
        extra_settings(self.loss, stop_gradient=self.stop_gradient, anchors=self.anchors)
        self._expect(self.epochs >= 1, "epochs", "1 or more")
        self._expect(abs(self.seed) < 1 << 63, "seed", "a whole number of 64 bits")
        self._expect(self.batch_size >= 2, "batch_size", "2 or more, since a contrast needs two images")
        self._expect(0 < self.learning_rate <= 1e30, "learning_rate", "positive, and at most 1e30")
        self._expect(0 <= self.weight_decay <= 1e30, "weight_decay", "0 or more, and at most 1e30")
        self._expect(0 <= self.dropout < 1, "dropout", "at least 0 and less than 1")
        self._expect(self.threads is None or self.threads >= 1, "threads", "1 or more")
        self._expect(0 <= self.lambda_ <= 1, "lambda_", "between 0 and 1")
        self._expect(0 < self.tau <= 1e30, "tau", "positive, and at most 1e30")
        refuse_unknown_choices(asdict(self))
        self._expect(0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and less than 1")
        self._expect(
            0 <= self.warmup_epochs < self.epochs, "warmup_epochs", f"from 0 to less than {self.epochs} epochs"
        )
        self._expect(
            not self.warmup_epochs or self.schedule != "one-cycle",
            "warmup_epochs",
            "0 with the schedule one-cycle, which has a warm-up of its own",
        )
        self._check_optimisation()
        self._check_tasks()
        self._check_classification()
        self._check_whole_datasets()

    def _check_whole_datasets(self) -> None:
        self._expect(0 < self.train_share <= 1, "train_share", "above 0 and at most 1")
        self._expect(0 <= self.validation_share <= 0.5, "validation_share", "from 0 to 0.5")
        self._expect(0 <= self.ema < 1, "ema", "at least 0 and less than 1")
        self._expect(0 < self.layer_decay <= 1, "layer_decay", "above 0 and at most 1")
        is_right = self.tune == "all" or re.fullmatch(r"last:[1-9]\d{0,3}", self.tune) is not None
        self._expect(is_right, "tune", "all or last:N")
        is_right = self.layer_decay == 1 or self.precision != "fp16"
        self._expect(is_right, "layer_decay", "1 with the precision fp16")
        if self.learns_from_tasks:
            for name in ("train_share", "validation_share", "tune"):
                default = type(self).__dataclass_fields__[name].default
                self._expect(getattr(self, name) == default, name, f"{default}: this objective learns from tasks")

    @property
    def tuned_blocks(self) -> int | None:
        """The number of last blocks that are trained; None for the whole network."""
        return None if self.tune == "all" else int(self.tune.removeprefix("last:"))

    @property
    def divides_images(self) -> bool:
        """Whether only some of the images of a split are learned from."""
        return self.train_share < 1 or self.validation_share > 0

    def learned_images(self, split_images: int) -> int:
        """About how many images are learned from, of a split of that many; `division.divided` says exactly which."""
        return max(1, round(split_images * (1 - self.validation_share) * self.train_share))

    def _check_optimisation(self) -> None:
        drops = tuple((float(epoch), float(share)) for epoch, share in self.drops)  # JSON and TOML have lists
        object.__setattr__(self, "drops", drops)
        epochs = [epoch for epoch, _ in drops]
        are_right = epochs == sorted(set(epochs)) and all(0 < epoch <= 1e9 and 0 < share <= 1 for epoch, share in drops)
        self._expect(are_right, "drops", "pairs of an epoch, in order, and a share above 0 and at most 1")
        if self.schedule != "cosine" or self.warmup_epochs:
            is_right = bool(drops) == (self.schedule == "steps")
            self._expect(is_right, "drops", "given with the schedule steps, or with a cosine without warm-up")
        self._expect(not self.warmup_epochs or self.schedule != "steps", "warmup_epochs", "0 with the schedule steps")
        self._expect(self.views in (1, 2), "views", "1 or 2")
        self._expect(0 <= self.momentum < 1, "momentum", "at least 0 and less than 1")
        self._expect(not self.nesterov or self.momentum > 0, "nesterov", "false without momentum")

    def _check_tasks(self) -> None:
        for name in ("steps_per_epoch", "tasks", "shot", "query", "inner_steps"):
            self._expect(getattr(self, name) >= 1, name, "1 or more")
        self._expect(self.way >= 2, "way", "2 or more")
        self._expect(0 < self.inner_learning_rate <= 1e30, "inner_learning_rate", "positive, and at most 1e30")
        has_penalty = self.episodic_head in ("ridge", "svm")
        expectation = "positive, and at most 1e30" if has_penalty else f"None with the head {self.episodic_head}"
        is_right = self.head_penalty is None or (has_penalty and 0 < self.head_penalty <= 1e30)
        self._expect(is_right, "head_penalty", expectation)
        self._expect(0 < self.head_scale <= 1e30, "head_scale", "positive, and at most 1e30")
        # A scale of the cosines changes predictions, so evaluation has to know it.
        is_right = not self.learned_scale or self.episodic_head != "matching"
        self._expect(is_right, "learned_scale", "false with the head matching")

    def _check_classification(self) -> None:
        self._expect(0 < self.cosine_scale <= 1e6, "cosine_scale", "positive, and at most 1e6")
        self._expect(0 <= self.mixup <= 1e6, "mixup", "0 or more, and at most 1e6")
        self._expect(0 <= self.drop_block < 1, "drop_block", "at least 0 and less than 1")
        self._expect(self.drop_block_size >= 1, "drop_block_size", "1 or more")
        self._expect(self.drop_block_steps >= 1, "drop_block_steps", "1 or more")
        self._expect(0 < self.temperature <= 1e6, "temperature", "positive, and at most 1e6")
        self._expect(0 <= self.soft_share <= 1, "soft_share", "between 0 and 1")
        has_right_teacher = (self.teacher is not None) == (self.objective == "distillation")
        self._expect(has_right_teacher, "teacher", "given with the objective distillation, and only then")

    @property
    def learns_from_tasks(self) -> bool:
        """Whether a step takes tasks instead of a batch of images."""
        return self.objective in ("episodic", "maml", "anil", "meta-sgd")

    @property
    def learns_by_gradient_steps(self) -> bool:
        """Whether the loss of a task comes after gradient steps on its support set."""
        return self.objective in ("maml", "anil", "meta-sgd")

    @property
    def is_contrastive(self) -> bool:
        """Whether the loss has a contrastive term; assumed of a plug-in's loss that does not say."""
        from fewshot_bench.losses import LOSSES

        return bool(LOSSES[self.loss].facts.get("is_contrastive", True)) if self.loss in LOSSES else True

    @property
    def images_per_task(self) -> int:
        """Support and query images of a task."""
        return self.way * (self.shot + self.query)

    @property
    def least_images_at_once(self) -> int:
        """The smallest micro-batch: tasks are computed whole."""
        return self.images_per_task if self.learns_from_tasks else 1

    def images_per_step(self, split_images: int) -> int:
        """Images of a step, each in `views` views, on a split of that many images."""
        if self.learns_from_tasks:
            return self.tasks * self.images_per_task
        return min(self.batch_size, self.learned_images(split_images))

    def images_per_epoch(self, split_images: int) -> int:
        """Images that the steps of an epoch take, on a split of that many images."""
        if self.learns_from_tasks:
            return self.steps_per_epoch * self.images_per_step(split_images)
        return self.learned_images(split_images)

    def _expect(self, is_right: bool, name: str, expectation: str) -> None:
        if not is_right:
            raise StudyError(_refusal(name, expectation, getattr(self, name)))

    def hyper_parameters(self) -> dict[str, Any]:
        """Everything that affects the result; a loss without a contrastive term has no lambda, tau or reading.

        Fields added after the first release are left out at their defaults, so old fingerprints hold.
        """
        later = {field.name: field.default for field in fields(self) if field.name in _LATER_FIELDS}
        values = {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}
        from fewshot_bench.losses import reading_of

        if not self.is_contrastive:
            values = {name: value for name, value in values.items() if name not in ("lambda_", "tau", "reading")}
        else:
            values["reading"] = reading_of(self.loss, self.reading)
        return values

    def changes_from(self, other: Recipe) -> dict[str, Any]:
        """The recorded settings that differ from those of another recipe, apart from the loss.

        A teacher counts by its name: the digest of its weights is not one that a person reads.
        """
        theirs = asdict(other) | other.hyper_parameters()
        unnamed = ("loss", "teacher_weights")
        # A later field of the other recipe that is at its default here is recorded there only.
        recorded = {name: getattr(self, name) for name in _LATER_FIELDS} | self.hyper_parameters()
        return {name: value for name, value in recorded.items() if value != theirs[name] and name not in unnamed}

    @classmethod
    def from_hyper_parameters(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe with recorded `hyper_parameters`; raises StudyError if one is invalid or unknown."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise StudyError(f"a training on the base split has no setting '{unknown[0]}'.")
        return cls(**values)


_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "augmentation": get_args(AugmentationName),
    "precision": get_args(PrecisionName),
    "objective": get_args(Objective),
    "decays": get_args(Decays),
    "dropout_place": get_args(DropoutPlace),
    "episodic_head": get_args(EpisodicHead),
    "inner_statistics": get_args(Statistics),
    "kept_epoch": get_args(KeptEpoch),
}


def refuse_unknown_choices(settings: Mapping[str, Any]) -> None:
    """Check the settings of a recipe that are one of several words, without torch.

    Args:
        settings: any of a recipe's; None is not checked.

    Raises:
        StudyError: a setting is another word.
    """
    for name, choices in _CHOICES.items():
        value = settings.get(name)
        if value is not None and value not in choices:
            raise StudyError(_refusal(name, f"one of {', '.join(choices)}", value))


_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "true or false"),
}
"""Types of values by the annotation of a field, and in words; all other fields but `drops` are words."""


def refuse_wrong_types(settings: Mapping[str, Any]) -> None:
    """Check that the settings of a file are numbers, words and pairs where a recipe has them; None is not checked.

    Raises:
        StudyError: a setting has another type.
    """
    for field in fields(Recipe):
        value, kind = settings.get(field.name), str(field.type).partition(" | ")[0]
        if value is None:
            continue
        if field.name == "drops":
            is_right, expectation = _are_pairs(value), "pairs of an epoch and a share, such as [[60, 0.1], [80, 0.01]]"
        else:
            types, expectation = _KINDS.get(kind, (str, "a word"))
            is_right = isinstance(value, types) and isinstance(value, bool) == (kind == "bool")
        if not is_right:
            raise StudyError(_refusal(field.name, expectation, repr(value)))


def _are_pairs(value: Any) -> bool:
    pairs = value if isinstance(value, list | tuple) else (value,)
    numbers = [pair for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2]
    types = {type(number) for pair in numbers for number in pair}
    return len(numbers) == len(pairs) and types <= {int, float}


def _refusal(name: str, expectation: str, value: Any) -> str:
    return f"{name} of a training on the base split should be {expectation}, not {value}."


_Condition = tuple[str, Callable[[Recipe], bool]]

_OF_TASKS: _Condition = ("the objectives episodic, maml, anil and meta-sgd", lambda recipe: recipe.learns_from_tasks)
_OF_CLASSIFIERS: _Condition = (
    "the objectives classification, cosine and distillation",
    lambda recipe: not recipe.learns_from_tasks,
)
_OF_GRADIENT_STEPS: _Condition = (
    "the objectives maml, anil and meta-sgd",
    lambda recipe: recipe.learns_by_gradient_steps,
)
_OF_EPISODIC: _Condition = ("the objective episodic", lambda recipe: recipe.objective == "episodic")
_OF_DISTILLATION: _Condition = ("the objective distillation", lambda recipe: recipe.objective == "distillation")
_OF_CONTRASTS: _Condition = ("losses with a contrastive term, such as ce+schane", lambda recipe: recipe.is_contrastive)
_OF_SGD: _Condition = ("the optimizer sgd", lambda recipe: recipe.optimizer == "sgd")
_OF_DROPOUT: _Condition = (
    "the objectives classification, cosine and distillation, and to episodic with dropout_place=network",
    lambda recipe: (
        not recipe.learns_from_tasks or (recipe.objective == "episodic" and recipe.dropout_place == "network")
    ),
)
_OF_DROP_BLOCK: _Condition = ("a drop_block above 0", lambda recipe: recipe.drop_block > 0)

_CONDITIONS: dict[str, _Condition] = {
    "lambda_": _OF_CONTRASTS,
    "tau": _OF_CONTRASTS,
    "batch_size": _OF_CLASSIFIERS,
    "dropout": _OF_DROPOUT,
    "dropout_place": _OF_DROPOUT,
    "momentum": _OF_SGD,
    "nesterov": _OF_SGD,
    "decays": ("a weight_decay above 0", lambda recipe: recipe.weight_decay > 0),
    "drops": ("a training of more epochs", lambda recipe: all(epoch < recipe.epochs for epoch, _ in recipe.drops)),
    "steps_per_epoch": _OF_TASKS,
    "tasks": _OF_TASKS,
    "way": _OF_TASKS,
    "shot": _OF_TASKS,
    "query": _OF_TASKS,
    "episodic_head": _OF_EPISODIC,
    "head_penalty": _OF_EPISODIC,
    "head_scale": _OF_EPISODIC,
    "learned_scale": _OF_EPISODIC,
    "cosine_scale": ("the objective cosine", lambda recipe: recipe.objective == "cosine"),
    "mixup": _OF_CLASSIFIERS,
    "drop_block": (
        "the objectives classification, cosine, distillation and episodic",
        lambda recipe: not recipe.learns_by_gradient_steps,
    ),
    "drop_block_size": _OF_DROP_BLOCK,
    "drop_block_steps": _OF_DROP_BLOCK,
    "temperature": _OF_DISTILLATION,
    "soft_share": _OF_DISTILLATION,
    "inner_steps": _OF_GRADIENT_STEPS,
    "inner_learning_rate": _OF_GRADIENT_STEPS,
    "first_order": _OF_GRADIENT_STEPS,
    "inner_statistics": _OF_GRADIENT_STEPS,
}
"""What a field belongs to, in words, and whether a recipe has that; all other fields act on every training."""

_SWITCHES = frozenset({"dropout", "nesterov", "drops", "learned_scale", "mixup", "drop_block", "first_order"})
"""Fields that may be switched off where they have no effect."""


def refuse_settings_without_effect(settings: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse settings that change nothing but the name of a training.

    Args:
        settings: as a user gave them; None was not given.
        recipe: of the training, with these settings.

    Raises:
        StudyError: a setting has no effect.
    """
    for name, (owner, has_effect) in _CONDITIONS.items():
        value = settings.get(name)
        is_off = name in _SWITCHES and not value
        if value is not None and not is_off and not has_effect(recipe):
            raise StudyError(f"{name.rstrip('_')} has no effect on this training: it belongs to {owner}. Leave it out.")


DERIVED_FIELDS = frozenset({"teacher_weights"})
"""Fields that a training fills in, so that no file or option sets them."""

_LATER_FIELDS = (
    "warmup_epochs", "label_smoothing", "precision", "objective", "views", "momentum", "nesterov", "decays", "drops",
    "steps_per_epoch", "tasks", "way", "shot", "query", "episodic_head", "head_penalty",
    "head_scale", "learned_scale",
    "cosine_scale", "mixup", "drop_block", "drop_block_size", "drop_block_steps",
    "teacher", "teacher_weights", "temperature", "soft_share",
    "stop_gradient", "anchors", "dropout_place",
    "inner_steps", "inner_learning_rate", "first_order", "inner_statistics",
    "train_share", "validation_share", "kept_epoch", "ema", "layer_decay", "tune",
)  # fmt: skip
"""Fields that are recorded only where they differ from their default."""


def paper_recipe(loss: str, **changes: Any) -> Recipe:
    """For pretrained networks: the numbers of the SCHaNe paper, and this project's choices where it is silent.

    Args:
        loss: name of a loss.
        **changes: fields that should differ.
    """
    return replace(Recipe(loss=loss), **changes)


def scratch_recipe(loss: str, **changes: Any) -> Recipe:
    """A small network from its initialisation, on a few thousand small images, within half a minute on a CPU.

    128 images, thus 256 views, is the largest batch whose activations a CPU's allocator still reuses at 28 pixels and
    32 filters. One thread makes the weights the same on any number of cores, and never waits for a busy core.

    Learning rate, schedule and augmentation were chosen for the mean over CE and CE+SCHaNe on the validation split of
    glyphs. The warm-up of one-cycle makes CE+SCHaNe robust to the seed: without it the 1-shot accuracy of two seeds
    differed by 8 points, with it three stayed within 1.

    Args:
        loss: name of a loss.
        **changes: fields that should differ.
    """
    recipe = Recipe(loss=loss, epochs=12, batch_size=128, learning_rate=1e-2, schedule="one-cycle", threads=1)
    return replace(recipe, **changes)
