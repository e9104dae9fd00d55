"""The networks that a study would use, as far as they can be had without training or fetching anything."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fewshot_bench.backbones import BaseHead, is_fetched_already
from fewshot_bench.datasets import Dataset
from fewshot_bench.study.base_stage import checkpoint_path, from_checkpoint
from fewshot_bench.study.named_stages import Networks
from fewshot_bench.study.stages import (
    PlannedStage,
    backbone_of_hub,
    backbone_settings,
    base_stages,
    planned_stages,
)
from fewshot_bench.study.study import Study

AFTER_TRAINING = "after training"
NOT_FETCHED = "after its weights are fetched"


@dataclass(frozen=True)
class NetworkAhead:
    """A network that a study would use.

    Attributes:
        stage: the network to measure with, and what is to be done to it; its weights need not be the study's.
        unknown: why the weights that it will have are not known yet; empty where these are they.
        identity: tells the weights that it will have from all others.
    """

    stage: PlannedStage
    unknown: str
    identity: str


class NetworksAhead:
    """Makes the networks of studies."""

    def __init__(self) -> None:
        self._networks = Networks()

    def ahead(self, study: Study, dataset: Dataset | None) -> Iterator[NetworkAhead]:
        """The networks of a study, each as it will be where that is known.

        Args:
            study: whose networks.
            dataset: its images; None where they are not here.

        Raises:
            FewshotBenchError: a name is unknown, or weights are missing or damaged.
        """
        if study.checkpoints is not None:
            if dataset is not None:  # whose name is a part of theirs
                for stage in planned_stages(study, dataset):
                    yield NetworkAhead(stage, "", stage.backbone.weights)
            return
        is_here = is_fetched(study)
        backbone = self._networks.backbone(study, dataset, is_stand_in=not is_here)
        unknown = "" if is_here else NOT_FETCHED
        for base, recipe in base_stages(study, backbone):
            stage = PlannedStage(backbone, backbone_settings(study, backbone), base, recipe)
            if recipe is None or dataset is None:
                yield NetworkAhead(stage, unknown, backbone.weights)
            else:
                yield _trained(stage, dataset, unknown)


def is_fetched(study: Study) -> bool:
    """Whether no hub has to be asked for the weights that a study starts from."""
    asked = backbone_of_hub(study)
    return asked is None or is_fetched_already(asked.removeprefix("timm:"))


def _trained(stage: PlannedStage, dataset: Dataset, unknown: str) -> NetworkAhead:
    """A network after its base stage if that has been done, before it otherwise."""
    assert stage.recipe is not None
    path = checkpoint_path(stage.backbone, dataset.base, stage.recipe)
    if path.is_file():
        trained = from_checkpoint(copy.deepcopy(stage.backbone), dataset.base, stage.recipe)
        if trained is not None:
            return NetworkAhead(replace(stage, backbone=trained), "", trained.weights)
    head = BaseHead.untrained(stage.backbone.embedding_size, dataset.base.class_names)
    untrained = replace(stage, backbone=replace(stage.backbone, base_head=head))
    return NetworkAhead(untrained, unknown or AFTER_TRAINING, path.stem)
