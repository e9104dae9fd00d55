"""Episodes side by side in the channels: for networks of convolutions, batch normalisation and pooling.

There are two ways to convolve episodes side by side. A grouped convolution is one call without copies. Products of
unfolded patches write every pixel k * k times, but run on the matrix units however many groups there are. On a CPU the
grouped convolution is several times faster; on a GPU it depends on the library's kernels for a shape, so the two are
timed there, as `torch.backends.cudnn.benchmark` does.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot_bench.finetuning.frozen_prefix import Unused
from fewshot_bench.finetuning.stacked_network import StackedNetwork

_LARGE_FILTER = 1 << 20


class ChannelStackedNetwork(StackedNetwork):
    """A copy of the network that is E times as wide; channels of different episodes never meet.

    Activations are [B, E * C, H, W]. A convolution with as many groups as episodes reads and writes them without a
    copy, and so does everything that treats channels alike.
    """

    layout = "channels"

    def __init__(self, network: nn.Module, tuned: Sequence[str], episodes: int) -> None:
        super().__init__(network, tuned, episodes)
        self._memory_format = _memory_format(network)
        self.wide = widened(network, episodes).to(memory_format=self._memory_format)
        self._shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
        wide = dict(self.wide.named_parameters())
        for name, parameter in wide.items():
            parameter.requires_grad_(name in self.tuned)
        self.trainable = {name: wide[name] for name in self.tuned}

    @property
    def module(self) -> nn.Module:
        """See `StackedNetwork`."""
        return self.wide

    def __call__(self, inputs: Tensor) -> Tensor:
        """See `StackedNetwork`."""
        episodes, batch = inputs.shape[:2]
        outputs: Tensor = self.wide(self._side_by_side(inputs))
        return outputs.reshape(batch, episodes, -1).transpose(0, 1)

    def prepare(self, inputs: Tensor) -> None:
        """See `StackedNetwork`; each convolution takes the way that is faster here."""
        choose_faster(self.wide, self._side_by_side(inputs))

    def _side_by_side(self, inputs: Tensor) -> Tensor:
        """[B, E * C, H, W]."""
        wide = inputs.transpose(0, 1).flatten(1, 2)
        return wide.contiguous(memory_format=self._memory_format) if wide.ndim == 4 else wide

    def weights(self, name: str) -> Tensor:
        """See `StackedNetwork`."""
        return self.trainable[name].view(self.episodes, *self._shapes[name])


def _memory_format(network: nn.Module) -> torch.memory_format:
    """How activations and filters lie in memory.

    Channels last is faster on a GPU and for small filters on a CPU, by 30% in Conv4. Large dense filters, as in
    ResNet-12, are 4 to 20% faster contiguous on a CPU.
    """
    filters = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    on_cpu = any(filter_.device.type == "cpu" for filter_ in filters)
    is_large = any(filter_.shape[-1] > 1 and filter_.numel() > _LARGE_FILTER for filter_ in filters)
    return torch.contiguous_format if on_cpu and is_large else torch.channels_last


def widened(network: nn.Module, times: int) -> nn.Module:
    """A copy of a network with every channel repeated, episode after episode.

    Raises:
        TypeError: a layer with weights is neither a convolution nor a batch or group normalisation.
    """
    wide = copy.deepcopy(network)
    for module in wide.modules():
        if isinstance(module, nn.Conv2d):
            module.groups *= times
            module.in_channels *= times
            module.out_channels *= times
            EpisodeConv2d.adopt(module, times)
        elif isinstance(module, _BatchNorm):
            module.num_features *= times
        elif type(module) is nn.GroupNorm:
            module.num_groups *= times
            module.num_channels *= times
        elif isinstance(module, Unused):
            module.episodes_in_channels = times
        elif any(True for _ in module.parameters(recurse=False)):
            raise TypeError(f"{type(module).__name__} has weights of its own")
        _repeat_own_tensors(module, times)
    return wide


def _repeat_own_tensors(module: nn.Module, times: int) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        repeated = parameter.detach().repeat(times, *[1] * (parameter.ndim - 1))
        setattr(module, name, nn.Parameter(repeated, requires_grad=parameter.requires_grad))
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.ndim:
            setattr(module, name, buffer.repeat(times, *[1] * (buffer.ndim - 1)))


Timer = Callable[[Callable[[], Any]], float]
"""From something to run to the seconds that it takes."""
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
        """Turn a plain convolution with stacked weights into one of these; other kinds are left alone."""
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
    """Time both ways for every convolution of a network on inputs [B, E * C, H, W], and take the faster."""
    seen: dict[EpisodeConv2d, Tensor] = {}
    layers = [module for module in network.modules() if isinstance(module, EpisodeConv2d) and module.has_a_choice]
    hooks = [layer.register_forward_pre_hook(lambda layer, inputs: seen.update({layer: inputs[0]})) for layer in layers]
    with torch.no_grad():
        network(inputs)
    for hook in hooks:
        hook.remove()
    known = {} if timer else _KNOWN  # the same choice for every trainer of this process
    for layer, inputs_of_layer in seen.items():
        device, is_trained = inputs_of_layer.device, layer.weight.requires_grad
        kind = (device, inputs_of_layer.dtype, torch.is_autocast_enabled(device.type), is_trained)
        key = (*kind, inputs_of_layer.shape, layer.weight.shape, layer.stride)
        if key not in known:
            known[key] = _products_are_faster(layer, inputs_of_layer, timer or _seconds)
        layer.by_products = known[key]


def _products_are_faster(layer: EpisodeConv2d, inputs: Tensor, timer: Timer) -> bool:
    seconds = {}
    leaf = inputs.detach().requires_grad_()
    # With frozen filters a step needs the gradient of the inputs alone.
    leaves = [leaf, layer.weight] if layer.weight.requires_grad else [leaf]
    for by_products in (False, True):
        layer.by_products = by_products
        with torch.enable_grad():
            seconds[by_products] = timer(lambda: torch.autograd.grad(layer(leaf).sum(), leaves))
    return seconds[True] < seconds[False]


def _seconds(run: Callable[[], Any]) -> float:
    """The shortest of a few runs, after a warm-up."""
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
