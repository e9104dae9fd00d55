"""Batch normalisation that can be differentiated twice, against PyTorch's own and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fewshot_bench.finetuning.batch_normalisation import BatchStatistics, normalise_batches


def _arguments(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = 2 + torch.randn(shape, generator=generator, dtype=torch.float64)
    weight, bias = torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    return inputs.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def _layer(weight: Tensor, bias: Tensor) -> BatchStatistics:
    layer = BatchStatistics(nn.BatchNorm2d(len(weight), eps=1e-2).double())
    del layer.weight, layer.bias
    layer.weight, layer.bias = weight, bias
    return layer


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 2, 2)])
@pytest.mark.parametrize("first", [None, 2])
def test_first_and_second_derivatives_are_those_of_finite_differences(
    shape: tuple[int, ...], first: int | None
) -> None:
    def normal(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        layer = _layer(weight, bias)
        layer.first = first
        outputs: Tensor = layer(inputs)
        return outputs

    arguments = _arguments(shape)
    assert torch.autograd.gradcheck(normal, arguments)
    assert torch.autograd.gradgradcheck(normal, arguments)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_derivatives_are_those_of_pytorch(memory_format: torch.memory_format) -> None:
    found = []
    for is_own in (True, False):
        inputs, weight, bias = _arguments((3, 4, 2, 2))
        x = inputs.contiguous(memory_format=memory_format)
        if is_own:
            outputs = _layer(weight, bias)(x)
        else:
            outputs = nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=1e-2)
        leaves = [inputs, weight, bias]
        first = torch.autograd.grad(outputs.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(part.cos().sum() for part in first), leaves)
        found.append([outputs, *first, *second])
    for own, theirs in zip(*found, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-9, atol=1e-11)


def test_layers_keep_the_names_of_their_parameters() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)))
    names = [name for name, _ in network.named_parameters()]
    normalise_batches(network)
    assert [name for name, _ in network.named_parameters()] == names
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
