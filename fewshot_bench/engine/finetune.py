"""Fine-tune a backbone on each episode, as many at once as fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.adaptation import Finetune
from fewshot_bench.backbones import Backbone
from fewshot_bench.datasets import ImageSplit
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.sampler import Episodes
from fewshot_bench.training.augment import choose_augmentation
from fewshot_bench.training.per_episode.memory import bytes_per_episode, episodes_that_fit, halved_until_it_fits
from fewshot_bench.training.per_episode.network_parts import NetworkParts, embedding_parts, network_parts
from fewshot_bench.training.per_episode.tasks import EpisodeTask, ImageTasks, embedding_task
from fewshot_bench.training.per_episode.trainer import EpisodeTrainer
from fewshot_bench.training.randomness import episode_keys

# More at once is no faster on a CPU, where the work is there to do whoever it is for; on a GPU it fills the device.
_MOST_AT_ONCE = {"cpu": 16, "cuda": 1024}

MakeTask = Callable[[NDArray[np.int32], NDArray[np.int32], Tensor], EpisodeTask]
"""Support images [E, N * K], queries [E, M] and keys [E] to a task."""


@dataclass(frozen=True)
class _Kind:
    episodes: int
    way: int
    shot: int


class FinetuneClassifier:
    """One fine-tuning method on one split, on one device."""

    def __init__(self, recipe: Finetune, parts: NetworkParts, make_task: MakeTask) -> None:
        """Take a backbone that has been prepared; see `on_images` and `on_embeddings`."""
        self._recipe, self._parts, self._make_task = recipe, parts, make_task
        self._device = parts.sample.device
        self._trainers: dict[_Kind, EpisodeTrainer] = {}
        self._fitting: dict[tuple[int, int], int] = {}

    @classmethod
    def on_images(cls, recipe: Finetune, split: ImageSplit, backbone: Backbone, device: str) -> FinetuneClassifier:
        """For methods that change the backbone.

        Raises:
            StudyError: what should be tuned is not there.
        """
        where = torch.device(device)
        network = backbone.network.to(where).eval()
        two = torch.from_numpy(np.array(split.images[:2])).permute(0, 3, 1, 2).to(where)
        parts = network_parts(network, recipe, backbone.preprocessing(two))
        _, height, width, channels = split.images.shape
        augmentation = choose_augmentation(recipe.augmentation, channels=channels, image_size=min(height, width))
        tasks = ImageTasks(split.images, backbone.preprocessing, augmentation, parts, recipe, where)
        return cls(recipe, parts, tasks)

    @classmethod
    def on_embeddings(cls, recipe: Finetune, embeddings: Tensor, images: int) -> FinetuneClassifier:
        """For methods that train a head alone.

        Args:
            recipe: with tune="head".
            embeddings: [(1 + V) * I, D], the images as they are, then their augmented views.
            images: I.
        """
        parts = embedding_parts(embeddings.shape[1], embeddings.device)

        def make_task(support: NDArray[np.int32], query: NDArray[np.int32], keys: Tensor) -> EpisodeTask:
            return embedding_task(embeddings, images, support, query, keys)

        return cls(recipe, parts, make_task)

    def chunk(self, protocol: Protocol) -> int:
        """As many episodes as fit into memory, measured on one; see `Classifier`."""
        size = (protocol.way, protocol.shot)
        if size not in self._fitting:
            self._fitting[size] = self._measured(*size)
        return self._fitting[size]

    def _measured(self, way: int, shot: int) -> int:
        trainer = EpisodeTrainer(self._parts, self._recipe, episodes=1, way=way, shot=shot)
        views = 2 * min(way * shot, self._recipe.batch_size)
        one = self._parts.sample[:1]
        per_episode = bytes_per_episode(trainer, one.expand(views, *one.shape[1:]).unsqueeze(0))
        most = _MOST_AT_ONCE.get(self._device.type, _MOST_AT_ONCE["cuda"])
        return episodes_that_fit(per_episode, self._device, largest=most)

    def __call__(self, episodes: Episodes, chunk: int) -> NDArray[np.uint8]:
        """See `Classifier`; where memory runs out, half as many go at once from then on."""
        way, shot = episodes.protocol.way, episodes.protocol.shot
        at_once = min(chunk, self._fitting.get((way, shot), chunk))
        predictions, start = [], 0
        while start < len(episodes):
            wanted = min(at_once, len(episodes) - start)
            taken, some = halved_until_it_fits(wanted, partial(self._classify, episodes, start))
            if taken < wanted:
                at_once = self._fitting[way, shot] = taken
            predictions.append(some)
            start += len(some)
        return torch.cat(predictions).numpy()

    def _classify(self, episodes: Episodes, start: int, count: int) -> Tensor:
        """Predictions of `count` episodes from a position on, uint8 [count, N * Q]."""
        protocol = episodes.protocol
        some = slice(start, start + count)
        keys = episode_keys(self._recipe.seed, episodes.run, episodes.numbers[some])
        support, query = (images[some].reshape(count, -1) for images in (episodes.support, episodes.query))
        task = self._make_task(support, query, keys)
        adapted = self._trainer(_Kind(count, protocol.way, protocol.shot)).adapt(task)
        return adapted.logits.argmax(dim=-1).to(torch.uint8).cpu()

    def _trainer(self, kind: _Kind) -> EpisodeTrainer:
        """The trainer of that many episodes; another size makes room by giving the last one up."""
        if kind not in self._trainers:
            self._trainers.clear()
            self._trainers[kind] = EpisodeTrainer(
                self._parts, self._recipe, episodes=kind.episodes, way=kind.way, shot=kind.shot
            )
        return self._trainers[kind]
