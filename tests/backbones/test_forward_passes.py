"""The networks compute what the papers describe, alone and with the parameters of several stacked by vmap."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import batch_norm, conv2d, leaky_relu, max_pool2d, relu

import fewshot_bench.backbones  # noqa: F401  # registers the networks with timm

pytestmark = pytest.mark.slow

SIZES = {"conv4_32": 16, "conv4_64": 16, "conv4_64_gap": 16, "resnet12": 16, "wrn28_10": 4}
TUNED: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "normalisation": lambda name: "bn" in name or ".1." in name,
    "one branch": lambda name: "downsample" in name or "convShortcut" in name or "blocks.3" in name,
}


@cache
def made(name: str, seed: int) -> nn.Module:
    """A network in evaluation whose normalisations are not the identity."""
    torch.manual_seed(seed)
    network = timm.create_model(name, img_size=SIZES[name]).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    statistics = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return batch_norm(x, *statistics, state[f"{name}.weight"], state[f"{name}.bias"])


def resnet12_of_the_paper(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    for layer in ("layer1.0", "layer2.0", "layer3.0", "layer4.0"):
        inner = x
        for i in (1, 2, 3):
            inner = norm(conv2d(inner, state[f"{layer}.conv{i}.weight"], padding=1), state, f"{layer}.bn{i}")
            inner = leaky_relu(inner, 0.1) if i < 3 else inner
        beside = norm(conv2d(x, state[f"{layer}.downsample.0.weight"]), state, f"{layer}.downsample.1")
        x = max_pool2d(leaky_relu(inner + beside, 0.1), 2)
    return x.mean((2, 3))


def wrn28_10_of_the_paper(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    x = conv2d(x, state["conv1.weight"], padding=1)
    for group, group_stride in ((1, 1), (2, 2), (3, 2)):
        for i in range(4):
            block, stride = f"block{group}.layer.{i}", group_stride if i == 0 else 1
            active = relu(norm(x, state, f"{block}.bn1"))
            inner = relu(norm(conv2d(active, state[f"{block}.conv1.weight"], None, stride, 1), state, f"{block}.bn2"))
            beside = x if i else conv2d(active, state[f"{block}.convShortcut.weight"], None, stride)
            x = beside + conv2d(inner, state[f"{block}.conv2.weight"], padding=1)
    return relu(norm(x, state, "bn1")).mean((2, 3))


@pytest.mark.parametrize(
    ("name", "of_the_paper", "size"), [("resnet12", resnet12_of_the_paper, 37), ("wrn28_10", wrn28_10_of_the_paper, 13)]
)
def test_embeddings_are_those_of_the_paper_s_definition(name, of_the_paper, size):
    network = made(name, 0)
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        expected = of_the_paper(images, network.state_dict())
        assert expected.std() > 0.01
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)


def split_by(network: nn.Module, others: list[nn.Module], tuned: str):
    """Parameters that are stacked over networks, with the rest of the first network's tensors."""
    stacked, _ = stack_module_state([network, *others])
    moving = {name: tensor.detach() for name, tensor in stacked.items() if TUNED[tuned](name)}
    fixed = {name: tensor.detach() for name, tensor in network.state_dict().items() if name not in moving}
    assert moving
    return moving, fixed


@pytest.mark.parametrize("tuned", TUNED)
@pytest.mark.parametrize("name", SIZES)
def test_stacked_parameters_give_what_a_loop_gives(name, tuned):
    network = made(name, 0)
    moving, fixed = split_by(network, [made(name, 1)], tuned)
    images = torch.rand(2, 1, 3, SIZES[name], SIZES[name])
    shares_images = tuned == "one branch"  # then what comes before that branch is not stacked either
    if shares_images:
        images[1] = images[0]

    def squares(parameters: dict[str, Tensor], pixels: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = functional_call(network, {**fixed, **parameters}, (pixels,))
        return embeddings.square().mean(), embeddings

    batched = vmap(grad(squares, has_aux=True), in_dims=(0, None if shares_images else 0))
    gradients, embeddings = batched(moving, images[0] if shares_images else images)
    for i in range(2):
        own = {key: tensor[i] for key, tensor in moving.items()}
        one_gradient, one = grad(squares, has_aux=True)(own, images[i])
        torch.testing.assert_close(embeddings[i], one, rtol=1e-3, atol=1e-5)
        assert one.std() > 0
        for key, tensor in one_gradient.items():
            scale = tensor.abs().max().item()
            torch.testing.assert_close(gradients[key][i], tensor, rtol=1e-3, atol=1e-3 * scale + 1e-7)
