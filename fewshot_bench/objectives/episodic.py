"""Episodic training: the loss of tasks that are drawn from the base split (Vinyals et al., 2016; Snell et al., 2017).

The tasks come from the sampler of this project: task t of a training is a pure function of the dataset, the split, the
recipe's seed and t, so that a training that resumes continues with the task after the last.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
import torch
from torch import Tensor, nn

from fewshot_bench.episodes import Protocol, resolved_protocol, sample_episodes
from fewshot_bench.errors import StudyError
from fewshot_bench.losses.cross_entropy import cross_entropy
from fewshot_bench.objectives.heads import EpisodicHead
from fewshot_bench.training import Encoder, Measured
from fewshot_bench.training.augmentation import random_views
from fewshot_bench.training.batches import Samples

_TASKS_DRAWN_AT_ONCE = 4096


class Episodic:
    """An objective: the queries of a task are classified by its support set, whose embeddings are trained too.

    All images of a step are embedded together, so that batch normalisation sees support images and queries of all its
    tasks. Snell et al. do so with their one task per step; MetaOptNet embeds support images and queries apart. Where
    memory is short, a micro-batch holds as many whole tasks as fit: the gradients are those of the step, the statistics
    of batch normalisation those of a micro-batch.
    """

    def __init__(self, encoder: Encoder) -> None:
        recipe, split = encoder.recipe, encoder.split
        if encoder.computing.processes is not None:
            raise StudyError("training on tasks takes one process. Leave out torchrun.")
        if recipe.views != 1:
            raise StudyError(f"training on tasks takes one view of each image, not {recipe.views}. Use --views 1.")
        if recipe.loss != "ce":
            raise StudyError(f"training on tasks minimises their cross-entropy, not {recipe.loss}. Use --loss ce.")
        if recipe.mixup:
            raise StudyError("training on tasks mixes no images. Leave out --mixup.")
        self.encoder, self.recipe = encoder, recipe
        self.head: nn.Module = EpisodicHead(recipe).to(encoder.device)
        self.steps_per_epoch = recipe.steps_per_epoch
        protocol = Protocol(
            split.dataset,
            split.name,
            recipe.way,
            recipe.shot,
            recipe.query,
            recipe.epochs * recipe.steps_per_epoch * recipe.tasks,
            runs=1,
            seed=recipe.seed,
        )
        self._protocol = resolved_protocol(protocol, split.class_sizes, split.class_names)  # refuses small splits
        self._tasks_at_once = self._whole_tasks(encoder.computing.micro_batch)
        self._truth = torch.arange(recipe.way, device=encoder.device).repeat_interleave(recipe.query)

    def batches(self, epoch: int) -> Generator[Samples, None, None]:
        """The images of the tasks of each step, [T * N * (K + Q)]; see `Objective`."""
        tasks = self.recipe.tasks
        steps_at_once = max(1, _TASKS_DRAWN_AT_ONCE // tasks)
        end = (epoch + 1) * self.steps_per_epoch
        for start in range(epoch * self.steps_per_epoch, end, steps_at_once):
            steps = min(steps_at_once, end - start)
            numbers = np.arange(start * tasks, (start + steps) * tasks)
            images = sample_episodes(self.encoder.split, self._protocol, numbers=numbers).images
            yield from self.encoder.loader.batches(list(torch.from_numpy(images.reshape(steps, -1).astype(np.int64))))

    def gradients(self, samples: Samples, backward: Callable[[Tensor], None]) -> Measured:
        """Add the gradients of the mean loss over the queries of all tasks; see `Objective`."""
        recipe = self.recipe
        views = random_views(samples.images, self.encoder.augmentation, count=1).to(self.encoder.device)
        tasks = views.view(recipe.tasks, recipe.images_per_task, *views.shape[1:])
        losses, hits = [], []
        for part in torch.split(tasks, self._tasks_at_once):
            logits = self._logits(part)
            loss = cross_entropy(logits, self._truth, label_smoothing=recipe.label_smoothing).mean()
            loss = loss * (len(part) / recipe.tasks)
            backward(loss)
            losses.append(loss.detach())
            hits.append((logits.argmax(-1) == self._truth).sum())
        queries = recipe.tasks * len(self._truth)
        return Measured(torch.stack(losses).sum(), torch.stack(hits).sum(), queries, len(samples.rows))

    def _logits(self, views: Tensor) -> Tensor:
        """Logits of the queries of tasks, [T, N * Q, N], from their views, [T, N * (K + Q), C, H, W]."""
        recipe = self.recipe
        embeddings = self.encoder.embed(views.flatten(0, 1))
        tasks = embeddings.view(len(views), recipe.way, recipe.shot + recipe.query, embeddings.shape[-1])
        support, query = tasks[:, :, : recipe.shot], tasks[:, :, recipe.shot :].flatten(1, 2)
        logits: Tensor = self.head(support, query)
        return logits

    def _whole_tasks(self, micro_batch: int | None) -> int:
        """Tasks whose activations are kept at the same time."""
        recipe = self.recipe
        if micro_batch is None:
            return recipe.tasks
        if micro_batch < recipe.images_per_task:
            raise StudyError(
                f"a task of {recipe.images_per_task} images is embedded at once, and a micro-batch has {micro_batch}. "
                "Use a larger --micro-batch, or a smaller --way, --shot or --query."
            )
        return min(recipe.tasks, micro_batch // recipe.images_per_task)
