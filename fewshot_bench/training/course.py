"""How far a training has come: its history, its best epoch, and the file from which it can go on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from fewshot_bench.errors import StudyError, WeightsError
from fewshot_bench.saved import note_saved
from fewshot_bench.training.checkpoints import load_checkpoint, save_tensors
from fewshot_bench.training.gradients import Measured
from fewshot_bench.training.learner import Learner, load_weights, weights_of
from fewshot_bench.training.reproducibility import kept_random_numbers

Validate = Callable[[nn.Module], Mapping[str, float]]
"""A backbone in evaluation mode to its accuracies by name, such as validation_1shot; their mean is what counts."""

History = list[dict[str, float]]
_BEST = "best."


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How the epoch whose weights are the result is chosen.

    Attributes:
        validate: looks at a backbone; must draw no episode of the novel split.
        every: epochs between two looks; the last epoch is looked at in any case.
    """

    validate: Validate
    every: int = 1

    def __post_init__(self) -> None:
        """Refuse to look more often than once per epoch.

        Raises:
            StudyError: every is less than one.
        """
        if self.every < 1:
            raise StudyError(f"epochs between two looks at the validation split should be 1 or more, not {self.every}.")


@dataclass(frozen=True, kw_only=True)
class StateFile:
    """Where the state of a training is kept, so that it can go on after a stop.

    Attributes:
        path: a safetensors file; the training goes on from it if it is there.
        every: epochs between two writes; the last epoch is written in any case.
        metadata: written with it: what is trained, to be compared before going on.
    """

    path: Path
    every: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass
class EpochSums:
    """Sums over the steps of one epoch so far."""

    loss: float = 0.0
    hits: int = 0
    views: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, measured: Measured, views: int) -> None:
        """Count a step of that many views."""
        self.loss += measured.loss * views
        self.hits += measured.hits
        self.views += views

    @property
    def images_per_second(self) -> float:
        """Each image is two views."""
        return self.views / 2 / (time.perf_counter() - self.started)

    @property
    def note(self) -> str:
        """The epoch so far, for a progress bar."""
        means = f"loss {self.loss / self.views:.3f}, accuracy {self.hits / self.views:.0%}"
        return f"{means}, {self.images_per_second:,.0f} images/s"

    def summary(self, learner: Learner, epochs: int) -> dict[str, float]:
        """The epoch's row in the history.

        Args:
            learner: after the epoch.
            epochs: how many are done with it.
        """
        return {
            "step": float(epochs * learner.steps_per_epoch),
            "loss": self.loss / self.views,
            "accuracy": self.hits / self.views,
            "images_per_second": self.images_per_second,
            "learning_rate": learner.learning_rate,
            "seconds": time.perf_counter() - self.started,
        }


@dataclass
class Course:
    """What a training has come to.

    Attributes:
        learner: the network as it is now.
        history: a row per epoch.
        best_epoch: the one with the best mean validation accuracy, from 1; 0 before the first look.
        best_score: that mean.
        best_weights: of backbone and head at that epoch, on the CPU.
    """

    learner: Learner
    history: History = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(self.history)

    def look(self, validate: Validate) -> str:
        """Validate the network as it is, and remember it if it is better than before; the first of equals stays.

        Returns:
            The accuracies, for a progress bar.
        """
        with kept_random_numbers(self.learner.device):
            accuracies = validate(self.learner.backbone.eval())
        self.learner.backbone.train()
        self.history[-1].update(accuracies)
        score = sum(accuracies.values()) / len(accuracies)
        if score > self.best_score:
            self.best_epoch, self.best_score = self.epochs, score
            weights = weights_of(self.learner.backbone, self.learner.head)
            self.best_weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        return "validation " + ", ".join(f"{value:.1%}" for value in accuracies.values())

    def save(self, file: StateFile) -> None:
        """Write everything that going on needs, in one go."""
        best = {_BEST + name: value for name, value in self.best_weights.items()}
        content = {
            "position": self.learner.position(),
            "history": self.history,
            "best": {"epoch": self.best_epoch, "score": self.best_score},
        }
        save_tensors(file.path, self.learner.tensors() | best, {**file.metadata, "course": json.dumps(content)})
        note_saved()

    def restore(self, path: Path) -> None:
        """Go on from a file that `save` wrote for the same recipe.

        Raises:
            WeightsError: the file is damaged, or of another training.
        """
        tensors, metadata = load_checkpoint(path)
        try:
            content = json.loads(metadata["course"])
            self.learner.restore(tensors, content["position"])
            self.history = content["history"]
            self.best_epoch, self.best_score = int(content["best"]["epoch"]), float(content["best"]["score"])
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise WeightsError(
                f"{path} is no state that this training can go on from ({reason}). Delete it and train again."
            ) from error
        self.best_weights = {name.removeprefix(_BEST): t for name, t in tensors.items() if name.startswith(_BEST)}

    def put_best_back(self) -> None:
        """Give the learner the weights of the best epoch, if any was looked at."""
        if self.best_weights:
            load_weights(self.learner.backbone, self.learner.head, self.best_weights)
