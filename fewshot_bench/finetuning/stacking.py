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

import copy
import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot_bench.cache.trials import Trial, choose
from fewshot_bench.devices import full_float32_products
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.episode_convolution import (
    MOST_PIXEL_PAIRS_TO_SUM,
    Tunable,
    autocast_like_convolution,
    choose_algorithms,
    keep_gradients_in_format,
    pixel_pairs,
)
from fewshot_bench.finetuning.head import has_batch_norm
from fewshot_bench.finetuning.stacked_channels import ChannelStackedNetwork
from fewshot_bench.finetuning.stacked_network import StackedNetwork, VmapStackedNetwork
from fewshot_bench.finetuning.tuned_parameters import perturbed


class RowStackedNetwork(StackedNetwork):
    """A copy of the network whose layers take [E * B, ...] and use the weights of each row's episode.

    Layers without weights, such as attention, see an ordinary batch and run at their usual speed.
    """

    layout = "rows"

    def __init__(self, network: nn.Module, tuned: Sequence[str], episodes: int) -> None:
        super().__init__(network, tuned, episodes)
        self.network = copy.deepcopy(network)
        # Networks of convolutions; a transformer convolves once, for its patches.
        self._is_channels_last = has_batch_norm(network)
        if self._is_channels_last:
            self.network.to(memory_format=torch.channels_last)
            keep_gradients_in_format(self.network, torch.channels_last)
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
        """See `StackedNetwork`."""
        return self.network

    def __call__(self, inputs: Tensor) -> Tensor:
        """See `StackedNetwork`."""
        episodes, batch = inputs.shape[:2]
        outputs: Tensor = self.network(self._in_rows(inputs))
        return outputs.view(episodes, batch, -1)

    def prepare(self, inputs: Tensor) -> None:
        """See `StackedNetwork`; each convolution takes the fastest algorithm."""
        choose_algorithms(self.network, self._in_rows(inputs))

    def _in_rows(self, inputs: Tensor) -> Tensor:
        """[E * B, ...], after spreading the parameters for such a batch."""
        for spread in self._spread:
            spread.fill(inputs.shape[1])
        rows = inputs.flatten(0, 1)
        return rows.contiguous(memory_format=torch.channels_last) if self._is_channels_last and rows.ndim == 4 else rows

    def weights(self, name: str) -> Tensor:
        """See `StackedNetwork`."""
        return self.trainable[name].view(self.trainable[name].shape)


class _StackedLayer(nn.Module):
    """A layer with one set of weights per episode; parameters that are not tuned are shared, [1, ...]."""

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


class _StackedConv(_StackedLayer, Tunable):
    """A convolution, [E * B, C, H, W] -> [E * B, O, H', W']; see `episode_convolution` for the algorithms."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, module: nn.Conv2d, own: Sequence[str], episodes: int) -> None:
        if type(module) is not nn.Conv2d or module.padding_mode != "zeros":
            raise TypeError("only plain convolutions are stacked")
        super().__init__(module, own, episodes)
        self.stride, self.padding, self.dilation = module.stride, module.padding, module.dilation
        self.kernel_size, self.groups = module.kernel_size, module.groups

    def algorithms(self, inputs: Tensor) -> tuple[str, ...]:
        """See `Tunable`."""
        if len(self.weight) == 1:
            return ("grouped",)
        found = ["grouped", "one by one"]
        if isinstance(self.padding, str):
            return tuple(found)
        channels = self.weight.shape[2]
        if self.kernel_size == (1, 1) and self.padding == (0, 0) and self.groups == 1:
            found.append("products")
        elif channels == 1 and self.weight.shape[1] == self.groups:
            pairs = pixel_pairs(inputs, self)
            found += ["pixel sums"] if pairs[0].numel() <= MOST_PIXEL_PAIRS_TO_SUM else []
        return tuple(found)

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        if len(self.weight) == 1:
            outputs = self._convolved(inputs, self.weight[0])
        elif self.algorithm == "one by one":
            of_each = zip(inputs.chunk(self.episodes), self.weight, strict=True)
            outputs = torch.cat([self._convolved(own, weight) for own, weight in of_each])
        elif self.algorithm == "products":
            outputs = self._products(*autocast_like_convolution(inputs, self.weight))
        elif self.algorithm == "pixel sums":
            outputs = self._pixel_sums(*autocast_like_convolution(inputs, self.weight))
        else:
            side_by_side = inputs.view(self.episodes, -1, *inputs.shape[1:]).transpose(0, 1).flatten(1, 2)
            wide = self._convolved(side_by_side, self.weight.flatten(0, 1), self.episodes)
            outputs = wide.view(len(wide), self.episodes, -1, *wide.shape[2:]).transpose(0, 1).flatten(0, 1)
        if self.bias is None:
            return outputs
        by_episode = outputs.view(self.episodes, -1, *outputs.shape[1:])
        return (by_episode + self.bias[:, None, :, None, None].to(outputs.dtype)).flatten(0, 1)

    def _convolved(self, inputs: Tensor, weight: Tensor, episodes: int = 1) -> Tensor:
        padding: Any = self.padding  # numbers or a name
        groups = self.groups * episodes
        return functional.conv2d(inputs, weight, None, self.stride, padding, self.dilation, groups)

    def _products(self, inputs: Tensor, weight: Tensor) -> Tensor:
        down, right = self.stride
        pixels = inputs[:, :, ::down, ::right].permute(0, 2, 3, 1)
        products = self.by_episode(pixels) @ weight.flatten(2).transpose(1, 2)
        return products.view(*pixels.shape[:3], -1).permute(0, 3, 1, 2)

    def _pixel_sums(self, inputs: Tensor, weight: Tensor) -> Tensor:
        pairs = pixel_pairs(inputs, self)
        matrices = (weight.flatten(3).squeeze(2) @ pairs.flatten(1)).transpose(1, 2)
        matrices = matrices.reshape(self.episodes, 1, *pairs.shape[1:], -1)
        pixels = inputs.permute(0, 2, 3, 1).reshape(self.episodes, -1, pairs.shape[1], 1, self.groups)
        sums = (pixels * matrices).sum(dim=2, dtype=inputs.dtype)
        height = (
            inputs.shape[2] + 2 * int(self.padding[0]) - self.dilation[0] * (self.kernel_size[0] - 1) - 1
        ) // self.stride[0] + 1
        return sums.view(len(inputs), height, -1, self.groups).permute(0, 3, 1, 2)


class _StackedBatchNorm(_StackedLayer):
    """Batch normalisation with the pretrained statistics, and the dropout and activation that timm's layers add."""

    weight: Tensor
    bias: Tensor

    def __init__(self, module: _BatchNorm, own: Sequence[str], episodes: int) -> None:
        if module.running_mean is None or module.running_var is None or module.bias is None:
            raise TypeError("only batch normalisation with statistics, weights and biases is stacked")
        super().__init__(module, own, episodes)
        self.register_buffer("factor", (module.running_var + module.eps).rsqrt())
        self.register_buffer("mean", module.running_mean.clone())
        self.after = nn.Sequential(*(getattr(module, name) for name in ("drop", "act") if hasattr(module, name)))

    factor: Tensor
    mean: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        """[E * B, C] or [E * B, C, H, W]."""
        last = inputs.movedim(1, -1)
        scale = self.weight * self.factor
        shift = self.bias - self.mean * scale
        normal = torch.addcmul(shift.unsqueeze(1), self.by_episode(last), scale.unsqueeze(1)).to(inputs.dtype)
        outputs: Tensor = self.after(normal.view(last.shape).movedim(-1, 1))
        return outputs


_LAYERS: tuple[tuple[type[nn.Module], type[_StackedLayer]], ...] = (
    (nn.Linear, _StackedLinear),
    (nn.LayerNorm, _StackedLayerNorm),
    (nn.Conv2d, _StackedConv),
    (_BatchNorm, _StackedBatchNorm),
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


_WAYS: tuple[type[StackedNetwork], ...] = (ChannelStackedNetwork, RowStackedNetwork, VmapStackedNetwork)


@dataclass(frozen=True)
class TrainingStep:
    """What a training step of stacked networks computes.

    Attributes:
        images: that each episode sees.
        autocast: makes the context in which the networks run.
    """

    images: int
    autocast: Callable[[], AbstractContextManager[Any]]


def stack_network(
    network: nn.Module,
    tuned: Sequence[str],
    episodes: int,
    sample: Tensor,
    *,
    layout: str | None = None,
    step: TrainingStep | None = None,
) -> StackedNetwork:
    """Stack copies of a network in the fastest faithful way.

    Args:
        network: in evaluation mode, [B, ...] -> [B, D]; it is not changed.
        tuned: names of the parameters to train.
        episodes: E.
        sample: two inputs, [2, ...], on the device.
        layout: "channels", "rows" or "vmap" to insist on one way.
        step: if given, a network of convolutions is also stacked in rows, and a short trial of both decides.

    Raises:
        StudyError: no way gives what the network gives.
    """
    for way in _WAYS:
        if layout not in (None, way.layout) or not _is_faithful(way, network, tuned, sample):
            continue
        has_choice = way is ChannelStackedNetwork and layout is None and step is not None
        if has_choice and _is_faithful(RowStackedNetwork, network, tuned, sample):
            assert step is not None
            return _faster(way, RowStackedNetwork, network, tuned, episodes, sample, step)
        return way(network, tuned, episodes)
    raise StudyError(
        f"{type(network).__name__} cannot be fine-tuned for many episodes at once"
        f"{f' in the layout {layout}' if layout else ''}: its outputs depend on other images of the batch, or its "
        "layers cannot be rebuilt. Use another backbone, or --tune head."
    )


def _faster(
    first: type[StackedNetwork],
    second: type[StackedNetwork],
    network: nn.Module,
    tuned: Sequence[str],
    episodes: int,
    sample: Tensor,
    step: TrainingStep,
) -> StackedNetwork:
    ways = {way.layout: way for way in (first, second)}
    inputs = sample[:1].expand(step.images, *sample.shape[1:]).expand(episodes, step.images, *sample.shape[1:])
    stacks: dict[str, StackedNetwork] = {}

    def run(layout: str) -> None:
        with step.autocast(), torch.enable_grad():
            if layout not in stacks:
                stack = ways[layout](network, tuned, episodes)
                stack.prepare(inputs)
                stacks[layout] = stack
            outputs = stacks[layout](inputs)
        trainable = list(stacks[layout].trainable.values())
        torch.autograd.grad(outputs, trainable, torch.ones_like(outputs), allow_unused=True)

    with step.autocast():
        about = f"{inputs.dtype} {torch.is_autocast_enabled(sample.device.type)} {tuple(inputs.shape)}"
    layers = hashlib.sha256(f"{network} {tuple(tuned)}".encode()).hexdigest()[:16]
    key = f"layout of {type(network).__name__} {layers} for {about}"
    layout = choose([Trial(key, {layout: partial(run, layout) for layout in ways})], sample.device)[key]
    return stacks.pop(layout) if layout in stacks else ways[layout](network, tuned, episodes)


def _is_faithful(way: type[StackedNetwork], network: nn.Module, tuned: Sequence[str], sample: Tensor) -> bool:
    """Whether two stacked copies with different weights give what the network gives with each."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((2, *sample.shape), generator=generator).to(sample)
    inputs = sample + noise * (sample.abs().mean() + 0.1)
    own = dict(network.named_parameters())
    weights = {name: torch.stack([own[name].detach(), perturbed(own[name].detach(), generator)]) for name in tuned}
    with torch.no_grad(), full_float32_products():
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
