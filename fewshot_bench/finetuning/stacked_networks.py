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

Episodes side by side in the channels: for networks of convolutions, batch normalisation and pooling.

Episodes one after another in the batch: for networks of linear layers, attention and layer normalisation.

Episodes by `torch.func.vmap`: for every network that the faster ways refuse.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.stacked_convolutions import EpisodeConv2d, choose_faster
from fewshot_bench.finetuning.tuned_parameters import Nothing, disturbed, whole_products


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


_LARGE_FILTER = 1 << 20


class ChannelStack(Stack):
    """A copy of the network that is E times as wide, in which no channel of one episode meets one of another.

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
        """See `Stack`."""
        return self.wide

    def __call__(self, inputs: Tensor) -> Tensor:
        """See `Stack`."""
        episodes, batch = inputs.shape[:2]
        outputs: Tensor = self.wide(self._side_by_side(inputs))
        return outputs.reshape(batch, episodes, -1).transpose(0, 1)

    def prepare(self, inputs: Tensor) -> None:
        """See `Stack`: each convolution takes the way that is faster here."""
        choose_faster(self.wide, self._side_by_side(inputs))

    def _side_by_side(self, inputs: Tensor) -> Tensor:
        """[B, E * C, H, W]."""
        wide = inputs.transpose(0, 1).flatten(1, 2)
        return wide.contiguous(memory_format=self._memory_format) if wide.ndim == 4 else wide

    def weights(self, name: str) -> Tensor:
        """See `Stack`."""
        return self.trainable[name].view(self.episodes, *self._shapes[name])


def _memory_format(network: nn.Module) -> torch.memory_format:
    """How activations and filters lie in memory.

    A GPU's matrix units want the channels last, and so do a CPU's small filters, by 30% in Conv4. Large dense filters
    are 4 to 20% faster the other way on a CPU, as in ResNet-12.
    """
    filters = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    on_cpu = any(filter_.device.type == "cpu" for filter_ in filters)
    is_large = any(filter_.shape[-1] > 1 and filter_.numel() > _LARGE_FILTER for filter_ in filters)
    return torch.contiguous_format if on_cpu and is_large else torch.channels_last


def widened(network: nn.Module, times: int) -> nn.Module:
    """A copy of a network with every channel repeated, episode after episode.

    Raises:
        TypeError: a layer with weights is no convolution, batch or group normalisation.
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
        elif isinstance(module, Nothing):
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


class RowStack(Stack):
    """A copy of the network whose layers take [E * B, ...] and use the weights of the episode that a row belongs to.

    What has no weights, such as attention, sees an ordinary batch and runs at its usual speed.
    """

    layout = "rows"

    def __init__(self, network: nn.Module, tuned: Sequence[str], episodes: int) -> None:
        super().__init__(network, tuned, episodes)
        self.network = copy.deepcopy(network)
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self._spread: list[_SpreadParameter] = []
        for path, module in list(self.network.named_modules()):
            own = [name for name, _ in module.named_parameters(recurse=False) if _join(path, name) in self.tuned]
            if own:
                self._stack_layer(path, module, own)

    def _stack_layer(self, path: str, module: nn.Module, own: Sequence[str]) -> None:
        kind = next((layer for known, layer in _LAYERS if isinstance(module, known)), None)
        if kind is None:
            for name in own:
                spread = _SpreadParameter(module, name, self.episodes)
                self._spread.append(spread)
                self.trainable[_join(path, name)] = spread.stacked
            return
        layer = kind(module, own, self.episodes)
        self.network.set_submodule(path, layer)
        for name in own:
            self.trainable[_join(path, name)] = getattr(layer, name)

    @property
    def module(self) -> nn.Module:
        """See `Stack`."""
        return self.network

    def __call__(self, inputs: Tensor) -> Tensor:
        """See `Stack`."""
        episodes, batch = inputs.shape[:2]
        for spread in self._spread:
            spread.fill(batch)
        outputs: Tensor = self.network(inputs.flatten(0, 1))
        return outputs.view(episodes, batch, -1)

    def weights(self, name: str) -> Tensor:
        """See `Stack`."""
        return self.trainable[name].view(self.trainable[name].shape)


class _StackedLayer(nn.Module):
    """A layer with one set of weights per episode; parameters that are not tuned keep one for all, [1, ...]."""

    def __init__(self, module: nn.Module, own: Sequence[str], episodes: int) -> None:
        super().__init__()
        self.episodes = episodes
        for name, parameter in module.named_parameters(recurse=False):
            copies = episodes if name in own else 1
            repeated = parameter.detach().expand(copies, *parameter.shape).clone()
            self.register_parameter(name, nn.Parameter(repeated, requires_grad=name in own))
        if getattr(module, "bias", None) is None:
            self.register_parameter("bias", None)

    def by_episode(self, inputs: Tensor) -> Tensor:
        """[E * B, ..., C] as [E, B * ..., C]."""
        return inputs.reshape(self.episodes, -1, inputs.shape[-1])


class _StackedLinear(_StackedLayer):
    weight: Tensor
    bias: Tensor | None

    def __init__(self, module: nn.Linear, own: Sequence[str], episodes: int) -> None:
        super().__init__(module, own, episodes)
        self.in_features, self.out_features = module.in_features, module.out_features

    def forward(self, inputs: Tensor) -> Tensor:
        rows = self.by_episode(inputs)
        if len(self.weight) == 1:  # one matrix for all is one large product instead of many small ones
            outputs = functional.linear(rows, self.weight[0])
            outputs = outputs if self.bias is None else outputs + self.bias.unsqueeze(1)
        elif self.bias is None:
            outputs = rows @ self.weight.transpose(1, 2)
        else:
            outputs = torch.baddbmm(self.bias.unsqueeze(1), rows, self.weight.transpose(1, 2))
        return outputs.view(*inputs.shape[:-1], -1)


class _StackedLayerNorm(_StackedLayer):
    weight: Tensor
    bias: Tensor | None

    def __init__(self, module: nn.LayerNorm, own: Sequence[str], episodes: int) -> None:
        if len(module.normalized_shape) != 1 or module.weight is None:
            raise TypeError("only layer normalisation over the last axis is stacked")
        super().__init__(module, own, episodes)
        self.normalized_shape, self.eps = tuple(module.normalized_shape), module.eps

    def forward(self, inputs: Tensor) -> Tensor:
        normal = self.by_episode(functional.layer_norm(inputs, self.normalized_shape, eps=self.eps))
        weight = self.weight.unsqueeze(1)
        scaled = normal * weight if self.bias is None else torch.addcmul(self.bias.unsqueeze(1), normal, weight)
        return scaled.view_as(inputs)


class _StackedConv(_StackedLayer):
    weight: Tensor
    bias: Tensor | None

    def __init__(self, module: nn.Conv2d, own: Sequence[str], episodes: int) -> None:
        if type(module) is not nn.Conv2d or module.padding_mode != "zeros":
            raise TypeError("only plain convolutions are stacked")
        super().__init__(module, own, episodes)
        self.stride, self.padding, self.dilation = module.stride, module.padding, module.dilation
        self.groups = module.groups

    def forward(self, inputs: Tensor) -> Tensor:
        """[E * B, C, H, W] by way of the channels, [B, E * C, H, W]; transformers do this once, for their patches."""
        side_by_side = inputs.view(self.episodes, -1, *inputs.shape[1:]).transpose(0, 1).flatten(1, 2)
        weight = self.weight.expand(self.episodes, *self.weight.shape[1:])
        bias = None if self.bias is None else self.bias.expand(self.episodes, -1).reshape(-1)
        outputs = functional.conv2d(
            side_by_side,
            weight.flatten(0, 1),
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups * self.episodes,
        )
        by_episode = outputs.view(len(outputs), self.episodes, -1, *outputs.shape[2:])
        return by_episode.transpose(0, 1).flatten(0, 1)


_LAYERS: tuple[tuple[type[nn.Module], type[_StackedLayer]], ...] = (
    (nn.Linear, _StackedLinear),
    (nn.LayerNorm, _StackedLayerNorm),
    (nn.Conv2d, _StackedConv),
)


class _SpreadParameter:
    """A parameter that a module uses by broadcasting, such as a class token or a layer's scale.

    Before each pass it is spread over the batch: [1, L, D] becomes [E * B, L, D], and [D] becomes [E * B, 1, D].
    """

    def __init__(self, module: nn.Module, name: str, episodes: int) -> None:
        parameter = getattr(module, name).detach()
        delattr(module, name)
        self._module, self._name = module, name
        self.stacked = parameter.expand(episodes, *parameter.shape).clone().requires_grad_()

    def fill(self, batch: int) -> None:
        over_rows = self.stacked.unsqueeze(1) if self.stacked.ndim == 2 else self.stacked.flatten(0, 1)
        if len(over_rows) != len(self.stacked):
            raise ValueError(f"{self._name} has no axis for the batch")
        spread = over_rows.repeat_interleave(batch, dim=0)
        self._module.__dict__[self._name] = spread


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


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
