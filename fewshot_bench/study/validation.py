"""Validation episodes: how good a backbone that is being trained is at classes it is not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fewshot_bench.adaptation import Centroid, EmbeddedSplit
from fewshot_bench.backbones import Backbone, embed
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.engine.classify import accuracy, classify
from fewshot_bench.episodes import Protocol, sample_episodes
from fewshot_bench.errors import StudyError
from fewshot_bench.training.course import Validate

SHOTS = (1, 5)
_WAY, _QUERY = 5, 15


def validation_protocols(split: ImageSplit, episodes: int) -> list[Protocol]:
    """5-way episodes at 1 and 5 shots with 15 queries, or with as many classes and images as there are.

    Args:
        split: the validation split.
        episodes: of each protocol.

    Raises:
        StudyError: the split has fewer than two classes, or a class of one image; or it is the novel split.
    """
    if split.name == "novel":
        raise StudyError("a training is never validated on the novel split.")
    way, smallest = min(_WAY, len(split.class_sizes)), min(split.class_sizes)
    if way < 2 or smallest < 2:
        raise StudyError(
            f"the {split.name} split of {split.dataset} has {len(split.class_sizes)} classes of {smallest} or more "
            "images; validation episodes need 2 classes of 2. Use --validate-every 0."
        )
    shots = [shot for shot in SHOTS if shot < smallest]
    query = min(_QUERY, smallest - shots[-1])
    return [Protocol(split.dataset, split.name, way, shot, query, episodes, runs=1) for shot in shots]


def validation(backbone: Backbone, split: ImageSplit, protocols: list[Protocol], device: str) -> Validate:
    """A look at the validation split, for `Selection`.

    Args:
        backbone: whose preprocessing is used.
        split: the validation split.
        protocols: of `validation_protocols`.
        device: a torch device.

    Returns:
        Network -> mean accuracy of nearest centroids per number of shots, on the same episodes at every look.
    """
    drawn = [sample_episodes(split, protocol) for protocol in protocols]
    centroid = Centroid()

    def validate(network: nn.Module) -> Mapping[str, float]:
        embeddings = embed(split, replace(backbone, network=network), device=device, use_cache=False)
        embedded = EmbeddedSplit(torch.from_numpy(embeddings).to(device), len(split)).with_features(centroid.features)
        return {
            f"validation_{episodes.protocol.shot}shot": float(
                accuracy(classify(centroid, embedded, episodes), episodes.protocol.way).mean()
            )
            for episodes in drawn
        }

    return validate


def selection_card(protocols: list[Protocol], every: int) -> dict[str, Any]:
    """What of a validation decides which epoch is chosen, as plain data."""
    if not protocols:
        return {}
    one = protocols[0]
    return {
        "split": one.split,
        "way": one.way,
        "shots": [protocol.shot for protocol in protocols],
        "query": one.query,
        "episodes": one.episodes,
        "every": every,
    }
