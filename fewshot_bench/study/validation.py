"""How a training is validated: which episodes, which head, and what the record says of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from fewshot_bench.adaptation import MAML, Adaptation, Centroid, EmbeddedSplit, EmbeddingAdaptation
from fewshot_bench.backbones import Backbone, embed
from fewshot_bench.cache.trials import no_trials
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.engine.classify import accuracy, classify
from fewshot_bench.engine.finetune import FinetuneClassifier, as_finetune
from fewshot_bench.episodes import Episodes, Protocol, sample_episodes
from fewshot_bench.errors import StudyError
from fewshot_bench.objectives import MetaHead
from fewshot_bench.outcomes.packing import Positions
from fewshot_bench.study.methods import planned_adaptations
from fewshot_bench.study.study import Study
from fewshot_bench.training import Recipe
from fewshot_bench.training.fit import Validate
from fewshot_bench.training.named_recipes import NamedRecipe

WAY, QUERY, SHOTS = 5, 15, (1, 5)
"""The validation episodes, if the split has enough classes and images."""
_CENTROID = Centroid()


def validation_protocols(split: ImageSplit, episodes: int, way: int | None = None) -> list[Protocol]:
    """5-way episodes at 1 and 5 shots with 15 queries, or with as many classes and images as there are.

    Args:
        split: the validation split.
        episodes: of each protocol.
        way: N of a network that classifies N classes only; None for 5, or as many as there are.

    Raises:
        StudyError: the split has too few classes, or a class of one image; or it is the novel split.
    """
    if split.name == "novel":
        raise StudyError("a training is never validated on the novel split.")
    classes, smallest = len(split.class_sizes), min(split.class_sizes)
    if way is not None and way > classes:
        raise StudyError(
            f"the {split.name} split of {split.dataset} has {classes} classes, and a training of {way}-way tasks is "
            "validated on as many. Use --validate-every 0."
        )
    way = way or min(WAY, classes)
    if way < 2 or smallest < 2:
        raise StudyError(
            f"the {split.name} split of {split.dataset} has {len(split.class_sizes)} classes of {smallest} or more "
            "images; validation episodes need 2 classes of 2. Use --validate-every 0."
        )
    shots = [shot for shot in SHOTS if shot < smallest]
    query = min(QUERY, smallest - shots[-1])
    return [Protocol(split.dataset, split.name, way, shot, query, episodes, runs=1) for shot in shots]


def validation(
    backbone: Backbone,
    split: ImageSplit,
    protocols: list[Protocol],
    device: str,
    head: EmbeddingAdaptation | MAML = _CENTROID,
) -> Validate:
    """A function that validates a network, for `Selection`.

    Args:
        backbone: gives the preprocessing.
        split: the validation split.
        protocols: of `validation_protocols`.
        device: a torch device.
        head: classifies the queries.

    Returns:
        Network and its trained head -> mean accuracy per number of shots, always on the same episodes.
    """
    drawn = [sample_episodes(split, protocol) for protocol in protocols]

    def classifier(network: nn.Module, trained_head: nn.Module) -> Callable[[Episodes], Positions]:
        trained = replace(backbone, network=network)
        if isinstance(head, MAML):
            assert isinstance(trained_head, MetaHead)
            trained = replace(trained, task_head=trained_head.task_head())
            with no_trials():  # whose choices would make rounding depend on how busy the machine is
                fine_tuning = FinetuneClassifier.on_images(as_finetune(head, trained), split, trained, device)
            return partial(_without_trials, fine_tuning)
        embeddings = embed(split, trained, device=device, use_cache=False)
        embedded = EmbeddedSplit(torch.from_numpy(embeddings).to(device), len(split)).with_features(head.features)
        return partial(classify, head, embedded)

    def validate(network: nn.Module, trained_head: nn.Module) -> Mapping[str, float]:
        predict = classifier(network, trained_head)
        return {
            f"validation_{episodes.protocol.shot}shot": float(accuracy(predict(episodes), episodes.protocol.way).mean())
            for episodes in drawn
        }

    return validate


def validation_head(named: NamedRecipe | None, dataset: str, recipe: Recipe) -> EmbeddingAdaptation | MAML:
    """The head that validates a training.

    It is the adaptation of the recipe if embeddings of the episode suffice for it, and nearest centroids otherwise. A
    network that was trained to take gradient steps is validated after such steps.

    Raises:
        UnknownNameError: the recipe's adaptation is not known.
        StudyError: it refuses its hyper-parameters.
    """
    own = {} if named is None else named.hyper_parameters(dataset, recipe)
    head: Adaptation = _CENTROID
    if named is not None:
        head = planned_adaptations(Study(adaptations=(named.evaluation.adaptation,), hyper_parameters=own))[0]
    if recipe.learns_by_gradient_steps:
        training = recipe.hyper_parameters()
        return head.after(training, own) if isinstance(head, MAML) else MAML().after(training, ())
    if not isinstance(head, EmbeddingAdaptation) or head.features not in ("raw", "l2") or getattr(head, "views", False):
        return _CENTROID
    return head


def _without_trials(fine_tuning: FinetuneClassifier, episodes: Episodes) -> Positions:
    with no_trials():
        return fine_tuning(episodes, len(episodes))


def selection_card(
    protocols: list[Protocol], every: int, head: EmbeddingAdaptation | MAML = _CENTROID
) -> dict[str, Any]:
    """What decides which epoch a validation chooses, as plain data; empty without a validation."""
    if not protocols:
        return {}
    first = protocols[0]
    by_head = {} if head == _CENTROID else {"head": {"name": head.name, **head.hyper_parameters()}}
    return by_head | {
        "split": first.split,
        "way": first.way,
        "shots": [protocol.shot for protocol in protocols],
        "query": first.query,
        "episodes": first.episodes,
        "every": every,
    }
