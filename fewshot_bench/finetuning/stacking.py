"""The fastest faithful way to stack copies of a network. None is best for every network.

- `ChannelStackedNetwork` puts the episodes side by side in the channels: a convolution becomes a grouped one, batch
  normalisation and pooling are unchanged. It suits convolutional networks.
- `RowStackedNetwork` puts them one after another in the batch: linear layers become batched matrix products, attention
  is unchanged. It suits transformers and mixers.
- `VmapStackedNetwork` hands the network to `torch.func.vmap`. It takes every network, and is slower, since vmap
  rearranges activations between layers.

The first two rebuild layers, which could go wrong in an unknown network. So each way is tried on random inputs and
weights, and taken only if every episode gets what the network itself would give.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.stacked_channels import ChannelStackedNetwork
from fewshot_bench.finetuning.stacked_network import StackedNetwork, VmapStackedNetwork
from fewshot_bench.finetuning.stacked_rows import RowStackedNetwork
from fewshot_bench.finetuning.tuned_parameters import full_precision_products, perturbed

_WAYS: tuple[type[StackedNetwork], ...] = (ChannelStackedNetwork, RowStackedNetwork, VmapStackedNetwork)


def stack_network(
    network: nn.Module, tuned: Sequence[str], episodes: int, sample: Tensor, *, layout: str | None = None
) -> StackedNetwork:
    """Stack copies of a network in the fastest faithful way.

    Args:
        network: in evaluation mode, [B, ...] -> [B, D]; it is not changed.
        tuned: names of the parameters to train.
        episodes: E.
        sample: two inputs, [2, ...], on the device.
        layout: "channels", "rows" or "vmap" to insist on one way.

    Raises:
        StudyError: no way gives what the network gives.
    """
    for way in _WAYS:
        if layout in (None, way.layout) and _is_faithful(way, network, tuned, sample):
            return way(network, tuned, episodes)
    raise StudyError(
        f"{type(network).__name__} cannot be fine-tuned for many episodes at once"
        f"{f' in the layout {layout}' if layout else ''}: its outputs depend on other images of the batch, or its "
        "layers cannot be rebuilt. Use another backbone, or --tune head."
    )


def _is_faithful(way: type[StackedNetwork], network: nn.Module, tuned: Sequence[str], sample: Tensor) -> bool:
    """Whether two stacked copies with different weights give what the network gives with each."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((2, *sample.shape), generator=generator).to(sample)
    inputs = sample + noise * (sample.abs().mean() + 0.1)
    own = dict(network.named_parameters())
    weights = {name: torch.stack([own[name].detach(), perturbed(own[name].detach(), generator)]) for name in tuned}
    with torch.no_grad(), full_precision_products():
        expected = torch.stack(
            [
                torch.func.functional_call(network, {name: w[copy] for name, w in weights.items()}, (inputs[copy],))
                for copy in range(2)
            ]
        )
        try:
            stack = way(network, tuned, 2)
            for name, w in weights.items():
                stack.weights(name).copy_(w)
            found = stack(inputs)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError):
            return False
    if found.shape != expected.shape:
        return False
    return bool(torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())))
