"""The method of a cell, made again from its recorded study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fewshot_bench.adaptation import Adaptation
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.classifier import Classifier
from fewshot_bench.outcomes import Cell, MethodCard
from fewshot_bench.progress import Progress
from fewshot_bench.study import Study
from fewshot_bench.study.classifiers import ClassifierSource
from fewshot_bench.study.execute import installed_versions
from fewshot_bench.study.execute import method_card as card_of
from fewshot_bench.study.methods import planned_adaptations
from fewshot_bench.study.provenance import hardware, source_commit
from fewshot_bench.study.stages import study_backbones

_OF_TRAINING = ("weights",)
_SHOWN = 3


@dataclass(frozen=True)
class Rebuilt:
    """A method that is the cell's by its fingerprint.

    Attributes:
        adaptation: what it does with each support set.
        classifier: the whole of it.
    """

    adaptation: Adaptation
    classifier: Classifier


@dataclass(frozen=True)
class Mismatch:
    """The nearest method that the recorded study gives.

    Attributes:
        text: in what it differs from the cell's.
        is_contradiction: whether the same code should have given the same method.
    """

    text: str
    is_contradiction: bool


def rebuild(cell: Cell, study: Study, dataset: Dataset, device: str, progress: Progress) -> Rebuilt | Mismatch:
    """Find the cell's method among those of a study, by its fingerprint.

    A base stage is trained unless its checkpoint is here, as `run` would.

    Args:
        cell: whose method.
        study: that made it.
        dataset: the images.
        device: a torch device.
        progress: shown the training and the embedding.

    Raises:
        FewshotBenchError: the study cannot be run here.
    """
    adaptations = planned_adaptations(study)
    study = study.model_copy(update={"dataset": dataset.name})
    nearest: list[str] | None = None
    for backbone, _, base in study_backbones(study, dataset, device, progress):
        for adaptation in adaptations:
            card = card_of(cell.method.name, backbone, base, adaptation)
            if card.fingerprint == cell.method.fingerprint:
                source = ClassifierSource(study, dataset, backbone, device, progress)
                return Rebuilt(adaptation, source(adaptation))
            differences = differences_of(cell.method, card)
            if nearest is None or len(differences) < len(nearest):
                nearest = differences
    names = [text.split(" ")[0] for text in nearest or []]
    is_contradiction = any(name not in _OF_TRAINING for name in names) and is_same_code(cell)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return Mismatch("; ".join((nearest or ["it has no method"])[:_SHOWN]) + more, is_contradiction)


def differences_of(stored: MethodCard, here: MethodCard) -> list[str]:
    """Everything in which two methods differ but for their names, e.g. "weights 0a.. here, 1b.. stored"."""
    mine, theirs = _flat(asdict(stored)), _flat(asdict(here))
    names = [name for name in sorted(mine.keys() | theirs.keys()) if name != "name"]
    return [
        f"{name} is {_short(theirs.get(name, 'absent'))} here and {_short(mine.get(name, 'absent'))} in the outcomes"
        for name in names
        if mine.get(name, "absent") != theirs.get(name, "absent")
    ]


def is_same_code(cell: Cell) -> bool:
    """Whether the outcomes were made by what is installed here."""
    return cell.versions == installed_versions() and cell.provenance.get("git_commit", "") == source_commit()


def is_same_machine(cell: Cell, device: str) -> bool:
    """Whether the outcomes were made by the same versions on the same kind of machine."""
    return cell.versions == installed_versions() and cell.provenance.get("hardware") == hardware(device)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
