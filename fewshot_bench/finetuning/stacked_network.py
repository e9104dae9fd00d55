"""Many copies of one network, each with its own weights, in one forward pass: the base class and the general way."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


class StackedNetwork(ABC):
    """E copies of a network.

    Attributes:
        layout: how the episodes lie in memory, in one word.
        episodes: E.
        tuned: names of the parameters that differ between copies; the others are shared or repeated.
        trainable: stacked leaf tensors that require gradients, by name.
    """

    layout: ClassVar[str]

    def __init__(self, network: nn.Module, tuned: Sequence[str], episodes: int) -> None:
        """Copy a network, which is not changed; subclasses say how."""
        del network
        self.episodes = episodes
        self.tuned = tuple(tuned)
        self.trainable: dict[str, Tensor] = {}

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The stacked network, whose batch normalisation may be changed."""

    @abstractmethod
    def __call__(self, inputs: Tensor) -> Tensor:
        """Embed the inputs of every episode with its own weights.

        Args:
            inputs: images, float [E, B, C, H, W], or activations of a frozen prefix, [E, B, ...].

        Returns:
            float [E, B, D].
        """

    def embed(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Embed the inputs of every episode with given weights, with derivatives of any order with respect to them.

        Args:
            weights: of the tuned parameters, by name, [E, *shape].
            inputs: as for a call, [E, B, ...].

        Returns:
            float [E, B, D].
        """
        # Inner loops take channels or vmap alone, so no user meets this.
        raise NotImplementedError(f"the layout {self.layout} embeds with its own weights alone")

    def prepare(self, inputs: Tensor) -> None:
        """Choose what is fastest on this device for inputs [E, B, ...]; results change by rounding alone."""
        del inputs  # by default there is nothing to choose

    @abstractmethod
    def weights(self, name: str) -> Tensor:
        """The stacked weights of a parameter as a view, [E, *shape]."""

    @torch.no_grad()
    def load(self, initial: dict[str, Tensor]) -> None:
        """Give every episode the same weights, by name and without the axis of the episodes."""
        for name in self.tuned:
            self.weights(name).copy_(initial[name].expand_as(self.weights(name)))


class VmapStackedNetwork(StackedNetwork):
    """Any network: stacked weights, and its own forward pass mapped over them by `torch.func.vmap`."""

    layout = "vmap"

    def __init__(self, network: nn.Module, tuned: Sequence[str], episodes: int) -> None:
        super().__init__(network, tuned, episodes)
        self.network = network
        own = dict(network.named_parameters())
        self._shared = {name: p.detach() for name, p in own.items() if name not in self.tuned}
        self._shared |= dict(network.named_buffers())
        for name in self.tuned:
            repeated = own[name].detach().expand(episodes, *own[name].shape).clone()
            self.trainable[name] = repeated.requires_grad_()

    @property
    def module(self) -> nn.Module:
        """See `StackedNetwork`."""
        return self.network

    def __call__(self, inputs: Tensor) -> Tensor:
        """See `StackedNetwork`."""
        return self.embed(self.trainable, inputs)

    def embed(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """See `StackedNetwork`."""
        with warnings.catch_warnings():
            # On a CPU vmap runs flash attention episode by episode, which is as fast.
            warnings.filterwarnings("ignore", message=".*performance drop.*")
            outputs: Tensor = vmap(self._embed_episode)(dict(weights), inputs)
        return outputs

    def _embed_episode(self, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self.network, {**self._shared, **weights}, (inputs,))
        return outputs

    def weights(self, name: str) -> Tensor:
        """See `StackedNetwork`."""
        return self.trainable[name].view(self.episodes, *self.trainable[name].shape[1:])
