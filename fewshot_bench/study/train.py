"""Train a backbone on the base split under a name, so that studies can use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import torch
from filelock import FileLock, Timeout

from fewshot_bench.backbones import Backbone, BackboneRequest, BaseHead
from fewshot_bench.backbones.preprocessing import Interpolation
from fewshot_bench.datasets import Dataset, known_dataset
from fewshot_bench.engine.device import chosen_device
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.study.admission import admit_fields
from fewshot_bench.study.base_stage import (
    TRAINING_VERSION,
    base_recipe,
    code_record,
    four_inputs,
    initialised_backbone,
    starting_weights,
)
from fewshot_bench.study.checkpoint import Checkpoint, CheckpointCard
from fewshot_bench.study.checkpoints import LAST, checkpoint_file, read_card, read_checkpoint, state_file
from fewshot_bench.study.provenance import weights_record
from fewshot_bench.study.training_plan import TrainingPlan
from fewshot_bench.study.validation import selection_card, validation, validation_protocols
from fewshot_bench.training import (
    Computing,
    History,
    Recipe,
    Selection,
    StateFile,
    TrainingResult,
    checkpoint_metadata,
    fitting_micro_batch,
    save_checkpoint,
    train_on_base,
)
from fewshot_bench.training.log import TensorBoardLog, write_history
from fewshot_bench.versions import installed_versions

_LOOKS = 10


def train_backbone(plan: TrainingPlan, *, progress: Progress = SILENT) -> Checkpoint:
    """Train a backbone under a name, go on with a training that was stopped, or find that it is done.

    Args:
        plan: what to train, and how. It should be your own: code that it names as `module:callable` is imported.
        progress: shown one unit per optimiser step.

    Raises:
        StudyError: the plan cannot be carried out, or something else was trained under that name.
        UnknownNameError: a name is not known.
        DatasetError: the dataset is absent or has no base split.
        WeightsError: weights do not fit, or the state of the stopped training is damaged.
    """
    admit_fields({"dataset": plan.dataset, "backbone": plan.backbone, "base_losses": (plan.loss,)})
    board = TensorBoardLog(plan.tensorboard / plan.name) if plan.tensorboard is not None else None
    path = checkpoint_file(plan.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{plan.name}.lock"))
    try:
        with lock.acquire(timeout=0):
            return _Training(plan, board, progress).run()
    except Timeout as error:
        raise StudyError(f"{plan.name} is being trained by another process. Wait, or use another --name.") from error
    finally:
        if board is not None:
            board.close()


class _Training:
    """One plan being carried out."""

    def __init__(self, plan: TrainingPlan, board: TensorBoardLog | None, progress: Progress) -> None:
        self.plan, self.board, self.progress = plan, board, progress
        self.device = chosen_device(plan.device)
        self.dataset = known_dataset(plan.dataset, progress=progress)
        self.base = self.dataset.base
        self.request = _request(plan, self.dataset)
        seed = plan.recipe.get("seed") or 0
        self.backbone = initialised_backbone(self.request, seed)
        self.recipe = base_recipe(self.backbone, plan.loss, **plan.recipe)
        self.every, self.protocols = _looks(plan, self.recipe, self.dataset)
        self.card = _card(plan, self.request, self.backbone, self.recipe, self.dataset, self._selection_card())
        self.path, self.state = checkpoint_file(plan.name), state_file(plan.name)

    def run(self) -> Checkpoint:
        """Train, and write the checkpoint in the end; or read it where it is there."""
        if self.plan.is_fresh:
            self.state.unlink(missing_ok=True)
        elif self.state.is_file():
            self._refuse_another(read_card(self.state))
        elif self.path.is_file():
            done = read_checkpoint(self.plan.name)
            self._refuse_another(done.card)
            return done
        used = self._used_micro_batches()
        result = self._trained(used)
        checkpoint = self._finished(result, used)
        self.state.unlink(missing_ok=True)
        return checkpoint

    def _refuse_another(self, other: CheckpointCard) -> None:
        difference = other.difference(self.card)
        if difference:
            raise StudyError(
                f"{self.plan.name} was trained otherwise: this command has {difference}. "
                "Use another --name, or --fresh to train anew under this one."
            )

    def _used_micro_batches(self) -> list[int]:
        """Those of the training so far, and the one to go on with."""
        used: list[int] = json.loads(checkpoint_metadata(self.state)["micro_batches"]) if self.state.is_file() else []
        chosen = self.plan.micro_batch
        if chosen is None:
            most = used[-1] if used else min(self.recipe.batch_size, len(self.base))
            four = four_inputs(self.backbone, self.base, self.device)
            chosen = fitting_micro_batch(self.backbone.network, four, most, precision=self.recipe.precision)
        return used if used[-1:] == [chosen] else [*used, chosen]

    def _trained(self, used: list[int]) -> TrainingResult:
        """The training; its micro-batch, where it was not asked for, is halved as long as memory runs out."""
        while True:
            try:
                return self._attempt(used)
            except torch.cuda.OutOfMemoryError as error:
                if self.plan.micro_batch is not None or used[-1] == 1:
                    raise StudyError(
                        f"a micro-batch of {used[-1]} images does not fit into the memory of {self.device}. "
                        f"Use --micro-batch {max(1, used[-1] // 2)}, a smaller --image-size, or --precision bf16."
                    ) from error
            with suppress(RuntimeError, AssertionError):
                torch.cuda.empty_cache()
            used.append(used[-1] // 2)

    def _attempt(self, used: list[int]) -> TrainingResult:
        metadata = {"card": self.card.as_json(), "micro_batches": json.dumps(used)}
        return train_on_base(
            self.backbone.network,
            self.base,
            self.recipe,
            normalise=self.backbone.preprocessing,
            device=self.device,
            progress=self.progress,
            computing=Computing(micro_batch=used[-1], is_compiled=self.plan.is_compiled),
            selection=self._selection(),
            state=StateFile(path=self.state, every=self.plan.save_every, metadata=metadata),
            after_epoch=self._log,
        )

    def _selection(self) -> Selection | None:
        if not self.protocols:
            return None
        look = validation(self.backbone, self.dataset.validation, self.protocols, self.device)
        return Selection(validate=look, every=self.every)

    def _selection_card(self) -> dict[str, Any]:
        return selection_card(self.protocols, self.every)

    def _log(self, history: History) -> None:
        write_history(self.path.with_suffix(".csv"), history)
        if self.board is not None:
            self.board.write(history)

    def _finished(self, result: TrainingResult, used: list[int]) -> Checkpoint:
        computing = {"device": self.device, "is_compiled": self.plan.is_compiled, "versions": installed_versions()}
        computing |= weights_record(self.plan.weights, self.backbone)
        kept: Callable[..., Checkpoint] = partial(
            Checkpoint, card=self.card, micro_batches=used, computing=computing, history=result.history
        )
        last = self.path.with_name(f"{self.plan.name}{LAST}.safetensors")
        last.unlink(missing_ok=True)
        if self.plan.keeps_last:
            scores = _accuracies(result.history[-1])
            epochs = len(result.history)
            checkpoint = kept(name=f"{self.plan.name}{LAST}", path=last, epoch=epochs, accuracies=scores)
            head = BaseHead.of(result.last_head, self.base.class_names)
            save_checkpoint(last, result.last, checkpoint.metadata(), head)
        scores = _accuracies(result.history[result.epoch - 1])
        checkpoint = kept(name=self.plan.name, path=self.path, epoch=result.epoch, accuracies=scores)
        head = BaseHead.of(result.head, self.base.class_names)
        save_checkpoint(self.path, result.backbone, checkpoint.metadata(), head)
        return checkpoint


def _request(plan: TrainingPlan, dataset: Dataset) -> BackboneRequest:
    height, _, channels = dataset.base.images.shape[1:]
    interpolation = cast("Interpolation | None", plan.interpolation)  # the plan has checked it
    return BackboneRequest(plan.backbone, channels, height, plan.image_size, interpolation, plan.weights)


def _looks(plan: TrainingPlan, recipe: Recipe, dataset: Dataset) -> tuple[int, list[Protocol]]:
    """Epochs between two looks at the validation split, and its episodes; none where it is not looked at."""
    every = plan.validate_every
    if every == 0 or (every is None and "validation" not in dataset.splits):
        return 0, []
    protocols = validation_protocols(dataset.validation, plan.validation_episodes)
    return every if every is not None else max(1, round(recipe.epochs / _LOOKS)), protocols


def _card(
    plan: TrainingPlan,
    request: BackboneRequest,
    backbone: Backbone,
    recipe: Recipe,
    dataset: Dataset,
    selection: dict[str, Any],
) -> CheckpointCard:
    return CheckpointCard(
        backbone=plan.backbone,
        channels=request.channels,
        native_size=request.native_size,
        image_size=request.image_size,
        interpolation=request.interpolation,
        initial_weights=plan.weights.stem if plan.weights is not None else None,
        is_pretrained=backbone.is_pretrained,
        weights=starting_weights(backbone),
        preprocessing=backbone.preprocessing.as_dict(),
        recipe=recipe.hyper_parameters(),
        dataset=dataset.name,
        base_split=dataset.base.fingerprint,
        selection=selection,
        version=TRAINING_VERSION,
        **code_record(backbone, recipe.loss),
    )


def _accuracies(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith("validation_")}
