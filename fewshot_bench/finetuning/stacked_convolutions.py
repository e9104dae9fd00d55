"""Two ways to convolve episodes side by side, and which of them is faster on a device.

A grouped convolution is one call without copies. Products of unfolded patches write every pixel k * k times, but run on
the matrix units however many groups there are. On a CPU the grouped convolution is several times faster; on a GPU it
depends on the library's kernels for a shape, so the two are timed there, as `torch.backends.cudnn.benchmark` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Timer = Callable[[Callable[[], Any]], float]
"""Something to run to the seconds it takes."""

_REPEATS = 3
_KNOWN: dict[tuple[Any, ...], bool] = {}


class EpisodeConv2d(nn.Conv2d):
    """A convolution with at least one group per episode.

    Attributes:
        by_products: whether patches are unfolded and multiplied; only where each episode is one group.
        episodes: E.
    """

    by_products = False
    episodes = 1

    @classmethod
    def adopt(cls, convolution: nn.Conv2d, episodes: int) -> None:
        """Make a plain convolution, whose weights are stacked already, one of these; other kinds are left alone."""
        if type(convolution) is nn.Conv2d and convolution.padding_mode == "zeros":
            convolution.__class__ = cls
            convolution.episodes = episodes  # type: ignore[assignment]  # the class was changed a line above

    @property
    def has_a_choice(self) -> bool:
        """Whether both ways are possible."""
        return self.groups == self.episodes and not isinstance(self.padding, str)

    def forward(self, inputs: Tensor) -> Tensor:
        """Convolve, [B, E * C, H, W] -> [B, E * O, H', W']."""
        if not self.by_products:
            return super().forward(inputs)
        batch, (height, width) = len(inputs), self._size_after(inputs)
        padding = tuple(int(padding) for padding in self.padding)  # a name such as "same" has no choice
        columns = functional.unfold(inputs, self.kernel_size, self.dilation, padding, self.stride)
        columns = columns.view(batch, self.episodes, -1, height * width).permute(1, 2, 0, 3).flatten(2)
        filters = self.weight.reshape(self.episodes, -1, columns.shape[1])
        products = filters @ columns
        if self.bias is not None:
            products = products + self.bias.view(self.episodes, -1, 1)
        return products.view(self.out_channels, batch, height, width).transpose(0, 1)

    def _size_after(self, inputs: Tensor) -> tuple[int, int]:
        height, width = (self._length_after(axis, inputs.shape[2 + axis]) for axis in range(2))
        return height, width

    def _length_after(self, axis: int, length: int) -> int:
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        return (length + 2 * int(self.padding[axis]) - reach) // self.stride[axis] + 1


def choose_faster(network: nn.Module, inputs: Tensor, timer: Timer | None = None) -> None:
    """Time both ways for every convolution of a network and take the faster.

    Args:
        network: with episodes side by side.
        inputs: what it is given in a step, [B, E * C, H, W].
        timer: how to time; by default the clock, with the device waited for.
    """
    seen: dict[EpisodeConv2d, Tensor] = {}
    layers = [module for module in network.modules() if isinstance(module, EpisodeConv2d) and module.has_a_choice]
    hooks = [layer.register_forward_pre_hook(lambda layer, given: seen.update({layer: given[0]})) for layer in layers]
    with torch.no_grad():
        network(inputs)
    for hook in hooks:
        hook.remove()
    known = {} if timer else _KNOWN  # the same choice for every trainer of this process
    for layer, given in seen.items():
        kind = (given.device, given.dtype, torch.is_autocast_enabled(given.device.type), layer.weight.requires_grad)
        shape = (*kind, given.shape, layer.weight.shape, layer.stride)
        if shape not in known:
            known[shape] = _products_are_faster(layer, given, timer or _seconds)
        layer.by_products = known[shape]


def _products_are_faster(layer: EpisodeConv2d, given: Tensor, timer: Timer) -> bool:
    seconds = {}
    leaf = given.detach().requires_grad_()
    # Where filters are frozen a step needs the gradient of the inputs alone.
    leaves = [leaf, layer.weight] if layer.weight.requires_grad else [leaf]
    for by_products in (False, True):
        layer.by_products = by_products
        with torch.enable_grad():
            seconds[by_products] = timer(lambda: torch.autograd.grad(layer(leaf).sum(), leaves))
    return seconds[True] < seconds[False]


def _seconds(run: Callable[[], Any]) -> float:
    """The shortest of a few runs, after one that does not count."""
    times = []
    for _ in range(_REPEATS + 1):
        _wait()
        started = time.perf_counter()
        run()
        _wait()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
