"""Two ways to convolve episodes side by side are one convolution, and the faster one is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fewshot_bench.finetuning.stacked_channels import EpisodeConv2d, choose_faster, widened


def adopted(episodes: int, channels: int, filters: int, kernel: Any, **options: Any) -> EpisodeConv2d:
    """A convolution of all episodes with other weights for each, in float64."""
    torch.manual_seed(0)
    layer = nn.Conv2d(episodes * channels, episodes * filters, kernel, groups=episodes, **options).double()
    EpisodeConv2d.adopt(layer, episodes)
    assert isinstance(layer, EpisodeConv2d)
    return layer


def value_and_gradients(layer: EpisodeConv2d, inputs: Tensor, by_products: bool) -> list[Tensor]:
    layer.by_products = by_products
    leaf = inputs.clone().requires_grad_()
    value = layer(leaf)
    weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape)
    return [value.detach(), *torch.autograd.grad((value * weights).sum(), [leaf, *layer.parameters()])]


sizes = st.integers(1, 3)
pairs = st.tuples(sizes, sizes)


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(
    episodes=sizes,
    channels=sizes,
    filters=sizes,
    batch=sizes,
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
    bias=st.booleans(),
    side=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_products_of_patches_are_the_grouped_convolution(
    episodes: int, channels: int, filters: int, batch: int, kernel: Any, side: tuple[int, int], **options: Any
) -> None:
    for axis in range(2):
        reach = options["dilation"][axis] * (kernel[axis] - 1) + 1
        assume(side[axis] + 2 * options["padding"][axis] >= reach)
    layer = adopted(episodes, channels, filters, kernel, **options)
    assert layer.has_a_choice
    inputs = torch.randn(batch, episodes * channels, *side, dtype=torch.float64)
    for found, expected in zip(*(value_and_gradients(layer, inputs, way) for way in (True, False)), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_layout_in_memory_makes_no_difference(memory_format: torch.memory_format, kernel: int) -> None:
    layer = adopted(3, 4, 5, kernel, padding=kernel // 2, bias=False)
    inputs = torch.randn(2, 12, 6, 6, dtype=torch.float64)
    expected = value_and_gradients(layer, inputs, False)
    layer.to(memory_format=memory_format)
    found = value_and_gradients(layer, inputs.contiguous(memory_format=memory_format), True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_every_episode_has_filters_of_its_own() -> None:
    layer, inputs = adopted(3, 2, 4, 3), torch.randn(2, 6, 5, 5, dtype=torch.float64)
    for by_products in (False, True):
        layer.by_products = by_products
        whole = layer(inputs).view(2, 3, 4, 3, 3)
        for episode in range(3):
            own = inputs.view(2, 3, 2, 5, 5)[:, episode]
            weight, bias = layer.weight.view(3, 4, 2, 3, 3)[episode], layer.bias.view(3, 4)[episode]
            torch.testing.assert_close(whole[:, episode], nn.functional.conv2d(own, weight, bias))


def test_only_plain_convolutions_are_adopted() -> None:
    class Own(nn.Conv2d):
        pass

    for layer in (Own(2, 2, 3), nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.Linear(2, 2)):
        EpisodeConv2d.adopt(layer, 2)  # type: ignore[arg-type]  # another kind of layer
        assert not isinstance(layer, EpisodeConv2d)


def test_depthwise_grouped_and_named_padding_have_no_choice() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 1),
    )
    for episodes in (1, 3):
        wide = widened(network, episodes)
        assert [layer.has_a_choice for layer in wide] == [False, False, False, True]  # type: ignore[union-attr, operator]


class FakeTimer:
    """Pretends that products are faster for filters of some size, and counts what is timed."""

    def __init__(self, layers: list[EpisodeConv2d], faster: Callable[[EpisodeConv2d], bool]) -> None:
        self.layers, self.faster = layers, faster
        self.timed = 0

    def __call__(self, run: Callable[[], Any]) -> float:
        self.timed += 1
        running: list[EpisodeConv2d] = []
        hooks = [layer.register_forward_pre_hook(lambda layer, _: running.append(layer)) for layer in self.layers]
        run()
        for hook in hooks:
            hook.remove()
        (layer,) = running
        return 1.0 if layer.by_products == self.faster(layer) else 2.0


def network_of_episodes(episodes: int) -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 4, 3, groups=4),
    )
    return widened(network, episodes)


def convolutions(network: nn.Module) -> list[EpisodeConv2d]:
    return [layer for layer in network.modules() if isinstance(layer, EpisodeConv2d)]


@pytest.mark.parametrize("size", [1, 3])
def test_each_shape_takes_what_is_faster_and_is_timed_once(size: int) -> None:
    network = network_of_episodes(2)
    layers = convolutions(network)
    timer = FakeTimer(layers, lambda layer: layer.kernel_size[0] == size)
    choose_faster(network, torch.randn(2, 6, 8, 8), timer)
    is_size = [layer.kernel_size[0] == size for layer in layers[:4]]
    assert [layer.by_products for layer in layers] == [*is_size, False], "the depthwise one has no choice"
    assert timer.timed == 2 * 3, "two ways, three shapes"


@pytest.mark.parametrize("trained", [r"weight", r"bias", r"nothing"])
def test_filters_that_are_not_trained_are_timed_too(trained: str) -> None:
    network = network_of_episodes(2)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.endswith(trained))
    layers = convolutions(network)
    choose_faster(network, torch.randn(2, 6, 8, 8), FakeTimer(layers, lambda layer: True))
    assert [layer.by_products for layer in layers] == [True, True, True, True, False]


def test_timing_leaves_no_trace_but_the_choice() -> None:
    network, inputs = network_of_episodes(2), torch.randn(2, 6, 8, 8)
    before = network(inputs).detach()
    choose_faster(network, inputs)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(not layer._forward_pre_hooks for layer in convolutions(network))
    torch.testing.assert_close(network(inputs).detach(), before)
