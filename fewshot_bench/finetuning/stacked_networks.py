"""Many copies of one network, each with weights of its own, in one forward pass.

There are three ways to do it, and none is best for every network:

- `ChannelStack` puts the episodes side by side in the channels: a convolution becomes a grouped one, batch
  normalisation and pooling stay what they are. It suits convolutional networks.
- `RowStack` puts them one after another in the batch: linear layers become batched matrix products, attention stays
  what it is. It suits transformers and mixers.
- `VmapStack` hands the network to `torch.func.vmap`. It knows nothing of layers, takes whatever the other two refuse,
  and is slower, since vmap rearranges activations between layers.

The first two rebuild layers, which could go wrong in a network that nobody here has seen. So `stacked` tries them on
random inputs and weights, and takes a way only if every episode gets what the network itself would give.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fewshot_bench.errors import StudyError
from fewshot_bench.training.per_episode.disturbance import disturbed, whole_products


class Stack(ABC):
    """E copies of a network.

    Attributes:
        layout: a word for how the episodes lie in memory.
        episodes: E.
        tuned: names of the parameters that each copy has for itself; the others are shared or repeated.
        trainable: stacked leaf tensors that require gradients, by name.
    """

    layout: ClassVar[str]

    def __init__(self, network: nn.Module, tuned: Sequence[str], episodes: int) -> None:
        """Copy a network; it is left as it is."""
        del network  # what becomes of it is what each way is about
        self.episodes = episodes
        self.tuned = tuple(tuned)
        self.trainable: dict[str, Tensor] = {}

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The network as it runs, whose batch normalisation may be changed."""

    @abstractmethod
    def __call__(self, inputs: Tensor) -> Tensor:
        """Embed the inputs of every episode with its own weights.

        Args:
            inputs: float [E, B, C, H, W], or what a frozen prefix gave, [E, B, ...].

        Returns:
            float [E, B, D].
        """

    def prepare(self, inputs: Tensor) -> None:
        """Find out what is fastest on this device for inputs like these, [E, B, ...]; changes results by rounding."""
        del inputs  # a stack may have nothing to choose

    @abstractmethod
    def weights(self, name: str) -> Tensor:
        """The stacked weights of a parameter as a view, [E, *shape]."""

    @torch.no_grad()
    def load(self, initial: dict[str, Tensor]) -> None:
        """Give every episode the same weights.

        Args:
            initial: by name, without the axis of the episodes.
        """
        for name in self.tuned:
            self.weights(name).copy_(initial[name].expand_as(self.weights(name)))


def stacked(
    network: nn.Module, tuned: Sequence[str], episodes: int, sample: Tensor, *, layout: str | None = None
) -> Stack:
    """Stack a network the fastest way that gives what the network itself gives.

    Args:
        network: in evaluation mode, [B, ...] -> [B, D]; it is left as it is.
        tuned: names of the parameters that are to be trained.
        episodes: E.
        sample: two inputs, [2, ...], on the device.
        layout: "channels", "rows" or "vmap" to insist on one.

    Raises:
        StudyError: no way gives what the network gives.
    """
    # Imported here: each way is a subclass of what this file defines.
    from fewshot_bench.training.per_episode.channel_stack import ChannelStack
    from fewshot_bench.training.per_episode.row_stack import RowStack
    from fewshot_bench.training.per_episode.vmap_stack import VmapStack

    kinds: tuple[type[Stack], ...] = (ChannelStack, RowStack, VmapStack)
    for kind in kinds:
        if layout in (None, kind.layout) and _is_faithful(kind, network, tuned, sample):
            return kind(network, tuned, episodes)
    raise StudyError(
        f"{type(network).__name__} cannot be fine-tuned for many episodes at once"
        f"{f' in the layout {layout}' if layout else ''}: its outputs depend on other images of the batch, or its "
        "layers cannot be rebuilt. Use another backbone, or --tune head."
    )


def _is_faithful(kind: type[Stack], network: nn.Module, tuned: Sequence[str], sample: Tensor) -> bool:
    """Whether two stacked copies with different weights give what the network gives with each."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((2, *sample.shape), generator=generator).to(sample)
    inputs = sample + noise * (sample.abs().mean() + 0.1)
    own = dict(network.named_parameters())
    weights = {name: torch.stack([own[name].detach(), disturbed(own[name].detach(), generator)]) for name in tuned}
    with torch.no_grad(), whole_products():
        expected = torch.stack(
            [
                torch.func.functional_call(network, {name: w[copy] for name, w in weights.items()}, (inputs[copy],))
                for copy in range(2)
            ]
        )
        try:
            stack = kind(network, tuned, 2)
            for name, w in weights.items():
                stack.weights(name).copy_(w)
            found = stack(inputs)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError):
            return False
    if found.shape != expected.shape:
        return False
    return bool(torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())))
