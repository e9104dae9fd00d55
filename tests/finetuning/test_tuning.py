"""What --tune says is what is trained, and nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

import fewshot_bench.backbones  # noqa: F401  # registers the literature's networks with timm
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.tuned_parameters import DEFAULT_RANK, Tuning, parse_tuning, perturbed, tuned_network

SIDE = 32
BLOCKS = {
    "conv4_64": lambda number: f"blocks.{number}.",
    "resnet12": lambda number: f"layer{number + 1}.",
    "vit": lambda number: f"blocks.{number}.",
}
NORMS = {
    "conv4_64": r"blocks\.\d\.1\.(weight|bias)",
    "resnet12": r"layer\d\.0\.(bn\d|downsample\.1)\.(weight|bias)",
    "vit": r"(blocks\.\d\.norm\d|norm)\.(weight|bias)",
}
LAYERS = {
    "conv4_64": r"blocks\.\d\.0",
    "resnet12": r"layer\d\.0\.(conv\d|downsample\.0)",
    "vit": r"blocks\.\d\.(attn\.(qkv|proj)|mlp\.fc\d)",
}
every_network = pytest.mark.parametrize("name", BLOCKS)


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """Four blocks each."""
    torch.manual_seed(0)
    conv4, resnet12 = (timm.create_model(name, num_classes=0, img_size=SIDE) for name in ("conv4_64", "resnet12"))
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=SIDE, depth=4)
    return {"conv4_64": conv4.eval(), "resnet12": resnet12.eval(), "vit": vit.eval()}


def names(network: nn.Module) -> set[str]:
    return {name for name, _ in network.named_parameters()}


def within(name: str, last: int, found: set[str]) -> set[str]:
    """Those in the last blocks or after them."""
    prefixes = (*[BLOCKS[name](number) for number in range(4 - last, 4)], "norm.")
    return {own for own in found if own.startswith(prefixes)}


def images() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", Tuning("all")),
        ("last:1", Tuning("all", 1)),
        ("last:12", Tuning("all", 12)),
        ("norm", Tuning("norm")),
        ("bias", Tuning("bias")),
        ("head", Tuning("head")),
        ("lora", Tuning("lora", rank=DEFAULT_RANK)),
        ("lora:4", Tuning("lora", rank=4)),
        ("norm+last:2", Tuning("norm", 2)),
        ("bias+last:2", Tuning("bias", 2)),
        ("lora+last:3", Tuning("lora", 3, DEFAULT_RANK)),
        ("lora:16+last:3", Tuning("lora", 3, 16)),
    ],
)
def test_every_form_is_read(text: str, expected: Tuning) -> None:
    assert parse_tuning(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            "+",
            "al",
            "ALL",
            "all ",
            "last",
            "last:",
            "last:0",
            "last:-1",
            "last:1.5",
            "last:two",
            "norm+",
            "+last:1",
        ],
        *[
            "all+last:1",
            "head+last:1",
            "norm+bias",
            "last:2+norm",
            "lora:",
            "lora:-1",
            "lora:x",
            "norm:2",
            "normlast:1",
        ],
        *["last:1\n", "last:٣", "last:" + "9" * 5000, "lora:" + "9" * 5000],
    ],
    ids=lambda text: repr(text[:20]),
)
def test_everything_else_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(StudyError) as error:
        parse_tuning(text)
    expectation = "tune of finetune should be all, last:N, norm, bias, lora, lora:RANK or head, or norm+last:N"
    assert str(error.value).startswith(expectation)
    assert f"not '{text}'." in str(error.value)


def test_a_rank_of_nothing_is_refused() -> None:
    for text in ("lora:0", "lora:00+last:1"):
        with pytest.raises(StudyError, match="the rank of lora should be 1 or more, not 0"):
            parse_tuning(text)


pieces = st.sampled_from(["all", "norm", "bias", "head", "lora", "last", ":", "+", "0", "1", "12", " ", "x"])


@given(st.one_of(st.text(max_size=20), st.lists(pieces, max_size=7).map("".join)))
@example("lora:8+last:2")
@example("last:12")
def test_any_text_is_read_or_refused_and_reads_as_it_is_written(text: str) -> None:
    try:
        tuning = parse_tuning(text)
    except StudyError:
        return
    assert tuning.rank >= 1
    assert tuning.last is None or tuning.last >= 1
    last = [] if tuning.last is None else [f"last:{tuning.last}"]
    kinds = [tuning.kind] if tuning.kind != "lora" else ["lora", f"lora:{tuning.rank}"]
    written = {"+".join([kind, *last]) for kind in kinds} | ({last[0]} if last and tuning.kind == "all" else set())
    assert re.sub(r"(?<=:)0+(?=\d)", "", text) in written


@pytest.mark.slow
@every_network
def test_all_and_last_blocks_are_named(networks: dict[str, nn.Module], name: str) -> None:
    network = networks[name]
    assert tuned_network(network, "all").tuned == tuple(own for own, _ in network.named_parameters())
    for last in (1, 2, 3):
        found = set(tuned_network(network, f"last:{last}").tuned)
        assert found == within(name, last, names(network))
        assert found < names(network)
    assert ("norm.weight" in names(network)) == (name == "vit"), "what comes after the last block goes with it"


@every_network
def test_norms_are_named(networks: dict[str, nn.Module], name: str) -> None:
    expected = {own for own in names(networks[name]) if re.fullmatch(NORMS[name], own)}
    assert expected
    assert set(tuned_network(networks[name], "norm").tuned) == expected
    assert set(tuned_network(networks[name], "norm+last:2").tuned) == within(name, 2, expected) < expected


@every_network
def test_biases_are_named(networks: dict[str, nn.Module], name: str) -> None:
    expected = {own for own in names(networks[name]) if own.split(".")[-1] == "bias"}
    assert expected
    assert set(tuned_network(networks[name], "bias").tuned) == expected
    assert set(tuned_network(networks[name], "bias+last:1").tuned) == within(name, 1, expected) < expected


@every_network
def test_a_head_alone_trains_nothing_of_the_network(networks: dict[str, nn.Module], name: str) -> None:
    assert tuned_network(networks[name], "head").tuned == ()


@pytest.mark.slow
@every_network
@pytest.mark.parametrize("last", [None, 1, 2])
def test_adapters_are_on_every_allowed_layer_and_no_other(
    networks: dict[str, nn.Module], name: str, last: int | None
) -> None:
    pytest.importorskip("peft")
    network = networks[name]
    layers = {path for path, _ in network.named_modules() if re.fullmatch(LAYERS[name], path)}
    expected = layers if last is None else within(name, last, layers)
    found = tuned_network(network, "lora:2" if last is None else f"lora:2+last:{last}")
    assert {own.split(".lora_")[0] for own in found.tuned} == expected
    assert len(found.tuned) == 2 * len(expected)
    assert all(found.network.get_parameter(own).numel() for own in found.tuned)
    assert {own for own in names(found.network) if "lora" in own} == set(found.tuned)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_adapters_have_the_rank_that_was_asked_for(networks: dict[str, nn.Module], rank: int) -> None:
    pytest.importorskip("peft")
    found = tuned_network(networks["vit"], f"lora:{rank}")
    for own in found.tuned:
        shape = found.network.get_parameter(own).shape
        assert shape["lora_B" in own] == rank, own


@pytest.mark.slow
@every_network
def test_adapters_change_no_embedding_at_the_start_but_do_once_trained(
    networks: dict[str, nn.Module], name: str
) -> None:
    pytest.importorskip("peft")
    found = tuned_network(networks[name], "lora:2")
    with torch.no_grad():
        expected = networks[name](images())
        torch.testing.assert_close(found.network(images()), expected, rtol=1e-5, atol=1e-6)
        generator = torch.Generator().manual_seed(0)
        for own in found.tuned:
            parameter = found.network.get_parameter(own)
            parameter.copy_(perturbed(parameter, generator))
        assert not torch.allclose(found.network(images()), expected, rtol=1e-3)


def test_the_seed_decides_the_adapters_and_leaves_other_random_numbers_alone(networks: dict[str, nn.Module]) -> None:
    pytest.importorskip("peft")
    state = torch.get_rng_state()
    one, same, other = (tuned_network(networks["vit"], "lora", seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    for own in one.tuned:
        first, second, third = (made.network.get_parameter(own) for made in (one, same, other))
        assert torch.equal(first, second)
        assert torch.equal(first, third) == ("lora_B" in own), own


@pytest.mark.slow
@every_network
@pytest.mark.parametrize("text", ["all", "last:1", "norm", "bias", "head", "lora:2"])
def test_the_network_passed_in_is_left_as_it_is(networks: dict[str, nn.Module], name: str, text: str) -> None:
    if text.startswith("lora"):
        pytest.importorskip("peft")
    network = networks[name].train()
    before = {own: value.clone() for own, value in network.state_dict().items()}
    modules = [path for path, _ in network.named_modules()]
    made = tuned_network(network, text).network
    assert network.training
    assert not made.training
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1)
    assert [path for path, _ in network.named_modules()] == modules
    assert all(torch.equal(value, before[own]) for own, value in network.state_dict().items())
    network.eval()


class Nested(nn.Module):
    """A layer whose path ends like that of another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.add_module("out", nn.Linear(4, 4))
        self.out = nn.Linear(4, 4)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.out(self.stem(rows))
        return out


def test_a_layer_whose_name_ends_like_an_allowed_one_has_no_adapter() -> None:
    pytest.importorskip("peft")
    assert {own.split(".lora_")[0] for own in tuned_network(Nested(), "lora:1+last:1").tuned} == {"out"}


def test_asking_for_more_blocks_than_there_are_is_refused(networks: dict[str, nn.Module]) -> None:
    for text in ("last:5", "norm+last:5", "lora+last:5"):
        with pytest.raises(StudyError, match=r"has 4 blocks; last:5 asks for 5\. Use last:4 or fewer"):
            tuned_network(networks["conv4_64"], text)


def test_having_nothing_to_train_is_refused() -> None:
    bare = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False))
    for text in ("norm", "bias"):
        with pytest.raises(StudyError, match=f"--tune {text} trains nothing: Sequential has no such weights there"):
            tuned_network(bare, text)
    with pytest.raises(StudyError, match="LayerNorm has no linear layer or convolution there for --tune lora"):
        tuned_network(nn.LayerNorm(4), "lora")


def test_without_peft_one_sentence_says_what_to_install(
    networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(StudyError) as error:
        tuned_network(networks["vit"], "lora:2")
    assert str(error.value) == "--tune lora needs the package peft. Run: pip install 'fewshot-bench[lora]'"
    extras = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^lora = \["peft', extras, re.MULTILINE), "what it says to install brings peft"
