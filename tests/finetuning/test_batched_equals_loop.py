"""Many episodes at once give what one after another gives.

In float64 to the last digits, for everything that can be tuned. In float32 Adam divides gradients by their own size,
and so makes rounding errors grow from step to step in any two orders of summation; at the paper's learning rate they
stay below 1e-4 for 20 steps.
"""

from __future__ import annotations

import pytest
import torch
from tiny_episodes import drawn, made_network, setup

from fewshot_bench.cache import trials
from fewshot_bench.finetuning.recipe import EpisodeRecipe

pytestmark = pytest.mark.slow

STEPS = 20

CONVOLUTIONS = [
    {},
    {"loss": "ce+schane"},
    {"loss": "ce+supcon", "reading": "out", "tune": "last:1"},
    {"loss": "ce+simclr", "tune": "norm"},
    {"loss": "ce+schane", "stop_gradient": "beta", "anchors": "sum"},
    {"tune": "bias", "optimizer": "adam"},
    {"tune": "bias", "optimizer": "adam", "decays": "all", "weight_decay": 1.0},
    {"tune": "lora:4"},
    {"tune": "lora:4+last:2", "loss": "ce+schane"},
    {"bn": "support"},
    {"bn": "transductive", "loss": "ce+schane"},
    {"views": 4},
    {"views": 0, "tune": "last:2"},
    {"start": "zero", "dropout": 0.0, "schedule": "cosine", "warmup_epochs": 2},
    {"tune": "head", "views": 0},
    {"start": "support"},
    {"on": "logits", "start": "support", "query_entropy": 1.0, "optimizer": "adam"},
    {"on": "logits", "tune": "last:1", "query_entropy": 0.5},
    {"on": "logits", "tune": "bias", "start": "zero"},
    {"on": "logits", "tune": "lora:2", "start": "support", "query_entropy": 1.0},
    {"query_entropy": 1.0, "bn": "support", "start": "support"},
    {"query_entropy": 1.0, "bn": "transductive", "loss": "ce+schane"},
    {"tune": "head", "views": 0, "on": "logits", "query_entropy": 1.0, "start": "support"},
]


@pytest.fixture(scope="module")
def conv4():
    return made_network("conv4_32")


@pytest.fixture(scope="module")
def narrow_resnet12():
    """ResNet-12 with a tenth of its channels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewshot_bench.backbones.networks._RESNET12_WIDTHS", (8, 16, 32, 64))
        return made_network("resnet12")


@pytest.fixture(scope="module")
def transformer():
    return made_network("vit_tiny_patch16_224", depth=3)


def agree(made, indices, tolerance):
    together = made.adapted(indices)
    logits, losses = made.one_by_one(indices)
    torch.testing.assert_close(together.losses, losses, rtol=0, atol=tolerance)
    return together.logits, logits


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("shot", [1, 2])
def test_convolutional_networks_agree_to_the_last_digits(conv4, options, shot):
    recipe = EpisodeRecipe(epochs=3, learning_rate=1e-3, precision="float64", **options)
    found, expected = agree(setup(conv4, recipe, shot=shot), drawn(3, shot=shot), 1e-9)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "ce+schane", "tune": "last:1"},
        {"tune": "norm+last:2"},
        {"tune": "bias"},
        {"tune": "lora:2+last:1"},
        {"on": "logits", "start": "support", "query_entropy": 1.0},
        {"tune": "norm", "on": "logits", "query_entropy": 1.0},
    ],
    ids=str,
)
def test_transformers_agree_to_the_last_digits(transformer, options):
    recipe = EpisodeRecipe(epochs=3, learning_rate=1e-3, precision="float64", **options)
    found, expected = agree(setup(transformer, recipe, shot=2), drawn(3, shot=2), 1e-9)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("options", [{"loss": "ce+schane"}, {"tune": "last:2"}, {"bn": "support"}], ids=str)
def test_residual_networks_agree_to_the_last_digits(narrow_resnet12, options):
    recipe = EpisodeRecipe(epochs=3, learning_rate=1e-3, precision="float64", **options)
    found, expected = agree(setup(narrow_resnet12, recipe, shot=2), drawn(3, shot=2), 1e-9)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("layout", ["channels", "vmap"])
def test_every_way_to_stack_convolutions_agrees(conv4, layout):
    made = setup(conv4, EpisodeRecipe(epochs=3, learning_rate=1e-3, precision="float64"))
    indices = drawn(3)
    logits, _ = made.one_by_one(indices)
    torch.testing.assert_close(made.adapted(indices, layout).logits, logits, rtol=0, atol=1e-8)


@pytest.mark.parametrize("layout", ["rows", "vmap"])
def test_every_way_to_stack_transformers_agrees(transformer, layout):
    made = setup(transformer, EpisodeRecipe(epochs=3, learning_rate=1e-3, precision="float64"))
    indices = drawn(3)
    logits, _ = made.one_by_one(indices)
    torch.testing.assert_close(made.adapted(indices, layout).logits, logits, rtol=0, atol=1e-8)


@pytest.mark.parametrize("loss", ["ce", "ce+schane"])
@pytest.mark.parametrize("name", ["conv4", "transformer"])
def test_losses_agree_in_single_precision_over_20_steps(conv4, transformer, name, loss):
    made = setup({"conv4": conv4, "transformer": transformer}[name], EpisodeRecipe(epochs=STEPS, loss=loss))
    found, expected = agree(made, drawn(8, query=15), 1e-4)
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() >= 0.999


def test_single_precision_is_as_near_to_the_truth_together_as_one_by_one(narrow_resnet12):
    """The random weights of a deep network make rounding grow faster than 1e-4; float64 says who is right."""
    indices, recipe = drawn(4, query=15), EpisodeRecipe(epochs=STEPS, loss="ce+schane")
    exact = setup(narrow_resnet12, EpisodeRecipe(epochs=STEPS, loss="ce+schane", precision="float64")).adapted(indices)
    made = setup(narrow_resnet12, recipe)
    together = (made.adapted(indices).losses - exact.losses).abs().max()
    one_by_one = (made.one_by_one(indices)[1] - exact.losses).abs().max()
    assert together <= 10 * one_by_one + 1e-4
    assert one_by_one < 0.05


def test_half_precision_stays_near_single_precision(transformer):
    indices = drawn(4, shot=2, query=15)
    whole, half = (
        setup(transformer, EpisodeRecipe(epochs=STEPS, precision=precision), shot=2).adapted(indices)
        for precision in ("float32", "bf16")
    )
    assert half.logits.dtype == torch.float32
    torch.testing.assert_close(half.losses, whole.losses, rtol=0.05, atol=0.05)
    assert not torch.equal(half.losses, whole.losses)
    assert (half.logits.argmax(-1) == whole.logits.argmax(-1)).float().mean() > 0.9


@pytest.fixture(scope="module")
def lite0():
    return made_network("tf_efficientnet_lite0")


@pytest.mark.parametrize("place", [1, -1])
@pytest.mark.parametrize("tune", ["last:1", "norm+last:1", "lora:2+last:1"])
def test_every_algorithm_of_a_convolution_agrees_to_the_last_digits(lite0, tune, place, monkeypatch):
    """Whatever a trial would have chosen: here one of the candidates is taken by its place."""
    for known in ("_KNOWN", "_MADE"):
        monkeypatch.setattr(trials, known, {})
    taken = []

    def by_place(candidates, *_):
        taken.append(list(candidates)[min(place, len(candidates) - 1)])
        return taken[-1]

    monkeypatch.setattr(trials, "fastest", by_place)
    recipe = EpisodeRecipe(epochs=3, learning_rate=1e-3, precision="float64", tune=tune)
    found, expected = agree(setup(lite0, recipe), drawn(2), 1e-9)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    assert set(taken) - {"grouped", "channels"}
