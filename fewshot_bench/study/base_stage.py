"""The base stage of a method: fine-tune its backbone on the base split, or find that it has been done."""

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
from fewshot_bench.engine.engine import Engine
from fewshot_bench.engine.local import LocalEngine
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
    """What a base stage is called in a method's name, e.g. "base-ce@epochs=3".

    Args:
        recipe: how the backbone is trained.
        default: what it would be by default for the same loss.
        **settings: further ones that are not the default.
    """
    changed = recipe.changes_from(default) | settings
    suffix = "@" + ",".join(f"{key.rstrip('_')}={changed[key]}" for key in sorted(changed)) if changed else ""
    return f"base-{recipe.loss}{suffix}"


def initialised_backbone(request: BackboneRequest, seed: int, *, is_stand_in: bool = False) -> Backbone:
    """A backbone whose initial weights, where it has no others, depend on the seed alone.

    Args:
        request: what a user asked for.
        seed: of the initial weights.
        is_stand_in: see `known_backbone`.
    """
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
    """The backbone after the base stage; its checkpoint is kept under a key of everything that went in.

    It is kept where this process runs, wherever it was trained: a study that goes on elsewhere needs the same network.
    Of several processes that want the same checkpoint, one trains and the others wait for it.

    Args:
        backbone: before the stage; its network is changed.
        split: the base split.
        recipe: how to train.
        device: a torch device.
        engine: who trains; this process by default.
        progress: shown one unit per optimiser step.

    Raises:
        StudyError: a batch does not fit into memory, or training diverged.
    """
    call = (engine or LocalEngine(device)).call

    def trained() -> _Told:
        weights, head, metadata = call(_train, backbone, split, recipe, device, progress=progress)
        backbone.network.load_state_dict(weights)
        return _Told(metadata, head)

    told = build_once(
        checkpoint_path(backbone, split, recipe),
        _words(backbone, split, recipe),
        read=lambda path: _load(path, backbone),
        build=trained,
        write=lambda path, told: save_checkpoint(path, backbone.network, told.metadata, told.head),
        progress=progress,
    )
    return _trained(backbone, told)


def from_checkpoint(backbone: Backbone, split: ImageSplit, recipe: Recipe) -> Backbone | None:
    """The backbone after the base stage where its checkpoint is here; None where it is not, or is damaged."""
    found = read_entry(checkpoint_path(backbone, split, recipe), lambda path: _load(path, backbone))
    return None if found is None else _trained(backbone, found)


@dataclass(frozen=True)
class _Told:
    """What a checkpoint holds beside the backbone: metadata, and the head unless it is from before heads were kept."""

    metadata: dict[str, str]
    head: BaseHead | None


def _trained(backbone: Backbone, told: _Told) -> Backbone:
    """A new object, because the digest of the weights is taken once per object."""
    return replace(backbone, is_pretrained=True, base_head=told.head)


def _train(
    backbone: Backbone, split: ImageSplit, recipe: Recipe, device: str, *, progress: Progress
) -> tuple[dict[str, torch.Tensor], BaseHead, dict[str, str]]:
    """The weights and the head after training, on the CPU, and what their checkpoint is."""
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
    """What a backbone is given of the first four images, [4, C, S, S], to measure its memory with."""
    four = torch.from_numpy(np.array(split.images[:4])).permute(0, 3, 1, 2).to(device)
    return backbone.preprocessing(four)


def checkpoint_path(backbone: Backbone, split: ImageSplit, recipe: Recipe) -> Path:
    """Where the checkpoint of a base stage is kept."""
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
    """Somebody's own code in a training, as plain data under "code"; nothing where there is none."""
    parts = {"backbone": backbone.code, "loss": LOSSES[loss].code if loss in LOSSES else None}
    record = {part: code.as_record() for part, code in parts.items() if code is not None}
    return {"code": record} if record else {}


def _load(path: Path, backbone: Backbone) -> _Told | None:
    """Load a checkpoint and say what it is; None where it is damaged, and trained again."""
    try:
        weights, head, metadata = load_network(path, backbone.embedding_size)
        backbone.network.load_state_dict(weights)
    except (WeightsError, RuntimeError):
        return None
    return _Told(metadata, head)
