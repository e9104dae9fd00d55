"""Training on the base split: the loop over epochs, and the state it can resume from."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fewshot_bench._io.resuming import note_saved
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.errors import StudyError, WeightsError
from fewshot_bench.progress import SILENT, Progress, Step
from fewshot_bench.training.checkpoints import load_checkpoint, save_tensors
from fewshot_bench.training.classification import Classification
from fewshot_bench.training.history import History
from fewshot_bench.training.learner import Learner, load_weights, weights_of
from fewshot_bench.training.objective import Computing, Measured, Normalise, ObjectiveFactory
from fewshot_bench.training.randomness import kept_random_numbers, limited_threads, seeded_randomness
from fewshot_bench.training.recipe import Recipe
from fewshot_bench.units import speed_text

Validate = Callable[[nn.Module, nn.Module], Mapping[str, float]]
"""From a backbone in evaluation mode and the head of its objective to accuracies by name, such as validation_1shot.

Their mean decides.
"""

_BEST = "best."


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How to choose the epoch whose weights are the result.

    Attributes:
        validate: measures a backbone; must not draw episodes of the novel split.
        every: epochs between two validations; the last epoch is always validated.
        chooses: whether the best epoch is the result; otherwise the accuracies are recorded, and the last epoch is.
    """

    validate: Validate
    every: int = 1
    chooses: bool = True

    def __post_init__(self) -> None:
        """Raise StudyError unless the epochs between validations are one or more."""
        if self.every < 1:
            raise StudyError(f"epochs between two validations should be 1 or more, not {self.every}.")


@dataclass(frozen=True, kw_only=True)
class StateFile:
    """Where to keep the state of a training, so that it can resume after a stop.

    Attributes:
        path: a safetensors file; the training resumes from it if it exists.
        every: epochs between two writes; the last epoch is always written.
        metadata: what is trained, to be compared before resuming.
        is_optional: whether the training continues where the file cannot be written.
    """

    path: Path
    every: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)
    is_optional: bool = False


_SECONDS_BETWEEN_READINGS = 1.0


@dataclass
class EpochSums:
    """Sums over the steps of one epoch so far.

    Losses and hits are read about once a second, since a GPU that is read has nothing to do for a moment.
    """

    loss: float = 0.0
    hits: int = 0
    classified: int = 0
    images: int = 0
    started: float = field(default_factory=time.perf_counter)
    _unread: list[Measured] = field(default_factory=list)
    _read: float = -math.inf

    def add(self, measured: Measured) -> None:
        """Add a step."""
        self._unread.append(measured)

    @property
    def is_due(self) -> bool:
        """Whether it is time to read the steps."""
        return time.perf_counter() - self._read >= _SECONDS_BETWEEN_READINGS

    def read(self) -> float:
        """Take the steps since the last reading into the sums; waits for them.

        Returns:
            The first loss among them that is not finite; 0 if all are.
        """
        if not self._unread:
            return 0.0
        losses = torch.stack([measured.loss for measured in self._unread]).tolist()
        hits = torch.stack([measured.hits for measured in self._unread]).tolist()
        for loss, correct, measured in zip(losses, hits, self._unread, strict=True):
            self.loss += loss * measured.classified
            self.hits += correct
            self.classified += measured.classified
            self.images += measured.images
        self._unread.clear()
        self._read = time.perf_counter()
        return next((loss for loss in losses if not math.isfinite(loss)), 0.0)

    @property
    def images_per_second(self) -> float:
        """Speed so far."""
        return self.images / (time.perf_counter() - self.started)

    @property
    def note(self) -> str:
        """The epoch so far, for a progress bar."""
        means = f"loss {self.loss / self.classified:.3f}, accuracy {self.hits / self.classified:.0%}"
        return f"{means}, {speed_text(self.images_per_second, 'image')}"

    def summary(self, learner: Learner, epochs: int) -> dict[str, float]:
        """The row in the history of the learner's last epoch, the `epochs`-th."""
        return {
            "step": float(epochs * learner.steps_per_epoch),
            "loss": self.loss / self.classified,
            "accuracy": self.hits / self.classified,
            "images_per_second": self.images_per_second,
            "learning_rate": learner.optimizer.learning_rate,
            "seconds": time.perf_counter() - self.started,
        }


@dataclass
class TrainingState:
    """The state of a training after some epochs.

    Attributes:
        learner: holds the network.
        history: a row per epoch.
        best_epoch: the epoch of the best mean validation accuracy, from 1; 0 before the first validation.
        best_score: that accuracy.
        best_weights: of backbone and head after that epoch, on the CPU.
    """

    learner: Learner
    history: History = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Finished epochs."""
        return len(self.history)

    def validate(self, selection: Selection) -> str:
        """Validate the network, and keep its weights if they may be chosen and are better than all before.

        Returns:
            The accuracies, for a progress bar.
        """
        with kept_random_numbers(self.learner.device), self.averaged():
            processes, network = self.learner.processes, self.learner.backbone.eval()
            is_main = processes is None or processes.rank == 0
            accuracies = selection.validate(network, self.learner.head) if is_main else {}
            if processes is not None:
                accuracies = processes.broadcast_value(accuracies)
            self.history[-1].update(accuracies)
            score = sum(accuracies.values()) / len(accuracies)
            if selection.chooses and score > self.best_score:
                self.best_epoch, self.best_score = self.epochs, score
                weights = weights_of(self.learner.backbone, self.learner.head)
                self.best_weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        self.learner.train()
        return "validation " + ", ".join(f"{value:.1%}" for value in accuracies.values())

    def averaged(self) -> AbstractContextManager[None]:
        """The learner's weights replaced by their moving average, where there is one."""
        average = self.learner.average
        return nullcontext() if average is None else average.installed(self.learner.backbone, self.learner.head)

    def save(self, file: StateFile) -> None:
        """Write everything that resuming needs, atomically; of several processes the main one does."""
        best = {_BEST + name: value for name, value in self.best_weights.items()}
        content = {
            "position": self.learner.optimizer.position(),
            "history": self.history,
            "best": {"epoch": self.best_epoch, "score": self.best_score},
        }
        if self.learner.processes is not None and self.learner.processes.rank > 0:
            note_saved()
            return
        try:
            save_tensors(file.path, self.learner.tensors() | best, {**file.metadata, "course": json.dumps(content)})
        except OSError:
            if not file.is_optional:
                raise
        else:
            note_saved()

    def restore(self, path: Path) -> None:
        """Resume from a file that `save` wrote for the same recipe; raises WeightsError if damaged, or of another."""
        tensors, metadata = load_checkpoint(path, "training state")
        try:
            content = json.loads(metadata["course"])
            self.learner.restore(tensors, content["position"])
            self.history = content["history"]
            self.learner.steps_taken = self.epochs * self.learner.steps_per_epoch
            self.best_epoch, self.best_score = int(content["best"]["epoch"]), float(content["best"]["score"])
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise WeightsError(
                f"this training cannot resume from {path} ({reason}). Delete it and train again."
            ) from error
        self.best_weights = {name.removeprefix(_BEST): t for name, t in tensors.items() if name.startswith(_BEST)}

    def restore_best(self) -> None:
        """Give the learner the weights of the best epoch, if any was validated."""
        if self.best_weights:
            load_weights(self.learner.backbone, self.learner.head, self.best_weights)


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Attributes:
        backbone: the trained network, in evaluation mode, on the training device.
        head: of the objective; that of a classification is dropout and the linear layer to the base classes.
        history: for each epoch the mean loss and accuracy of what was classified, images_per_second, learning_rate,
            step, seconds, and the accuracies if it was validated.
        epoch: the epoch of these weights, from 1: the best on the validation split, or the last.
        last: the network after the last epoch, which is `backbone` itself unless another epoch was chosen.
        last_head: its head.
    """

    backbone: nn.Module
    head: nn.Module
    history: History
    epoch: int = 0
    last: nn.Module = field(default_factory=nn.Identity)
    last_head: nn.Module = field(default_factory=nn.Identity)


def train_on_base(
    backbone: nn.Module,
    split: ImageSplit,
    recipe: Recipe,
    *,
    normalise: Normalise,
    device: torch.device | str = "cpu",
    progress: Progress = SILENT,
    objective: ObjectiveFactory = Classification,
    computing: Computing | None = None,
    selection: Selection | None = None,
    state: StateFile | None = None,
    after_epoch: Callable[[History], None] | None = None,
) -> TrainingResult:
    """Train a copy of a backbone on the classes of a split.

    By default every image is seen in two views per step, whatever the loss, so that losses are compared on equal terms.
    The linear head's output goes into cross-entropy, the encoder's into the contrastive term.

    Args:
        backbone: float [B, C', S, S] -> [B, D]; it is not changed.
        split: the images, uint8 [I, H, W, C], with a class each.
        recipe: decides the result; on a CPU the same recipe gives the same weights, bit for bit.
        normalise: uint8 [B, C, H, W] -> float [B, C', S, S], as the backbone expects it.
        device: where to train.
        objective: what its steps minimise.
        progress: shown every step, with the epoch's loss, accuracy and speed so far.
        computing: the micro-batch, whether to compile, and the processes that train together; by default the whole
            batch at once, uncompiled, in this process.
        selection: which epoch's weights are the result; by default the last. The main process validates.
        state: where to keep the training state and resume from it; on a CPU the weights are then those of a training
            without a stop, bit for bit. The main process writes it, and all read it.
        after_epoch: called with the history after each epoch.

    Returns:
        The trained backbone, its head, and the history.

    Raises:
        StudyError: the split has fewer than two classes, or the loss becomes infinite or NaN.
        WeightsError: the state is damaged, or of another training.
    """
    if len(split.class_sizes) < 2:
        raise StudyError(f"the {split.name} split of {split.dataset} has one class; training needs two or more.")
    with limited_threads(recipe.threads), seeded_randomness(recipe.seed, device):
        learner = Learner(backbone, split, recipe, normalise, torch.device(device), computing or Computing(), objective)
        training = TrainingState(learner)
        if state is not None and state.path.is_file():
            training.restore(state.path)
        if learner.processes is not None:
            learner.processes.broadcast(weights_of(learner.backbone, learner.head).values())
        words = recipe.loss if recipe.objective == "classification" else recipe.objective
        with progress.step(f"training with {words}", total=recipe.epochs * learner.steps_per_epoch) as step:
            if training.epochs:
                step.advance(training.epochs * learner.steps_per_epoch, "resuming where it stopped")
            while training.epochs < recipe.epochs:
                _train_epoch(training, step)
                if selection is not None and _is_due(training, selection.every):
                    step.advance(0, "validating")
                    step.advance(0, training.validate(selection))
                if state is not None and _is_due(training, state.every):
                    training.save(state)
                if after_epoch is not None:
                    after_epoch(training.history)
    return _result(training)


def _train_epoch(training: TrainingState, step: Step) -> None:
    """Train for one epoch; a loss or weight that is not finite is refused before anything of the epoch is stored."""
    learner, sums, note = training.learner, EpochSums(), ""
    with closing(learner.objective.batches(training.epochs)) as batches:
        for samples in batches:
            sums.add(learner.step(samples))
            if sums.is_due:
                _refuse_divergence(sums.read(), training)
                note = sums.note
            step.advance(note=note)
    _refuse_divergence(sums.read(), training)
    _refuse_infinite_weights(training)
    training.history.append(sums.summary(learner, training.epochs + 1))


def _refuse_divergence(loss: float, training: TrainingState) -> None:
    if not math.isfinite(loss):
        recipe = training.learner.recipe
        raise StudyError(
            f"training with {recipe.loss} gave the loss {loss} in epoch {training.epochs + 1}; it should stay finite. "
            f"Use a learning rate below {recipe.learning_rate:g}."
        )


def _refuse_infinite_weights(training: TrainingState) -> None:
    """The last step of an epoch may leave weights that only the next loss would show."""
    weights = [*training.learner.backbone.parameters(), *training.learner.head.parameters()]
    if not torch.stack([weight.isfinite().all() for weight in weights]).all():
        recipe = training.learner.recipe
        raise StudyError(
            f"training with {recipe.loss} gave weights that are infinite or NaN in epoch {training.epochs + 1}. "
            f"Use a learning rate below {recipe.learning_rate:g}."
        )


def _is_due(training: TrainingState, every: int) -> bool:
    return training.epochs % every == 0 or training.epochs == training.learner.recipe.epochs


def _result(training: TrainingState) -> TrainingResult:
    backbone, head = training.learner.backbone.eval(), training.learner.head.eval()
    if training.learner.average is not None:
        load_weights(backbone, head, training.learner.average.weights)
    is_last = training.best_epoch in (0, training.epochs)
    last, last_head = (backbone, head) if is_last else (copy.deepcopy(backbone), copy.deepcopy(head))
    training.restore_best()
    epoch = training.best_epoch or training.epochs
    return TrainingResult(backbone, head, training.history, epoch, last, last_head)
