"""Train a backbone on the base split under a name, so that studies can use it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast, get_args

import torch
from filelock import FileLock, Timeout
from torch import nn

from fewshot_bench._io.notebooks import ShownByFields
from fewshot_bench._io.ranks import is_main_process, own_rank
from fewshot_bench._io.versions import installed_versions
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.backbones import Backbone, BackboneRequest
from fewshot_bench.backbones.backbone import Interpolation, then
from fewshot_bench.datasets import is_named, known_dataset
from fewshot_bench.devices import chosen_device
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.objectives import MetaHead
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.study.admission import admit_fields
from fewshot_bench.study.base_stage import (
    TRAINING_VERSION,
    MicroBatches,
    base_recipe,
    code_record,
    four_inputs,
    initialised_backbone,
    on_whole_dataset,
    own_selection,
    starting_weights,
    used_micro_batches,
    validation_split,
    whole_recipe,
)
from fewshot_bench.study.checkpoints import (
    LAST,
    Checkpoint,
    CheckpointCard,
    base_split_of,
    checkpoint_file,
    checkpoint_name,
    read_card,
    read_checkpoint,
    state_file,
)
from fewshot_bench.study.networks import trainings_of
from fewshot_bench.study.provenance import tf32, weights_record
from fewshot_bench.study.study import Study
from fewshot_bench.study.validation import selection_card, validation, validation_head, validation_protocols
from fewshot_bench.training import (
    Computing,
    History,
    Recipe,
    Selection,
    StateFile,
    StepMemory,
    TrainingResult,
    checkpoint_metadata,
    fitting_micro_batch,
    save_checkpoint,
)
from fewshot_bench.training.data_parallel import Processes, joined_processes
from fewshot_bench.training.division import divided
from fewshot_bench.training.heads import base_head_of
from fewshot_bench.training.history import TensorBoardLog, write_history
from fewshot_bench.training.named_recipes import NamedRecipe, named_recipe, recipe_names
from fewshot_bench.training.recipe import refuse_settings_without_effect

_VALIDATIONS, _EPISODES = 10, 200
"""Validations of a training, and episodes of each, by default."""
_STUDENTS: ContextVar[tuple[Path, ...]] = ContextVar("students", default=())
"""Files of the trainings that have begun here and wait for their teachers."""


@checked_arguments
@dataclass(frozen=True, kw_only=True)
class TrainingPlan(ShownByFields):
    """What `fewshot-bench train` trains, and how.

    Attributes:
        name: of the trained network.
        dataset: name or path of a dataset with a base split, or a train split for `protocol="full"`.
        named_recipe: name or file of the recipe that gives the defaults of all else; without one that is
            `paper_recipe` for pretrained networks and `scratch_recipe` for others.
        backbone: its name; by default that of the recipe, or conv4_64.
        loss: its name; by default that of the recipe, or ce.
        recipe: settings that differ from the default; None keeps the default.
        weights: a file to start from instead of the backbone's own weights.
        image_size: side in pixels instead of the backbone's own.
        interpolation: instead of the backbone's own.
        device: "auto", "cpu", "cuda", ...
        micro_batch: images whose activations are in memory at once, in that of all processes together; None for as many
            as fit.
        is_compiled: whether torch.compile compiles the network.
        validate_every: epochs between two validations; 0 for none, None for the recipe's, or for about ten in all.
        validation_episodes: per number of shots; None for the recipe's, or for 200.
        save_every: epochs between two writes of the training state.
        keeps_last: whether the network after the last epoch is kept as `NAME.last` too.
        is_fresh: whether to discard an unfinished or finished training of that name.
        tensorboard: folder for TensorBoard.
        protocol: "few-shot" trains on the base split, "full" on the train split of a dataset for classification.

    >>> import fewshot_bench as fb
    >>> plan = fb.TrainingPlan(name="glyphs-supcon", loss="ce+supcon", recipe={"epochs": 20})
    >>> plan.dataset, plan.is_whole
    ('glyphs', False)
    >>> fb.TrainingPlan(name="glyphs-supcon", save_every=0)
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.StudyError: --save-every should be 1 or more, not 0.
    """

    name: str
    dataset: str = "glyphs"
    named_recipe: str | None = None
    backbone: str | None = None
    loss: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    image_size: int | None = None
    interpolation: str | None = None
    device: str = "auto"
    micro_batch: int | None = None
    is_compiled: bool = False
    validate_every: int | None = None
    validation_episodes: int | None = None
    save_every: int = 1
    keeps_last: bool = False
    is_fresh: bool = False
    tensorboard: Path | None = None
    protocol: str = "few-shot"

    def __post_init__(self) -> None:
        """Raise StudyError for an impossible value."""
        checkpoint_file(self.name)
        Recipe(seed=self.recipe.get("seed") or 0)  # which initialises the backbone before there is a recipe
        if self.name.endswith(LAST):
            raise StudyError(f"names that end with {LAST} are those of last epochs; choose another than {self.name}.")
        if self.backbone is not None and "," in self.backbone:
            raise StudyError(f"a training makes one network: --backbone takes one name, not {self.backbone}.")
        if self.interpolation not in (None, *get_args(Interpolation)):
            choices = ", ".join(get_args(Interpolation))
            raise StudyError(f"an interpolation should be one of {choices}, not {self.interpolation}.")
        if self.protocol not in ("few-shot", "full"):
            raise StudyError(f"a protocol should be few-shot or full, not {self.protocol}.")
        if self.is_whole and self.validation_episodes is not None:
            raise StudyError(
                "--protocol full measures the accuracy on all images of the validation part, so --validation-episodes "
                "has no effect on it. Leave it out."
            )
        for name in ("save_every", "validation_episodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise StudyError(f"--{name.replace('_', '-')} should be 1 or more, not {value}.")

    @property
    def is_whole(self) -> bool:
        """Whether it trains on the train split of a dataset for classification."""
        return self.protocol == "full"


@checked_arguments
def train_backbone(plan: TrainingPlan, *, progress: Progress = SILENT, waits: bool = False) -> Checkpoint:
    """Train a backbone under a name, resume a training that was stopped, or read a finished one.

    Args:
        plan: what to train, and how. It should be your own: code that it names as `module:callable` is imported.
        progress: shown one unit per optimiser step.
        waits: whether to wait while another process trains under that name; otherwise that is an error.

    Raises:
        StudyError: the plan cannot be carried out, or the name belongs to another training.
        UnknownNameError: a name is unknown.
        DatasetError: the dataset is absent or has no base split.
        WeightsError: weights do not fit, or the training state is damaged.

    >>> import fewshot_bench as fb
    >>> plan = fb.TrainingPlan(name="glyphs-conv4", backbone="conv4_32", recipe={"epochs": 2})
    >>> fb.train_backbone(plan)  # doctest: +SKIP
    <Checkpoint: glyphs-conv4, conv4_32 on glyphs, epoch 2, validation_1shot 47.71%, validation_5shot 62.16%>
    """
    losses = () if plan.loss is None else (plan.loss,)
    admit_fields({"dataset": plan.dataset, "backbone": plan.backbone, "base_losses": losses})
    board = TensorBoardLog(plan.tensorboard / plan.name) if plan.tensorboard is not None else None
    try:
        with joined_processes(own_rank()) as processes, _locked(plan.name, waits=waits):
            return _Training(plan, board, progress, processes).run()
    finally:
        if board is not None:
            board.close()


@contextmanager
def _locked(name: str, *, waits: bool) -> Iterator[None]:
    """Keep other commands from training under a name; processes of one command share the lock of the main one."""
    path, students = checkpoint_file(name), _STUDENTS.get()
    if path in students:
        raise StudyError(f"{name} would learn from itself, or from a network that learns from it. Use another --name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_main_process():
        yield
        return
    lock = FileLock(path.with_name(f".{name}.lock"))
    try:
        lock.acquire(timeout=-1 if waits else 0)
    except Timeout as error:
        raise StudyError(f"{name} is being trained by another process. Wait, or use another --name.") from error
    inner = _STUDENTS.set((*students, path))
    try:
        yield
    finally:
        _STUDENTS.reset(inner)
        lock.release()


def _own_device(name: str) -> str:
    """The torch device of a name; of several processes on a machine, each has a GPU of its own."""
    rank = own_rank()
    if rank is None:
        return chosen_device(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cuda", "cpu"):
        raise StudyError(f"--device {name} is one device for {rank.count} processes. Use cuda or cpu, or leave it out.")
    gpus = torch.cuda.device_count()
    if name == "cuda" and 0 < gpus <= rank.local:
        raise StudyError(
            f"a machine with {gpus} GPUs has {rank.local + 1} processes or more; each takes a GPU. "
            f"Use torchrun --nproc-per-node {gpus}, or --device cpu."
        )
    return chosen_device(f"cuda:{rank.local}" if name == "cuda" else name)


def _digest_of(teacher: Backbone) -> str:
    """Digest of a teacher's weights and base head, 64 hexadecimal digits."""
    assert teacher.base_head is not None
    return sha256(f"{teacher.weights} {teacher.base_head.digest}".encode()).hexdigest()


def refuse_unnamed_images(study: Study) -> None:
    """Raise StudyError for a study with a named recipe on images that have no name."""
    if study.recipe is not None and not is_named(study.dataset):
        raise StudyError(
            f"--recipe trains on datasets that have a name. Keep {study.dataset} under one: "
            "fewshot-bench data import NAME --from PATH"
        )


def train_recipes(studies: Sequence[Study], *, progress: Progress = SILENT) -> bool:
    """Train the networks of studies with named recipes, each under its name, unless they are there.

    Returns:
        Whether there are such studies, which have to be resolved again.

    Raises:
        StudyError: the images have no name, so that their base split might be another here; or see `train_backbone`.
        FewshotBenchError: see `train_backbone`.
    """
    with_recipes = [study for study in studies if study.recipe is not None]
    for study in with_recipes:
        refuse_unnamed_images(study)
    for study in with_recipes:
        for name, settings in trainings_of(study):
            plan = TrainingPlan(
                name=name,
                dataset=study.dataset,
                named_recipe=study.recipe,
                recipe=settings,
                device=study.device,
                protocol=study.protocol,
            )
            train_backbone(plan, progress=progress, waits=True)
    return bool(with_recipes)


class _Training:
    """Carries out a plan."""

    def __init__(
        self, plan: TrainingPlan, board: TensorBoardLog | None, progress: Progress, processes: Processes | None
    ) -> None:
        self.plan, self.board, self.progress, self.processes = plan, board, progress, processes
        self.device = _own_device(plan.device)
        self.dataset = known_dataset(plan.dataset, progress=progress)
        self.base = self.dataset.split("train" if plan.is_whole else "base")
        height, _, channels = self.base.images.shape[1:]
        interpolation = cast("Interpolation | None", plan.interpolation)  # the plan has checked it
        named = None if plan.named_recipe is None else named_recipe(plan.named_recipe)
        name = plan.backbone or (named.backbone if named is not None else "conv4_64")
        size = plan.image_size or (named.image_size if named is not None else None)
        request = BackboneRequest(name, channels, height, size, interpolation, plan.weights)
        self.backbone = initialised_backbone(request, plan.recipe.get("seed") or 0)
        self.named, self.recipe = named, self._recipe(named)
        if self.recipe.kept_epoch == "best" and not plan.is_whole:
            raise StudyError(
                "kept_epoch=best has no effect on a few-shot training, which keeps the epoch that is best on "
                "validation episodes. Leave it out."
            )
        self.teacher = self._teacher()
        if self.teacher is not None:
            self.recipe = replace(self.recipe, teacher_weights=_digest_of(self.teacher))
        self.validate_every, self.protocols = (0, []) if plan.is_whole else self._validations()
        self.head = validation_head(None if plan.is_whole else named, self.dataset.name, self.recipe)
        self.selection = self._selection()
        self.card = self._card(request)
        self.path, self.state = checkpoint_file(plan.name), state_file(plan.name)

    def run(self) -> Checkpoint:
        """Train and write the checkpoint, or read a finished one."""
        if self.plan.is_fresh and is_main_process():
            self.state.unlink(missing_ok=True)
        if self.processes is not None:
            self.processes.require_agreement([self.card.as_json(), *self._files()], self.path.parent)
        if self.state.is_file():
            self._refuse_other(read_card(self.state))
        elif self.path.is_file() and not self.plan.is_fresh:
            finished = read_checkpoint(self.plan.name)
            self._refuse_other(finished.card)
            return finished
        micro_batches = self._micro_batches()
        result = self._train(micro_batches)
        if is_main_process():
            self._save(result, micro_batches.sizes)
            self.state.unlink(missing_ok=True)
        if self.processes is not None:
            self.processes.barrier()
        return read_checkpoint(self.plan.name)

    def _recipe(self, named: NamedRecipe | None) -> Recipe:
        recipe = self._asked_recipe(named)
        for name in () if self.plan.is_whole else ("validation_share", "kept_epoch"):
            if getattr(recipe, name) != getattr(Recipe, name):
                raise StudyError(
                    f"{name} has no effect on this training, whose epoch episodes choose: it belongs to "
                    "--protocol full. Leave it out."
                )
        return recipe

    def _asked_recipe(self, named: NamedRecipe | None) -> Recipe:
        changes = self.plan.recipe | {"loss": self.plan.loss}
        if named is not None:
            recipe = named.recipe(self.dataset.name, **changes)
            return on_whole_dataset(recipe, self.dataset) if self.plan.is_whole else recipe
        loss = changes.pop("loss") or "ce"
        if self.plan.is_whole:
            recipe = on_whole_dataset(whole_recipe(self.backbone, loss, self.dataset, **changes), self.dataset)
        else:
            recipe = base_recipe(self.backbone, loss, **changes)
        refuse_settings_without_effect(changes, recipe)
        return recipe

    def _selection(self) -> Selection | None:
        """How a training on a train split is validated; None where it is not."""
        every = self.plan.validate_every
        if not self.plan.is_whole or (every == 0 and self.recipe.kept_epoch == "last"):
            return None
        images = validation_split(self.dataset, self.base)
        return own_selection(self.backbone, self.base, self.recipe, images, self.device, every)

    def _teacher(self) -> Backbone | None:
        """The network that a distillation learns from; that of a named recipe is trained first if it is missing."""
        name = self.recipe.teacher
        if name is None:
            return None
        if self.processes is not None:
            raise StudyError("distillation takes one process. Leave out torchrun.")
        if name in recipe_names():  # a checkpoint that happens to be called so may be of any training
            plan, seed = self.plan, {"seed": self.recipe.seed or None}
            own = checkpoint_name(name, plan.dataset, seed)
            plan = replace(plan, name=own, named_recipe=name, backbone=None, loss=None, recipe=seed, is_fresh=False)
            plan = replace(plan, weights=None, validate_every=None, validation_episodes=None, keeps_last=False)
            return train_backbone(plan, progress=self.progress, waits=True).backbone_and_head()[0]
        return read_checkpoint(name).backbone_and_head()[0]

    def _files(self) -> list[dict[str, str]]:
        """The metadata, with the digest, of what is there of this training."""
        if self.plan.is_fresh:
            return []
        return [checkpoint_metadata(path) for path in (self.state, self.path) if path.is_file()]

    def _validations(self) -> tuple[int, list[Protocol]]:
        """Epochs between two validations, and their episodes; 0 and none without validation."""
        every, episodes = self.plan.validate_every, self.plan.validation_episodes
        table = None if self.named is None else self.named.validation
        if every is None and self.named is not None:
            every = 0 if table is None else table.every
        if every == 0 or (every is None and "validation" not in self.dataset.splits):
            return 0, []
        episodes = episodes or (_EPISODES if table is None else table.episodes)
        way = self.recipe.way if self.recipe.learns_by_gradient_steps else None
        protocols = validation_protocols(self.dataset.validation, episodes, way)
        if every is None:
            every = max(1, round(self.recipe.epochs / _VALIDATIONS))
        return every, protocols

    def _card(self, request: BackboneRequest) -> CheckpointCard:
        weights = self.plan.weights
        return CheckpointCard(
            backbone=request.name,
            channels=request.channels,
            native_size=request.native_size,
            image_size=request.image_size,
            interpolation=request.interpolation,
            initial_weights=weights.stem if weights is not None else None,
            is_pretrained=self.backbone.is_pretrained,
            weights=starting_weights(self.backbone),
            preprocessing=self.backbone.preprocessing.as_dict(),
            recipe=self.recipe.hyper_parameters(),
            dataset=self.dataset.name,
            base_split=self.base.fingerprint,
            selection=self._selection_card(),
            version=TRAINING_VERSION,
            named_recipe=self._recipe_record(),
            teacher_pretraining=self._pretraining_of_teacher(),
            split=self.base.name,
            division=divided(self.base.class_sizes, self.recipe).digest if self.recipe.divides_images else "",
            **code_record(self.backbone, self.recipe.loss),
        )

    def _selection_card(self) -> dict[str, Any]:
        """What decides which epoch is kept, as plain data; empty if it is the last."""
        if not self.plan.is_whole:
            return selection_card(self.protocols, self.validate_every, self.head)
        if self.selection is None or not self.selection.chooses:
            return {}
        images = {} if self.recipe.validation_share else {"images": self.dataset.validation.fingerprint}
        return {
            "split": "train" if self.recipe.validation_share else "validation",
            "every": self.selection.every,
        } | images

    def _pretraining_of_teacher(self) -> str:
        """The data that the teacher has seen besides this split, which its student learns from."""
        corpora = [] if self.teacher is None else self.teacher.pretraining.split(", ")
        return then(*(corpus for corpus in corpora if corpus != base_split_of(self.dataset.name, self.base.name)))

    def _recipe_record(self) -> dict[str, Any]:
        if self.named is None:
            return {}
        default = self.named.recipe(self.dataset.name)
        if self.plan.is_whole:
            default = on_whole_dataset(default, self.dataset)
        return {"name": self.named.name, "changes": self.recipe.changes_from(default)}

    def _refuse_other(self, other: CheckpointCard) -> None:
        difference = other.difference(self.card)
        if difference:
            raise StudyError(
                f"{self.plan.name} was trained otherwise: this command has {difference}. "
                "Use another --name, or fewshot-bench train ... --fresh to train anew under this one."
            )

    def _micro_batches(self) -> MicroBatches:
        """The sizes used so far, and the one to continue with."""
        used, chosen = used_micro_batches(self.state), self.plan.micro_batch
        if chosen is None:
            most = used[-1] if used else self.recipe.images_per_step(len(self.base))
            chosen = self._fitting(most)
        sizes = used if used[-1:] == [chosen] else [*used, chosen]
        # Where one of several processes runs out, the others are in the middle of a step and cannot start again.
        is_fixed = self.plan.micro_batch is not None or self.processes is not None
        return MicroBatches(sizes, is_fixed, "Use --micro-batch {half}, a smaller --image-size, or --precision bf16.")

    def _fitting(self, most: int) -> int:
        """How many images, up to a number, have their activations in memory; in that of all processes together."""
        four = four_inputs(self.backbone, self.base, self.device)
        recipe = self.recipe
        memory = StepMemory.measured(self.backbone.network, four, precision=recipe.precision, views=recipe.views)
        # Processes on a CPU share its memory; on GPUs each has that of its own.
        count = self.processes.count if self.processes is not None and self.device != "cpu" else 1
        fitting = fitting_micro_batch(memory, math.ceil(most / count), recipe.least_images_at_once)
        if self.processes is not None:
            fitting = min(self.processes.gather_values(fitting))
        return min(most, fitting * count)

    def _train(self, micro_batches: MicroBatches) -> TrainingResult:
        """Train; a micro-batch that the plan does not fix is halved while memory runs out."""
        selection = self.selection
        if self.protocols:
            validate = validation(self.backbone, self.dataset.validation, self.protocols, self.device, self.head)
            selection = Selection(validate=validate, every=self.validate_every)
        return micro_batches.train(
            self.backbone,
            self.base,
            self.recipe,
            device=self.device,
            progress=self.progress,
            state=StateFile(path=self.state, every=self.plan.save_every, metadata={"card": self.card.as_json()}),
            computing=Computing(is_compiled=self.plan.is_compiled, processes=self.processes),
            selection=selection,
            teacher=self.teacher,
            after_epoch=self._log,
        )

    def _log(self, history: History) -> None:
        if not is_main_process():
            return
        write_history(self.path.with_suffix(".csv"), history)
        if self.board is not None:
            self.board.write(history)

    def _save(self, result: TrainingResult, micro_batches: list[int]) -> Checkpoint:
        computing = {"device": self.device, "is_compiled": self.plan.is_compiled, "versions": installed_versions()}
        if self.processes is not None:
            computing["processes"] = self.processes.count
        computing |= weights_record(self.plan.weights, self.backbone) | tf32(self.device)

        def save(name: str, epoch: int, network: nn.Module, head: nn.Module) -> Checkpoint:
            row = result.history[epoch - 1]
            checkpoint = Checkpoint(
                name=name,
                path=self.path.with_name(f"{name}.safetensors"),
                card=self.card,
                epoch=epoch,
                accuracies={column: value for column, value in row.items() if column.startswith("validation_")},
                micro_batches=micro_batches,
                computing=computing,
                history=result.history,
            )
            kept = head.task_head() if isinstance(head, MetaHead) else base_head_of(head, self.base.class_names)
            save_checkpoint(checkpoint.path, network, checkpoint.metadata(), kept)
            return checkpoint

        last = f"{self.plan.name}{LAST}"
        self.path.with_name(f"{last}.safetensors").unlink(missing_ok=True)
        if self.plan.keeps_last:
            save(last, len(result.history), result.last, result.last_head)
        return save(self.plan.name, result.epoch, result.backbone, result.head)
