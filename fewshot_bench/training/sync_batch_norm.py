"""Batch normalisation by the statistics of all processes, on any device, without changing a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

from fewshot_bench.losses.contrastive import at_least_float32


class SynchronisedBatchNorm(TorchFunctionMode):
    """Within this context every batch norm in training normalises by the images of all processes.

    All processes must pass their share of the same batch through the same network. torch.nn.SyncBatchNorm replaces the
    modules, refuses CPUs, where the equality with one process is tested, and does not know timm's BatchNormAct2d; it
    would win by fused kernels where batch norm takes much of a step.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, or ours instead of torch.nn.functional.batch_norm."""
        function = _batch_norm if func is batch_norm else func
        return function(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,  # named as torch.nn.functional.batch_norm names it
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    mean, variance, count = _statistics(input.detach())
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
    if weight is None:
        weight = torch.ones_like(mean)
    if bias is None:
        bias = torch.zeros_like(mean)
    normalised: Tensor = _Normalise.apply(input, weight, bias, mean, variance, count, eps)
    return normalised


def _statistics(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of every channel over all processes, [C] each, and the count of values, [1]."""
    values = at_least_float32(values)
    channels = values.shape[1]
    variance, mean = torch.var_mean(values, _all_but_channels(values), correction=0)
    rows = values.new_zeros(dist.get_world_size(), 2 * channels + 1)
    rows[dist.get_rank()] = torch.cat([mean, variance, values.new_full((1,), values.numel() // channels)])
    dist.all_reduce(rows)
    means, variances, counts = torch.split(rows, [channels, channels, 1], dim=1)
    count = counts.sum(0)
    share = counts / count
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0), count


class _Normalise(torch.autograd.Function):
    """Normalise by given statistics, and take the gradient through them: they are those of all processes."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(values, weight, mean, variance, count)
        ctx.eps = eps  # type: ignore[attr-defined]  # as torch documents it
        return batch_norm(values, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, variance, count = ctx.saved_tensors
        inverse = (variance + ctx.eps).rsqrt()
        # With fixed statistics: the gradient of the values, and the sums over this process for weight and bias.
        direct, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, values, weight, mean, variance, mean, inverse, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([for_weight, for_bias]).to(mean.dtype)
        dist.all_reduce(sums)
        by_variance, by_mean = sums * weight / count
        shape = [-1 if axis == 1 else 1 for axis in range(values.ndim)]
        scale, shift = (by_variance * inverse.square()).view(shape), (by_mean * inverse).view(shape)
        through_statistics = torch.addcmul(shift, values - mean.view(shape), scale)
        return (direct - through_statistics).to(values.dtype), for_weight, for_bias, None, None, None, None


def _all_but_channels(values: Tensor) -> list[int]:
    return [axis for axis in range(values.ndim) if axis != 1]
