"""The methods of a study, as they are going to be run: each one's cells, and what makes its workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fewshot_bench._io.versions import installed_versions
from fewshot_bench.adaptation import Adaptation, Finetune, code_of_adaptation
from fewshot_bench.backbones import Backbone
from fewshot_bench.datasets import Dataset, ImageSplit
from fewshot_bench.engine.adapt import protocol_card
from fewshot_bench.engine.engine import Engine
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.study.base_stage import code_record
from fewshot_bench.study.chunks import Shard
from fewshot_bench.study.methods import method_name
from fewshot_bench.study.networks import BaseStage, PlannedStage, study_backbones
from fewshot_bench.study.provenance import provenance
from fewshot_bench.study.scheduler import MethodRun
from fewshot_bench.study.stopping import stopping_rule
from fewshot_bench.study.study import Study
from fewshot_bench.study.workers import ClassifierSource, WorkerRecipe


def planned_methods(
    study: Study,
    dataset: Dataset,
    stages: Iterable[PlannedStage],
    adaptations: Sequence[Adaptation],
    store: OutcomeStore,
    engine: Engine,
    progress: Progress,
    arguments: Sequence[str],
    shard: Shard | None,
    failed: list[tuple[PlannedStage, str]],
) -> Iterator[MethodRun]:
    """The methods of a study, each after the base stage of its backbone."""
    images = dataset.split(study.split)
    protocols = study.protocols(images.class_sizes)
    rule = stopping_rule(study)
    for backbone, settings, base in study_backbones(stages, dataset, engine, progress, failed):
        source = ClassifierSource(study, dataset, backbone, engine.device, progress, engine)
        told = provenance(study, backbone, engine, arguments, place=dataset.place)
        if rule is not None:
            told["stopping"] = [rule.as_record()]
        for adaptation in adaptations:
            name = method_name(base.backbone or study.backbone_name, settings, base.stage, adaptation)
            cards = [protocol_card(protocol, dataset.fingerprint) for protocol in protocols]
            card = _named_as_stored(method_card(name, backbone, base, adaptation), cards, store, study)
            recorded = (installed_versions(), dict(dataset.preprocessing), images.class_sizes, told, images.class_names)
            planned = [(Cell(card, one, *recorded), protocol) for one, protocol in zip(cards, protocols, strict=True)]
            recipe = partial(_worker_recipe, source, adaptation, images, engine.device)
            shown = progress if rule is None else SILENT
            yield MethodRun(recipe, planned, store, engine, shown, study.chunk, shard, asked_name=name)


def _named_as_stored(
    card: MethodCard, protocols: Sequence[ProtocolCard], store: OutcomeStore, study: Study
) -> MethodCard:
    """A method under the name that it is stored under, if it is: the same weights may be in a file of another name."""
    # Only a file of weights is renamed so often that other protocols are worth a look: that reads every description.
    keys = [Cell(card, protocol).key for protocol in protocols] if study.weights is None else None
    names = store.names_of(card, keys)
    return card if not names or card.name in names else replace(card, name=names[0])


def _worker_recipe(source: ClassifierSource, adaptation: Adaptation, images: ImageSplit, device: str) -> WorkerRecipe:
    return WorkerRecipe.of(source.recipe(adaptation), images, device)


def method_card(name: str, backbone: Backbone, base: BaseStage, adaptation: Adaptation) -> MethodCard:
    """Everything that identifies a method; the classifier of the base training only where the method uses it."""
    head = backbone.base_head if uses_base_head(adaptation) else None
    return MethodCard(
        name=name,
        backbone=backbone.name,
        weights=backbone.weights,
        adaptation=adaptation.name,
        hyper_parameters={
            "preprocessing": backbone.preprocessing.as_dict(),
            "base": base.hyper_parameters,
            "adaptation": adaptation.hyper_parameters(),
            **({} if head is None else {"base_head": head.digest}),
        },
        is_transductive=adaptation.is_transductive,
        code=method_code(backbone, base, adaptation),
        assumes_balanced_queries=adaptation.assumes_balanced_queries,
    )


def uses_base_head(adaptation: Adaptation) -> bool:
    """Whether an adaptation sees the logits of the base classes, so that their classifier is a part of the method."""
    return isinstance(adaptation, Finetune) and adaptation.on == "logits"


def method_code(backbone: Backbone, base: BaseStage, adaptation: Adaptation) -> dict[str, Any]:
    """The records of somebody's own code in a method, by what it is to the method.

    A network that was trained under a name is told by its weights, whatever loss gave them.
    """
    of_training = code_record(backbone, "" if base.backbone is not None else str(base.hyper_parameters.get("loss")))
    parts = {"base loss" if part == "loss" else part: record for part, record in of_training.get("code", {}).items()}
    return {**parts, **code_of_adaptation(adaptation)}
