"""Stacked copies of a network give what the network gives with each copy's weights, or are refused."""

from __future__ import annotations

import pytest
import torch
from tiny_episodes import SIDE, made_network
from torch import nn
from torch.func import functional_call

from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.frozen_prefix import frozen_prefix
from fewshot_bench.finetuning.stacking import stack_network
from fewshot_bench.finetuning.tuned_parameters import perturbed

pytestmark = pytest.mark.slow

NETWORKS = {
    "conv4_32": ({}, "channels"),
    "resnet18": ({}, "channels"),
    "tf_efficientnet_lite0": ({}, "channels"),
    "vit_tiny_patch16_224": ({"depth": 2}, "rows"),
    "beit3_base_patch16_224": ({"depth": 2, "embed_dim": 48, "num_heads": 2}, "rows"),
    "convnext_atto": ({"depths": (1, 1, 1, 1)}, "vmap"),
    "beit_base_patch16_224": ({"depth": 2, "embed_dim": 48, "num_heads": 2}, "vmap"),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def network_of(name: str) -> nn.Module:
    size = 32 if name in ("resnet18", "tf_efficientnet_lite0", "convnext_atto") else SIDE
    network = made_network(name, **NETWORKS[name][0]).eval()
    network.side = size
    return network


def images_for(network: nn.Module, count: int) -> torch.Tensor:
    return torch.randn(count, 3, network.side, network.side, generator=torch.Generator().manual_seed(1))


@every_network
def test_every_copy_embeds_with_its_own_weights_and_the_fastest_faithful_way_is_taken(name):
    network = network_of(name)
    names = [name for name, _ in network.named_parameters()]
    images = images_for(network, 6).view(3, 2, 3, network.side, network.side)
    stack = stack_network(network, names, 3, images[0])
    assert stack.layout == NETWORKS[name][1]
    generator = torch.Generator().manual_seed(2)
    weights = {
        n: torch.stack([perturbed(p.detach(), generator) for _ in range(3)]) for n, p in network.named_parameters()
    }
    with torch.no_grad():
        for own, weight in weights.items():
            stack.weights(own).copy_(weight)
        found = stack(images)
        for copy in range(3):
            expected = functional_call(network, {n: w[copy] for n, w in weights.items()}, (images[copy],))
            torch.testing.assert_close(found[copy], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@every_network
def test_a_gradient_of_one_episode_reaches_no_other(name):
    network = network_of(name)
    names = [name for name, _ in network.named_parameters()][-6:]
    images = images_for(network, 4).view(2, 2, 3, network.side, network.side)
    stack = stack_network(network, names, 2, images[0])
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for own in names:  # some networks begin with zeros, behind which nothing learns
            stack.weights(own).copy_(perturbed(stack.weights(own), generator))
    stack(images)[1].square().sum().backward()
    for own in names:
        gradient = stack.trainable[own].grad
        assert gradient is not None
        of_each = gradient.reshape(2, -1)
        assert (of_each[0] == 0).all()
        assert (of_each[1] != 0).any()


@every_network
def test_load_gives_every_copy_the_weights_of_the_network(name):
    network = network_of(name)
    first = dict(network.named_parameters())
    names = list(first)[:4]
    stack = stack_network(network, names, 3, images_for(network, 2))
    with torch.no_grad():
        for own in names:
            stack.weights(own).add_(1)
    stack.load({own: first[own].detach() for own in names})
    for own in names:
        assert all(torch.equal(copy, first[own]) for copy in stack.weights(own))


class MixesItsBatch(nn.Module):
    """An embedding that depends on the other images, as no network in evaluation mode should."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 4)

    def forward(self, images):
        features = self.linear(images.flatten(1))
        return features - features.flatten().sort().values[0] * torch.tensor(float(len(features)))


class ShufflesChannels(nn.Module):
    """Convolutions whose channels meet outside of them: side by side, episodes would meet too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)

    def forward(self, images):
        return self.convolution(images).flip(1).cumsum(1).mean((2, 3))


def test_a_network_whose_channels_meet_outside_of_layers_is_not_stacked_in_the_channels():
    network, sample = ShufflesChannels().eval(), torch.randn(2, 3, 8, 8)
    names = [name for name, _ in network.named_parameters()]
    assert stack_network(network, names, 2, sample).layout == "rows"
    with pytest.raises(StudyError, match="in the layout channels"):
        stack_network(network, names, 2, sample, layout="channels")


def test_a_network_that_mixes_its_batch_is_refused_in_one_sentence_unless_vmap_keeps_episodes_apart():
    network, sample = MixesItsBatch().eval(), torch.randn(2, 3, 2, 2)
    names = [name for name, _ in network.named_parameters()]
    assert stack_network(network, names, 2, sample).layout == "vmap"
    with pytest.raises(StudyError, match="MixesItsBatch cannot be fine-tuned for many episodes at once"):
        stack_network(network, names, 2, sample, layout="rows")


@pytest.mark.parametrize(
    ("name", "first_tuned", "cut"),
    [
        ("conv4_32", "blocks.2.0.weight", (32, SIDE // 4, SIDE // 4)),
        ("vit_tiny_patch16_224", "blocks.1.norm1.weight", (2, 192)),
        ("resnet18", "layer3.0.conv1.weight", (128, 4, 4)),
        ("beit3_base_patch16_224", "blocks.1.norm1.weight", (2, 48)),
    ],
)
def test_what_comes_before_the_first_tuned_layer_is_cut_off_there(name, first_tuned, cut):
    network = network_of(name)
    names = [own for own, _ in network.named_parameters()]
    tuned = names[names.index(first_tuned) :]
    images = images_for(network, 2)
    prefix = frozen_prefix(network, tuned, images)
    assert prefix is not None
    with torch.no_grad():
        activation = prefix.first(images)
        assert activation.shape == (2, *cut)
        torch.testing.assert_close(prefix.rest(activation), network(images), rtol=1e-4, atol=1e-5)


def test_the_prefix_is_not_run_again_behind_the_cut():
    network = network_of("conv4_32")
    ran = []
    network.blocks[0].register_forward_hook(lambda *_: ran.append("first"))
    network.blocks[3].register_forward_hook(lambda *_: ran.append("last"))
    names = [own for own, _ in network.named_parameters() if own.startswith("blocks.3")]
    images = images_for(network, 2)
    prefix = frozen_prefix(network, names, images)
    ran.clear()
    activation = prefix.first(images)
    assert ran == ["first"]
    prefix.rest(activation)
    assert ran == ["first", "last"]


def test_nothing_is_cut_off_where_training_begins_at_the_first_layer():
    network = network_of("conv4_32")
    assert frozen_prefix(network, ["blocks.0.0.weight"], images_for(network, 2)) is None


class HasABypass(nn.Module):
    """The second layer sees the image again, by a branch that is zero before training."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.branch = nn.Conv2d(3, 4, 1)
        nn.init.zeros_(self.branch.weight)
        nn.init.zeros_(self.branch.bias)

    def forward(self, images):
        return (self.second(self.first(images)) + self.branch(images)).mean((2, 3))


class UsesAWeightPastItsLayer(nn.Module):
    """The first layer is never called; its weight is used by hand, as BEiT does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.by_hand = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, images):
        features = self.stem(images).mean((2, 3))
        return self.norm(nn.functional.linear(features, self.by_hand.weight))


def test_a_tuned_weight_that_is_used_past_its_layer_is_never_in_front_of_a_cut():
    network, images = UsesAWeightPastItsLayer().eval(), torch.randn(2, 3, 8, 8)
    tuned = ["by_hand.weight", "norm.weight"]
    prefix = frozen_prefix(network, tuned, images)
    with torch.no_grad():
        activation = None if prefix is None else prefix.first(images)
        rest = network if prefix is None else prefix.rest
        path = "by_hand" if prefix is None else "network.by_hand"
        rest.get_submodule(path).weight.add_(1)
        if prefix is not None:
            network.by_hand.weight.add_(1)
            torch.testing.assert_close(rest(activation), network(images))


def test_a_branch_that_is_zero_at_first_is_seen_to_bypass_a_cut():
    network, images = HasABypass().eval(), torch.randn(2, 3, 8, 8)
    assert frozen_prefix(network, ["second.weight"], images) is not None
    assert frozen_prefix(network, ["second.weight", "branch.weight"], images) is None
