"""Training a classifier of the base classes: the loss of a batch and its gradients, at once or in micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_bench.errors import StudyError
from fewshot_bench.losses import LOSSES, extra_settings, loss_function, reading_of
from fewshot_bench.losses.contrastive import at_least_float32
from fewshot_bench.training.augmentation import random_views
from fewshot_bench.training.batches import Samples
from fewshot_bench.training.division import divided
from fewshot_bench.training.heads import CosineHead
from fewshot_bench.training.mixup import mixup
from fewshot_bench.training.objective import Encoder, Measured
from fewshot_bench.training.optimisation import autocast
from fewshot_bench.training.randomness import random_state, same_random_numbers
from fewshot_bench.training.recipe import Recipe

BatchLoss = Callable[..., Tensor]
"""From logits [B, C], embeddings [B, D], labels [B], image ids [B] and targets, each [B, ...], of the same views to
their mean loss."""


@dataclass(frozen=True, eq=False)
class Batch:
    """V views of each of some images, on the training device.

    Attributes:
        views: uint8 [VB, C, H, W]: the first views of all images, then the second; of several processes each has
            those of its share of the images.
        labels: class of each view, int64 [VB].
        images: id of the image that each view comes from, int64 [VB].
        per_image: V.
        targets: what the loss compares each view with beside its label, each [VB, ...].
    """

    views: Tensor
    labels: Tensor
    images: Tensor
    per_image: int = 2
    targets: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        """Number of images, B."""
        return len(self.labels) // self.per_image

    def parts(self, micro_batch: int) -> list[Batch]:
        """The batch in parts of at most that many images, which differ in size by one at most."""
        count = math.ceil(len(self) / micro_batch)
        columns = (self.views, self.labels, self.images, *self.targets)
        parts = zip(*(split_views(values, count, self.per_image) for values in columns), strict=True)
        return [
            Batch(views, labels, images, self.per_image, tuple(targets)) for views, labels, images, *targets in parts
        ]


@dataclass(frozen=True)
class Network:
    """The functions that gradients are taken of.

    Attributes:
        encode: a batch with views uint8 [VB, C, H, W] -> embeddings [VB, D], in float32 or more.
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


class Classification:
    """An objective: a head tells the base classes apart, and a contrastive term may compare the embeddings.

    Attributes:
        images: that an epoch learns from.
    """

    def __init__(self, encoder: Encoder) -> None:
        recipe, split = encoder.recipe, encoder.split
        self.encoder, self.recipe = encoder, recipe
        _refuse_contrast(recipe)
        dropout = recipe.dropout if recipe.dropout_place == "head" else 0.0
        self.head: nn.Module = nn.Sequential(nn.Dropout(dropout), _layer(encoder)).to(encoder.device)
        self._learned = None
        if recipe.divides_images:
            self._learned = torch.from_numpy(divided(split.class_sizes, recipe).learned)
        self.images = len(split) if self._learned is None else len(self._learned)
        self.steps_per_epoch = math.ceil(self.images / recipe.batch_size)
        self._micro_batch = encoder.computing.micro_batch or recipe.batch_size
        self._processes = encoder.computing.processes
        if recipe.mixup and self._processes is not None:
            raise StudyError("mixup mixes images of a whole batch, which takes one process. Leave out torchrun.")
        if self._processes is not None:
            self._share(self.images // self.steps_per_epoch)  # refuses batches that are too small
        self._loss = self._bound_loss()

    def batches(self, epoch: int) -> Generator[Samples, None, None]:
        """The images of an epoch in random order, in batches whose sizes differ by one at most.

        So no small last batch counts as a full step. Close the iterator to end early.
        """
        order = torch.randperm(self.images)
        batches = (order if self._learned is None else self._learned[order]).tensor_split(self.steps_per_epoch)
        if self._processes is None:
            yield from self.encoder.loader.batches(batches)
        else:
            yield from self.encoder.loader.batches(batches, lambda rows: rows[self._share(len(rows))])

    def views(self, samples: Samples) -> Batch:
        """Random views of each image."""
        count, views = len(samples.rows), self.recipe.views
        share = None if self._processes is None else self._share(count)
        made = random_views(samples.images, self.encoder.augmentation, count=views, share=share, batch_size=count)
        labels, rows = (column.repeat(views).to(self.encoder.device) for column in (samples.labels, samples.rows))
        batch = Batch(made.to(self.encoder.device), labels, rows, views)
        return _mixed(batch, self.recipe.mixup) if self.recipe.mixup else batch

    def gradients(self, samples: Samples, backward: Callable[[Tensor], None]) -> Measured:
        """Add the gradients of the loss of one batch; see `Objective`."""
        return self.gradients_of(self.views(samples), backward)

    def gradients_of(self, batch: Batch, backward: Callable[[Tensor], None]) -> Measured:
        """Add the gradients of the loss of some views."""
        encoder = self.encoder
        network = Network(
            self._encode, self._classify, self._loss, backward, list(encoder.backbone.buffers()), encoder.device
        )
        if len(batch) <= self._micro_batch:
            return gradients_at_once(network, batch)
        compares_views = LOSSES[self.recipe.loss].facts.get("is_contrastive", True)
        in_parts = cached_gradients if compares_views else summed_gradients
        return in_parts(network, batch, self._micro_batch)

    def _share(self, images: int) -> Tensor:
        """The positions of this process's images in a batch."""
        assert self._processes is not None
        return self._processes.share(images, math.ceil(images / self._micro_batch))

    def _encode(self, batch: Batch) -> Tensor:
        if self._processes is None:
            return self.encoder.embed(batch.views)
        return self._processes.embed(self.encoder.embed, batch.views, len(batch), self.encoder.device)

    def _classify(self, embeddings: Tensor) -> Tensor:
        with autocast(self.recipe.precision, self.encoder.device):
            logits: Tensor = self.head(embeddings)
        return at_least_float32(logits)

    def _bound_loss(self) -> BatchLoss:
        recipe, loss = self.recipe, loss_function(self.recipe.loss)
        settings: dict[str, Any] = {"lambda_": recipe.lambda_, "tau": recipe.tau}
        settings["reading"] = reading_of(recipe.loss, recipe.reading)
        settings |= extra_settings(recipe.loss, stop_gradient=recipe.stop_gradient, anchors=recipe.anchors)
        if recipe.label_smoothing:  # a plug-in's loss need not take it
            settings["label_smoothing"] = recipe.label_smoothing
            if "label_smoothing" not in signature(loss).parameters:
                raise StudyError(f"the loss {recipe.loss} takes no label_smoothing; leave it at 0.")
        bound: BatchLoss = partial(loss, **settings)
        return partial(_mixed_loss, bound) if recipe.mixup else bound


def _layer(encoder: Encoder) -> nn.Module:
    """From embeddings to the logits of the base classes."""
    recipe, classes = encoder.recipe, len(encoder.split.class_sizes)
    if recipe.objective == "cosine":
        return CosineHead(encoder.embedding_size, classes, recipe.cosine_scale)
    return nn.Linear(encoder.embedding_size, classes)


def _mixed(batch: Batch, alpha: float) -> Batch:
    """The images of a batch mixed in pairs, with the labels of the partners and the shares as targets."""
    mixed = mixup(batch.views, batch.per_image, alpha)
    return replace(batch, views=mixed.views, targets=(batch.labels[mixed.partners], mixed.shares))


def _mixed_loss(
    loss: BatchLoss, logits: Tensor, embeddings: Tensor, labels: Tensor, images: Tensor, others: Tensor, shares: Tensor
) -> Tensor:
    """The mean loss of views that have two labels each, weighted by their shares."""
    # As batches of one view each, whose losses are those of the views.
    single = [values.unsqueeze(1) for values in (logits, embeddings)]
    own, other = (loss(*single, column.unsqueeze(1), images.unsqueeze(1)) for column in (labels, others))
    return (shares * own + (1 - shares) * other).mean()


def _refuse_contrast(recipe: Recipe) -> None:
    is_contrastive = LOSSES[recipe.loss].facts.get("is_contrastive", True)
    if recipe.mixup and is_contrastive:
        raise StudyError(f"the loss {recipe.loss} contrasts classes, and mixup makes images of two. Leave it at 0.")
    if recipe.views == 1 and is_contrastive:
        raise StudyError(f"the loss {recipe.loss} contrasts the views of an image, and this training has one of each.")


def gradients_at_once(network: Network, batch: Batch) -> Measured:
    """Add the gradients of a batch whose activations fit into memory."""
    embeddings = network.encode(batch)
    logits = network.head(embeddings)
    loss = network.loss(logits, embeddings, batch.labels, batch.images, *batch.targets)
    network.backward(loss)
    return Measured(loss.detach(), _hits(logits, batch.labels), len(batch.labels), len(batch))


def summed_gradients(network: Network, batch: Batch, micro_batch: int) -> Measured:
    """Add the gradients of a batch part by part, for losses that do not compare views with each other."""
    losses, hits = [], []
    for part in batch.parts(micro_batch):
        embeddings = network.encode(part)
        logits = network.head(embeddings)
        loss = network.loss(logits, embeddings, part.labels, part.images, *part.targets) * (len(part) / len(batch))
        network.backward(loss)
        losses.append(loss.detach())
        hits.append(_hits(logits, part.labels))
    return Measured(_sum(losses), torch.stack(hits).sum(), len(batch.labels), len(batch))


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
    embeddings = joined_views(embedded, batch.per_image).requires_grad_()
    logits = network.head(embeddings)
    loss = network.loss(logits, embeddings, batch.labels, batch.images, *batch.targets)
    network.backward(loss)
    assert embeddings.grad is not None
    gradients = split_views(embeddings.grad, len(parts), batch.per_image)
    for part, state, gradient in zip(parts, states, gradients, strict=True):
        with same_random_numbers(state, network.device):
            encoded = network.encode(part)
        encoded.backward(gradient)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return Measured(loss.detach(), _hits(logits, batch.labels), len(batch.labels), len(batch))


def split_views(values: Tensor, count: int, per_image: int = 2) -> list[Tensor]:
    """Rows of V views, [VB, ...], in `count` parts that hold all views of their images."""
    pieces = [view.tensor_split(count) for view in values.tensor_split(per_image)]
    return [torch.cat(part) for part in zip(*pieces, strict=True)]


def joined_views(parts: Sequence[Tensor], per_image: int = 2) -> Tensor:
    """The rows that `split_views` split."""
    pieces = [part.tensor_split(per_image) for part in parts]
    return torch.cat([piece for view in zip(*pieces, strict=True) for piece in view])


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
