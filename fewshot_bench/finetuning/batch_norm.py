"""What batch normalisation normalises with: the pretrained statistics, the support set's, or the queries'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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
