"""Conv4 is the literature's network, whatever the size of the images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewshot_bench.backbones.networks import Conv4, conv4_32, conv4_64
from fewshot_bench.errors import StudyError


@pytest.mark.parametrize(("size", "expected"), [(16, 64), (28, 64), (32, 256), (84, 1600)])
def test_embedding_size_is_as_announced(size: int, expected: int) -> None:
    network = conv4_64(in_chans=3, img_size=size)
    assert network.num_features == expected
    assert network(torch.rand(2, 3, size, size)).shape == (2, expected)


def test_parameters_are_those_of_the_literature() -> None:
    count = sum(parameter.numel() for parameter in conv4_64(in_chans=3).parameters())
    assert count == (3 * 9 + 3 * 64 * 9) * 64 + 4 * 64 + 4 * 2 * 64
    assert conv4_32(in_chans=1, img_size=28).num_features == 32


def test_pooling_before_relu_gives_the_embedding_and_gradient_of_the_literature() -> None:
    torch.manual_seed(0)
    network = Conv4(width=8, in_chans=1, image_size=28)
    in_order = nn.Sequential(
        *(nn.Sequential(block[0], block[1], nn.ReLU(), nn.MaxPool2d(2)) for block in network.blocks), nn.Flatten()
    )
    results = []
    for forward in (network, in_order):
        network.zero_grad()
        embeddings = forward(torch.linspace(-1, 1, 4 * 28 * 28).sin().view(4, 1, 28, 28))
        embeddings.square().sum().backward()
        results.append([embeddings, *(parameter.grad.clone() for parameter in network.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_images_that_vanish_are_refused() -> None:
    with pytest.raises(StudyError, match="15 px is too small"):
        Conv4(image_size=15)
