"""A resolved study: everything that a study means, derived once, for running, recording, estimates and audits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fewshot_bench._io.versions import installed_versions
from fewshot_bench.adaptation import MAML, Adaptation, Finetune, TrainedClassifier, code_of_adaptation
from fewshot_bench.backbones import Backbone
from fewshot_bench.datasets import Dataset, ImageSplit, OwnOptions, is_named, known_dataset
from fewshot_bench.datasets.dataset import left_out_lines
from fewshot_bench.engine.classify import protocol_card
from fewshot_bench.engine.engine import Engine
from fewshot_bench.episodes import Protocol, sample_by_shape
from fewshot_bench.errors import EpisodeError, StudyError
from fewshot_bench.outcomes import Cell, MethodCard, ProtocolCard
from fewshot_bench.outcomes.study_log import PlannedCell, StudyRecord
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.study.base_stage import code_record
from fewshot_bench.study.methods import expand_groups, method_name, planned_adaptations
from fewshot_bench.study.networks import Backbones, Network, resolve_networks
from fewshot_bench.study.provenance import provenance, study_record
from fewshot_bench.study.study import MOST_EPISODES_BY_DEFAULT, Study

_MOST_LINES = 3


EPISODES_BETWEEN_LOOKS = 250
"""Per run; the first look comes after this many."""


@dataclass(frozen=True)
class Rule:
    """When to stop drawing episodes, recorded before the first one.

    All methods of a protocol stop together, so that they share their episodes. Only the width of the intervals decides,
    never a difference or a p: docs/power.md says what repeated looks do to each.

    Attributes:
        half_width: of the 95% interval of every method's mean accuracy over all runs, in percentage points.
        most: episodes per run after which it stops in any case.
    """

    half_width: float
    most: int

    def as_record(self) -> dict[str, Any]:
        """What every cell records about its number of episodes."""
        return {
            "rule": "the 95% t interval of every method's mean accuracy is narrow enough",
            "half_width": self.half_width,
            "episodes_between_looks": EPISODES_BETWEEN_LOOKS,
            "max_episodes": self.most,
        }

    def looks(self) -> list[int]:
        """Episodes per run at which to look."""
        return [*range(EPISODES_BETWEEN_LOOKS, self.most, EPISODES_BETWEEN_LOOKS), self.most]


def stopping_rule(study: Study) -> Rule | None:
    """The stopping rule of a study; None if it has none. Raises StudyError if it contradicts another option."""
    if study.until_ci is None:
        if study.max_episodes is not None:
            raise StudyError("--max-episodes limits --until-ci. Without --until-ci, use --episodes.")
        return None
    if "episodes" in study.model_fields_set:
        raise StudyError("--episodes and --until-ci both say when to stop. Use --max-episodes for a limit.")
    return Rule(study.until_ci, study.max_episodes or MOST_EPISODES_BY_DEFAULT)


@dataclass(frozen=True, eq=False)
class ResolvedMethod:
    """One network and one adaptation of a study."""

    network: Network
    adaptation: Adaptation

    @classmethod
    def of(cls, network: Network, adaptation: Adaptation, study: Study) -> ResolvedMethod:
        """A method of a study; what an adaptation shares with the training of its network need not be named."""
        if isinstance(adaptation, MAML):
            adaptation = adaptation.after(network.hyper_parameters, study.hyper_parameters)
        return cls(network, adaptation)

    @cached_property
    def name(self) -> str:
        """See `method_name`."""
        network, adaptation = self.network, self.adaptation
        shared = adaptation.shared_with(network.hyper_parameters) if isinstance(adaptation, MAML) else {}
        return method_name(network.backbone_name, network.settings, network.stage, adaptation, shared)

    @property
    def uses_base_head(self) -> bool:
        """Whether it sees the logits of the base classes, so that their classifier is a part of the method."""
        is_on_logits = isinstance(self.adaptation, Finetune) and self.adaptation.on == "logits"
        return is_on_logits or isinstance(self.adaptation, TrainedClassifier)

    @property
    def uses_task_head(self) -> bool:
        """Whether it starts from the head that was trained for tasks, which is then a part of the method."""
        is_set = isinstance(self.adaptation, Finetune) and self.adaptation.start == "trained"
        return isinstance(self.adaptation, MAML) or is_set

    def card(self, backbone: Backbone) -> MethodCard:
        """Everything that identifies the method; the weights are those of the backbone that is given."""
        adaptation, network = self.adaptation, self.network
        head = backbone.base_head if self.uses_base_head else None
        task_head = backbone.task_head if self.uses_task_head else None
        loss = "" if network.is_checkpoint else str(network.hyper_parameters.get("loss"))
        code = code_record(backbone, loss).get("code", {})
        return MethodCard(
            name=self.name,
            backbone=backbone.name,
            weights=backbone.weights,
            adaptation=adaptation.name,
            hyper_parameters={
                "preprocessing": backbone.preprocessing.as_dict(),
                "base": network.hyper_parameters,
                "adaptation": adaptation.hyper_parameters(),
                **({} if head is None else {"base_head": head.digest}),
                **({} if task_head is None else {"task_head": task_head.digest}),
            },
            is_transductive=adaptation.is_transductive,
            code={
                **{"base loss" if part == "loss" else part: record for part, record in code.items()},
                **code_of_adaptation(adaptation),
            },
            assumes_balanced_queries=adaptation.assumes_balanced_queries,
        )


@dataclass(frozen=True, eq=False)
class ResolvedStudy:
    """A study with everything derived from it.

    Attributes:
        study: with groups of adaptations expanded, and the dataset under its own name.
        dataset: the images.
        protocols: one per number of shots.
        adaptations: what is done with each support set, before the training of a network adds what they share.
        rule: when to stop drawing episodes; None for a fixed number.
        left_out: one sentence for each member of a group that cannot run here.
        backbones: makes the networks.
    """

    study: Study
    dataset: Dataset
    protocols: tuple[Protocol, ...]
    adaptations: tuple[Adaptation, ...]
    rule: Rule | None
    left_out: tuple[str, ...]
    backbones: Backbones

    @property
    def images(self) -> ImageSplit:
        """The split that the episodes are drawn from."""
        return self.dataset.split(self.study.split)

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """The networks; backbones are made for the first look, so audits look at the rest before.

        Raises:
            FewshotBenchError: see `resolve_networks`.
        """
        return resolve_networks(self.study, self.dataset, self.backbones)

    @cached_property
    def methods(self) -> tuple[ResolvedMethod, ...]:
        """Every network with every adaptation, network by network."""
        pairs = itertools.product(self.networks, self.adaptations)
        return tuple(ResolvedMethod.of(network, adaptation, self.study) for network, adaptation in pairs)

    def methods_of(self, network: Network) -> list[ResolvedMethod]:
        """The methods of one network."""
        return [method for method in self.methods if method.network is network]

    @property
    def episodes(self) -> int:
        """Episodes of each method in all runs; the most of them where a rule says when to stop."""
        return sum(protocol.runs * protocol.episodes for protocol in self.protocols)

    @cached_property
    def record(self) -> StudyRecord:
        """What is written down of the study before it runs."""
        cells = [
            PlannedCell(
                self.dataset.name,
                self._card(protocol).task,
                method.name,
                protocol.runs,
                protocol.episodes,
                method.adaptation.is_transductive,
            )
            for method in self.methods
            for protocol in self.protocols
        ]
        return StudyRecord(self.study.results, tuple(cells), study_record(self.study), self.rule is not None)

    def provenance(self, backbone: Backbone, engine: Engine, arguments: Sequence[str] = ()) -> dict[str, Any]:
        """How the outcomes of a trained backbone come about, to be recorded with their cells."""
        stopping = {} if self.rule is None else {"stopping": [self.rule.as_record()]}
        return provenance(self.study, backbone, engine, arguments, place=self.dataset.place) | stopping

    def cells(self, card: MethodCard, provenance: dict[str, Any]) -> list[tuple[Cell, Protocol]]:
        """The cells of a method with their protocols."""
        images, versions, recipe = self.images, installed_versions(), dict(self.dataset.preprocessing)
        recorded = (versions, recipe, images.class_sizes, provenance, images.class_names)
        return [(Cell(card, self._card(protocol), *recorded), protocol) for protocol in self.protocols]

    def _card(self, protocol: Protocol) -> ProtocolCard:
        return protocol_card(protocol, self.dataset.fingerprint)


def resolve_study(
    study: Study,
    *,
    dataset: Dataset | None = None,
    backbones: Backbones | None = None,
    progress: Progress = SILENT,
) -> ResolvedStudy:
    """Derive everything from a study, and find what is wrong with it; nothing is trained, embedded or written.

    Mistakes in methods are found before images are read, and networks are made on the first look at them.

    Args:
        study: as a user describes it.
        dataset: the images, where they are open already.
        backbones: makes the networks; shared by the studies of a plan.
        progress: shown the import of a user's own images.

    Raises:
        FewshotBenchError: a name is unknown, the images are absent, or the protocols do not fit the split.
    """
    planned_adaptations(expand_groups(study)[0])
    rule = stopping_rule(study)
    dataset = dataset or open_study_dataset(study, progress)
    study, left_out = expand_groups(study.model_copy(update={"dataset": dataset.name}), dataset)
    adaptations = tuple(planned_adaptations(study))
    protocols = tuple(_fitting_protocols(study, dataset))
    return ResolvedStudy(study, dataset, protocols, adaptations, rule, left_out, backbones or Backbones())


def open_study_dataset(study: Study, progress: Progress = SILENT) -> Dataset:
    """The dataset of a study, by its name or from the folder of a user's own images.

    Raises:
        StudyError: own images are to be divided, but the dataset has official splits.
        DatasetError: the images are not here.
    """
    options = study.own_options
    if is_named(study.dataset) and options != OwnOptions(seed=study.seed):
        raise StudyError(
            f"{study.dataset} has its splits already; --split FRACTIONS, --min-images, --root, --class-depth and "
            "--layout are for own images by path. To keep another division under a name: fewshot-bench data import "
            "NAME --from PATH --split FRACTIONS"
        )
    return known_dataset(study.dataset, own=options, progress=progress)


def refuse_other_classes(dataset: Dataset) -> None:
    """Raise StudyError unless there are a train split and a test split of the same classes."""
    if not {"train", "test"} <= set(dataset.splits):
        raise StudyError(
            f"--protocol full needs a train and a test split of the same classes, and {dataset.name} has "
            f"{', '.join(dataset.splits)}. Use a dataset for classification, such as cifar-100, or leave it out."
        )
    train, test = dataset.split("train"), dataset.split("test")
    if train.class_names == test.class_names:
        return
    only = sorted(set(train.class_names) ^ set(test.class_names))
    where = "train" if only[0] in train.class_names else "test"
    raise StudyError(
        f"the train and test splits of {dataset.name} should have the same classes; {len(only):,} are in one of them "
        f"alone, such as {only[0]!r} in the {where} split. Remove such classes, or use --split test for few-shot "
        "episodes."
    )


def _fitting_protocols(study: Study, dataset: Dataset) -> list[Protocol]:
    """One protocol per number of shots.

    Raises:
        EpisodeError: the split has too few classes, images or episodes; the message names the classes, and which of
            the user's own images were left out, which may be why.
    """
    if study.is_whole:
        refuse_other_classes(dataset)
    images = dataset.split(study.split)
    try:
        for protocol in study.protocols():
            sample_by_shape(images, protocol, numbers=np.arange(0))
        return study.protocols(images.class_sizes)
    except EpisodeError as error:
        lines = left_out_lines(dataset.preprocessing)
        if not lines:
            raise
        raise EpisodeError(f"{error} What was left out: {'; '.join(lines[:_MOST_LINES])}.") from error
