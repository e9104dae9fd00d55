"""The base stage of a method: train its backbone on the base split, unless the trained network is in the cache."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewshot_bench._io.locations import cache_folder
from fewshot_bench.backbones import Backbone, BackboneRequest, BaseHead, known_backbone, network_identity
from fewshot_bench.cache import BASE_STAGES, build_once, read_entry
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.engine.engine import Engine, LocalEngine
from fewshot_bench.errors import WeightsError
from fewshot_bench.losses import LOSSES
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.training import (
    Recipe,
    load_network,
    paper_recipe,
    refuse_batches_that_do_not_fit,
    save_checkpoint,
    scratch_recipe,
    seeded_randomness,
    train_on_base,
)

TRAINING_VERSION = 2


def base_recipe(backbone: Backbone, loss: str, **changes: Any) -> Recipe:
    """The recipe for a backbone: the paper's for pretrained networks, one for small networks otherwise."""
    recipe = paper_recipe(loss) if backbone.is_pretrained else scratch_recipe(loss)
    return replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def base_stage_name(recipe: Recipe, default: Recipe, **settings: Any) -> str:
    """The base stage in a method's name, with what differs from the default recipe, e.g. "base-ce@epochs=3"."""
    changed = recipe.changes_from(default) | settings
    suffix = "@" + ",".join(f"{key.rstrip('_')}={changed[key]}" for key in sorted(changed)) if changed else ""
    return f"base-{recipe.loss}{suffix}"


def initialised_backbone(request: BackboneRequest, seed: int, *, is_stand_in: bool = False) -> Backbone:
    """A backbone whose random initial weights, if it has no others, depend on the seed alone; see `known_backbone`."""
    with seeded_randomness(seed):
        return known_backbone(request, is_stand_in=is_stand_in)


def starting_weights(backbone: Backbone) -> str:
    """What a training starts from, for a content key."""
    return backbone.weights if backbone.is_pretrained else "initialised from the recipe's seed"


def fine_tuned_on_base(
    backbone: Backbone,
    split: ImageSplit,
    recipe: Recipe,
    *,
    device: str,
    engine: Engine | None = None,
    progress: Progress = SILENT,
) -> Backbone:
    """The backbone after the base stage; its network is changed, and its checkpoint cached by everything that went in.

    It is cached where this process runs, wherever it was trained: a study that is resumed needs the same network. Where
    several processes want the same checkpoint, one trains and the others wait for it. Without an engine, this process
    trains on the device.

    Raises:
        StudyError: a batch does not fit into memory, or training diverged.
    """
    call = (engine or LocalEngine(device)).call

    def trained() -> _Extras:
        weights, head, metadata = call(_train, backbone, split, recipe, device, progress=progress)
        backbone.network.load_state_dict(weights)
        return _Extras(metadata, head)

    extras = build_once(
        checkpoint_path(backbone, split, recipe),
        _words(backbone, split, recipe),
        read=lambda path: _load(path, backbone),
        build=trained,
        write=lambda path, built: save_checkpoint(path, backbone.network, built.metadata, built.head),
        progress=progress,
    )
    return _trained(backbone, extras)


def from_checkpoint(backbone: Backbone, split: ImageSplit, recipe: Recipe) -> Backbone | None:
    """The backbone after the base stage if its checkpoint is in the cache and whole; None otherwise."""
    found = read_entry(checkpoint_path(backbone, split, recipe), lambda path: _load(path, backbone))
    return None if found is None else _trained(backbone, found)


@dataclass(frozen=True)
class _Extras:
    """What a checkpoint holds beside the backbone: metadata, and the head of the training."""

    metadata: dict[str, str]
    head: BaseHead | None


def _trained(backbone: Backbone, extras: _Extras) -> Backbone:
    """A new object, because the digest of the weights is taken once per object."""
    return replace(backbone, is_pretrained=True, base_head=extras.head)


def _train(
    backbone: Backbone, split: ImageSplit, recipe: Recipe, device: str, *, progress: Progress
) -> tuple[dict[str, torch.Tensor], BaseHead, dict[str, str]]:
    """The weights and the head after training, on the CPU, and the metadata of their checkpoint."""
    four = four_inputs(backbone, split, device)
    refuse_batches_that_do_not_fit(backbone.network, four, min(recipe.batch_size, len(split)))
    result = train_on_base(
        backbone.network, split, recipe, normalise=backbone.preprocessing, device=device, progress=progress
    )
    weights = {name: tensor.cpu() for name, tensor in result.backbone.state_dict().items()}
    return (
        weights,
        BaseHead.of(result.head, split.class_names),
        {
            "what": _words(backbone, split, recipe),
            "backbone": backbone.name,
            "recipe": json.dumps(recipe.hyper_parameters(), sort_keys=True),
            "base_split": split.fingerprint,
            "history": json.dumps(result.history),
        },
    )


def _words(backbone: Backbone, split: ImageSplit, recipe: Recipe) -> str:
    return f"{backbone.name} trained on {split.dataset} {split.name} with {recipe.loss}"


def four_inputs(backbone: Backbone, split: ImageSplit, device: str) -> torch.Tensor:
    """The first four images, preprocessed, [4, C, S, S], to measure the memory of a backbone with."""
    four = torch.from_numpy(np.array(split.images[:4])).permute(0, 3, 1, 2).to(device)
    return backbone.preprocessing(four)


def checkpoint_path(backbone: Backbone, split: ImageSplit, recipe: Recipe) -> Path:
    """Where the checkpoint of a base stage is cached."""
    content = {
        "version": TRAINING_VERSION,
        "backbone": backbone.name,
        "weights": starting_weights(backbone),
        "network": network_identity(backbone.network),
        "preprocessing": backbone.preprocessing.as_dict(),
        "recipe": recipe.hyper_parameters(),
        "split": split.fingerprint,
        **code_record(backbone, recipe.loss),
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    readable = f"{split.dataset}-{backbone.name}-base-{recipe.loss}".replace("/", "-").replace(":", "-")
    return cache_folder() / BASE_STAGES / f"{readable}-{key}.safetensors"


def code_record(backbone: Backbone, loss: str) -> dict[str, Any]:
    """The user's own code in a training, as plain data under "code"; empty where there is none."""
    parts = {"backbone": backbone.code, "loss": LOSSES[loss].code if loss in LOSSES else None}
    record = {part: code.as_record() for part, code in parts.items() if code is not None}
    return {"code": record} if record else {}


def _load(path: Path, backbone: Backbone) -> _Extras | None:
    """Load a checkpoint into a backbone; None where it is damaged, so that it is trained again."""
    try:
        weights, head, metadata = load_network(path, backbone.embedding_size)
        backbone.network.load_state_dict(weights)
    except (WeightsError, RuntimeError):
        return None
    return _Extras(metadata, head)
