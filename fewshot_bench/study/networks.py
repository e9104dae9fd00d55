"""The backbones of a study: as they are planned, and after their base stages.

What the backbones of a study and their base stages are called, which is known before anything is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fewshot_bench.backbones import Backbone, BackboneRequest, model_of_hub
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.engine import Engine
from fewshot_bench.errors import DatasetError, StudyError, show_traceback
from fewshot_bench.losses import LOSSES
from fewshot_bench.progress import Progress
from fewshot_bench.study.base_stage import (
    base_recipe,
    base_stage_name,
    fine_tuned_on_base,
    initialised_backbone,
)
from fewshot_bench.study.checkpoints import checkpoint_stages
from fewshot_bench.study.methods import chosen_reading, refuse_reading_without_effect, wants_base_head
from fewshot_bench.study.scheduler import is_failure, reason_of
from fewshot_bench.study.study import Study
from fewshot_bench.training import Recipe

_IMAGES = (32, 32, 3)
"""Height, width and channels of the images of a dataset that is not here."""


@dataclass(frozen=True)
class BaseStage:
    """What was done to a backbone on the base split.

    Attributes:
        stage: its part of the method's name; empty for none.
        hyper_parameters: of the training.
        backbone: name of the backbone where a checkpoint says it, not the study.
    """

    stage: str
    hyper_parameters: dict[str, Any]
    backbone: str | None = None


@dataclass(frozen=True)
class PlannedStage:
    """A backbone of a study before anything is done to it.

    Attributes:
        backbone: as it starts.
        settings: of the backbone, for the method's name.
        base: what is going to be done to it.
        recipe: how it is trained; None where it stays as it is.
    """

    backbone: Backbone
    settings: dict[str, Any]
    base: BaseStage
    recipe: Recipe | None = None

    def done(self, dataset: Dataset, engine: Engine, progress: Progress) -> Backbone:
        """The backbone after the stage, trained unless its checkpoint is here."""
        if self.recipe is None:
            return self.backbone
        if dataset.is_few_shot and "base" not in dataset.splits:
            raise DatasetError(
                f"{self.backbone.name} trains on a base split, which {dataset.name} does not have. "
                "Use a pretrained network, e.g. --backbone efficientnet_lite0."
            )
        return fine_tuned_on_base(
            self.backbone, dataset.base, self.recipe, device=engine.device, engine=engine, progress=progress
        )


def planned_stages(study: Study, dataset: Dataset, first: Backbone | None = None) -> Iterator[PlannedStage]:
    """The study's backbone before each of its base stages, or as it is; or its named checkpoints.

    Args:
        study: whose backbones.
        dataset: that they are for.
        first: what `initial_backbone` would make, where that has been done; it may be changed.
    """
    if study.checkpoints is not None:
        for checkpoint, tuned, settings, stage, hyper_parameters in checkpoint_stages(study, dataset):
            yield PlannedStage(tuned, settings, BaseStage(stage, hyper_parameters, checkpoint.card.backbone))
        return
    backbone = first or initial_backbone(study, dataset)
    for number, (base, recipe) in enumerate(base_stages(study, backbone)):
        fresh = backbone if number == 0 else initial_backbone(study, dataset)
        yield PlannedStage(fresh, backbone_settings(study, backbone), base, recipe)


def backbone_settings(study: Study, backbone: Backbone) -> dict[str, Any]:
    """What of a study's backbone is not its default, for the method's name."""
    return dict(backbone.changes) | ({"weights": study.weights.stem} if study.weights else {})


def base_stages(study: Study, backbone: Backbone) -> list[tuple[BaseStage, Recipe | None]]:
    """What a study does to its backbone on the base split, each with the recipe of its training.

    Args:
        study: without named checkpoints.
        backbone: as it starts; it is left as it is.

    Raises:
        UnknownNameError: a loss is not known.
        StudyError: a reading is named that no loss of the study has, or the logits of base classes are wanted where
            nothing is trained on these.
    """
    losses = study.base_losses
    if losses is None:
        losses = () if backbone.is_pretrained else ("ce", "ce+schane")
    for loss in losses:
        LOSSES[loss]
    refuse_reading_without_effect(study, losses)
    stages: list[tuple[BaseStage, Recipe | None]] = []
    for loss in losses:
        recipe = base_recipe(
            backbone,
            loss,
            epochs=study.base_epochs,
            batch_size=study.base_batch,
            seed=study.training_seed,
            lambda_=study.lambda_,
            tau=study.tau,
            reading=chosen_reading(study, loss),
        )
        stage = base_stage_name(recipe, base_recipe(backbone, loss))
        stages.append((BaseStage(stage, recipe.hyper_parameters()), recipe))
    if not stages and backbone.base_head is None and wants_base_head(study):
        raise StudyError(
            f"on=logits needs a classifier of base classes, and {backbone.name} is not trained on any here. Use "
            "--base-loss ce, --checkpoint NAME, or on=embeddings."
        )
    return stages or [(BaseStage("", {}), None)]


def study_backbones(
    stages: Iterable[PlannedStage],
    dataset: Dataset,
    engine: Engine,
    progress: Progress,
    failed: list[tuple[PlannedStage, str]],
) -> Iterator[tuple[Backbone, dict[str, Any], BaseStage]]:
    """The backbones of planned stages after these.

    Args:
        stages: as planned.
        dataset: that they are trained on.
        engine: who trains.
        progress: shown the training.
        failed: a stage that cannot be done is added with the reason, and the others go on.
    """
    for planned in stages:
        try:
            backbone = planned.done(dataset, engine, progress)
        except Exception as error:
            if not is_failure(error):
                raise
            show_traceback(error)
            failed.append((planned, reason_of(error)))
            continue
        yield backbone, planned.settings, planned.base


def backbone_of_hub(study: Study) -> str | None:
    """The backbone whose weights a model hub would be asked for; None where nobody would be asked."""
    if study.checkpoints is not None:
        return None
    model = model_of_hub(BackboneRequest(study.backbone_name, weights=study.weights))
    return None if model is None else f"timm:{model}"


def initial_backbone(study: Study, dataset: Dataset | None, *, is_stand_in: bool = False) -> Backbone:
    """The study's backbone; its initial weights, where it has no others, depend on the training seed alone.

    Args:
        study: without named checkpoints.
        dataset: whose images it sees; None where they are not here, and only the backbone's name matters.
        is_stand_in: see `known_backbone`.
    """
    shape = _IMAGES if dataset is None else dataset.split(study.split).images.shape[1:]
    height, _, channels = shape
    request = BackboneRequest(
        study.backbone_name, channels, height, study.image_size, study.interpolation, study.weights
    )
    return initialised_backbone(request, study.training_seed, is_stand_in=is_stand_in)


NamedStage = tuple[str, dict[str, Any], str]
"""The name of a backbone, its settings, and its base stage, as they are in a method's name."""


class Networks:
    """The networks that studies start from; the last one is kept, since those of a file mostly share theirs."""

    def __init__(self) -> None:
        self._key: object = None
        self._backbone: Backbone | None = None

    def stages(self, study: Study, dataset: Dataset) -> list[NamedStage]:
        """The name of the backbone, its settings, and the base stage of every method's name."""
        if study.checkpoints is not None:
            stages = checkpoint_stages(study, dataset)
            return [(checkpoint.card.backbone, settings, stage) for checkpoint, _, settings, stage, _ in stages]
        backbone = self.backbone(study, dataset)
        settings = backbone_settings(study, backbone)
        return [(study.backbone_name, settings, base.stage) for base, _ in base_stages(study, backbone)]

    def taken(self, study: Study, dataset: Dataset) -> Backbone | None:
        """The backbone of a study, to be changed: it is not kept any longer; None for named checkpoints."""
        if study.checkpoints is not None:
            return None
        backbone, self._backbone = self.backbone(study, dataset), None
        return backbone

    def backbone(self, study: Study, dataset: Dataset | None, *, is_stand_in: bool = False) -> Backbone:
        """The backbone of a study before anything is done to it; see `initial_backbone`.

        It may be that of the study before, so nobody should change it.
        """
        shape = None if dataset is None else dataset.split(study.split).images.shape[1:]
        asked = (study.backbone_name, study.weights, study.image_size, study.interpolation, study.training_seed)
        key = (*asked, shape, is_stand_in)
        if self._backbone is None or key != self._key:
            self._key, self._backbone = key, initial_backbone(study, dataset, is_stand_in=is_stand_in)
        return self._backbone
