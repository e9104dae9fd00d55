"""The method of a cell, made again from its recorded study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fewshot_bench.adaptation import Adaptation
from fewshot_bench.audit.contradiction import contradictions, differences_of, differences_of_adaptations
from fewshot_bench.backbones import Backbone
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.classifier import Classifier
from fewshot_bench.engine.local import LocalEngine
from fewshot_bench.errors import WeightsError
from fewshot_bench.outcomes import Cell, MethodCard
from fewshot_bench.outcomes.continued import places_of
from fewshot_bench.progress import Progress
from fewshot_bench.study import Study
from fewshot_bench.study.classifiers import ClassifierSource, OnEmbeddings, OnImages
from fewshot_bench.study.methods import planned_adaptations
from fewshot_bench.study.planned_methods import method_card as card_of
from fewshot_bench.study.planned_methods import uses_base_head
from fewshot_bench.study.provenance import hardware, source_commit
from fewshot_bench.study.stages import PlannedStage, backbone_of_hub, planned_stages
from fewshot_bench.versions import installed_versions

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
    commits = {place.get("git_commit", "") for place in places_of(cell)}
    return cell.versions == installed_versions() and commits == {source_commit()}


def is_same_machine(cell: Cell, device: str) -> bool:
    """Whether all outcomes were made by the same versions on the same kind of machine."""
    here = hardware(device)
    return cell.versions == installed_versions() and all(place.get("hardware") == here for place in places_of(cell))
