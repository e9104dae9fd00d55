"""Several algorithms for a convolution of episodes compute one convolution, and the fastest one is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fewshot_bench.cache import trials
from fewshot_bench.finetuning.episode_convolution import EpisodeConv2d, Tunable, choose_algorithms
from fewshot_bench.finetuning.stacked_channels import widened
from fewshot_bench.finetuning.stacking import RowStackedNetwork, stack_network

ALGORITHMS = ("grouped", "one by one", "products", "unfolded", "pixel sums", "pixel products")


def in_channels(layer: nn.Conv2d, episodes: int, trained: tuple[str, ...]) -> EpisodeConv2d:
    """Side by side, with other weights for each episode."""
    (wide,) = widened(nn.Sequential(layer), episodes)
    assert isinstance(wide, EpisodeConv2d)
    for name, parameter in wide.named_parameters():
        parameter.data = torch.randn(parameter.shape, dtype=parameter.dtype)
        parameter.requires_grad_(name in trained)
    return wide


def values_and_gradients(layer: nn.Module, inputs: Tensor, memory_format: torch.memory_format) -> list[Tensor]:
    leaf = inputs.contiguous(memory_format=memory_format).requires_grad_()
    outputs = layer(leaf)
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view(outputs.shape)
    leaves = [tensor for tensor in (leaf, *layer.parameters()) if tensor.requires_grad]
    return [outputs.detach(), *torch.autograd.grad((outputs * weights).sum(), leaves)]


def assert_algorithms_agree(layer: Tunable, inputs: Tensor) -> tuple[str, ...]:
    algorithms = layer.algorithms(inputs)
    assert algorithms[0] == "grouped"
    expected = values_and_gradients(layer, inputs, torch.contiguous_format)
    for algorithm in algorithms:
        layer.algorithm = algorithm
        for memory_format in (torch.contiguous_format, torch.channels_last):
            found = values_and_gradients(layer, inputs, memory_format)
            for of_algorithm, of_grouped in zip(found, expected, strict=True):
                torch.testing.assert_close(of_algorithm, of_grouped, msg=algorithm)
    return algorithms


sizes = st.integers(1, 3)
pairs = st.tuples(sizes, sizes)
shapes = given(
    episodes=sizes,
    channels=sizes,
    filters=sizes,
    groups=sizes,
    is_depthwise=st.booleans(),
    batch=sizes,
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
    bias=st.booleans(),
    trained=st.sampled_from([("weight",), ("bias",), ("weight", "bias"), ()]),
    side=st.tuples(st.integers(1, 7), st.integers(1, 7)),
)


def drawn_layer(
    channels: int, filters: int, groups: int, is_depthwise: bool, kernel: Any, side: Any, **options: Any
) -> nn.Conv2d:
    for axis in range(2):
        reach = options["dilation"][axis] * (kernel[axis] - 1) + 1
        assume(side[axis] + 2 * options["padding"][axis] >= reach)
    torch.manual_seed(0)
    channels = 1 if is_depthwise else channels
    filters = 1 if is_depthwise else filters
    return nn.Conv2d(groups * channels, groups * filters, kernel, groups=groups, **options).double()


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@shapes
def test_every_algorithm_side_by_side_is_the_grouped_convolution(
    episodes: int, batch: int, side: Any, trained: tuple[str, ...], **options: Any
) -> None:
    layer = drawn_layer(side=side, **options)
    wide = in_channels(layer, episodes, trained)
    assert_algorithms_agree(wide, torch.randn(batch, episodes * layer.in_channels, *side, dtype=torch.float64))


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@shapes
def test_every_algorithm_in_rows_is_the_grouped_convolution(
    episodes: int, batch: int, side: Any, trained: tuple[str, ...], **options: Any
) -> None:
    layer = drawn_layer(side=side, **options)
    own = [f"0.{name}" for name, _ in layer.named_parameters() if name in trained]
    stack = RowStackedNetwork(nn.Sequential(layer), own, episodes)
    inputs = torch.randn(episodes, batch, layer.in_channels, *side, dtype=torch.float64)
    for name in own:
        stack.weights(name).data.copy_(torch.randn(stack.weights(name).shape, dtype=torch.float64))
    stacked = stack.network[0]
    if own:
        assert isinstance(stacked, Tunable)
        assert_algorithms_agree(stacked, inputs.flatten(0, 1))
    found = stacked(inputs.flatten(0, 1)).reshape(episodes, batch, -1)
    for episode in range(episodes):
        weights = {name: stack.weights(f"0.{name}")[episode] for name in trained if f"0.{name}" in own}
        expected = torch.func.functional_call(layer, weights, (inputs[episode],))
        torch.testing.assert_close(found[episode], expected.flatten(1))


PLAIN: dict[str, tuple[dict[str, Any], int, tuple[str, ...]]] = {
    "1x1": ({"kernel_size": 1}, 4, ("grouped", "one by one", "products")),
    "1x1 with stride": ({"kernel_size": 1, "stride": 2}, 4, ("grouped", "one by one", "products")),
    "3x3": ({"kernel_size": 3, "padding": 1}, 4, ("grouped", "one by one", "unfolded")),
    "two groups": ({"kernel_size": 3, "groups": 2}, 4, ("grouped", "one by one", "unfolded")),
    "named padding": ({"kernel_size": 3, "padding": "same"}, 4, ("grouped", "one by one")),
    "depthwise, 2 px": (
        {"kernel_size": 3, "padding": 1, "groups": 4},
        2,
        ("grouped", "one by one", "pixel sums", "pixel products"),
    ),
    "depthwise, 8 px": ({"kernel_size": 5, "groups": 4}, 8, ("grouped", "one by one", "pixel products")),
    "depthwise, 9 px": ({"kernel_size": 5, "groups": 4}, 9, ("grouped", "one by one")),
}


@pytest.mark.parametrize("name", PLAIN)
def test_each_kind_of_layer_has_its_algorithms(name: str) -> None:
    options, side, expected = PLAIN[name]
    torch.manual_seed(0)
    layer = in_channels(nn.Conv2d(4, 4, **options).double(), 3, ("weight", "bias"))
    assert assert_algorithms_agree(layer, torch.randn(2, 12, side, side, dtype=torch.float64)) == expected
    alone = in_channels(nn.Conv2d(4, 4, **options).double(), 1, ("weight", "bias"))
    without_loop = tuple(algorithm for algorithm in expected if algorithm != "one by one")
    assert alone.algorithms(torch.randn(2, 4, side, side)) == without_loop


@pytest.mark.parametrize("algorithm", ["products", "pixel sums", "pixel products"])
def test_half_precision_is_that_of_a_convolution(algorithm: str) -> None:
    torch.manual_seed(0)
    options = {"kernel_size": 1} if algorithm == "products" else {"kernel_size": 3, "padding": 1, "groups": 8}
    layer, inputs = in_channels(nn.Conv2d(8, 8, **options), 2, ("weight", "bias")), torch.randn(3, 16, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        expected = values_and_gradients(layer, inputs, torch.channels_last)
        layer.algorithm = algorithm
        found = values_and_gradients(layer, inputs, torch.channels_last)
    for of_algorithm, of_grouped in zip(found, expected, strict=True):
        assert of_algorithm.dtype == of_grouped.dtype
        torch.testing.assert_close(of_algorithm, of_grouped, rtol=0.05, atol=0.1)


def test_products_write_channels_last_memory() -> None:
    layer = in_channels(nn.Conv2d(4, 6, 1), 3, ("weight",))
    layer.algorithm = "products"
    outputs = layer(torch.randn(2, 12, 5, 5).to(memory_format=torch.channels_last))
    assert outputs.is_contiguous(memory_format=torch.channels_last)


def test_only_plain_convolutions_are_adopted() -> None:
    class Own(nn.Conv2d):
        pass

    for layer in (Own(2, 2, 3), nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.Linear(2, 2)):
        EpisodeConv2d.adopt(layer, 2)  # type: ignore[arg-type]  # another kind of layer
        assert not isinstance(layer, EpisodeConv2d)


class FakeTimer:
    """Pretends that an algorithm is the fastest, or runs out of memory, and counts what is timed."""

    def __init__(self, layers: list[Tunable], fastest: str, refused: dict[str, Exception] | None = None) -> None:
        self.layers, self.fastest, self.refused = layers, fastest, refused or {}
        self.timed: set[tuple[str, torch.Size]] = set()

    def __call__(self, run: Callable[[], Any]) -> float:
        running: list[tuple[Tunable, Tensor]] = []
        hooks = [
            layer.register_forward_pre_hook(lambda layer, inputs: running.append((layer, inputs[0])))
            for layer in self.layers
        ]
        run()
        for hook in hooks:
            hook.remove()
        ((layer, inputs),) = running
        self.timed.add((layer.algorithm, inputs.shape))
        if layer.algorithm in self.refused:
            raise self.refused[layer.algorithm]
        return 1.0 if layer.algorithm == self.fastest else 2.0


def network_of_episodes(episodes: int) -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 4, 3, groups=4),
    )
    return widened(network, episodes)


def layers_of(network: nn.Module) -> list[Tunable]:
    return [layer for layer in network.modules() if isinstance(layer, Tunable)]


EXPECTED = {
    "unfolded": ["unfolded", "unfolded", "unfolded", "grouped", "grouped"],
    "products": ["grouped", "grouped", "grouped", "products", "grouped"],
    "pixel sums": ["grouped"] * 4 + ["pixel sums"],
    "one by one": ["one by one"] * 5,
}


@pytest.mark.parametrize("fastest", EXPECTED)
@pytest.mark.parametrize("trained", [r"weight", r"bias", r"nothing"])
def test_each_layer_takes_the_fastest_of_its_algorithms(fastest: str, trained: str) -> None:
    network = network_of_episodes(2)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.endswith(trained))
    layers = layers_of(network)
    choose_algorithms(network, torch.randn(2, 6, 6, 6), FakeTimer(layers, fastest))
    expected = EXPECTED[fastest]
    assert [layer.algorithm for layer in layers] == expected


def test_layers_of_one_shape_are_timed_once() -> None:
    network = network_of_episodes(2)
    timer = FakeTimer(layers_of(network), "unfolded")
    choose_algorithms(network, torch.randn(2, 6, 6, 6), timer)
    assert len([timed for timed in timer.timed if timed[0] == "unfolded"]) == 2, "of three and of four channels"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("no kernel")], ids=repr)
def test_an_algorithm_that_fails_leaves_the_others(error: Exception) -> None:
    network = network_of_episodes(2)
    layers = layers_of(network)
    choose_algorithms(network, torch.randn(2, 6, 6, 6), FakeTimer(layers, "unfolded", {"unfolded": error}))
    assert {layer.algorithm for layer in layers} == {"grouped"}
    refused = {algorithm: error for algorithm in ALGORITHMS if algorithm != "one by one"}
    choose_algorithms(network, torch.randn(2, 6, 6, 6), FakeTimer(layers, "grouped", refused))
    assert {layer.algorithm for layer in layers} == {"one by one"}
    choose_algorithms(network, torch.randn(2, 6, 6, 6), FakeTimer(layers, "", dict.fromkeys(ALGORITHMS, error)))
    assert {layer.algorithm for layer in layers} == {"grouped"}


def test_running_out_of_memory_for_real_leaves_the_grouped_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Tensor:
        return torch.empty(1 << 60, dtype=torch.uint8)

    for name in ("_one_by_one", "_products", "_unfolded", "_pixel_sums", "_pixel_products"):
        monkeypatch.setattr(EpisodeConv2d, name, refuse)
    monkeypatch.setattr(trials, "_KNOWN", {})
    monkeypatch.setattr(trials, "_MADE", {})
    network, inputs = network_of_episodes(2), torch.randn(2, 6, 6, 6)
    choose_algorithms(network, inputs)
    assert {layer.algorithm for layer in layers_of(network)} == {"grouped"}


def test_timing_leaves_no_trace_but_the_choice() -> None:
    network, inputs = network_of_episodes(2), torch.randn(2, 6, 8, 8)
    before = network(inputs).detach()
    choose_algorithms(network, inputs)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(not layer._forward_pre_hooks for layer in layers_of(network))
    torch.testing.assert_close(network(inputs).detach(), before)


class Small(nn.Module):
    """A network of convolutions whose layers can be stacked in the channels and in rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4))

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.layers(images).mean((2, 3))
        return outputs


@pytest.mark.parametrize("fastest", ["channels", "rows"])
def test_the_layout_that_trains_faster_is_taken(fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    from fewshot_bench.finetuning import stacking

    asked = []

    def choose(trials_: Any, device: torch.device) -> dict[str, str]:
        (trial,) = trials_
        asked.append(list(trial.candidates))
        for run in trial.candidates.values():
            run()
        return {trial.key: fastest}

    monkeypatch.setattr(stacking, "choose", choose)
    network, sample = Small().eval(), torch.randn(2, 3, 6, 6)
    names = [name for name, _ in network.named_parameters()]
    step = stacking.TrainingStep(4, nullcontext)
    assert stack_network(network, names, 2, sample, step=step).layout == fastest
    assert asked == [["channels", "rows"]]
    assert stack_network(network, names, 2, sample).layout == "channels", "without a step nothing is tried"
