"""Episodes of small smooth images whose classes differ, and the means to fine-tune on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import timm
import torch
from plain_loop import adapt_one
from torch import nn
from torch.nn.functional import interpolate

import fewshot_bench.backbones  # noqa: F401  # registers the literature's networks with timm
from fewshot_bench.backbones import BaseHead
from fewshot_bench.finetuning.episode_tasks import EpisodeTask, ImageTasks
from fewshot_bench.finetuning.frozen_prefix import NetworkParts, network_parts
from fewshot_bench.finetuning.recipe import EpisodeRecipe
from fewshot_bench.finetuning.trainer import Adapted, EpisodeTrainer
from fewshot_bench.training.augmentation import choose_augmentation
from fewshot_bench.training.randomness import episode_keys

SIDE, CLASSES, PER_CLASS = 16, 8, 30


def made_images() -> np.ndarray:
    """Smooth colourful patterns with noise, uint8 [I, 16, 16, 3], class by class."""
    generator = torch.Generator().manual_seed(7)
    patterns = interpolate(torch.rand(CLASSES, 3, 4, 4, generator=generator), size=SIDE, mode="bilinear")
    noise = torch.rand(CLASSES * PER_CLASS, 3, SIDE, SIDE, generator=generator)
    images = patterns.repeat_interleave(PER_CLASS, dim=0) * 150 + noise * 100
    return images.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


IMAGES = made_images()


def normalise(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 127.5 - 1


def made_network(name: str = "conv4_64", **options: object) -> nn.Module:
    """A network with random weights whose batch statistics, if it keeps any, are those of the images."""
    torch.manual_seed(0)
    size = {} if name.startswith(("resnet18", "tf_", "convnext")) else {"img_size": SIDE}
    network = timm.create_model(name, pretrained=False, num_classes=0, **size, **options)
    network.train()
    images = normalise(torch.from_numpy(IMAGES[::4]).permute(0, 3, 1, 2))
    with torch.no_grad():
        for _ in range(30):
            network(images if size else interpolate(images, size=2 * SIDE))
    return network.eval()


@dataclass(frozen=True)
class Indices:
    support: np.ndarray
    query: np.ndarray
    keys: torch.Tensor

    def some(self, which: object) -> Indices:
        return Indices(self.support[which], self.query[which], self.keys[which])


def drawn(episodes: int, *, way: int = 5, shot: int = 1, query: int = 5, seed: int = 0) -> Indices:
    """Support images [E, N * K] and queries [E, N * Q], class by class."""
    generator = np.random.default_rng(seed)
    images = np.empty((episodes, way, shot + query), dtype=np.int32)
    for episode in range(episodes):
        for place, label in enumerate(generator.permutation(CLASSES)[:way]):
            images[episode, place] = label * PER_CLASS + generator.permutation(PER_CLASS)[: shot + query]
    support, queries = images[:, :, :shot].reshape(episodes, -1), images[:, :, shot:].reshape(episodes, -1)
    return Indices(support, queries, episode_keys(seed, 0, np.arange(episodes)))


@dataclass(frozen=True)
class Setup:
    """A network, a recipe, and the size of its episodes."""

    parts: NetworkParts
    recipe: EpisodeRecipe
    way: int
    shot: int
    images: np.ndarray

    def task(self, indices: Indices) -> EpisodeTask:
        augmentation = choose_augmentation(self.recipe.augmentation, channels=3, image_size=SIDE)
        tasks = ImageTasks(self.images, normalise, augmentation, self.parts, self.recipe, torch.device("cpu"))
        return tasks(indices.support, indices.query, indices.keys)

    def trainer(self, episodes: int, layout: str | None = None) -> EpisodeTrainer:
        return EpisodeTrainer(self.parts, self.recipe, episodes=episodes, way=self.way, shot=self.shot, layout=layout)

    def adapted(self, indices: Indices, layout: str | None = None) -> Adapted:
        return self.trainer(len(indices.support), layout).adapt(self.task(indices))

    def one_by_one(self, indices: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [E, M, N] and losses [steps, E] of the loop that copies the network for each episode."""
        singles = [indices.some(slice(e, e + 1)) for e in range(len(indices.support))]
        each = [adapt_one(self.parts, self.recipe, self.task(s), way=self.way, shot=self.shot) for s in singles]
        return torch.stack([one[0] for one in each]), torch.stack([one[1] for one in each], dim=1)


def made_base_head(embedding_size: int, classes: int = 12) -> BaseHead:
    """The classifier of a base training that never was."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(classes, embedding_size, generator=generator) / embedding_size**0.5
    names = tuple(f"base {number}" for number in range(classes))
    return BaseHead(weight, torch.randn(classes, generator=generator) / 10, names)


def setup(
    network: nn.Module, recipe: EpisodeRecipe, *, way: int = 5, shot: int = 1, images: np.ndarray = IMAGES
) -> Setup:
    sample = normalise(torch.from_numpy(images[:2]).permute(0, 3, 1, 2))
    with torch.no_grad():
        base_head = made_base_head(network(sample).shape[1])
    return Setup(network_parts(network, recipe, sample, base_head), recipe, way, shot, images)


def weights_of(adapted: Adapted) -> dict[str, torch.Tensor]:
    """The weights after training, which the trainer would overwrite with the next episodes."""
    return {name: weight.detach().clone() for name, weight in adapted.weights.items()}
