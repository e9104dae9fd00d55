"""The base stage of a method: train its backbone on the base split, unless the trained network is in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fewshot_bench._io.locations import cache_folder
from fewshot_bench.backbones import Backbone, BackboneRequest, BaseHead, known_backbone, network_identity
from fewshot_bench.cache import BASE_STAGES, build_once, read_entry
from fewshot_bench.datasets.dataset import Dataset, ImageSplit
from fewshot_bench.devices import is_out_of_memory, release_unused
from fewshot_bench.engine.engine import Engine, LocalEngine
from fewshot_bench.errors import StudyError, WeightsError
from fewshot_bench.losses import LOSSES
from fewshot_bench.objectives import objective_of
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.study.provenance import tf32
from fewshot_bench.training import (
    Computing,
    History,
    Recipe,
    Selection,
    StateFile,
    StepMemory,
    TrainingResult,
    batch_norms,
    checkpoint_metadata,
    fitting_micro_batch,
    load_network,
    paper_recipe,
    refuse_batches_that_do_not_fit,
    save_checkpoint,
    scratch_recipe,
    seeded_randomness,
    train_on_base,
)
from fewshot_bench.training.division import divided
from fewshot_bench.training.heads import base_head_of

TRAINING_VERSION = 2


def base_recipe(backbone: Backbone, loss: str, **changes: Any) -> Recipe:
    """The recipe for a backbone: one for pretrained networks, another for small networks from their first weights."""
    recipe = paper_recipe(loss) if backbone.is_pretrained else scratch_recipe(loss)
    return replace(recipe, **{name: value for name, value in changes.items() if value is not None})


HELD_OUT = 0.1
"""Share of a train split that is held out for validation where a dataset for classification has no validation split."""
EPOCHS_ON_WHOLE_DATASETS = 50
"""Of pretrained networks, as in the SCHaNe paper."""
_VALIDATIONS = 10


def whole_recipe(backbone: Backbone, loss: str, dataset: Dataset | None, **changes: Any) -> Recipe:
    """The recipe for a backbone on the train split of a dataset for classification.

    Args:
        backbone: pretrained, for the paper's recipe, or small.
        loss: name of a loss.
        dataset: whose validation split is used, if it has one; None if it is not available.
        **changes: fields that differ; None changes nothing.
    """
    epochs = EPOCHS_ON_WHOLE_DATASETS if backbone.is_pretrained else None
    own: dict[str, Any] = {"epochs": epochs, "validation_share": validation_share(dataset)}
    return base_recipe(backbone, loss, **own | {name: value for name, value in changes.items() if value is not None})


def whole_head(backbone: Backbone, split: ImageSplit) -> BaseHead:
    """The classifier that was trained with a backbone, checked against the classes of a split.

    Raises:
        StudyError: there is none, or it was trained on other classes.
    """
    head = backbone.base_head
    if head is None:
        raise StudyError(
            f"{backbone.name} has no classifier of its own: it was not trained on the train split. Use --loss ce."
        )
    if head.classes != split.class_names:
        raise StudyError(
            f"the classifier of {backbone.name} was trained on {len(head.classes):,} classes, which are not the "
            f"{len(split.class_names):,} classes of the {split.name} split of {split.dataset}. Use a network that was "
            "trained on its train split: fewshot-bench train --protocol full"
        )
    return head


def on_whole_dataset(recipe: Recipe, dataset: Dataset | None) -> Recipe:
    """A named recipe on the train split of a dataset for classification, with a part held out where that is needed.

    Raises:
        StudyError: the recipe learns from tasks.
    """
    if recipe.learns_from_tasks:
        raise StudyError(
            f"the objective {recipe.objective} learns from small tasks and trains no classifier of a whole dataset. "
            "Use a recipe with the objective classification."
        )
    return recipe if recipe.validation_share else replace(recipe, validation_share=validation_share(dataset))


def validation_split(dataset: Dataset, train: ImageSplit) -> ImageSplit | None:
    """The validation split of a dataset if it has the classes of the train split; None otherwise."""
    images = dataset.validation if "validation" in dataset.splits else None
    return images if images is not None and images.class_names == train.class_names else None


def validation_share(dataset: Dataset | None) -> float:
    """The share of a train split that is held out by default."""
    return 0.0 if dataset is not None and "validation" in dataset.splits else HELD_OUT


def base_stage_name(recipe: Recipe, default: Recipe, **settings: Any) -> str:
    """The base stage in a method's name, with what differs from the default recipe, e.g. "base-ce@epochs=3"."""
    return stage_name(f"base-{recipe.loss}", recipe.changes_from(default) | settings)


def stage_name(name: str, changed: Mapping[str, Any]) -> str:
    """A stage with the settings that differ from its default, e.g. "rfs-conv4@epochs=3"."""
    suffix = "@" + ",".join(f"{key.rstrip('_')}={changed[key]}" for key in sorted(changed)) if changed else ""
    return f"{name}{suffix}"


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
    validation: ImageSplit | None = None,
) -> Backbone:
    """The backbone after the base stage; its network is changed, and its checkpoint cached by everything that went in.

    It is cached where this process runs, wherever it was trained: a study that is resumed needs the same network. Where
    several processes want the same checkpoint, one trains and the others wait for it. Without an engine, this process
    trains on the device.

    A training in this process keeps its state beside the checkpoint until it is finished, so that it resumes after the
    last epoch; on another machine it starts again.

    Args:
        backbone: before its training.
        split: to train on.
        recipe: decides the result.
        device: where to train, without an engine.
        engine: who trains.
        progress: shown every step.
        validation: images of the same classes to measure the accuracy on, if the recipe holds none of the split out.

    Raises:
        StudyError: a batch does not fit into memory, or training diverged.
    """
    engine, path = engine or LocalEngine(device), checkpoint_path(backbone, split, recipe, validation)
    state = path.with_name(f"{path.stem}.state.safetensors") if isinstance(engine, LocalEngine) else None

    what = (backbone, split, recipe, validation)

    def trained() -> _Extras:
        weights, head, metadata = engine.call(_train, *what, device, state, progress=progress)
        backbone.network.load_state_dict(weights)
        return _Extras(metadata, head)

    extras = build_once(
        path,
        _words(backbone, split, recipe),
        read=lambda path: _load(path, backbone),
        build=trained,
        write=lambda path, built: save_checkpoint(path, backbone.network, built.metadata, built.head),
        progress=progress,
    )
    with suppress(OSError):
        if state is not None:
            state.unlink()
    return _trained(backbone, extras)


def from_checkpoint(
    backbone: Backbone, split: ImageSplit, recipe: Recipe, validation: ImageSplit | None = None
) -> Backbone | None:
    """The backbone after the base stage if its checkpoint is in the cache and whole; None otherwise."""
    found = read_entry(checkpoint_path(backbone, split, recipe, validation), lambda path: _load(path, backbone))
    return None if found is None else _trained(backbone, found)


@dataclass(frozen=True)
class _Extras:
    """What a checkpoint holds beside the backbone: metadata, and the head of the training."""

    metadata: dict[str, str]
    head: BaseHead | None

    @property
    def computing(self) -> dict[str, Any]:
        """See `Backbone.computing`; raises ValueError or TypeError if it is damaged."""
        return dict(json.loads(self.metadata.get("computing", "{}")))


def _trained(backbone: Backbone, extras: _Extras) -> Backbone:
    """A new object, because the digest of the weights is taken once per object."""
    return replace(backbone, is_pretrained=True, base_head=extras.head, computing=extras.computing)


def _train(
    backbone: Backbone,
    split: ImageSplit,
    recipe: Recipe,
    validation: ImageSplit | None,
    device: str,
    state: Path | None,
    *,
    progress: Progress,
) -> tuple[dict[str, torch.Tensor], BaseHead | None, dict[str, str]]:
    """The weights and the head after training, on the CPU, and the metadata of their checkpoint."""
    what = _words(backbone, split, recipe)
    batch, used = recipe.images_per_step(len(split)), used_micro_batches(state)
    four = four_inputs(backbone, split, device)
    memory = StepMemory.measured(backbone.network, four, precision=recipe.precision, views=recipe.views)
    chosen = base_micro_batch(backbone, memory, used[-1] if used else batch)
    is_fixed = bool(batch_norms(backbone.network))
    way_out = f"Use {'--base-batch {half}, ' if is_fixed else ''}a smaller --image-size, or --base-precision bf16."
    training = MicroBatches(used if used[-1:] == [chosen] else [*used, chosen], is_fixed, way_out)
    file = None if state is None else StateFile(path=state, metadata={"what": f"unfinished: {what}"}, is_optional=True)

    selection = own_selection(backbone, split, recipe, validation, device)

    def train() -> TrainingResult:
        return training.train(
            backbone, split, recipe, device=device, progress=progress, state=file, selection=selection
        )

    try:
        result = train()
    except WeightsError:  # the state is damaged, so it starts again, as from a damaged checkpoint
        if state is None or not state.is_file():
            raise
        state.unlink()
        result = train()
    weights = {name: tensor.cpu() for name, tensor in result.backbone.state_dict().items()}
    computing: dict[str, Any] = tf32(device)
    if min(training.sizes) < batch:
        computing["micro_batches"] = training.sizes
    return (
        weights,
        base_head_of(result.head, split.class_names),
        {
            "what": what,
            "backbone": backbone.name,
            "recipe": json.dumps(recipe.hyper_parameters(), sort_keys=True),
            "base_split": split.fingerprint,
            **({"division": divided(split.class_sizes, recipe).digest} if recipe.divides_images else {}),
            "history": json.dumps(result.history),
            **({"computing": json.dumps(computing)} if computing else {}),
        },
    )


def own_selection(
    backbone: Backbone,
    split: ImageSplit,
    recipe: Recipe,
    validation: ImageSplit | None,
    device: str,
    every: int | None = None,
) -> Selection | None:
    """Validation of a training on a train split: the accuracy of its own classifier on held-out images.

    Args:
        backbone: gives the preprocessing.
        split: to train on.
        recipe: says which of its images are held out, and whether the best epoch is kept.
        validation: other images to measure the accuracy on, if none are held out.
        device: a torch device.
        every: epochs between two validations; None for about ten in all.

    Returns:
        None if there are no images to validate on.

    Raises:
        StudyError: the best epoch should be kept, and there are no images to choose it on.
    """
    if recipe.validation_share:
        images, rows = split, divided(split.class_sizes, recipe).held_out
    elif validation is not None:
        images, rows = validation, np.arange(len(validation))
    else:
        images, rows = split, np.arange(0)
    if not len(rows):
        if recipe.kept_epoch == "best":
            raise StudyError(
                f"kept_epoch=best needs images to choose the epoch on, and none of {split.dataset} are held out. Set "
                "validation_share=0.1."
            )
        return None
    return Selection(
        validate=partial(_own_accuracy, backbone, images, rows, device),
        every=every or max(1, round(recipe.epochs / _VALIDATIONS)),
        chooses=recipe.kept_epoch == "best",
    )


_VALIDATED_AT_ONCE = 256


@torch.no_grad()
def _own_accuracy(
    backbone: Backbone, split: ImageSplit, rows: NDArray[np.int64], device: str, network: nn.Module, head: nn.Module
) -> dict[str, float]:
    """The accuracy of a network and its classifier on some images of a split."""
    classifier = base_head_of(head, split.class_names)
    assert classifier is not None
    correct = 0
    for start in range(0, len(rows), _VALIDATED_AT_ONCE):
        chosen = rows[start : start + _VALIDATED_AT_ONCE]
        images = torch.from_numpy(np.ascontiguousarray(split.images[chosen])).permute(0, 3, 1, 2).to(device)
        logits = classifier(network(backbone.preprocessing(images)).float())
        correct += int((logits.argmax(1).cpu().numpy() == split.labels[chosen]).sum())
    return {"validation_accuracy": correct / len(rows)}


def base_micro_batch(backbone: Backbone, memory: StepMemory, batch: int) -> int:
    """Images whose activations a base stage keeps at once: the whole batch if it fits, otherwise as many as fit.

    On a CPU a batch is whole wherever its activations alone fit, as it was before there were parts: numbers stay.
    Without batch normalisation the parts give the gradients of the whole batch, but for rounding and the random numbers
    of dropout. With it they would give another method, which must not depend on how much memory is free.

    Args:
        backbone: before its training.
        memory: of a step.
        batch: images per step.

    Raises:
        StudyError: not one image fits, or the batch of a network with batch normalisation does not.
    """
    if batch_norms(backbone.network):
        refuse_batches_that_do_not_fit(memory, batch)
        return batch
    if memory.device == "cpu" and memory.free is not None and batch * memory.per_image <= memory.free:
        return batch
    return fitting_micro_batch(memory, batch)


def micro_batch_or_problem(
    backbone: Backbone, memory: StepMemory, batch: int, *, least: int = 1, is_base_stage: bool = True
) -> tuple[int, str]:
    """The images whose activations a training keeps at once; the whole batch and a message where it would be refused.

    Args:
        backbone: before its training.
        memory: of a step.
        batch: images per step.
        least: the smallest micro-batch, such as the images of a task.
        is_base_stage: whether micro-batches must not change batch normalisation; see `base_micro_batch`. A training
            under a name takes what fits, and records it.
    """
    try:
        if not is_base_stage:
            return fitting_micro_batch(memory, batch, least), ""
        return base_micro_batch(backbone, memory, batch), ""
    except StudyError as error:
        return batch, str(error)


def used_micro_batches(state: Path | None) -> list[int]:
    """The sizes of micro-batches that an unfinished training has used; none where no state can be read."""
    if state is None or not state.is_file():
        return []
    with suppress(WeightsError, KeyError, ValueError):
        used: list[int] = json.loads(checkpoint_metadata(state)["micro_batches"])
        return used
    return []


@dataclass
class MicroBatches:
    """A training in micro-batches, which are halved while memory runs out.

    Attributes:
        sizes: in images, used so far; the last one is used next.
        is_fixed: whether the size must not change.
        way_out: the end of the message where nothing smaller can be tried; `{half}` is half of the size.
    """

    sizes: list[int]
    is_fixed: bool
    way_out: str

    def train(
        self,
        backbone: Backbone,
        split: ImageSplit,
        recipe: Recipe,
        *,
        device: str,
        progress: Progress,
        state: StateFile | None = None,
        computing: Computing | None = None,
        selection: Selection | None = None,
        teacher: Backbone | None = None,
        after_epoch: Callable[[History], None] | None = None,
    ) -> TrainingResult:
        """Train as `train_on_base` does, in these micro-batches; the state's metadata gets their sizes.

        Raises:
            StudyError: memory ran out, and no smaller micro-batch may be tried; or see `train_on_base`.
            WeightsError: the state is damaged, or of another training.
        """
        least = recipe.least_images_at_once
        while True:
            size, metadata = self.sizes[-1], {"micro_batches": json.dumps(self.sizes)}
            try:
                return train_on_base(
                    backbone.network,
                    split,
                    recipe,
                    normalise=backbone.preprocessing,
                    device=device,
                    objective=objective_of(recipe, teacher),
                    progress=progress,
                    computing=replace(computing or Computing(), micro_batch=size),
                    selection=selection,
                    state=None if state is None else replace(state, metadata={**state.metadata, **metadata}),
                    after_epoch=after_epoch,
                )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.is_fixed or size <= least:
                    way_out = self.way_out.format(half=max(1, size // 2))
                    if 1 < size <= least:
                        way_out = "Use a smaller --way, --shot or --query, a smaller --image-size, or --precision bf16."
                    raise StudyError(
                        f"a micro-batch of {size} images does not fit into the memory of {device}. {way_out}"
                    ) from error
            # Outside of the handler the error no longer holds the tensors it was working on.
            release_unused()
            self.sizes.append(max(least, size // 2))


def _words(backbone: Backbone, split: ImageSplit, recipe: Recipe) -> str:
    return f"{backbone.name} trained on {split.dataset} {split.name} with {recipe.loss}"


def four_inputs(backbone: Backbone, split: ImageSplit, device: str) -> torch.Tensor:
    """The first four images, preprocessed, [4, C, S, S], to measure the memory of a backbone with."""
    four = torch.from_numpy(np.array(split.images[:4])).permute(0, 3, 1, 2).to(device)
    return backbone.preprocessing(four)


def checkpoint_path(
    backbone: Backbone, split: ImageSplit, recipe: Recipe, validation: ImageSplit | None = None
) -> Path:
    """Where the checkpoint of a base stage is cached."""
    chooses = validation is not None and recipe.kept_epoch == "best" and not recipe.validation_share
    content = {
        "version": TRAINING_VERSION,
        "backbone": backbone.name,
        "weights": starting_weights(backbone),
        "network": network_identity(backbone.network),
        "preprocessing": backbone.preprocessing.as_dict(),
        "recipe": recipe.hyper_parameters(),
        "split": split.fingerprint,
        **({"validation": validation.fingerprint} if validation is not None and chooses else {}),
        **code_record(backbone, recipe.loss),
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    readable = f"{split.dataset}-{backbone.name}-{split.name}-{recipe.loss}".replace("/", "-").replace(":", "-")
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
        extras = _Extras(metadata, head if isinstance(head, BaseHead) else None)
        _ = extras.computing  # which may be damaged
        backbone.network.load_state_dict(weights)
    except (WeightsError, RuntimeError, ValueError, TypeError):
        return None
    return extras
