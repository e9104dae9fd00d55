"""The linear heads of many episodes, on the encoder's output or on the logits of the base classes.

And what batch normalisation uses: the pretrained statistics, the support set's or the queries'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot_bench.backbones.task_head import TaskHead
from fewshot_bench.backbones.weights_file import BaseHead
from fewshot_bench.finetuning.recipe import HeadStart

# As in torch's `normalize`: embeddings of zeros give a head of zeros.
_SMALLEST_NORM = 1e-12


class StackedHead:
    """A linear layer with a bias for each episode.

    Attributes:
        weight: [E, N, D].
        bias: [E, N].
    """

    def __init__(self, episodes: int, way: int, embedding_size: int, *, like: Tensor) -> None:
        """Allocate weights of the device and dtype of a tensor."""
        self.weight = like.new_zeros(episodes, way, embedding_size).requires_grad_()
        self.bias = like.new_zeros(episodes, way).requires_grad_()

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Logits [E, B, N] of embeddings [E, B, D]."""
        return torch.baddbmm(self.bias.unsqueeze(1), embeddings, self.weight.transpose(1, 2))

    @torch.no_grad()
    def load(self, trained: TaskHead) -> None:
        """Start every episode with the same head."""
        for own, first in ((self.weight, trained.weight), (self.bias, trained.bias)):
            own.copy_(first.to(own).expand_as(own))

    @torch.no_grad()
    def start(self, how: HeadStart, support: Tensor, scale: float) -> None:
        """Set the first weights.

        Args:
            how: "centroid" points each class at the mean of its normalised embeddings, so that the nearest centroid
                by cosine wins; "support" at the mean of its embeddings with length one, for normalised queries
                (Dhillon et al., 2020); "zero" prefers no class. A "trained" head is for `load`.
            support: embeddings of the plain support images, [E, N, K, D].
            scale: about the logit of a cosine of one at the beginning; not for "support".
        """
        self.bias.zero_()
        if how == "zero":
            self.weight.zero_()
            return
        if how == "support":
            self.weight.copy_(normalize(support.mean(dim=2), dim=-1))
            return
        directions = normalize(normalize(support, dim=-1).mean(dim=2), dim=-1)
        norms = support.norm(dim=-1).mean(dim=(1, 2)).clamp_min(_SMALLEST_NORM)
        self.weight.copy_(directions * (scale / norms).view(-1, 1, 1))


def dropped(embeddings: Tensor, uniform: Tensor, rate: float) -> Tensor:
    """Dropout of embeddings [E, B, D] at a rate, with given uniform numbers [E, B * D] in [0, 1)."""
    kept = (uniform >= rate).view_as(embeddings)
    return embeddings * kept / (1 - rate)


class StackedBaseHead:
    """The classifier of base training, in front of the heads; each episode has its own copy where it is trained.

    Attributes:
        trainable: stacked leaf tensors that require gradients, "weight" [E, C, D] and "bias" [E, C], if any.
    """

    def __init__(self, head: BaseHead, tuned: Sequence[str], episodes: int, *, like: Tensor) -> None:
        """Copy a head for E episodes, its `tuned` tensors trainable, with the device and dtype of a tensor."""
        self._initial = {name: getattr(head, name).to(like) for name in ("weight", "bias")}
        self.trainable = {
            name: self._initial[name].expand(episodes, *self._initial[name].shape).clone().requires_grad_()
            for name in tuned
        }

    @torch.no_grad()
    def load(self) -> None:
        """Start every episode with the head as it was trained."""
        for name, weight in self.trainable.items():
            weight.copy_(self._initial[name].expand_as(weight))

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Logits of the base classes, [E, B, C], of embeddings [E, B, D]."""
        if "weight" in self.trainable:
            products = embeddings @ self.trainable["weight"].transpose(1, 2)
        else:  # one matrix for all is one large product instead of many small ones
            products = linear(embeddings, self._initial["weight"])
        bias = self.trainable["bias"].unsqueeze(1) if "bias" in self.trainable else self._initial["bias"]
        logits: Tensor = products + bias
        return logits


def tuned_of_base_head(kind: str) -> tuple[str, ...]:
    """The trained tensors of the base classifier, by the kind of `Tuning`; it lies behind the last block."""
    return {"all": ("weight", "bias"), "bias": ("bias",)}.get(kind, ())


def has_batch_norm(network: nn.Module) -> bool:
    """Whether any layer normalises over the batch."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def use_batch_statistics(network: nn.Module) -> None:
    """Normalise with the mean and variance of each batch from now on.

    Without running statistics a layer in evaluation mode uses those of the batch; timm's layers do too.
    """
    for module in _layers(network):
        module.running_mean = module.running_var = None


@torch.no_grad()
def use_statistics_of(network: nn.Module, forward: Callable[[], Any]) -> None:
    """Normalise with the statistics of one batch from now on: the one on which `forward` runs the network."""

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        values = inputs[0].to(torch.promote_types(inputs[0].dtype, torch.float32))
        module.running_mean = values.mean(axes)
        module.running_var = values.var(axes, unbiased=False)

    handles = [layer.register_forward_pre_hook(keep) for layer in _layers(network)]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()


def _layers(network: nn.Module) -> Iterator[_BatchNorm]:
    return (module for module in network.modules() if isinstance(module, _BatchNorm))
