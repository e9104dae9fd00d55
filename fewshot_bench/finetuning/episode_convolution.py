"""Several algorithms for one convolution of many episodes, each with filters of its own.

- "grouped": one call of a grouped convolution. No copies, but libraries are slow at it for some shapes.
- "products": a batched matrix product, for 1x1 filters. It reads and writes channels-last memory without a copy.
- "unfolded": the same for larger filters. Every pixel is written k * k times; on a GPU it runs on the matrix units
  however many groups there are.
- "one by one": a call per episode.
- "pixel sums" and "pixel products": for depthwise filters on maps of a few pixels, a matrix from pixels to pixels for
  each channel, applied by sums or by matrix products.

Which is fastest depends on the shape and the machine, so a short trial decides, as with
`torch.backends.cudnn.benchmark`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot_bench.cache.trials import Timer, Trial, choose

MOST_PIXEL_PAIRS_TO_SUM = 16
_MOST_PIXELS = 64


class Tunable(nn.Module):
    """A layer that can compute the same in several ways.

    Attributes:
        algorithm: the one that it uses.
    """

    algorithm = "grouped"

    def algorithms(self, inputs: Tensor) -> tuple[str, ...]:
        """Those that can compute this layer for inputs of a shape; the first always can."""
        del inputs
        return (self.algorithm,)


class EpisodeConv2d(nn.Conv2d, Tunable):
    """A convolution with at least one group per episode, [B, E * C, H, W] -> [B, E * O, H', W'].

    Attributes:
        episodes: E.
    """

    episodes = 1

    @classmethod
    def adopt(cls, convolution: nn.Conv2d, episodes: int) -> None:
        """Turn a plain convolution with stacked weights into one of these; other kinds are left alone."""
        if type(convolution) is nn.Conv2d and convolution.padding_mode == "zeros":
            convolution.__class__ = cls
            convolution.episodes = episodes  # type: ignore[assignment]  # the class was changed a line above

    def algorithms(self, inputs: Tensor) -> tuple[str, ...]:
        """See `Tunable`."""
        found = ["grouped"]
        if self.episodes > 1:
            found.append("one by one")
        if isinstance(self.padding, str):
            return tuple(found)
        if self.in_channels > self.groups:
            is_pointwise = self.kernel_size == (1, 1) and self.padding == (0, 0)
            found.append("products" if is_pointwise else "unfolded")
        elif self.out_channels == self.groups and self.kernel_size != (1, 1):
            pixels, outputs = math.prod(inputs.shape[2:]), math.prod(self._size_after(inputs))
            found += ["pixel sums"] if pixels * outputs <= MOST_PIXEL_PAIRS_TO_SUM else []
            found += ["pixel products"] if pixels <= _MOST_PIXELS else []
        return tuple(found)

    def forward(self, inputs: Tensor) -> Tensor:
        """Convolve, [B, E * C, H, W] -> [B, E * O, H', W']."""
        if self.algorithm == "grouped":
            return super().forward(inputs)
        if self.algorithm == "one by one":
            return self._one_by_one(inputs)
        inputs, weight = autocast_like_convolution(inputs, self.weight)
        compute = {
            "products": self._products,
            "unfolded": self._unfolded,
            "pixel sums": self._pixel_sums,
            "pixel products": self._pixel_products,
        }[self.algorithm]
        outputs = compute(inputs, weight)
        return outputs if self.bias is None else outputs + self.bias.view(-1, 1, 1).to(outputs.dtype)

    def _one_by_one(self, inputs: Tensor) -> Tensor:
        biases = [None] * self.episodes if self.bias is None else self.bias.chunk(self.episodes)
        of_each = zip(inputs.chunk(self.episodes, dim=1), self.weight.chunk(self.episodes), biases, strict=True)
        settings: Any = (self.stride, self.padding, self.dilation, self.groups // self.episodes)
        return torch.cat([functional.conv2d(*own, *settings) for own in of_each], dim=1)

    def _products(self, inputs: Tensor, weight: Tensor) -> Tensor:
        down, right = self.stride
        pixels = inputs[:, :, ::down, ::right].permute(0, 2, 3, 1)
        rows = pixels.reshape(-1, self.groups, self.in_channels // self.groups)
        products: Tensor = _ProductsInPlace.apply(rows, weight.reshape(self.groups, -1, rows.shape[2]))
        return products.view(*pixels.shape[:3], -1).permute(0, 3, 1, 2)

    def _unfolded(self, inputs: Tensor, weight: Tensor) -> Tensor:
        batch, height, width = len(inputs), *self._size_after(inputs)
        columns = functional.unfold(inputs, self.kernel_size, self.dilation, self._padding, self.stride)
        columns = columns.view(batch, self.groups, -1, height * width).permute(1, 2, 0, 3).flatten(2)
        products = weight.reshape(self.groups, -1, columns.shape[1]) @ columns
        return products.view(self.out_channels, batch, height, width).transpose(0, 1)

    def _pixel_sums(self, inputs: Tensor, weight: Tensor) -> Tensor:
        batch, (height, width) = len(inputs), self._size_after(inputs)
        pixels = inputs.permute(0, 2, 3, 1).reshape(batch, -1, 1, self.groups)
        matrices = (weight.flatten(1) @ pixel_pairs(inputs, self).flatten(1)).t()
        products = pixels * matrices.reshape(pixels.shape[1], -1, self.groups)
        return products.sum(dim=1, dtype=inputs.dtype).view(batch, height, width, -1).permute(0, 3, 1, 2)

    def _pixel_products(self, inputs: Tensor, weight: Tensor) -> Tensor:
        batch, (height, width) = len(inputs), self._size_after(inputs)
        pixels = inputs.reshape(batch, self.groups, -1).transpose(0, 1)
        matrices = (weight.flatten(1) @ pixel_pairs(inputs, self).flatten(1)).view(self.groups, pixels.shape[2], -1)
        products = (pixels @ matrices).transpose(0, 1)
        return products.reshape(batch, self.groups, height, width).to(memory_format=_format(inputs))

    @property
    def _padding(self) -> tuple[int, ...]:
        return tuple(int(number) for number in self.padding)  # a name such as "same" has no choice

    def _size_after(self, inputs: Tensor) -> tuple[int, int]:
        height, width = (self._length_after(axis, inputs.shape[2 + axis]) for axis in range(2))
        return height, width

    def _length_after(self, axis: int, length: int) -> int:
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        return (length + 2 * int(self.padding[axis]) - reach) // self.stride[axis] + 1


class _ProductsInPlace(torch.autograd.Function):
    """Rows [R, G, C] times matrices [G, O, C], [R, G, O]; unlike `torch.bmm` it writes where the rows belong."""

    @staticmethod
    def forward(context: Any, rows: Tensor, matrices: Tensor) -> Tensor:
        context.save_for_backward(rows, matrices)
        products = rows.new_empty(len(rows), *matrices.shape[:2])
        torch.bmm(rows.transpose(0, 1), matrices.transpose(1, 2), out=products.transpose(0, 1))
        return products

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, matrices = context.saved_tensors
        gradient = gradients[0].transpose(0, 1)
        of_rows = of_matrices = None
        if torch.is_grad_enabled():  # a second derivative is wanted, which writing in place does not have
            return (gradient @ matrices).transpose(0, 1), gradient.transpose(1, 2) @ rows.transpose(0, 1)
        if context.needs_input_grad[0]:
            of_rows = torch.empty_like(rows)
            torch.bmm(gradient, matrices, out=of_rows.transpose(0, 1))
        if context.needs_input_grad[1]:
            of_matrices = gradient.transpose(1, 2) @ rows.transpose(0, 1)
        return of_rows, of_matrices


def pixel_pairs(inputs: Tensor, convolution: Any) -> Tensor:
    """Which weight of a filter leads from a pixel to a pixel of the output, 0 or 1, [k * k, H * W, H' * W'].

    Args:
        inputs: [..., H, W].
        convolution: has a kernel_size, a dilation, a padding in numbers, and a stride.
    """
    names = ("kernel_size", "dilation", "padding", "stride")
    settings = (tuple(int(number) for number in getattr(convolution, name)) for name in names)
    return _pairs(*inputs.shape[-2:], *settings, inputs.dtype, inputs.device)


@cache
def _pairs(
    height: int,
    width: int,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    stride: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    pixels = torch.eye(height * width).view(-1, 1, height, width)
    pairs = functional.unfold(pixels, kernel_size, dilation, padding, stride)
    return pairs.transpose(0, 1).contiguous().to(device, dtype)


def autocast_like_convolution(inputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """As autocast casts the arguments of a convolution."""
    kind = inputs.device.type
    if not torch.is_autocast_enabled(kind) or inputs.dtype == torch.float64:
        return inputs, weight
    dtype = torch.get_autocast_dtype(kind)
    return inputs.to(dtype), weight.to(dtype)


def keep_gradients_in_format(network: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay the gradients of normalised activations out as the activations are.

    Pooling spreads one number over a map without memory behind it, which makes the layers before it several times
    slower in the backward pass.
    """

    def lay_out(gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=memory_format)

    def watch(module: nn.Module, inputs: Any, outputs: Tensor) -> None:
        if outputs.requires_grad and outputs.ndim == 4:
            outputs.register_hook(lay_out)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_hook(watch)


def _format(tensor: Tensor) -> torch.memory_format:
    if tensor.ndim != 4:
        return torch.contiguous_format
    is_last = tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last and not tensor.is_contiguous() else torch.contiguous_format


def choose_algorithms(network: nn.Module, inputs: Tensor, timer: Timer | None = None) -> None:
    """Give every layer of a network that has a choice the algorithm that is fastest here.

    Args:
        network: with `Tunable` layers.
        inputs: what the network takes in training; under autocast if the training is.
        timer: instead of the clock; see `fewshot_bench.cache.trials.choose`.
    """
    layers = [module for module in network.modules() if isinstance(module, Tunable)]
    trials: dict[str, Trial] = {}
    keys: dict[Tunable, str] = {}

    def note(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, Tunable)
        algorithms = layer.algorithms(arguments[0])
        if len(algorithms) > 1:
            keys[layer] = _key(layer, arguments[0])
            trials.setdefault(keys[layer], Trial(keys[layer], _candidates(layer, arguments[0], algorithms)))

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.enable_grad():
            network(inputs)  # shows which inputs need a gradient, too
    finally:
        for hook in hooks:
            hook.remove()
    try:
        chosen = choose(list(trials.values()), inputs.device, timer)
    finally:
        for layer in keys:
            layer.algorithm = Tunable.algorithm
    for layer, key in keys.items():
        layer.algorithm = chosen[key]


def _key(layer: Tunable, inputs: Tensor) -> str:
    """Everything that decides how fast a layer is."""
    kind = inputs.device.type
    autocast = f" autocast to {torch.get_autocast_dtype(kind)}" if torch.is_autocast_enabled(kind) else ""
    tensors = {"inputs": inputs, **dict(layer.named_parameters(recurse=False))}
    of_tensors = (
        f"{name} {tuple(tensor.shape)} {_format(tensor)}{' with gradient' * tensor.requires_grad}"
        for name, tensor in tensors.items()
    )
    names = ("stride", "padding", "dilation", "groups", "episodes")
    settings = (f"{name} {getattr(layer, name)}" for name in names)
    return f"{type(layer).__name__} {inputs.dtype}{autocast}, {', '.join((*of_tensors, *settings))}".replace(
        "torch.", ""
    )


def _candidates(layer: Tunable, like: Tensor, algorithms: tuple[str, ...]) -> dict[str, Callable[[], Any]]:
    shape, device, dtype, needs_gradient = like.shape, like.device, like.dtype, like.requires_grad
    memory_format = _format(like)

    def run(algorithm: str) -> None:
        layer.algorithm = algorithm
        with torch.enable_grad():
            inputs = torch.ones(shape, device=device, dtype=dtype).to(memory_format=memory_format)
            inputs.requires_grad_(needs_gradient)
            outputs = layer(inputs)
            leaves = [tensor for tensor in (inputs, *layer.parameters()) if tensor.requires_grad]
            if leaves:
                torch.autograd.grad(outputs, leaves, torch.ones_like(outputs))

    return {algorithm: partial(run, algorithm) for algorithm in algorithms}
