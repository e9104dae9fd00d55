"""Episodic training: the loss of tasks that are drawn from the base split (Vinyals et al., 2016; Snell et al., 2017).

The tasks come from the sampler of this project: task t of a training is a pure function of the dataset, the split, the
recipe's seed and t, so that a training that resumes continues with the task after the last.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
import torch
from torch import Tensor, nn

from fewshot_bench.adaptation.centroid import nearest_centroid
from fewshot_bench.episodes import Protocol, sample_episodes
from fewshot_bench.errors import StudyError
from fewshot_bench.losses.cross_entropy import cross_entropy
from fewshot_bench.training import Encoder, Measured
from fewshot_bench.training.augmentation import random_views
from fewshot_bench.training.batches import Samples


class Episodic:
    """An objective: the queries of a task are classified by its support set, whose embeddings are trained too.

    All images of a step are embedded together, so that batch normalisation sees support images and queries of all its
    tasks. Snell et al. do so with their one task per step; MetaOptNet embeds support images and queries apart.
    """

    def __init__(self, encoder: Encoder) -> None:
        recipe, split = encoder.recipe, encoder.split
        if encoder.computing.processes is not None:
            raise StudyError("training on tasks takes one process. Leave out torchrun.")
        if recipe.views != 1:
            raise StudyError(f"training on tasks takes one view of each image, not {recipe.views}.")
        self.encoder, self.recipe = encoder, recipe
        self.head: nn.Module = nn.Identity()
        self.steps_per_epoch = recipe.steps_per_epoch
        self._protocol = Protocol(
            split.dataset,
            split.name,
            recipe.way,
            recipe.shot,
            recipe.query,
            recipe.epochs * recipe.steps_per_epoch * recipe.tasks,
            runs=1,
            seed=recipe.seed,
        )
        self._truth = torch.arange(recipe.way, device=encoder.device).repeat_interleave(recipe.query)

    def batches(self, epoch: int) -> Generator[Samples, None, None]:
        """The images of the tasks of each step, [T * N * (K + Q)]; see `Objective`."""
        tasks = self.steps_per_epoch * self.recipe.tasks
        numbers = np.arange(epoch * tasks, (epoch + 1) * tasks)
        images = sample_episodes(self.encoder.split, self._protocol, numbers=numbers).images
        rows = torch.from_numpy(images.reshape(self.steps_per_epoch, -1).astype(np.int64))
        yield from self.encoder.loader.batches(list(rows))

    def gradients(self, samples: Samples, backward: Callable[[Tensor], None]) -> Measured:
        """Add the gradients of the mean loss over the queries of all tasks; see `Objective`."""
        recipe = self.recipe
        views = random_views(samples.images, self.encoder.augmentation, count=1).to(self.encoder.device)
        embeddings = self.encoder.embed(views)
        shape = (recipe.tasks, recipe.way, recipe.shot + recipe.query, embeddings.shape[-1])
        tasks = embeddings.view(shape)
        support, query = tasks[:, :, : recipe.shot], tasks[:, :, recipe.shot :].flatten(1, 2)
        logits = nearest_centroid(support, query, metric="euclidean")
        loss = cross_entropy(logits, self._truth, label_smoothing=recipe.label_smoothing).mean()
        backward(loss)
        hits = (logits.argmax(-1) == self._truth).sum()
        return Measured(loss.detach(), hits, logits.shape[0] * logits.shape[1], len(samples.rows))
