"""The method of a stored cell, made again from the recorded study.

A stranger may have written the record: only known fields count, and nothing that it names is executed or fetched
unless the user says so. What the record contradicts is found before anything is trained, fetched or imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from fewshot_bench._io.versions import installed_versions
from fewshot_bench.adaptation import ADAPTATIONS, MAML, Adaptation, Finetune
from fewshot_bench.audit.selection import RerunOptions
from fewshot_bench.backbones import Backbone
from fewshot_bench.backbones.embedding_tuner import is_never_tuned
from fewshot_bench.code_identity import what_changed
from fewshot_bench.datasets import Dataset
from fewshot_bench.devices import chosen_device
from fewshot_bench.engine.classify import Classifier
from fewshot_bench.engine.engine import LocalEngine
from fewshot_bench.errors import FewshotBenchError, ReproductionError, WeightsError
from fewshot_bench.outcomes import Cell, MethodCard
from fewshot_bench.outcomes.manifest import environments_of
from fewshot_bench.progress import Progress
from fewshot_bench.report.trainings import training_seed
from fewshot_bench.study.admission import admit_checkpoints, admit_fields
from fewshot_bench.study.checkpoints import read_checkpoint
from fewshot_bench.study.known_names import finished_names
from fewshot_bench.study.networks import backbone_of_hub, trainings_of, with_checkpoint
from fewshot_bench.study.provenance import hardware, source_commit
from fewshot_bench.study.resolved import ResolvedMethod, ResolvedStudy, resolve_study
from fewshot_bench.study.study import Study
from fewshot_bench.study.workers import ClassifierBuilder, WorkerFactory

_BASE_HEAD = "hyper_parameters.base_head"
_WEIGHTS = ("weights", _BASE_HEAD, "hyper_parameters.task_head")
"""Parts of a method that a training decides."""
_OF_THE_STUDY = {"base_epochs": "epochs", "base_batch": "batch_size", "base_precision": "precision"}
"""Fields of a study that every version passes to a base stage unchanged, and their names there."""
_LEFT_OUT = {"precision": "float32"}
"""Settings of a base stage that are recorded only where they are not the default."""
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class RebuiltMethod:
    """A method with the cell's fingerprint; or, where a base stage may be trained again, with other weights.

    Attributes:
        resolved: the study.
        method: of the study.
        backbone: with its weights.
        card: its description, under the name of the cell's method.
        worker_factory: makes the workers that compute it.
    """

    resolved: ResolvedStudy
    method: ResolvedMethod
    backbone: Backbone
    card: MethodCard
    worker_factory: WorkerFactory

    @property
    def adaptation(self) -> Adaptation:
        """What it does with each support set."""
        return self.method.adaptation

    @property
    def device(self) -> str:
        """That it is computed on."""
        return self.worker_factory.device

    @cached_property
    def classifier(self) -> Classifier:
        """Classifies episodes in this process."""
        return self.worker_factory.classifier(self.device)


class MismatchError(ReproductionError):
    """The recorded study gives another method; the message says in what the nearest one differs.

    Attributes:
        is_contradiction: whether the same code should have given the same method.
        is_of_training: whether nothing but the weights that a training gave differs.
    """

    def __init__(self, differences: Sequence[str], *, is_contradiction: bool, is_of_training: bool = False) -> None:
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        super().__init__("; ".join(differences[:_SHOWN]) + more)
        self.is_contradiction, self.is_of_training = is_contradiction, is_of_training


def recorded_study(cell: Cell, *, weights: Path | None = None, trusts_code: bool = False) -> Study:
    """The study that made a cell, reduced to the one method of the cell.

    Args:
        cell: with its provenance.
        weights: the user's copy of the file of weights, which the record only names.
        trusts_code: whether what is named `module:callable` may be imported.

    Raises:
        ReproductionError: the study cannot be run again; the message is a part of a sentence.
    """
    record = cell.provenance.get("study")
    if not isinstance(record, Mapping):
        raise ReproductionError("the outcomes do not record the study that made them")
    fields = {**record, **_of_this_cell(cell, record)}
    fields.pop("recipe_digest", None)
    is_of_file = str(record.get("recipe")).endswith(".toml")  # which may be missing or changed
    try:
        study = Study.model_validate({**fields, "recipe": None} if is_of_file else fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ReproductionError(
            f"the recorded study is not valid: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error
    if is_of_file:
        study = with_checkpoint(study, _own_checkpoint(cell, str(record["recipe"])))
    elif study.recipe is not None:
        study = with_checkpoint(study, trainings_of(study)[0][0])  # that of the cell's own training
    if trusts_code:
        try:
            admit_fields(study.model_dump(exclude={"dataset"}))  # images are those that are here
            admit_checkpoints(study.checkpoints or ())
        except FewshotBenchError as error:
            raise ReproductionError(str(error)) from error
    if study.weights is None:
        return study
    if weights is None:
        raise ReproductionError(
            f"the file of weights, {study.weights.name}, is not part of the outcomes; give it with --weights"
        )
    return study.model_copy(update={"weights": weights})


def _own_checkpoint(cell: Cell, recipe: str) -> str:
    """The local checkpoint of a cell's training by a recipe file."""
    base = cell.method.hyper_parameters.get("base")
    for name in finished_names():
        with suppress(WeightsError):
            if read_checkpoint(name).hyper_parameters() == base:
                return name
    raise ReproductionError(f"there is no checkpoint here of its training by the recipe {PurePath(recipe).name}")


def renamed_weights(cell: Cell, weights: Path | None) -> str:
    """The note that the file of weights has another name than in the record; empty where it has the same."""
    record = cell.provenance.get("study")
    named = record.get("weights") if isinstance(record, Mapping) else None
    if weights is None or not isinstance(named, str) or PurePath(named).name == weights.name:
        return ""
    return f"the study used the weights {PurePath(named).name}, and --weights is {weights.name}"


def _of_this_cell(cell: Cell, record: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that reduce a study to the cell's own method, so that no others are trained."""
    fields: dict[str, Any] = {}
    adaptations = record.get("adaptations")
    named = [name for name in adaptations if isinstance(name, str)] if isinstance(adaptations, list) else []
    own = [name for name in named if ADAPTATIONS.target_of(name) == cell.method.adaptation]
    settings = cell.method.hyper_parameters.get("adaptation")
    if own:
        fields["adaptations"] = own
        fields["hyper_parameters"] = _own_settings(settings, record.get("hyper_parameters"))
        if MAML.name in own and isinstance(settings, Mapping):  # what it shares with the training is in the cell alone
            shared = {name: settings[name] for name in ("steps", "statistics") if name in settings}
            fields["hyper_parameters"] = shared | fields["hyper_parameters"]
        if isinstance(settings, Mapping) and "choose" not in settings:  # others in the list had something to choose
            fields["choose"] = "none"
    base = cell.method.hyper_parameters.get("base")
    loss = base.get("loss") if isinstance(base, Mapping) else None
    if isinstance(loss, str) and record.get("checkpoints") is None:
        fields |= {} if record.get("recipe") else {"base_losses": [loss]}
        if record.get("protocol") == "full":  # where both options name the losses of the training
            fields |= {"losses": fields.get("base_losses")}
        fields |= _own_seed(training_seed(cell.method), record)
    return fields


def _own_seed(seed: int | None, record: Mapping[str, Any]) -> dict[str, Any]:
    """The seed of the cell's own training, where the study has several and it is one of them."""
    first, several = record.get("training_seed", 0), record.get("training_seeds")
    is_known = seed is not None and type(first) is int and type(several) is int
    if is_known and first <= seed < first + several:
        return {"training_seed": seed, "training_seeds": None}
    return {}


def _own_settings(own: object, chosen: object) -> dict[str, Any]:
    """The hyper-parameters of a study that belong to one adaptation."""
    if not isinstance(chosen, Mapping) or not isinstance(own, Mapping):
        return {}
    grid = own.get("grid")
    names = {*own, *(grid if isinstance(grid, Mapping) else ())}
    return {name: value for name, value in chosen.items() if name in names}


def rebuild(
    cell: Cell, dataset: Dataset, options: RerunOptions, progress: Progress, *, takes_trained: bool = False
) -> RebuiltMethod:
    """Make the method of a cell: the one of the recorded study that has its fingerprint.

    The record is compared first: weights are fetched only for a study that can give the method, and a base stage is
    trained only if it differs from the cell's in nothing but its weights, unless those are in the cache.

    Args:
        cell: whose method.
        dataset: the images.
        options: what the record may cause, and the device.
        progress: shown the training and the embedding.
        takes_trained: whether a base stage that is trained here may give other weights.

    Raises:
        MismatchError: the study gives another method.
        ReproductionError: see `recorded_study`.
        FewshotBenchError: the study cannot be run here.
    """
    study = recorded_study(cell, weights=options.weights, trusts_code=options.trusts_code)
    contradictions = list(_contradictions(cell.method, study))
    if contradictions:
        raise MismatchError(contradictions, is_contradiction=True)
    resolved = resolve_study(study, dataset=dataset)
    differences = _differences_of_adaptations(cell.method, resolved.adaptations)
    if differences:
        raise _mismatch(cell, differences)
    hub = backbone_of_hub(study)
    if hub is not None and not options.downloads:
        raise WeightsError(f"the weights of {hub} come from a model hub, which is asked only with --download")
    engine = LocalEngine(chosen_device(options.device))
    nearest: list[str] | None = None
    for method in resolved.methods:
        found = _rebuilt(cell, resolved, method, engine, progress, takes_trained)
        if isinstance(found, RebuiltMethod):
            return found
        if nearest is None or len(found) < len(nearest):
            nearest = found
    raise _mismatch(cell, nearest or ["it has no method"])


def _rebuilt(
    cell: Cell,
    resolved: ResolvedStudy,
    method: ResolvedMethod,
    engine: LocalEngine,
    progress: Progress,
    takes_trained: bool,
) -> RebuiltMethod | list[str]:
    """The cell's method, if it is this one of the study; otherwise how the two differ."""
    of_training = {"weights", _BASE_HEAD} if method.uses_base_head else {"weights"}
    before = differences_of(cell.method, method.card(method.network.start()))
    if method.network.recipe is not None:
        before = [text for text in before if _subject(text) not in of_training]
    if before:
        return before
    backbone = method.network.trained(resolved.dataset, engine, progress)
    card = replace(method.card(backbone), name=cell.method.name)
    if card.fingerprint != cell.method.fingerprint and not takes_trained:
        return differences_of(cell.method, card)
    builder = ClassifierBuilder(resolved, backbone, engine, progress)
    return RebuiltMethod(resolved, method, backbone, card, builder.worker_factory(method.adaptation))


def _contradictions(card: MethodCard, study: Study) -> Iterator[str]:
    """Where the study itself contradicts the method, whichever version of this project made it."""
    named = backbone_of_hub(study)
    if named not in (None, card.backbone):
        yield _difference("backbone", named, card.backbone)
    base = card.hyper_parameters.get("base")
    if study.checkpoints is not None or not isinstance(base, Mapping) or not base:
        return
    for option, setting in _OF_THE_STUDY.items():
        value = getattr(study, option)
        if value is not None and base.get(setting, _LEFT_OUT.get(setting)) != value:
            yield _difference(f"hyper_parameters.base.{setting}", value, base.get(setting, "absent"))


def _differences_of_adaptations(stored: MethodCard, adaptations: Sequence[Adaptation]) -> list[str]:
    """How the nearest adaptation of a study differs from that of a method; empty where one is the same."""
    cards = [
        replace(
            stored,
            adaptation=adaptation.name,
            hyper_parameters={**stored.hyper_parameters, "adaptation": adaptation.hyper_parameters()},
            is_transductive=adaptation.is_transductive,
            assumes_balanced_queries=adaptation.assumes_balanced_queries,
        )
        for adaptation in adaptations
    ]
    return min((differences_of(stored, card) for card in cards), key=len, default=["it has no method"])


def differences_of(stored: MethodCard, here: MethodCard) -> list[str]:
    """Everything in which two methods differ but for their names, e.g. "weights is 0a.. here and 1b.. in ..."."""
    of_code = [
        f"code of the {part} here is not that which made the outcomes ({what_changed(stored.code.get(part), now)})"
        for part in sorted(stored.code.keys() | here.code.keys())
        if (now := here.code.get(part)) != stored.code.get(part)
    ]
    theirs, mine = (_flat({**asdict(card), "code": {}}) for card in (stored, here))
    pairs = {name: (mine.get(name, "absent"), theirs.get(name, "absent")) for name in sorted(mine.keys() | theirs)}
    return of_code + [
        _difference(name, own, stored_value)
        for name, (own, stored_value) in pairs.items()
        if name != "name" and own != stored_value
    ]


def _difference(name: str, here: Any, stored: Any) -> str:
    """One difference in words; `_subject` reads the name from it."""
    shown = (text if len(text) <= 24 else f"{text[:12]}..." for text in (str(here), str(stored)))
    return "{} is {} here and {} in the outcomes".format(name, *shown)


def _subject(difference: str) -> str:
    return difference.split(" ")[0]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _mismatch(cell: Cell, differences: Sequence[str]) -> MismatchError:
    # A method that has no base head here was not trained otherwise: it is another one.
    subjects = {"another method" if " is absent here" in text else _subject(text) for text in differences}
    of_more = bool(subjects - set(_WEIGHTS)) and "code" not in subjects  # which is not this project's
    return MismatchError(differences, is_contradiction=of_more and is_same_code(cell), is_of_training=not of_more)


def is_same_code(cell: Cell) -> bool:
    """Whether all outcomes were made by what is installed here."""
    commits = {environment.get("git_commit", "") for environment in environments_of(cell)}
    return cell.versions == installed_versions() and commits == {source_commit()}


def repeats_every_bit(cell: Cell, device: str, dataset: Dataset) -> bool:
    """Whether all outcomes were made by the same versions on the same kind of machine, and in the same batches.

    Large splits are embedded in batches of a size that a trial chooses, and networks are fine-tuned by algorithms that
    trials choose, so that these may round otherwise where a trial ends otherwise.
    """
    if cell.method.adaptation in (Finetune.name, MAML.name):
        return False
    here = hardware(device)
    is_same_machine = cell.versions == installed_versions() and all(
        place.get("hardware") == here for place in environments_of(cell)
    )
    return is_same_machine and all(is_never_tuned(len(split)) for split in dataset.splits.values())
