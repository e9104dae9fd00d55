"""Fine-tuning on the base split: the backbone learns the base classes, then meets the novel ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.errors import StudyError
from fewshot_bench.progress import SILENT, Progress, Step
from fewshot_bench.training.course import Course, EpochSums, History, Selection, StateFile
from fewshot_bench.training.learner import Computing, Learner, Normalise
from fewshot_bench.training.recipe import Recipe
from fewshot_bench.training.reproducibility import limited_threads, seeded_randomness


@dataclass(frozen=True)
class TrainingResult:
    """What a fine-tuning gave.

    Attributes:
        backbone: the fine-tuned network, in evaluation mode, on the training device.
        head: dropout and the linear layer to the base classes.
        history: for each epoch the mean loss and accuracy of the augmented views, images_per_second, learning_rate,
            step, seconds, and the validation accuracies where it was looked at.
        epoch: the one whose weights these are, from 1: the best on the validation split, or the last.
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
    computing: Computing | None = None,
    selection: Selection | None = None,
    state: StateFile | None = None,
    after_epoch: Callable[[History], None] | None = None,
) -> TrainingResult:
    """Fine-tune a copy of a backbone on the classes of a split.

    Every image is seen in two views per step for every loss, so that losses are compared on equal terms. The
    linear head's output goes into cross-entropy, the encoder's into the contrastive term.

    Args:
        backbone: float [B, C', S, S] -> [B, D]; it is left as it is.
        split: the images, uint8 [I, H, W, C], with a class each.
        recipe: all that decides the result; on a CPU the same recipe gives the same weights, bit for bit.
        normalise: uint8 [B, C, H, W] -> float [B, C', S, S], as the backbone expects it.
        device: where to train.
        progress: told of every step, with the epoch's loss, accuracy and speed so far.
        computing: the micro-batch, and whether to compile; by default the whole batch at once, uncompiled.
        selection: which epoch's weights are the result; by default the last.
        state: where to keep what going on after a stop needs, and to go on from; on a CPU the weights are then those
            of a training that never stopped, bit for bit.
        after_epoch: told the history after each epoch.

    Returns:
        The fine-tuned backbone, its head, and the history.

    Raises:
        StudyError: the split has fewer than two classes, or the loss stops being a finite number.
        WeightsError: the state is damaged, or of another training.
    """
    if len(split.class_sizes) < 2:
        raise StudyError(f"the {split.name} split of {split.dataset} has one class; training needs two or more.")
    with limited_threads(recipe.threads), seeded_randomness(recipe.seed, device):
        learner = Learner(backbone, split, recipe, normalise, torch.device(device), computing or Computing())
        course = Course(learner)
        if state is not None and state.path.is_file():
            course.restore(state.path)
        with progress.step(f"training with {recipe.loss}", total=recipe.epochs * learner.steps_per_epoch) as step:
            if course.epochs:
                step.advance(course.epochs * learner.steps_per_epoch, "going on where it stopped")
            while course.epochs < recipe.epochs:
                _train_epoch(course, step)
                if selection is not None and _is_due(course, selection.every):
                    step.advance(0, "validating")
                    step.advance(0, course.look(selection.validate))
                if state is not None and _is_due(course, state.every):
                    course.save(state)
                if after_epoch is not None:
                    after_epoch(course.history)
    return _result(course)


def _train_epoch(course: Course, step: Step) -> None:
    learner, sums = course.learner, EpochSums()
    for rows in learner.batches():
        sums.add(learner.step(rows, course.epochs), 2 * len(rows))
        step.advance(note=sums.note)
    course.history.append(sums.summary(learner, course.epochs + 1))


def _is_due(course: Course, every: int) -> bool:
    return course.epochs % every == 0 or course.epochs == course.learner.recipe.epochs


def _result(course: Course) -> TrainingResult:
    backbone, head = course.learner.backbone.eval(), course.learner.head.eval()
    is_last = course.best_epoch in (0, course.epochs)
    last, last_head = (backbone, head) if is_last else (copy.deepcopy(backbone), copy.deepcopy(head))
    course.put_best_back()
    epoch = course.best_epoch or course.epochs
    return TrainingResult(backbone, head, course.history, epoch, last, last_head)
