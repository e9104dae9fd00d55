"""The method of a cell, made again from its recorded study.

What a recorded study says otherwise than the method it is recorded with, seen before anything is made of it.

The recorded study, which a stranger may have written: only known fields, and nothing that would be executed.

What somebody brings along to run a stored method again, which the record itself may not decide.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from fewshot_bench._io.versions import installed_versions
from fewshot_bench.adaptation import Adaptation
from fewshot_bench.backbones import Backbone
from fewshot_bench.code_identity import what_changed
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.classify import Classifier
from fewshot_bench.engine.local import LocalEngine
from fewshot_bench.errors import FewshotBenchError, WeightsError
from fewshot_bench.outcomes import Cell, MethodCard
from fewshot_bench.outcomes.manifest import environments_of
from fewshot_bench.progress import Progress
from fewshot_bench.study import Study
from fewshot_bench.study.methods import planned_adaptations
from fewshot_bench.study.networks import PlannedStage, backbone_of_hub, planned_stages
from fewshot_bench.study.planned_methods import method_card as card_of
from fewshot_bench.study.planned_methods import uses_base_head
from fewshot_bench.study.provenance import hardware, source_commit
from fewshot_bench.study.workers import ClassifierSource, OnEmbeddings, OnImages

if TYPE_CHECKING:
    from fewshot_bench.study import Study

_OF_THE_STUDY = {"base_epochs": "epochs", "base_batch": "batch_size"}
"""Fields that a base stage takes as they are, whichever version runs it, and what it calls them."""


def contradictions(cell: Cell, study: Study) -> list[str]:
    """Where the study itself says otherwise than the method, whichever version of this project made it.

    Nothing is trained, fetched or imported for it.

    Args:
        cell: whose method.
        study: that is recorded with it.

    Returns:
        Each in words; empty where there is none.
    """
    return list(_contradictions(cell.method, study))


def _contradictions(card: MethodCard, study: Study) -> Iterator[str]:
    named = backbone_of_hub(study)
    if named not in (None, card.backbone):
        yield told("backbone", named, card.backbone)
    base = card.hyper_parameters.get("base")
    if study.checkpoints is not None or not isinstance(base, Mapping) or not base:
        return
    for option, setting in _OF_THE_STUDY.items():
        said = getattr(study, option)
        if said is not None and base.get(setting) != said:
            yield told(f"hyper_parameters.base.{setting}", said, base.get(setting, "absent"))


def differences_of_adaptations(stored: MethodCard, adaptations: Sequence[Adaptation]) -> list[str]:
    """In what the nearest adaptation of a study differs from that of a method; empty where one is the same.

    Args:
        stored: the method.
        adaptations: of the study.
    """
    settings = stored.hyper_parameters
    cards = [
        replace(
            stored,
            adaptation=adaptation.name,
            hyper_parameters={**settings, "adaptation": adaptation.hyper_parameters()},
            is_transductive=adaptation.is_transductive,
            assumes_balanced_queries=adaptation.assumes_balanced_queries,
        )
        for adaptation in adaptations
    ]
    return min((differences_of(stored, card) for card in cards), key=len, default=["it has no method"])


def differences_of(stored: MethodCard, here: MethodCard) -> list[str]:
    """Everything in which two methods differ but for their names, e.g. "weights is 0a.. here and 1b.. in ..."."""
    mine, theirs = (_flat({**asdict(card), "code": {}}) for card in (stored, here))
    names = [name for name in sorted(mine.keys() | theirs.keys()) if name != "name"]
    return differences_of_code(stored, here) + [
        told(name, theirs.get(name, "absent"), mine.get(name, "absent"))
        for name in names
        if mine.get(name, "absent") != theirs.get(name, "absent")
    ]


def differences_of_code(stored: MethodCard, here: MethodCard) -> list[str]:
    """The parts of a method whose code here is not that which made the outcomes, in words that begin with "code"."""
    return [
        f"code of the {part} here is not that which made the outcomes ({what_changed(stored.code.get(part), now)})"
        for part in sorted(stored.code.keys() | here.code.keys())
        if (now := here.code.get(part)) != stored.code.get(part)
    ]


def told(name: str, here: Any, stored: Any) -> str:
    """One difference in words.

    Args:
        name: of the setting.
        here: as the study has it.
        stored: as the outcomes have it.
    """
    return f"{name} is {_short(here)} here and {_short(stored)} in the outcomes"


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


_BASE_HEAD = "hyper_parameters.base_head"
_OF_TRAINING = ("weights", _BASE_HEAD)
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """A method that is the cell's by its fingerprint; or but for the weights, where those may be others.

    Attributes:
        card: its description.
        backbone: with its weights.
        adaptation: what it does with each support set.
        recipe: makes its classifier.
        device: of the classifier.
    """

    card: MethodCard
    backbone: Backbone
    adaptation: Adaptation
    recipe: OnEmbeddings | OnImages
    device: str

    @cached_property
    def classifier(self) -> Classifier:
        """The whole of it."""
        return self.recipe(self.device)


@dataclass(frozen=True)
class Mismatch:
    """The nearest method that the recorded study gives.

    Attributes:
        text: in what it differs from the cell's.
        is_contradiction: whether the same code should have given the same method.
        is_of_training: whether nothing but the weights that a training gave differs.
    """

    text: str
    is_contradiction: bool
    is_of_training: bool = False


def rebuild(
    cell: Cell,
    study: Study,
    dataset: Dataset,
    device: str,
    progress: Progress,
    *,
    downloads: bool = False,
    takes_trained: bool = False,
) -> Rebuilt | Mismatch:
    """Find the cell's method among those of a study, by its fingerprint.

    What the record says is compared first: only a study that can give the method has weights fetched for it, and only a
    base stage that differs from the cell's in nothing but its weights is trained, unless its checkpoint is here.

    Args:
        cell: whose method.
        study: that made it.
        dataset: the images.
        device: a torch device.
        progress: shown the training and the embedding.
        downloads: whether weights may be fetched from a model hub.
        takes_trained: whether a base stage may be taken that was trained here and gave other weights.

    Raises:
        FewshotBenchError: the study cannot be run here.
    """
    study = study.model_copy(update={"dataset": dataset.name})
    contradicted = contradictions(cell, study)
    if contradicted:
        return Mismatch(_listed(contradicted), True)
    adaptations = planned_adaptations(study)
    differences = differences_of_adaptations(cell.method, adaptations)
    if differences:
        return _mismatch(cell, differences)
    hub = backbone_of_hub(study)
    if hub is not None and not downloads:
        raise WeightsError(f"the weights of {hub} come from a model hub, which is asked only with --download")
    nearest: list[str] | None = None
    for stage in planned_stages(study, dataset):
        for adaptation in adaptations:
            found = _of_stage(cell, study, dataset, stage, adaptation, device, progress, takes_trained)
            if isinstance(found, Rebuilt):
                return found
            if nearest is None or len(found) < len(nearest):
                nearest = found
    return _mismatch(cell, nearest or ["it has no method"])


def _of_stage(
    cell: Cell,
    study: Study,
    dataset: Dataset,
    stage: PlannedStage,
    adaptation: Adaptation,
    device: str,
    progress: Progress,
    takes_trained: bool,
) -> Rebuilt | list[str]:
    """The cell's method, if one base stage and one adaptation give it; otherwise in what theirs differs."""
    name = cell.method.name
    planned = differences_of(cell.method, card_of(name, stage.backbone, stage.base, adaptation))
    of_training = set(_OF_TRAINING) if uses_base_head(adaptation) else set(_OF_TRAINING) - {_BASE_HEAD}
    known = [text for text in planned if stage.recipe is None or _subject(text) not in of_training]
    if known:
        return known
    backbone = stage.done(dataset, LocalEngine(device), progress)
    card = card_of(name, backbone, stage.base, adaptation)
    if card.fingerprint != cell.method.fingerprint and not takes_trained:
        return differences_of(cell.method, card)
    source = ClassifierSource(study, dataset, backbone, device, progress)
    return Rebuilt(card, backbone, adaptation, source.recipe(adaptation), device)


def _mismatch(cell: Cell, differences: Sequence[str]) -> Mismatch:
    # A method that has no base head here was not trained otherwise: it is another one.
    subjects = {"another method" if " is absent here" in text else _subject(text) for text in differences}
    of_more = bool(subjects - set(_OF_TRAINING)) and "code" not in subjects  # which is not this project's
    return Mismatch(_listed(differences), of_more and is_same_code(cell), is_of_training=not of_more)


def _subject(difference: str) -> str:
    return difference.split(" ")[0]


def _listed(differences: Sequence[str]) -> str:
    more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    return "; ".join(differences[:_SHOWN]) + more


def is_same_code(cell: Cell) -> bool:
    """Whether all outcomes were made by what is installed here."""
    commits = {environment.get("git_commit", "") for environment in environments_of(cell)}
    return cell.versions == installed_versions() and commits == {source_commit()}


def is_same_machine(cell: Cell, device: str) -> bool:
    """Whether all outcomes were made by the same versions on the same kind of machine."""
    here = hardware(device)
    return cell.versions == installed_versions() and all(
        place.get("hardware") == here for place in environments_of(cell)
    )


@dataclass(frozen=True)
class StudyRecord:
    """The study that a cell records.

    Attributes:
        study: as it can be run again; None where it cannot.
        reason: why not.
        renamed: that the weights have another name than in the record, in words; empty where they have the same. What
            they hold decides whether they are those of the method.
    """

    study: Study | None
    reason: str = ""
    renamed: str = ""


def recorded_study(cell: Cell, *, weights: Path | None, trusts_code: bool) -> StudyRecord:
    """The study that made a cell, cut down to the one method of the cell.

    Args:
        cell: with its provenance.
        weights: the auditor's copy of the file of weights, which the record only names.
        trusts_code: whether what is named `module:callable` may be imported.
    """
    from pydantic import ValidationError

    from fewshot_bench.study import Study
    from fewshot_bench.study.admission import admit_checkpoints, admit_fields

    record = cell.provenance.get("study")
    if not isinstance(record, Mapping):
        return StudyRecord(None, "the outcomes do not record the study that made them")
    try:
        study = Study.model_validate({**record, **_of_this_cell(cell, record)})
    except ValidationError as error:
        first = error.errors()[0]
        return StudyRecord(None, f"the recorded study is none: {'.'.join(map(str, first['loc']))}: {first['msg']}")
    if trusts_code:
        try:
            admit_fields(study.model_dump(exclude={"dataset"}))  # images are those that are here
            admit_checkpoints(study.checkpoints or ())
        except FewshotBenchError as error:
            return StudyRecord(None, str(error))
    if study.weights is None:
        return StudyRecord(study)
    name = PurePath(study.weights).name
    if weights is None:
        return StudyRecord(None, f"the file of weights, {name}, is not part of the outcomes; give it with --weights")
    renamed = f"the study used the weights {name}, and --weights is {weights.name}" if weights.name != name else ""
    return StudyRecord(study.model_copy(update={"weights": weights}), renamed=renamed)


def _of_this_cell(cell: Cell, record: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that leave the cell's own method of the study's several, so that no others are trained."""
    from fewshot_bench.adaptation import ADAPTATIONS

    fields: dict[str, Any] = {}
    adaptations = record.get("adaptations")
    named = [name for name in adaptations if isinstance(name, str)] if isinstance(adaptations, list) else []
    own = [name for name in named if ADAPTATIONS.target_of(name) == cell.method.adaptation]
    if own:
        fields["adaptations"] = own
        fields["hyper_parameters"] = _own_settings(cell, record)
        settings = cell.method.hyper_parameters.get("adaptation")
        if isinstance(settings, Mapping) and "choose" not in settings:  # in a list with others it was left as it is
            fields["choose"] = "none"
    base = cell.method.hyper_parameters.get("base")
    loss = base.get("loss") if isinstance(base, Mapping) else None
    if isinstance(loss, str) and record.get("checkpoints") is None:
        fields["base_losses"] = [loss]
    return fields


def _own_settings(cell: Cell, record: Mapping[str, Any]) -> dict[str, Any]:
    """Of the hyper-parameters of all adaptations of a study those that this one has."""
    chosen = record.get("hyper_parameters")
    own = cell.method.hyper_parameters.get("adaptation")
    if not isinstance(chosen, Mapping) or not isinstance(own, Mapping):
        return {}
    tried = own.get("grid")
    names = {*own, *(tried if isinstance(tried, Mapping) else ())}
    return {name: value for name, value in chosen.items() if name in names}


_SEED_BITS = 32


def unforeseeable_seed() -> int:
    """A seed from the operating system: whoever stored a result cannot have known it."""
    return secrets.randbits(_SEED_BITS)


@dataclass(frozen=True, kw_only=True)
class Brought:
    """Where the method is run, with what, and what the record may have done for it.

    Attributes:
        seed: chooses which of the stored episodes are run again, and disturbances; unforeseeable by default.
        device: a torch device, or "auto".
        dataset: where the images lie, if not under the dataset's name.
        weights: the file of weights that the study names.
        trusts_code: whether what the study names as `module:callable` may be imported.
        downloads: whether weights that the study names may be fetched from a model hub.
    """

    seed: int = field(default_factory=unforeseeable_seed)
    device: str = "auto"
    dataset: Path | None = None
    weights: Path | None = None
    trusts_code: bool = False
    downloads: bool = False
