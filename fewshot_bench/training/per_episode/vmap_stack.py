"""Episodes by `torch.func.vmap`: for every network that the faster ways refuse."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor, nn
from torch.func import functional_call, vmap

from fewshot_bench.training.per_episode.stacks import Stack


class VmapStack(Stack):
    """Stacked weights, and the network's own forward pass mapped over them."""

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
        """See `Stack`."""
        return self.network

    def __call__(self, inputs: Tensor) -> Tensor:
        """See `Stack`."""
        with warnings.catch_warnings():
            # On a CPU vmap has no rule for flash attention and goes episode by episode there, which is as fast.
            warnings.filterwarnings("ignore", message=".*performance drop.*")
            outputs: Tensor = vmap(self._one)(self.trainable, inputs)
        return outputs

    def _one(self, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self.network, {**self._shared, **weights}, (inputs,))
        return outputs

    def weights(self, name: str) -> Tensor:
        """See `Stack`."""
        return self.trainable[name].view(self.episodes, *self.trainable[name].shape[1:])
