"""Fine-tune a backbone on each episode, as many at once as fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.adaptation import MAML, Finetune
from fewshot_bench.backbones import Backbone, BaseHead, TaskHead
from fewshot_bench.datasets import ImageSplit
from fewshot_bench.devices import is_out_of_memory
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.sampler import Episodes
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.episode_tasks import EpisodeTask, ImageTasks, embedding_task
from fewshot_bench.finetuning.episodes_at_once import fastest_on_cpu
from fewshot_bench.finetuning.frozen_prefix import NetworkParts, embedding_parts, network_parts
from fewshot_bench.finetuning.head import has_batch_norm
from fewshot_bench.finetuning.memory import (
    bytes_per_episode,
    episodes_that_fit,
    fit_by_halving,
)
from fewshot_bench.finetuning.trainer import EpisodeTrainer
from fewshot_bench.outcomes.packing import Positions, position_type
from fewshot_bench.plugins import plugin_errors
from fewshot_bench.training.augmentation import choose_augmentation
from fewshot_bench.training.randomness import episode_keys

MOST_AT_ONCE = 1024
STORED_AT_ONCE = 16

MakeTask = Callable[[NDArray[np.int32], NDArray[np.int32], Tensor], EpisodeTask]
"""Support images [E, N * K], queries [E, M] and keys [E] to a task."""


class FinetuneClassifier:
    """A fine-tuning method on a split, on one device."""

    def __init__(self, method: Finetune, parts: NetworkParts, make_task: MakeTask) -> None:
        """Take a prepared backbone; see `on_images` and `on_embeddings`."""
        self._method, self._parts, self._make_task = method, parts, make_task
        self._device = parts.sample.device
        self._trainers: dict[tuple[int, int, int], EpisodeTrainer] = {}  # by episodes, way and shot
        self._fitting: dict[tuple[int, int, int], int] = {}

    @classmethod
    def on_images(cls, method: Finetune, split: ImageSplit, backbone: Backbone, device: str) -> FinetuneClassifier:
        """For methods that change the backbone; raises StudyError if it lacks what to tune, or the head they need."""
        where = torch.device(device)
        base_head, task_head = base_head_for(method, backbone), task_head_for(method, backbone)
        network = backbone.network.to(where).eval()
        two = torch.from_numpy(np.array(split.images[:2])).permute(0, 3, 1, 2).to(where)
        with plugin_errors(network, "forward"):
            parts = network_parts(network, method, backbone.preprocessing(two), base_head)
        parts = replace(parts, task_head=task_head)
        _, height, width, channels = split.images.shape
        augmentation = choose_augmentation(method.augmentation, channels=channels, image_size=min(height, width))
        tasks = ImageTasks(split.images, backbone.preprocessing, augmentation, parts, method, where)
        return cls(method, parts, tasks)

    @classmethod
    def on_embeddings(
        cls, method: Finetune, embeddings: Tensor, images: int, base_head: BaseHead | None = None
    ) -> FinetuneClassifier:
        """For methods that train a head alone.

        Args:
            method: with tune="head".
            embeddings: [(1 + V) * I, D], the images as they are, then their augmented views.
            images: I.
            base_head: from `base_head_for`.
        """
        parts = embedding_parts(embeddings.shape[1], embeddings.device, base_head)

        def make_task(support: NDArray[np.int32], query: NDArray[np.int32], keys: Tensor) -> EpisodeTask:
            return embedding_task(embeddings, images, support, query, keys)

        return cls(method, parts, make_task)

    def chunk(self, protocol: Protocol) -> int:
        """A number of episodes that keeps the device busy and a stop cheap; see `Classifier`."""
        at_once = self._at_once(protocol.way, protocol.shot, protocol.way * protocol.query)
        return at_once * max(1, STORED_AT_ONCE // at_once)

    def _at_once(self, way: int, shot: int, queries: int) -> int:
        """How many episodes to train together: as many as fit, measured on one."""
        size = self._size(way, shot, queries)
        if size not in self._fitting:
            _, fitting = self._fitted(1, lambda _: torch.tensor(self._measured(*size)))
            self._fitting[size] = int(fitting)
        return self._fitting[size]

    def _size(self, way: int, shot: int, queries: int) -> tuple[int, int, int]:
        """Way, shots, and the queries of an episode if the training sees them."""
        return way, shot, queries if self._method.sees_queries else 0

    def _measured(self, way: int, shot: int, queries: int) -> int:
        self._trainers.clear()  # or the memory of the last size would count as taken
        trainer = EpisodeTrainer(self._parts, self._method, episodes=1, way=way, shot=shot)
        views = 2 * min(way * shot, self._method.batch_size)
        image = self._parts.sample[:1]
        inputs, query = (image.expand(count, *image.shape[1:]).unsqueeze(0) for count in (views, queries))
        per_episode = bytes_per_episode(trainer, inputs, query if queries else None)
        del trainer  # before others are made
        per_episode += self._method.fixed_views * way * shot * image.numel() * image.element_size()
        most = MOST_AT_ONCE
        if self._device.type == "cpu":  # a GPU is filled
            most = fastest_on_cpu(self._parts, self._method, inputs, per_episode, way=way, shot=shot)
        return episodes_that_fit(per_episode, self._device, largest=most)

    def __call__(self, episodes: Episodes, chunk: int) -> Positions:
        """See `Classifier`; when memory runs out, half as many episodes are trained at once from then on."""
        size = self._size(episodes.way, episodes.shot, episodes.queries.shape[1])
        at_once = min(chunk, self._at_once(*size))
        predictions, start = [], 0
        while start < len(episodes):
            wanted = min(at_once, len(episodes) - start)
            fitting, predicted = self._fitted(wanted, partial(self._classify, episodes, start))
            if fitting < wanted:
                at_once = self._fitting[size] = fitting
            predictions.append(predicted)
            start += len(predicted)
        return torch.cat(predictions).numpy().astype(position_type(episodes.protocol.way))

    def _fitted(self, wanted: int, attempt: Callable[[int], Tensor]) -> tuple[int, Tensor]:
        """See `fit_by_halving`; raises StudyError if a single episode does not fit."""
        try:
            return fit_by_halving(wanted, attempt)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise StudyError(
                f"one episode does not fit into the memory of {self._device}. Use --tune last:N, --precision bf16, a "
                "smaller --image-size, or --set batch_size=N."
            ) from error

    def _classify(self, episodes: Episodes, start: int, count: int) -> Tensor:
        """Predictions of `count` episodes from a position on, int32 [count, M]."""
        part = slice(start, start + count)
        keys = episode_keys(self._method.seed, episodes.run, episodes.numbers[part])
        task = self._make_task(episodes.support[part].reshape(count, -1), episodes.queries[part], keys)
        with plugin_errors(self._parts.rest, "forward"):
            adapted = self._trainer(count, episodes.way, episodes.shot).adapt(task)
        return adapted.logits.argmax(dim=-1).to(torch.int32).cpu()

    def _trainer(self, episodes: int, way: int, shot: int) -> EpisodeTrainer:
        """The trainer of that many episodes; only the last one is kept in memory."""
        size = (episodes, way, shot)
        if size not in self._trainers:
            self._trainers.clear()
            self._trainers[size] = EpisodeTrainer(self._parts, self._method, episodes=episodes, way=way, shot=shot)
        return self._trainers[size]


def base_head_for(method: Finetune, backbone: Backbone) -> BaseHead | None:
    """The classifier of the base training if a method uses its logits; raises StudyError if the backbone has none."""
    if method.on != "logits":
        return None
    if backbone.base_head is None:
        raise StudyError(
            f"on=logits needs the classifier of {backbone.name}'s training on a base split, and none was kept. Train "
            f"it again: fewshot-bench cache clear '{backbone.name} trained on', then the same command; or use "
            "on=embeddings."
        )
    if backbone.base_head.kind != "linear":
        raise StudyError(
            f"on=logits takes the logits of a linear base classifier; that of {backbone.name} compares by cosines. Use "
            "on=embeddings."
        )
    return backbone.base_head


def task_head_for(method: Finetune, backbone: Backbone) -> TaskHead | None:
    """The head that a method starts from if it was trained for tasks; raises StudyError if the backbone has none."""
    if method.start != "trained":
        return None
    if backbone.task_head is None:
        raise StudyError(
            f"{backbone.name} has no head of a training by gradient-based meta-learning to start from. Use a network "
            "that fewshot-bench train trained with the objective maml, anil or meta-sgd, or --adapt finetune."
        )
    return backbone.task_head


def as_finetune(adaptation: Finetune | MAML, backbone: Backbone) -> Finetune:
    """The settings with which the engine runs an adaptation; raises StudyError if it is not for the backbone."""
    if isinstance(adaptation, Finetune):
        return adaptation
    head = backbone.task_head
    return adaptation.as_finetune(
        moves_backbone=head is None or head.moves_backbone, normalises=has_batch_norm(backbone.network)
    )
