"""A network in training: its steps, and the gradients of a batch at once or in micro-batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_bench.backbones.backbone import checked_embeddings
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.errors import StudyError
from fewshot_bench.losses import LOSSES, extra_settings, loss_function, reading_of
from fewshot_bench.losses.contrastive import at_least_float32
from fewshot_bench.plugins import plugin_errors
from fewshot_bench.training.augmentation import choose_augmentation, two_views
from fewshot_bench.training.batches import SampleLoader, Samples
from fewshot_bench.training.data_parallel import Processes
from fewshot_bench.training.optimisation import autocast
from fewshot_bench.training.randomness import random_state, same_random_numbers, set_random_state
from fewshot_bench.training.recipe import Recipe
from fewshot_bench.training.scheduled_optimizer import ScheduledOptimizer

BatchLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From logits [B, C], embeddings [B, D], labels [B] and image ids [B] of the same views to their mean loss."""


@dataclass(frozen=True)
class Batch:
    """Two views of some images, on the training device.

    Attributes:
        views: uint8 [2B, C, H, W]: the first views of all images, then the second; of several processes each has
            those of its share of the images.
        labels: class of each view, int64 [2B].
        images: id of the image that each view comes from, int64 [2B].
    """

    views: Tensor
    labels: Tensor
    images: Tensor

    def __len__(self) -> int:
        """Number of images, B."""
        return len(self.labels) // 2

    def parts(self, micro_batch: int) -> list[Batch]:
        """The batch in parts of at most that many images, which differ in size by one at most."""
        count = math.ceil(len(self) / micro_batch)
        columns = [split_views(values, count) for values in (self.views, self.labels, self.images)]
        return [Batch(*column) for column in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Network:
    """The functions that gradients are taken of.

    Attributes:
        encode: a batch with views uint8 [2B, C, H, W] -> embeddings [2B, D], in float32 or more.
        head: embeddings -> logits [B, C], in float32 or more.
        loss: the mean over a batch.
        backward: adds the gradients of a loss to those of the parameters, scaled if the precision needs it.
        buffers: what `encode` changes, such as running statistics.
        device: of the network.
    """

    encode: Callable[[Batch], Tensor]
    head: Callable[[Tensor], Tensor]
    loss: BatchLoss
    backward: Callable[[Tensor], None]
    buffers: Sequence[Tensor]
    device: torch.device


@dataclass(frozen=True)
class Measured:
    """The mean loss of a step, and how many of its views were classified correctly.

    Both have no dimensions and stay on the device: reading them waits for it, so they are read for many steps at once.
    """

    loss: Tensor
    hits: Tensor


def gradients_at_once(network: Network, batch: Batch) -> Measured:
    """Add the gradients of a batch whose activations fit into memory."""
    embeddings = network.encode(batch)
    logits = network.head(embeddings)
    loss = network.loss(logits, embeddings, batch.labels, batch.images)
    network.backward(loss)
    return Measured(loss.detach(), _hits(logits, batch.labels))


def summed_gradients(network: Network, batch: Batch, micro_batch: int) -> Measured:
    """Add the gradients of a batch part by part, for losses that do not compare views with each other."""
    losses, hits = [], []
    for part in batch.parts(micro_batch):
        embeddings = network.encode(part)
        logits = network.head(embeddings)
        loss = network.loss(logits, embeddings, part.labels, part.images) * (len(part) / len(batch))
        network.backward(loss)
        losses.append(loss.detach())
        hits.append(_hits(logits, part.labels))
    return Measured(_sum(losses), torch.stack(hits).sum())


def cached_gradients(network: Network, batch: Batch, micro_batch: int) -> Measured:
    """Add the gradients of a loss that compares all views, keeping the activations of a part at a time.

    Gradient caching (Gao et al., 2021, "Scaling deep contrastive learning batch size under memory limited setup"):
    embed every part without a graph, take the loss of all embeddings and its gradient with respect to them, then embed
    every part again, with a graph, and backpropagate its share of that gradient. Exact, for one more forward pass. The
    second pass repeats the random numbers of the first, so that dropout hides the same units, and starts from the same
    buffers, so that running statistics move once.
    """
    parts = batch.parts(micro_batch)
    before = [buffer.clone() for buffer in network.buffers]
    states, embedded = [], []
    with torch.no_grad():
        for part in parts:
            states.append(random_state(network.device))
            embedded.append(network.encode(part))
        for buffer, first in zip(network.buffers, before, strict=True):
            buffer.copy_(first)
    embeddings = joined_views(embedded).requires_grad_()
    logits = network.head(embeddings)
    loss = network.loss(logits, embeddings, batch.labels, batch.images)
    network.backward(loss)
    assert embeddings.grad is not None
    for part, state, gradient in zip(parts, states, split_views(embeddings.grad, len(parts)), strict=True):
        with same_random_numbers(state, network.device):
            encoded = network.encode(part)
        encoded.backward(gradient)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return Measured(loss.detach(), _hits(logits, batch.labels))


def split_views(values: Tensor, count: int) -> list[Tensor]:
    """Rows of two views, [2B, ...], in `count` parts that hold both views of their images."""
    first, second = values.tensor_split(2)
    halves = zip(first.tensor_split(count), second.tensor_split(count), strict=True)
    return [torch.cat(half) for half in halves]


def joined_views(parts: Sequence[Tensor]) -> Tensor:
    """The rows that `split_views` split."""
    halves = [part.tensor_split(2) for part in parts]
    return torch.cat([half[0] for half in halves] + [half[1] for half in halves])


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The batch normalisations of a module, whose statistics are those of a micro-batch."""
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(-1) == labels).sum()


def _sum(losses: Sequence[Tensor]) -> Tensor:
    """The sum in float64, one after the other, as a loop over numbers gives it."""
    if losses[0].device.type == "mps":  # it has no float64
        return torch.stack(list(losses)).sum()
    total = losses[0].double()
    for loss in losses[1:]:
        total = total + loss
    return total


Normalise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Computing:
    """How a training is computed; without batch normalisation results change by rounding at most.

    Attributes:
        micro_batch: images whose activations are kept at the same time; None for the whole batch. Gradients are those
            of the whole batch, statistics of batch normalisation those of a micro-batch.
        is_compiled: whether the network is compiled by torch.compile.
        processes: that share every batch; None for this one alone. Each has the same arguments in all else.
    """

    micro_batch: int | None = None
    is_compiled: bool = False
    processes: Processes | None = None

    def __post_init__(self) -> None:
        """Raise StudyError for an empty micro-batch."""
        if self.micro_batch is not None and self.micro_batch < 1:
            raise StudyError(f"a micro-batch should hold 1 image or more, not {self.micro_batch}.")


class Learner:
    """A copy of a backbone with a head, and the optimiser, schedule and random numbers of its training."""

    def __init__(
        self,
        backbone: nn.Module,
        split: ImageSplit,
        recipe: Recipe,
        normalise: Normalise,
        device: torch.device,
        computing: Computing,
    ) -> None:
        self.split, self.recipe, self.normalise, self.device = split, recipe, normalise, device
        # Images are augmented on a GPU; other accelerators lack some of the operations.
        self.loader = SampleLoader(split, device if device.type == "cuda" else torch.device("cpu"))
        height, width, channels = split.images.shape[1:]
        self.augmentation = choose_augmentation(recipe.augmentation, channels=channels, image_size=min(height, width))
        # Up to twice the images per second on CPUs, and the memory order of the images anyway.
        self.backbone = copy.deepcopy(backbone).to(device).to(memory_format=torch.channels_last)
        self.head = nn.Sequential(
            nn.Dropout(recipe.dropout), nn.Linear(self._embedding_size(), len(split.class_sizes))
        ).to(device)
        self.steps_per_epoch = math.ceil(len(split) / recipe.batch_size)
        steps = recipe.epochs * self.steps_per_epoch
        self.optimizer = ScheduledOptimizer(recipe, [self.backbone, self.head], steps, device)
        self._micro_batch = computing.micro_batch or recipe.batch_size
        self.processes = computing.processes
        if self.processes is not None:
            self._share(len(split) // self.steps_per_epoch)  # refuses batches that are too small
        self._forward = torch.compile(self.backbone) if computing.is_compiled else self.backbone
        self._network = Network(
            self._encode, self._classify, self._loss(), self.optimizer.backward, list(self.backbone.buffers()), device
        )
        self.backbone.train()
        self.head.train()

    def batches(self) -> Generator[Samples, None, None]:
        """The images of one epoch in random order, in batches whose sizes differ by one at most.

        So no small last batch counts as a full step. Close the iterator to end early.
        """
        batches = torch.randperm(len(self.split)).tensor_split(self.steps_per_epoch)
        if self.processes is None:
            yield from self.loader.batches(batches)
        else:
            yield from self.loader.batches(batches, lambda rows: rows[self._share(len(rows))])

    def step(self, samples: Samples) -> Measured:
        """Learn from one batch of images, without waiting for a GPU; the loss may be infinite or NaN."""
        return self.learn(self.views(samples))

    def views(self, samples: Samples) -> Batch:
        """Two random views of each image."""
        count = len(samples.rows)
        share = None if self.processes is None else self._share(count)
        views = two_views(samples.images, self.augmentation, share=share, batch_size=count).to(self.device)
        labels, rows = samples.labels.repeat(2).to(self.device), samples.rows.repeat(2).to(self.device)
        return Batch(views, labels, rows)

    def learn(self, batch: Batch) -> Measured:
        """Update the weights once."""
        self.optimizer.zero_grad()
        measured = self._gradients(batch)
        if self.processes is not None:
            self.processes.reduce_gradients(self.backbone.parameters(), self.head.parameters())
        self.optimizer.step()
        return measured

    def tensors(self) -> dict[str, Tensor]:
        """Weights, moments and random numbers by name."""
        random = {f"random.{name}": value for name, value in random_state(self.device).items()}
        return weights_of(self.backbone, self.head) | self.optimizer.tensors() | random

    def restore(self, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        """Continue from the `tensors` and the position of the `optimizer` of another learner of the same recipe.

        Raises:
            KeyError, RuntimeError, ValueError: they are of another training.
        """
        load_weights(self.backbone, self.head, tensors)
        self.optimizer.restore(tensors, position)
        set_random_state({name: tensors[f"random.{name}"] for name in random_state(self.device)}, self.device)

    def _gradients(self, batch: Batch) -> Measured:
        if len(batch) <= self._micro_batch:
            return gradients_at_once(self._network, batch)
        compares_views = LOSSES[self.recipe.loss].facts.get("is_contrastive", True)
        in_parts = cached_gradients if compares_views else summed_gradients
        return in_parts(self._network, batch, self._micro_batch)

    def _share(self, images: int) -> Tensor:
        """The positions of this process's images in a batch."""
        assert self.processes is not None
        return self.processes.share(images, math.ceil(images / self._micro_batch))

    def _encode(self, batch: Batch) -> Tensor:
        if self.processes is None:
            return self._embed(batch.views)
        return self.processes.embed(self._embed, batch.views, len(batch), self.device)

    def _embed(self, views: Tensor) -> Tensor:
        with autocast(self.recipe.precision, self.device), plugin_errors(self.backbone, "forward"):
            embeddings: Tensor = self._forward(self.normalise(views))
        return at_least_float32(embeddings)

    def _classify(self, embeddings: Tensor) -> Tensor:
        with autocast(self.recipe.precision, self.device):
            logits: Tensor = self.head(embeddings)
        return at_least_float32(logits)

    def _loss(self) -> Callable[..., Tensor]:
        recipe, loss = self.recipe, loss_function(self.recipe.loss)
        settings: dict[str, Any] = {"lambda_": recipe.lambda_, "tau": recipe.tau}
        settings["reading"] = reading_of(recipe.loss, recipe.reading)
        settings |= extra_settings(recipe.loss, stop_gradient=recipe.stop_gradient, anchors=recipe.anchors)
        if recipe.label_smoothing:  # a plug-in's loss need not take it
            settings["label_smoothing"] = recipe.label_smoothing
            if "label_smoothing" not in signature(loss).parameters:
                raise StudyError(f"the loss {recipe.loss} takes no label_smoothing; leave it at 0.")
        return partial(loss, **settings)

    @torch.no_grad()
    def _embedding_size(self) -> int:
        two_images = self.loader.load(torch.arange(2)).images.to(self.device)
        with plugin_errors(self.backbone, "forward"):
            embeddings = self.backbone.eval()(self.normalise(two_images))
        return int(checked_embeddings(embeddings, self.backbone, 2).shape[1])


def weights_of(backbone: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    """The tensors of a backbone and its head, `backbone.*` and `head.*`."""
    parts = {"backbone": backbone, "head": head}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}


def load_weights(backbone: nn.Module, head: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights by `weights_of` into modules of the same kind."""
    for part, module in (("backbone.", backbone), ("head.", head)):
        module.load_state_dict(
            {name.removeprefix(part): value for name, value in weights.items() if name.startswith(part)}
        )
