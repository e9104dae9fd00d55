"""Fine-tuning on the base split: the backbone learns the base classes, then meets the novel ones."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.errors import StudyError
from fewshot_bench.losses import LOSSES
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.training.augment import choose_augmentation, two_views
from fewshot_bench.training.optimisation import build_optimizer, build_schedule
from fewshot_bench.training.recipe import Recipe
from fewshot_bench.training.reproducibility import limited_threads, seeded_randomness

Normalise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TrainingResult:
    """What a fine-tuning gave.

    Attributes:
        backbone: the fine-tuned network, in evaluation mode, on the training device.
        head: dropout and the linear layer to the base classes.
        history: for each epoch the mean loss and accuracy of the augmented views, and images_per_second.
    """

    backbone: nn.Module
    head: nn.Module
    history: list[dict[str, float]]


def train_on_base(
    backbone: nn.Module,
    split: ImageSplit,
    recipe: Recipe,
    *,
    normalise: Normalise,
    device: torch.device | str = "cpu",
    progress: Progress = SILENT,
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
        progress: told of every step, with the epoch's loss and accuracy so far.

    Returns:
        The fine-tuned backbone, its head, and the history.

    Raises:
        StudyError: the split has fewer than two classes, or the loss stops being a finite number.
    """
    if len(split.class_sizes) < 2:
        raise StudyError(f"the {split.name} split of {split.dataset} has one class; training needs two or more.")
    with limited_threads(recipe.threads), seeded_randomness(recipe.seed, device):
        run = _Training(backbone, split, recipe, normalise, torch.device(device))
        total = recipe.epochs * run.steps_per_epoch
        with progress.step(f"training with {recipe.loss}", total=total) as step:
            history = []
            for epoch in range(recipe.epochs):
                epoch_so_far = _Epoch(epoch)
                for rows in run.batches():
                    run.step(rows, epoch_so_far)
                    step.advance(note=epoch_so_far.note)
                history.append(epoch_so_far.summary())
    return TrainingResult(run.backbone.eval(), run.head.eval(), history)


@dataclass
class _Epoch:
    """Sums over the steps of one epoch so far."""

    number: int
    loss: float = 0.0
    hits: int = 0
    views: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, loss: float, hits: int, views: int) -> None:
        self.loss += loss * views
        self.hits += hits
        self.views += views

    @property
    def note(self) -> str:
        return f"loss {self.loss / self.views:.3f}, accuracy {self.hits / self.views:.0%}"

    def summary(self) -> dict[str, float]:
        return {
            "loss": self.loss / self.views,
            "accuracy": self.hits / self.views,
            "images_per_second": self.views / 2 / (time.perf_counter() - self.started),
        }


class _Training:
    """The state of a fine-tuning between steps."""

    def __init__(
        self, backbone: nn.Module, split: ImageSplit, recipe: Recipe, normalise: Normalise, device: torch.device
    ) -> None:
        self.split, self.recipe, self.normalise, self.device = split, recipe, normalise, device
        self.labels = torch.from_numpy(split.labels)
        self.loss = LOSSES[recipe.loss].factory
        height, width, channels = split.images.shape[1:]
        self.augmentation = choose_augmentation(recipe.augmentation, channels=channels, image_size=min(height, width))
        # channels_last: up to twice the images per second on CPUs, and what the images' memory order is anyway.
        self.backbone = copy.deepcopy(backbone).to(device).to(memory_format=torch.channels_last)
        self.head = nn.Sequential(
            nn.Dropout(recipe.dropout), nn.Linear(self._embedding_size(), len(split.class_sizes))
        ).to(device)
        self.steps_per_epoch = math.ceil(len(split) / recipe.batch_size)
        self.optimizer = build_optimizer(recipe, [self.backbone, self.head])
        self.schedule = build_schedule(recipe, self.optimizer, recipe.epochs * self.steps_per_epoch)
        self.backbone.train()
        self.head.train()

    def batches(self) -> Iterator[Tensor]:
        """The images of one epoch in random order; sizes differ by one at most.

        Equal parts keep all images without a last batch so small that its noise would count as a full step.
        """
        yield from torch.randperm(len(self.split)).tensor_split(self.steps_per_epoch)

    def step(self, rows: Tensor, epoch: _Epoch) -> None:
        """Learn from one batch of images."""
        views = two_views(self._images(rows), self.augmentation).to(self.device)
        labels, images = self.labels[rows].repeat(2).to(self.device), rows.repeat(2).to(self.device)
        embeddings = self.backbone(self.normalise(views))
        logits = self.head(embeddings)
        recipe = self.recipe
        loss = self.loss(
            logits, embeddings, labels, images, lambda_=recipe.lambda_, tau=recipe.tau, reading=recipe.reading
        )
        self._refuse_divergence(loss.item(), epoch.number)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimizer.step()
        self.schedule.step()
        epoch.add(loss.item(), int((logits.argmax(-1) == labels).sum()), len(labels))

    def _images(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self.split.images[rows.numpy()])).permute(0, 3, 1, 2)

    @torch.no_grad()
    def _embedding_size(self) -> int:
        embeddings = self.backbone.eval()(self.normalise(self._images(torch.arange(2)).to(self.device)))
        if embeddings.ndim != 2:
            raise StudyError(
                f"a backbone should give embeddings [B, D] to be trained; this one gives {list(embeddings.shape)}."
            )
        return int(embeddings.shape[1])

    def _refuse_divergence(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise StudyError(
                f"training with {self.recipe.loss} gave the loss {loss} in epoch {epoch + 1}; it should stay finite. "
                f"Use a learning rate below {self.recipe.learning_rate:g}."
            )
