"""The networks that a user trained: where they are, which there are, and how a study takes them up.

A network that was trained under a name: what it was trained on and how, and the network itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fewshot_bench._io.locations import checkpoints_folder
from fewshot_bench.backbones import Backbone, BackboneRequest, BaseHead, Preprocessing, known_backbone
from fewshot_bench.backbones.backbone import Interpolation
from fewshot_bench.backbones.pretraining import UNKNOWN, default_pretraining, then
from fewshot_bench.code_identity import what_changed
from fewshot_bench.datasets import Dataset
from fewshot_bench.errors import StudyError, UnknownNameError, WeightsError
from fewshot_bench.registry import Entry
from fewshot_bench.study.base_stage import base_stage_name
from fewshot_bench.study.methods import refuse_reading_without_effect, wants_base_head
from fewshot_bench.study.study import Study
from fewshot_bench.training import Recipe, checkpoint_metadata, load_network, paper_recipe, scratch_recipe

_FIRST = ("backbone", "dataset", "loss")
"""What others follow from: a change of these is named first."""


@dataclass(frozen=True, kw_only=True)
class CheckpointCard:
    """What is trained: everything that decides the weights, but for how it is computed.

    Attributes:
        backbone: name, as the user asked for it.
        channels: of the images it was made for.
        native_size: their side.
        image_size: side to resize to instead of the backbone's own, or None.
        interpolation: likewise.
        initial_weights: name of the file that the training started from, or None.
        is_pretrained: whether the network was more than an initialisation before.
        weights: digest of the weights that the training started from, or how they came about.
        preprocessing: of the backbone.
        recipe: hyper-parameters of the training.
        dataset: name of the dataset.
        base_split: fingerprint of the images that were trained on.
        selection: the validation episodes that chose the epoch; empty where it is the last.
        version: of the training's code.
        code: somebody's own code of the backbone and the loss, as plain data; empty where there is none.
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

    def __post_init__(self) -> None:
        # A round trip through JSON turns tuples into lists, so that a card equals itself after reading it back.
        for name in ("preprocessing", "recipe", "selection", "code"):
            object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name))))

    def as_json(self) -> str:
        """For the metadata of a file."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CheckpointCard:
        """Read what `as_json` wrote.

        Raises:
            ValueError, TypeError: it is no such text.
        """
        return cls(**json.loads(text))

    def difference(self, other: CheckpointCard) -> str:
        """The first thing in which another training differs, in words; empty where nothing does.

        Weights are what they hold, not what their file is called.
        """
        mine, theirs = (_flat({**asdict(card), "code": {}}) for card in (self, other))
        if self.weights == other.weights and None not in (self.initial_weights, other.initial_weights):
            theirs["initial_weights"] = mine["initial_weights"]
        for name in sorted(mine.keys() | theirs.keys(), key=lambda name: (name not in _FIRST, name)):
            if mine.get(name) != theirs.get(name):
                return f"{name.rstrip('_')} {_short(theirs.get(name))} instead of {_short(mine.get(name))}"
        for part in sorted(self.code.keys() | other.code.keys()):
            if self.code.get(part) != other.code.get(part):
                return f"other code of the {part} ({what_changed(self.code.get(part), other.code.get(part))})"
        return ""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network that was trained under a name.

    Attributes:
        name: what the user called it; `NAME.last` is the last epoch where another one was chosen.
        path: its weights, a safetensors file.
        card: what was trained.
        epoch: the one whose weights these are, from 1.
        accuracies: on the validation episodes, by name such as validation_1shot; empty where there were none.
        micro_batches: the sizes that its gradients were taken in, in the order in which they were used.
        computing: device, compilation and versions; recorded only.
        history: of the training.
    """

    name: str
    path: Path
    card: CheckpointCard
    epoch: int
    accuracies: dict[str, float]
    micro_batches: list[int]
    computing: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        """How it was trained."""
        return Recipe.from_hyper_parameters(self.card.recipe)

    def metadata(self) -> dict[str, str]:
        """What is written with the weights."""
        result = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("path", "card")}
        return {"card": self.card.as_json(), "result": json.dumps(result, sort_keys=True)}

    def facts(self) -> dict[str, Any]:
        """What `fewshot-bench ls checkpoints` says."""
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
        trained = f"{self.card.backbone}, base split of {self.card.dataset}, {self.card.recipe['loss']}"
        shots = {name: name.removeprefix("validation_").replace("shot", "-shot") for name in self.accuracies}
        scores = [f"{shots[name]} {value:.1%}" for name, value in self.accuracies.items()]
        validation = f"validation {', '.join(scores)}" if scores else "not validated"
        return f"{trained}, epoch {self.epoch} of {self.card.recipe['epochs']}, {validation}"

    def backbone(self) -> Backbone:
        """The network as it was trained, with the preprocessing it was trained with.

        Its `base_head` is the classifier of the training, where the file has one.

        Raises:
            WeightsError: the file is damaged, or the backbone is no longer what it was.
        """
        card = self.card
        # Its own weights are named in the request, so that no others are looked for.
        request = BackboneRequest(
            card.backbone, card.channels, card.native_size, card.image_size, card.interpolation, self.path
        )
        backbone = known_backbone(request)
        tensors, head, _ = load_network(self.path, backbone.embedding_size)
        try:
            backbone.network.load_state_dict(tensors)
        except RuntimeError as error:
            raise WeightsError(f"the checkpoint {self.name} does not fit {card.backbone} as it is today.") from error
        own = card.preprocessing
        preprocessing = Preprocessing(**{**own, "mean": tuple(own["mean"]), "std": tuple(own["std"])})
        return replace(
            backbone, preprocessing=preprocessing, is_pretrained=True, pretraining=self.pretraining, base_head=head
        )

    def backbone_and_head(self) -> tuple[Backbone, BaseHead]:
        """The network and the classifier of its training: together they give the logits of the base classes.

        Raises:
            WeightsError: see `backbone`; or the network was trained before the classifier was kept.
        """
        backbone = self.backbone()
        if backbone.base_head is None:
            raise WeightsError(
                f"the checkpoint {self.name} has no classifier of its base classes: it was trained before they were "
                f"kept. Train it again: fewshot-bench train ... --name {self.name} --fresh"
            )
        return backbone, backbone.base_head

    @property
    def pretraining(self) -> str:
        """What its weights have seen: where they started from, then the base split of its dataset."""
        start = ""
        if self.card.is_pretrained:
            start = default_pretraining(self.card.backbone) if self.card.initial_weights is None else UNKNOWN
        return then(start, f"base split of {self.card.dataset}")

    def stage(self, dataset: Dataset) -> tuple[str, dict[str, Any]]:
        """The base stage it stands for in a study of a dataset: its name, and its hyper-parameters."""
        recipe, card = self.recipe, self.card
        default = paper_recipe(recipe.loss) if card.is_pretrained else scratch_recipe(recipe.loss)
        elsewhere = {"dataset": card.dataset} if card.dataset != dataset.name else {}
        hyper_parameters = {
            **card.recipe,
            "dataset": card.dataset,
            "base_split": card.base_split,
            "selection": card.selection,
            "epoch": self.epoch,
            "micro_batches": self.micro_batches,
        }
        return base_stage_name(recipe, default, **elsewhere), hyper_parameters


def _short(value: Any) -> str:
    """A value in a sentence; of a digest the start."""
    text = str(value)
    return f"{text[:12]}..." if re.fullmatch(r"[0-9a-f]{32,}", text) else text


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one; the names of a recipe's settings stand for themselves."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value) if name == "recipe" else {f"{name} {inner}": kept for inner, kept in value.items()}
        else:
            flat[name] = value
    return flat


LAST = ".last"
_STATE = ".state"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def checkpoint_stages(
    study: Study, dataset: Dataset
) -> Iterator[tuple[Checkpoint, Backbone, dict[str, Any], str, dict[str, Any]]]:
    """The checkpoints of a study with their backbones, settings of these, base stages and hyper-parameters.

    Raises:
        StudyError: an option says otherwise what the checkpoint says already, or names a reading that no loss has.
        UnknownNameError: no checkpoint has that name.
        WeightsError: a checkpoint is damaged, or lacks the classifier of its training that a method needs.
    """
    names = study.checkpoints or ()
    given = [name for name in Study.fields_where("is_fixed_by_checkpoint") if getattr(study, name) is not None]
    if given:
        flag = Study.flag(given[0])
        raise StudyError(f"--checkpoint {','.join(names)} determines what {flag} would set. Leave one of the two out.")
    if not names:
        raise StudyError("--checkpoint names none. See: fewshot-bench ls checkpoints")
    refuse_reading_without_effect(study, ())
    for checkpoint in [read_checkpoint(name) for name in names]:
        backbone = checkpoint.backbone_and_head()[0] if wants_base_head(study) else checkpoint.backbone()
        start = checkpoint.card.initial_weights
        settings = dict(backbone.changes) | ({"weights": start} if start else {})
        yield checkpoint, backbone, settings, *checkpoint.stage(dataset)


def checkpoint_file(name: str) -> Path:
    """Where the weights of a name are.

    Raises:
        StudyError: it cannot be the name of a file.
    """
    if not _NAME.fullmatch(name) or name.endswith(_STATE):
        raise StudyError(
            f"a checkpoint's name should be of letters, digits, dots, plus, minus and underscores, not '{name}'."
        )
    return checkpoints_folder() / f"{name}.safetensors"


def state_file(name: str) -> Path:
    """Where the state of an unfinished training is."""
    return checkpoint_file(name).with_name(f"{name}{_STATE}.safetensors")


def read_checkpoint(name: str) -> Checkpoint:
    """What is known of a checkpoint, without its weights.

    Raises:
        UnknownNameError: there is none of that name.
        WeightsError: its file is damaged.
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
            f"{path} is no checkpoint of fewshot-bench train ({error}). Give it as --weights."
        ) from error


def read_card(path: Path) -> CheckpointCard:
    """What is being trained, from the state of its training.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        return CheckpointCard.from_json(checkpoint_metadata(path)["card"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is no state of a training ({error}). Delete it and train again.") from error


def progress_of(name: str) -> str:
    """How far an unfinished training is, e.g. "epoch 3 of 12"; "damaged" where its state cannot be read."""
    path = state_file(name)
    try:
        done = len(json.loads(checkpoint_metadata(path)["course"])["history"])
        return f"epoch {done} of {read_card(path).recipe['epochs']}"
    except (WeightsError, KeyError, TypeError, ValueError):
        return "damaged"


def finished_names() -> list[str]:
    """The checkpoints that `run` can use."""
    return sorted(name for name in _stems() if not name.endswith(_STATE))


def unfinished_names() -> list[str]:
    """Trainings that were stopped, or are under way."""
    return sorted(name.removesuffix(_STATE) for name in _stems() if name.endswith(_STATE))


def checkpoint_entries() -> list[Entry[None]]:
    """Everything that was trained or is being trained, for `fewshot-bench ls checkpoints`."""
    entries = []
    for name in finished_names():
        try:
            checkpoint = read_checkpoint(name)
            entries.append(Entry(name, None, checkpoint.summary(), checkpoint.facts()))
        except WeightsError as error:
            entries.append(Entry(name, None, f"damaged: {error}"))
    unfinished = unfinished_names()
    return entries + [Entry(name, None, f"not finished: {progress_of(name)}") for name in unfinished]


def _stems() -> list[str]:
    return [path.stem for path in checkpoints_folder().glob("*.safetensors") if not path.name.startswith(".")]
