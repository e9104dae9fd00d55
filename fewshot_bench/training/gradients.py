"""The gradients of one batch, in as much memory as there is: at once, summed up, or with cached embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewshot_bench.training.reproducibility import random_state, same_random_numbers

BatchLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Logits [B, C], embeddings [B, D], labels [B] and image ids [B] of the same views to their mean loss, a scalar."""


@dataclass(frozen=True)
class Batch:
    """Two views of some images, on the training device.

    Attributes:
        views: uint8 [2B, C, H, W]: the first views of all images, then the second.
        labels: class of each view, int64 [2B].
        images: id of the image that each view comes from, int64 [2B].
    """

    views: Tensor
    labels: Tensor
    images: Tensor

    def __len__(self) -> int:
        """Number of images, B."""
        return len(self.views) // 2

    def parts(self, micro_batch: int) -> list[Batch]:
        """The batch in parts of at most that many images, which differ in size by one at most."""
        count = math.ceil(len(self) / micro_batch)
        columns = [split_views(values, count) for values in (self.views, self.labels, self.images)]
        return [Batch(*column) for column in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Network:
    """What gradients are taken of.

    Attributes:
        encode: uint8 views [B, C, H, W] -> embeddings [B, D], in float32 or more.
        head: embeddings -> logits [B, C], likewise.
        loss: the mean over a batch.
        backward: adds a loss's gradients to the parameters', scaled where the precision needs it.
        buffers: what `encode` changes when it is run, such as running statistics.
        device: where all of it is.
    """

    encode: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]
    loss: BatchLoss
    backward: Callable[[Tensor], None]
    buffers: Sequence[Tensor]
    device: torch.device


@dataclass(frozen=True)
class Measured:
    """What a step says of itself: the mean loss, and how many of its views were classified correctly."""

    loss: float
    hits: int


def gradients_at_once(network: Network, batch: Batch, refuse: Callable[[float], None]) -> Measured:
    """Add the gradients of a batch whose activations fit into memory.

    Args:
        network: whose parameters get them.
        batch: all of it.
        refuse: raises where the loss is no finite number; called before any gradient is taken.
    """
    embeddings = network.encode(batch.views)
    logits = network.head(embeddings)
    loss = network.loss(logits, embeddings, batch.labels, batch.images)
    value = loss.item()
    refuse(value)
    network.backward(loss)
    return Measured(value, _hits(logits, batch.labels))


def summed_gradients(network: Network, batch: Batch, micro_batch: int, refuse: Callable[[float], None]) -> Measured:
    """Add the gradients of a batch part by part, for losses that are a mean over views.

    Args:
        network: whose parameters get them; its loss must not compare views with each other.
        batch: all of it.
        micro_batch: images whose activations are kept at the same time.
        refuse: raises where the loss is no finite number.
    """
    total, hits = 0.0, 0
    for part in batch.parts(micro_batch):
        embeddings = network.encode(part.views)
        logits = network.head(embeddings)
        loss = network.loss(logits, embeddings, part.labels, part.images) * (len(part) / len(batch))
        total += loss.item()
        refuse(total)
        network.backward(loss)
        hits += _hits(logits, part.labels)
    return Measured(total, hits)


def cached_gradients(network: Network, batch: Batch, micro_batch: int, refuse: Callable[[float], None]) -> Measured:
    """Add the gradients of a loss that compares all views of a batch, keeping the activations of a part at a time.

    Gradient caching (Gao et al., 2021, "Scaling deep contrastive learning batch size under memory limited setup"):
    embed every part without a graph, take the loss of all embeddings and its gradient with respect to them, then
    embed every part again, with a graph, and send its share of that gradient through. Exact, for one more forward
    pass. The second pass draws the random numbers of the first, so that dropout hides the same units, and
    finds the buffers as the first did, so that running statistics move once.

    Args:
        network: whose parameters get them.
        batch: all of it.
        micro_batch: images whose activations are kept at the same time.
        refuse: raises where the loss is no finite number; called before any gradient is taken.
    """
    parts = batch.parts(micro_batch)
    before = [buffer.clone() for buffer in network.buffers]
    states, embedded = [], []
    with torch.no_grad():
        for part in parts:
            states.append(random_state(network.device))
            embedded.append(network.encode(part.views))
        for buffer, first in zip(network.buffers, before, strict=True):
            buffer.copy_(first)
    embeddings = joined_views(embedded).requires_grad_()
    logits = network.head(embeddings)
    loss = network.loss(logits, embeddings, batch.labels, batch.images)
    value = loss.item()
    refuse(value)
    network.backward(loss)
    assert embeddings.grad is not None
    for part, state, gradient in zip(parts, states, split_views(embeddings.grad, len(parts)), strict=True):
        with same_random_numbers(state, network.device):
            again = network.encode(part.views)
        again.backward(gradient)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return Measured(value, _hits(logits, batch.labels))


def split_views(values: Tensor, count: int) -> list[Tensor]:
    """Rows of two views, [2B, ...], in `count` parts that hold both views of their images."""
    first, second = values.tensor_split(2)
    halves = zip(first.tensor_split(count), second.tensor_split(count), strict=True)
    return [torch.cat(half) for half in halves]


def joined_views(parts: Sequence[Tensor]) -> Tensor:
    """What `split_views` took apart."""
    halves = [part.tensor_split(2) for part in parts]
    return torch.cat([half[0] for half in halves] + [half[1] for half in halves])


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The layers whose statistics are of a micro-batch."""
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def _hits(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(-1) == labels).sum())
