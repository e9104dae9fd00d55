"""Checkpoints, which are networks that a user trained under a name, and the states of unfinished trainings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fewshot_bench._io.locations import checkpoints_folder
from fewshot_bench._io.notebooks import html_facts
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.backbones import Backbone, BackboneRequest, BaseHead, Preprocessing, TaskHead, known_backbone
from fewshot_bench.backbones.backbone import UNKNOWN, Interpolation, default_pretraining, then
from fewshot_bench.code_identity import what_changed
from fewshot_bench.datasets import Dataset
from fewshot_bench.errors import StudyError, UnknownNameError, WeightsError
from fewshot_bench.registry import Entry
from fewshot_bench.study.base_stage import EPOCHS_ON_WHOLE_DATASETS, base_stage_name, stage_name, whole_head
from fewshot_bench.study.known_names import finished_names
from fewshot_bench.study.methods import refuse_contrast_without_effect, wants_base_head, wants_task_head
from fewshot_bench.study.study import Study
from fewshot_bench.training import Recipe, checkpoint_metadata, load_network, paper_recipe, scratch_recipe

LAST = ".last"
_STATE = ".state"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_LATER_FIELDS: dict[str, Any] = {"named_recipe": {}, "teacher_pretraining": "", "split": "base", "division": ""}
"""Fields of a card that are recorded only where they differ from their default."""
_NAMED_FIRST = ("backbone", "dataset", "loss")
"""Fields that others follow from: their change is named first."""


@dataclass(frozen=True, kw_only=True)
class CheckpointCard:
    """Everything that decides the weights of a training, except the device and its memory.

    Attributes:
        backbone: name, as the user typed it.
        channels: of the images that the backbone was made for.
        native_size: their side in pixels.
        image_size: side to resize to instead of the backbone's own, or None.
        interpolation: to use instead of the backbone's own, or None.
        initial_weights: name of the file that the training started from, or None.
        is_pretrained: whether the training started from pretrained weights.
        weights: digest of the weights that the training started from, or how they were initialised.
        preprocessing: of the backbone.
        recipe: hyper-parameters of the training.
        dataset: name of the dataset.
        base_split: fingerprint of the training images.
        selection: the validation episodes that chose the epoch; empty if the last was taken.
        version: of the training's code.
        code: records of the user's own backbone and loss; empty if there are none.
        named_recipe: name of the recipe, and the settings that differ from it; empty if it has no name.
        teacher_pretraining: the data that the teacher of a distillation has seen beside the base split.
        split: that was trained on.
        division: digest of its images for training and for validation; empty if all were for training.
    """

    backbone: str
    channels: int
    native_size: int
    image_size: int | None
    interpolation: Interpolation | None
    initial_weights: str | None
    is_pretrained: bool
    weights: str
    preprocessing: dict[str, Any]
    recipe: dict[str, Any]
    dataset: str
    base_split: str
    selection: dict[str, Any]
    version: int
    code: dict[str, Any] = field(default_factory=dict)
    named_recipe: dict[str, Any] = field(default_factory=dict)
    teacher_pretraining: str = ""
    split: str = "base"
    division: str = ""

    def __post_init__(self) -> None:
        # JSON turns tuples into lists; converted now, a card equals itself after reading it back.
        for name in ("preprocessing", "recipe", "selection", "code", "named_recipe"):
            object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name))))

    def as_json(self) -> str:
        """The card as text, for the metadata of a file."""
        values = asdict(self)
        for name, default in _LATER_FIELDS.items():  # cards without them stay the same
            if values[name] == default:
                del values[name]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CheckpointCard:
        """Read what `as_json` wrote.

        Raises:
            ValueError, TypeError: the text is something else.
        """
        return cls(**json.loads(text))

    def difference(self, other: CheckpointCard) -> str:
        """The first difference of another training, in words; empty if none. Names of weight files do not count."""
        mine, theirs = (_flat({**asdict(card), "code": {}}) for card in (self, other))
        if self.weights == other.weights and None not in (self.initial_weights, other.initial_weights):
            theirs["initial_weights"] = mine["initial_weights"]
        for name in sorted(mine.keys() | theirs.keys(), key=lambda name: (name not in _NAMED_FIRST, name)):
            if mine.get(name) != theirs.get(name):
                return f"{name.rstrip('_')} {_short(theirs.get(name))} instead of {_short(mine.get(name))}"
        for part in sorted(self.code.keys() | other.code.keys()):
            if self.code.get(part) != other.code.get(part):
                return f"other code of the {part} ({what_changed(self.code.get(part), other.code.get(part))})"
        return ""


@dataclass(frozen=True, kw_only=True, repr=False)
class Checkpoint:
    """A network that was trained under a name.

    Attributes:
        name: chosen by the user; `NAME.last` is the network after the last epoch.
        path: its weights, a safetensors file.
        card: what was trained.
        epoch: of its weights, from 1.
        accuracies: on the validation episodes, by name such as validation_1shot; empty without a validation.
        micro_batches: the sizes used, in order.
        computing: device, compilation and versions, for the record.
        history: of the training.

    >>> import fewshot_bench as fb
    >>> checkpoint = fb.read_checkpoint("glyphs-conv4")  # doctest: +SKIP
    >>> checkpoint.epoch, checkpoint.recipe.loss, checkpoint.accuracies["validation_5shot"]  # doctest: +SKIP
    (2, 'ce', 0.6216)
    """

    name: str
    path: Path
    card: CheckpointCard
    epoch: int
    accuracies: dict[str, float]
    micro_batches: list[int]
    computing: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    def __repr__(self) -> str:
        measured = "".join(f", {name} {100 * accuracy:.2f}%" for name, accuracy in self.accuracies.items())
        return f"<Checkpoint: {self.name}, {self.card.backbone} on {self.card.dataset}, epoch {self.epoch}{measured}>"

    def _repr_html_(self) -> str:
        return html_facts(self.name, self.facts())

    @property
    def recipe(self) -> Recipe:
        """How it was trained."""
        return Recipe.from_hyper_parameters(self.card.recipe)

    def metadata(self) -> dict[str, str]:
        """The metadata of its file."""
        result = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("path", "card")}
        return {"card": self.card.as_json(), "result": json.dumps(result, sort_keys=True)}

    def facts(self) -> dict[str, Any]:
        """The columns of `fewshot-bench ls checkpoints`."""
        return {
            "backbone": self.card.backbone,
            "dataset": self.card.dataset,
            "loss": self.card.recipe["loss"],
            "epoch": self.epoch,
            "epochs": self.card.recipe["epochs"],
            **self.accuracies,
            "path": str(self.path),
        }

    def summary(self) -> str:
        """One line for people."""
        trained = f"{self.card.backbone}, {self.card.split} split of {self.card.dataset}, {self.card.recipe['loss']}"
        shots = {name: name.removeprefix("validation_").replace("shot", "-shot") for name in self.accuracies}
        scores = [f"{shots[name]} {value:.1%}" for name, value in self.accuracies.items()]
        validation = f"validation {', '.join(scores)}" if scores else "not validated"
        return f"{trained}, epoch {self.epoch} of {self.card.recipe['epochs']}, {validation}"

    def backbone(self) -> Backbone:
        """The trained network with its preprocessing, and the head of its training if the file has one.

        Raises:
            WeightsError: the file is damaged, or the backbone's code has changed.
        """
        card = self.card
        # The request names these weights, so that no others are looked for.
        request = BackboneRequest(
            card.backbone, card.channels, card.native_size, card.image_size, card.interpolation, self.path
        )
        backbone = known_backbone(request)
        tensors, head, _ = load_network(self.path, backbone.embedding_size)
        try:
            backbone.network.load_state_dict(tensors)
        except RuntimeError as error:
            raise WeightsError(f"the checkpoint {self.name} does not fit the present {card.backbone}.") from error
        own = card.preprocessing
        preprocessing = Preprocessing(**{**own, "mean": tuple(own["mean"]), "std": tuple(own["std"])})
        return replace(
            backbone,
            preprocessing=preprocessing,
            is_pretrained=True,
            pretraining=self.pretraining,
            base_head=head if isinstance(head, BaseHead) else None,
            task_head=head if isinstance(head, TaskHead) else None,
        )

    def backbone_and_head(self) -> tuple[Backbone, BaseHead]:
        """The network and its classifier, which together give the logits of the base classes.

        Raises:
            WeightsError: see `backbone`; or the file has no classifier.
        """
        backbone = self.backbone()
        if backbone.base_head is None and self.recipe.learns_from_tasks:
            raise WeightsError(
                f"the checkpoint {self.name} was trained on tasks, so it has no classifier of its base classes. Use "
                "one that was trained by classification, such as rfs-conv4."
            )
        if backbone.base_head is None:
            raise WeightsError(
                f"the checkpoint {self.name} has no classifier of its base classes: it was trained before they were "
                f"kept. Train it again: fewshot-bench train ... --name {self.name} --fresh"
            )
        return backbone, backbone.base_head

    @property
    def pretraining(self) -> str:
        """The data of its weights: what they started from, what a teacher has seen, then the base split."""
        start = ""
        if self.card.is_pretrained:
            start = default_pretraining(self.card.backbone) if self.card.initial_weights is None else UNKNOWN
        return then(start, self.card.teacher_pretraining, base_split_of(self.card.dataset, self.card.split))

    def stage(self, dataset: Dataset) -> tuple[str, dict[str, Any]]:
        """Its base stage in a study of a dataset: name and hyper-parameters."""
        recipe, card = self.recipe, self.card
        elsewhere = {"dataset": card.dataset} if card.dataset != dataset.name else {}
        default = paper_recipe(recipe.loss) if card.is_pretrained else scratch_recipe(recipe.loss)
        if card.split != "base":
            epochs = EPOCHS_ON_WHOLE_DATASETS if card.is_pretrained else default.epochs
            default = replace(default, epochs=epochs, validation_share=recipe.validation_share)
        if card.named_recipe:
            settings = card.named_recipe["changes"] | elsewhere
            return stage_name(card.named_recipe["name"], settings), self.hyper_parameters()
        return base_stage_name(recipe, default, **elsewhere), self.hyper_parameters()

    def hyper_parameters(self) -> dict[str, Any]:
        """What methods record of its training."""
        card = self.card
        values = {
            **card.recipe,
            "dataset": card.dataset,
            "base_split": card.base_split,
            "selection": card.selection,
            "epoch": self.epoch,
            "micro_batches": self.micro_batches,
        }
        if card.split != "base":
            values |= {"split": card.split, **({"division": card.division} if card.division else {})}
        return values


def base_split_of(dataset: str, split: str = "base") -> str:
    """The base split of a dataset, or its train split, as data that weights were trained on."""
    return f"{split} split of {dataset}"


def _short(value: Any) -> str:
    """A value in a sentence; digests are cut."""
    text = str(value)
    return f"{text[:12]}..." if re.fullmatch(r"[0-9a-f]{32,}", text) else text


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one; settings of the recipe keep their names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value) if name == "recipe" else {f"{name} {inner}": kept for inner, kept in value.items()}
        else:
            flat[name] = value
    return flat


def checkpoint_stages(
    study: Study, dataset: Dataset
) -> Iterator[tuple[Checkpoint, Backbone, dict[str, Any], str, dict[str, Any]]]:
    """The checkpoints of a study, with their backbones, the settings of these, base stages and hyper-parameters.

    Raises:
        StudyError: an option contradicts the checkpoint, names a reading that no loss has, or a method needs the head
            of another training or number of classes.
        UnknownNameError: no checkpoint has that name.
        WeightsError: a checkpoint is damaged, or lacks the classifier that a method needs.
    """
    names = study.checkpoints or ()
    given = [name for name in Study.fields_where("is_fixed_by_checkpoint") if getattr(study, name) is not None]
    if given:
        flag = Study.flag(given[0])
        raise StudyError(f"--checkpoint {','.join(names)} determines what {flag} would set. Leave one of the two out.")
    if not names:
        raise StudyError("--checkpoint names none. See: fewshot-bench ls checkpoints")
    refuse_contrast_without_effect(study, ())
    for checkpoint in [read_checkpoint(name) for name in names]:
        backbone = checkpoint.backbone_and_head()[0] if wants_base_head(study) else checkpoint.backbone()
        if study.is_whole and wants_base_head(study):
            whole_head(backbone, dataset.split(study.split))
        if wants_task_head(study):
            head = backbone.task_head
            refuse_other_tasks(f"the checkpoint {checkpoint.name}", None if head is None else head.way, study)
        start = checkpoint.card.initial_weights
        settings = dict(backbone.changes) | ({"weights": start} if start else {})
        yield checkpoint, backbone, settings, *checkpoint.stage(dataset)


def refuse_other_tasks(subject: str, way: int | None, study: Study) -> None:
    """Refuse a network whose training does not fit the method maml and the episodes of a study.

    Args:
        subject: the checkpoint or recipe, in words.
        way: of the tasks that it was trained for; None if it was not trained by gradient-based meta-learning.
        study: with the method maml.

    Raises:
        StudyError: it does not fit.
    """
    if way is None:
        raise StudyError(
            f"{subject} is not trained by gradient-based meta-learning, so maml has no head to start from. Use --adapt "
            "finetune, or a recipe such as maml-conv4."
        )
    if study.sampler == "varied":
        raise StudyError(
            f"{subject} is trained for {way}-way tasks, and maml classifies no others. Leave out --sampler varied."
        )
    if study.way != way:
        raise StudyError(f"{subject} is trained for {way}-way tasks, and maml classifies no others. Use --way {way}.")


def checkpoint_name(recipe: str, dataset: str, changes: Mapping[str, Any]) -> str:
    """The default name of the checkpoint of a named recipe, with the settings that are changed.

    >>> checkpoint_name("rfs-conv4", "cifar-fs", {"epochs": 3, "seed": None})
    'rfs-conv4-cifar-fs-epochs3'
    """
    given = {key.rstrip("_").replace("_", ""): value for key, value in changes.items() if value is not None}
    parts = [Path(recipe).stem if recipe.endswith(".toml") else recipe, Path(dataset).name or dataset]
    text = "-".join([*parts, *(f"{key}{given[key]}" for key in sorted(given))])
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")


def checkpoint_file(name: str) -> Path:
    """The file of a checkpoint's weights; raises StudyError if the name cannot be that of a file."""
    if not _NAME.fullmatch(name) or name.endswith(_STATE):
        raise StudyError(
            f"a checkpoint's name should be of letters, digits, dots, plus, minus and underscores, not '{name}'."
        )
    return checkpoints_folder() / f"{name}.safetensors"


def state_file(name: str) -> Path:
    """The file of an unfinished training's state."""
    return checkpoint_file(name).with_name(f"{name}{_STATE}.safetensors")


@checked_arguments
def read_checkpoint(name: str) -> Checkpoint:
    """A checkpoint by name, without its weights.

    Raises:
        UnknownNameError: no checkpoint has that name.
        WeightsError: its file is damaged.

    >>> import fewshot_bench as fb
    >>> fb.read_checkpoint("glyphs-conv4")  # doctest: +SKIP
    <Checkpoint: glyphs-conv4, conv4_32 on glyphs, epoch 2, validation_1shot 47.71%, validation_5shot 62.16%>
    """
    path = checkpoint_file(name)
    if not path.is_file():
        hint = f"(its training is not finished: {progress_of(name)})" if state_file(name).is_file() else ""
        known = finished_names()
        raise UnknownNameError("checkpoint", name, known, hint or "See: fewshot-bench train --help")
    metadata = checkpoint_metadata(path)
    try:
        card = CheckpointCard.from_json(metadata["card"])
        return Checkpoint(**{**json.loads(metadata["result"]), "name": name}, path=path, card=card)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a checkpoint of fewshot-bench train ({error}). Give it as --weights."
        ) from error


def read_card(path: Path) -> CheckpointCard:
    """The card in the state of an unfinished training; raises WeightsError if the file is damaged."""
    try:
        return CheckpointCard.from_json(checkpoint_metadata(path)["card"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is not the state of a training ({error}). Delete it and train again.") from error


def progress_of(name: str) -> str:
    """The progress of an unfinished training, e.g. "epoch 3 of 12"; "damaged" if its state cannot be read."""
    path = state_file(name)
    try:
        done = len(json.loads(checkpoint_metadata(path)["course"])["history"])
        return f"epoch {done} of {read_card(path).recipe['epochs']}"
    except (WeightsError, KeyError, TypeError, ValueError):
        return "damaged"


def unfinished_names() -> list[str]:
    """The names of trainings that were stopped or are running."""
    paths = [path for path in checkpoints_folder().glob(f"*{_STATE}.safetensors") if not path.name.startswith(".")]
    return sorted(path.stem.removesuffix(_STATE) for path in paths)


def checkpoint_entries() -> list[Entry[None]]:
    """The checkpoints and the unfinished trainings, for `fewshot-bench ls checkpoints`."""
    entries = []
    for name in finished_names():
        try:
            checkpoint = read_checkpoint(name)
            entries.append(Entry(name, None, checkpoint.summary(), checkpoint.facts()))
        except WeightsError as error:
            entries.append(Entry(name, None, f"damaged: {error}"))
    unfinished = unfinished_names()
    return entries + [Entry(name, None, f"not finished: {progress_of(name)}") for name in unfinished]
