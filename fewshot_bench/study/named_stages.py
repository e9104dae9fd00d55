"""What the backbones of a study and their base stages are called, which is known before anything is trained."""

from __future__ import annotations

from typing import Any

from fewshot_bench.backbones import Backbone
from fewshot_bench.datasets import Dataset
from fewshot_bench.study.checkpoints import checkpoint_stages
from fewshot_bench.study.stages import backbone_settings, base_stages, initial_backbone
from fewshot_bench.study.study import Study

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
