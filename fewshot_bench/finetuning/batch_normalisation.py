"""Batch normalisation of networks in which gradients are differentiated again, as in gradient-based meta-learning.

PyTorch's own second derivative makes some twenty passes over the activations, half the time of a training step of
MAML. `_Normalised` and `_Backward` need seven: with n numbers in a channel, x^ the normalised inputs, r one over the
standard deviation, w the scale, g the gradient of the outputs, v the one of the gradient of the inputs, a and b those
of the gradients of scale and shift,

    d/dg = w r (v - v~ - x^ V) + a x^ + b,
    d/dx = -w r^2 (G v + V g) + a r g + x^ (w r^2 (3 V G + v~ g~ - S) - a r G) + constant,
    d/dw = n r (S - v~ g~ - V G),

where v~ and g~ are the means of v and g, V and G those of v x^ and g x^, S that of v g; the constant makes d/dx sum to
zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


class BatchStatistics(nn.Module):
    """Batch normalisation by the statistics of each batch, or of the first images of it.

    It stands in for a layer of a network, with the same names of parameters.

    Attributes:
        first: how many images at the beginning of a batch give the statistics; None for all of them.
    """

    def __init__(self, module: _BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = module.weight, module.bias, module.eps
        # What timm's layers add.
        self.after = nn.Sequential(*(getattr(module, name) for name in ("drop", "act") if hasattr(module, name)))
        self.first: int | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, C] or [B, C, H, W]."""
        if self.first is None and self.weight is not None and self.bias is not None:
            normal: Tensor = _Normalised.apply(inputs, self.weight, self.bias, self.eps)
        else:
            normal = self._by_first(inputs)
        outputs: Tensor = self.after(normal)
        return outputs

    def _by_first(self, inputs: Tensor) -> Tensor:
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        variance, mean = torch.var_mean(inputs[: self.first], dim=axes, correction=0)
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        return torch.addcmul(_by_channel(shift, inputs), inputs, _by_channel(scale, inputs))


def normalise_batches(network: nn.Module) -> Callable[[int | None], None]:
    """Replace the batch normalisations of a network by such that use the statistics of each batch.

    Returns:
        Says how many images at the beginning of each batch give the statistics from now on; None for all of them.
    """
    layers = {path: module for path, module in network.named_modules() if isinstance(module, _BatchNorm)}
    replaced = {path: BatchStatistics(module) for path, module in layers.items()}
    for path, layer in replaced.items():
        network.set_submodule(path, layer)

    def set_first(images: int | None) -> None:
        for layer in replaced.values():
            layer.first = images

    return set_first


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        outputs, mean, deviation = torch.native_batch_norm(inputs, weight, bias, None, None, True, 0.0, eps)
        context.save_for_backward(inputs, weight, mean, deviation)
        context.eps = eps
        return outputs

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*_Backward.apply(gradients[0], *context.saved_tensors, context.eps), None)


class _Backward(torch.autograd.Function):
    """The gradients of inputs, scale and shift; `inverse` is one over the standard deviation."""

    @staticmethod
    def forward(
        context: Any, gradient: Tensor, inputs: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        # Pooling spreads one number over a map without memory behind it, which is slow to read.
        gradient = torch.empty_like(inputs).copy_(gradient)
        context.save_for_backward(gradient, inputs, weight, mean, inverse)
        context.eps = eps
        return _first_gradients(gradient, inputs, weight, mean, inverse, eps)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g, x, weight, mean, inverse = context.saved_tensors
        v, of_weight, of_bias = gradients
        v = torch.empty_like(x).copy_(v)
        count = x.numel() // len(weight)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        by_gradient, sum_vx, sum_v = _first_gradients(v, x, weight, mean, inverse, context.eps)
        mean_v, mean_vx = sum_v / count, sum_vx / count
        mean_g = g.sum(axes) / count
        products = torch.mul(g, x).sum(axes) / count
        mean_gx = (products - mean * mean_g) * inverse
        mean_vg = torch.mul(v, g).sum(axes) / count
        # Coefficients of v, g and x^ in the gradient of x; x^ = (x - mean) * inverse.
        scale = weight * inverse * inverse
        of_v = -scale * mean_gx
        of_g = of_weight * inverse - scale * mean_vx
        of_normal = scale * (3 * mean_vx * mean_gx + mean_v * mean_g - mean_vg) - of_weight * inverse * mean_gx
        constant = -(of_v * mean_v + of_g * mean_g)
        of_x = of_normal * inverse
        by_inputs = torch.addcmul(_by_channel(constant - of_x * mean, x), x, _by_channel(of_x, x))
        by_inputs.addcmul_(v, _by_channel(of_v, x)).addcmul_(g, _by_channel(of_g, x))
        of_x = of_weight * inverse
        by_gradient.addcmul_(x, _by_channel(of_x, x)).add_(_by_channel(of_bias - of_x * mean, x))
        by_weight = count * inverse * (mean_vg - mean_v * mean_g - mean_vx * mean_gx)
        return by_gradient, by_inputs, by_weight, None, None, None


def _first_gradients(
    gradient: Tensor, inputs: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, eps: float
) -> tuple[Tensor, ...]:
    gradients: tuple[Tensor, ...] = torch.ops.aten.native_batch_norm_backward(
        gradient, inputs, weight, None, None, mean, inverse, True, eps, [True, True, True]
    )
    return gradients


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    """[C] as [1, C, 1, 1], or as [1, C]."""
    return values.view(1, -1, *[1] * (like.ndim - 2))
