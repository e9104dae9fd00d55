"""What is wrong with the studies of a plan, found before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fewshot_bench.backbones import Backbone
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.device import chosen_device
from fewshot_bench.errors import FewshotBenchError, StudyError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.report import resolve_method
from fewshot_bench.study.checkpoints import checkpoint_stages
from fewshot_bench.study.execute import opened_dataset
from fewshot_bench.study.fitting import fitting_protocols
from fewshot_bench.study.methods import method_name, planned_adaptations
from fewshot_bench.study.plan import StudyPlan
from fewshot_bench.study.stages import backbone_settings, base_stages, initial_backbone
from fewshot_bench.study.study import Study
from fewshot_bench.study.until import stopping_rule


@contextmanager
def located(place: str) -> Iterator[None]:
    """Say of an error where in a file the study is that has it.

    Args:
        place: such as "study.toml, line 12"; nothing is said where it is empty.

    Raises:
        FewshotBenchError: as it was raised, or a StudyError that begins with the place.
    """
    try:
        yield
    except FewshotBenchError as error:
        if not place:
            raise
        raise StudyError(f"{place}: {error}") from error


def check_plan(plan: StudyPlan, progress: Progress = SILENT) -> None:
    """Find what is wrong in any study of a plan, without computing anything.

    Datasets are opened, networks are made, and weights may be fetched; nothing is trained, embedded or written.

    Args:
        plan: the studies.
        progress: shown the import of a user's own images.

    Raises:
        FewshotBenchError: a name is unknown, the data is absent, the protocol does not fit the split, or no method is
            called like the baseline.
        OSError: the folder of the results cannot be written to.
    """
    OutcomeStore(plan.results / "outcomes").check_folder()
    names: dict[str, list[str]] = {}
    networks = Networks()
    for study, place in zip(plan.studies, plan.places, strict=True):
        with located(place):
            names.setdefault(study.dataset, []).extend(_checked_methods(study, networks, progress))
    for dataset, baseline in plan.baselines.items():
        with located(f"baseline of {dataset}" if plan.name else ""):
            resolve_method(names[dataset], baseline)


def _checked_methods(study: Study, networks: Networks, progress: Progress) -> list[str]:
    """The names of a study's methods, where nothing is wrong with it."""
    stopping_rule(study)
    chosen_device(study.device)
    adaptations = planned_adaptations(study)
    dataset = opened_dataset(study, progress)
    fitting_protocols(study.model_copy(update={"dataset": dataset.name}), dataset.split(study.split))
    return [method_name(*stage, adaptation) for stage in networks.stages(study, dataset) for adaptation in adaptations]


class Networks:
    """The networks that studies start from; the last one is kept, since those of a file mostly share theirs."""

    def __init__(self) -> None:
        self._key: object = None
        self._backbone: Backbone | None = None

    def stages(self, study: Study, dataset: Dataset) -> list[tuple[str, dict[str, Any], str]]:
        """The name of the backbone, its settings, and the base stage of every method's name."""
        if study.checkpoints is not None:
            stages = checkpoint_stages(study, dataset)
            return [(checkpoint.card.backbone, settings, stage) for checkpoint, _, settings, stage, _ in stages]
        backbone = self._made(study, dataset)
        settings = backbone_settings(study, backbone)
        return [(study.backbone_name, settings, base.stage) for base, _ in base_stages(study, backbone)]

    def _made(self, study: Study, dataset: Dataset) -> Backbone:
        asked = (study.backbone_name, study.weights, study.image_size, study.interpolation)
        key = (*asked, dataset.split(study.split).images.shape[1:])
        if self._backbone is None or key != self._key:
            self._key, self._backbone = key, initial_backbone(study, dataset)
        return self._backbone
