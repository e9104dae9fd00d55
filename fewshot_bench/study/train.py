"""Train a backbone on the base split under a name, so that studies can use it.

What a user says about the training of a backbone.

Validation episodes: how good a backbone that is being trained is at classes it is not trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import torch
from filelock import FileLock, Timeout
from torch import nn

from fewshot_bench._io.versions import installed_versions
from fewshot_bench.adaptation import Centroid, EmbeddedSplit
from fewshot_bench.backbones import Backbone, BackboneRequest, BaseHead, embed
from fewshot_bench.backbones.backbone import Interpolation
from fewshot_bench.datasets import Dataset, known_dataset
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.engine.classify import accuracy, classify
from fewshot_bench.engine.engine import chosen_device
from fewshot_bench.episodes import Protocol, sample_episodes
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
from fewshot_bench.study.checkpoints import (
    LAST,
    Checkpoint,
    CheckpointCard,
    checkpoint_file,
    read_card,
    read_checkpoint,
    state_file,
)
from fewshot_bench.study.provenance import weights_record
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
from fewshot_bench.training.fit import TensorBoardLog, Validate, write_history


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Everything that `fewshot-bench train` needs to know.

    Attributes:
        name: what the network will be called.
        dataset: name or place of a dataset with a base split.
        backbone: name of a backbone.
        loss: name of a loss.
        recipe: settings that differ from the default, which is the paper's recipe for pretrained networks and the
            one for small networks otherwise; None leaves a setting at its default.
        weights: a file to start from instead of the backbone's own weights.
        image_size: side in pixels instead of the backbone's own.
        interpolation: instead of the backbone's own.
        device: "auto", "cpu", "cuda", ...
        micro_batch: images whose activations are kept at the same time; None for what fits into memory.
        is_compiled: whether the network is compiled by torch.compile.
        validate_every: epochs between two looks at the validation split; 0 for none, None for about ten looks.
        validation_episodes: per number of shots.
        save_every: epochs between two writes of the state.
        keeps_last: whether the network after the last epoch is kept as `NAME.last` too.
        is_fresh: whether to forget what was trained under that name before.
        tensorboard: folder for TensorBoard.
    """

    name: str
    dataset: str = "glyphs"
    backbone: str = "conv4_64"
    loss: str = "ce"
    recipe: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    image_size: int | None = None
    interpolation: str | None = None
    device: str = "auto"
    micro_batch: int | None = None
    is_compiled: bool = False
    validate_every: int | None = None
    validation_episodes: int = 200
    save_every: int = 1
    keeps_last: bool = False
    is_fresh: bool = False
    tensorboard: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a name that cannot be one, and another value that is out of its range.

        Raises:
            StudyError: a value is not what it should be.
        """
        checkpoint_file(self.name)
        if self.name.endswith(LAST):
            raise StudyError(f"names that end with {LAST} are those of last epochs; choose another than {self.name}.")
        if "," in self.backbone:
            raise StudyError(f"a training makes one network: --backbone takes one name, not {self.backbone}.")
        if self.interpolation not in (None, *get_args(Interpolation)):
            choices = ", ".join(get_args(Interpolation))
            raise StudyError(f"an interpolation should be one of {choices}, not {self.interpolation}.")
        for name in ("save_every", "validation_episodes"):
            if getattr(self, name) < 1:
                raise StudyError(f"--{name.replace('_', '-')} should be 1 or more, not {getattr(self, name)}.")


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
