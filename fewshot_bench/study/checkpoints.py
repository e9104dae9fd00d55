"""The networks that a user trained: where they are, which there are, and how a study takes them up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fewshot_bench.backbones import Backbone
from fewshot_bench.datasets import Dataset
from fewshot_bench.errors import StudyError, UnknownNameError, WeightsError
from fewshot_bench.paths import checkpoints_folder
from fewshot_bench.registry import Entry
from fewshot_bench.study.checkpoint import Checkpoint, CheckpointCard
from fewshot_bench.study.methods import refuse_reading_without_effect, wants_base_head
from fewshot_bench.study.study import Study
from fewshot_bench.training import checkpoint_metadata

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
    given = [option for option in SAID_BY_A_CHECKPOINT if getattr(study, option) is not None]
    if given:
        option = {"base_losses": "base-loss"}.get(given[0], given[0].replace("_", "-"))
        raise StudyError(f"--checkpoint {','.join(names)} says what --{option} would say. Leave one of the two out.")
    if not names:
        raise StudyError("--checkpoint names none. See: fewshot-bench ls checkpoints")
    refuse_reading_without_effect(study, ())
    for checkpoint in [read_checkpoint(name) for name in names]:
        backbone = checkpoint.backbone_and_head()[0] if wants_base_head(study) else checkpoint.backbone()
        start = checkpoint.card.initial_weights
        settings = dict(backbone.changes) | ({"weights": start} if start else {})
        yield checkpoint, backbone, settings, *checkpoint.stage(dataset)


SAID_BY_A_CHECKPOINT = (
    "backbone", "weights", "image_size", "interpolation", "base_losses", "base_epochs", "base_batch"
)  # fmt: skip


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
