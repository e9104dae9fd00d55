"""The classifier of the base classes stays beside the backbone: kept, checked, and never a part of its identity."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fewshot_bench.backbones import BackboneRequest, BaseHead, create_backbone, read_base_head
from fewshot_bench.backbones.weights_file import PREFIX, read_weights
from fewshot_bench.errors import WeightsError
from fewshot_bench.training import load_checkpoint, load_network, save_checkpoint
from fewshot_bench.training.checkpoints import save_tensors

NAMES = ("cat", "dog", "heron")


def head(size: int = 8) -> BaseHead:
    torch.manual_seed(0)
    return BaseHead(torch.randn(3, size), torch.randn(3), NAMES)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "mine.safetensors", network(), {"what": "a test"}, head())
    return tmp_path / "mine.safetensors"


def test_backbone_and_head_come_back_apart(path: Path) -> None:
    weights, found, metadata = load_network(path, 8)
    network().load_state_dict(weights)  # the very names of the backbone
    assert found is not None
    assert torch.equal(found.weight, head().weight)
    assert torch.equal(found.bias, head().bias)
    assert found.classes == NAMES
    assert found.digest == head().digest
    assert metadata["what"] == "a test"


def test_a_head_gives_the_logits_of_the_layer_it_was_made_of() -> None:
    trained = nn.Sequential(nn.Dropout(0.1), nn.Linear(8, 3)).eval()
    embeddings = torch.randn(5, 8)
    torch.testing.assert_close(BaseHead.of(trained, NAMES)(embeddings), trained(embeddings))


def test_a_cosine_head_comes_back_as_one_and_never_sees_the_length_of_an_embedding(tmp_path: Path) -> None:
    cosine = replace(head(), kind="cosine")
    save_checkpoint(tmp_path / "cosine.safetensors", network(), {}, cosine)
    _, found, _ = load_network(tmp_path / "cosine.safetensors", 8)
    assert found is not None
    assert found.kind == "cosine"
    embeddings = torch.randn(5, 8)
    expected = embeddings / embeddings.norm(dim=1, keepdim=True) @ cosine.weight.T + cosine.bias
    torch.testing.assert_close(found(7 * embeddings), expected)


def test_a_checkpoint_from_before_heads_were_kept_has_none(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "old.safetensors", network(), {})
    weights, found, _ = load_network(tmp_path / "old.safetensors", 8)
    assert set(weights) == set(network().state_dict())
    assert found is None


def test_the_head_changes_neither_the_identity_of_a_backbone_nor_how_its_file_serves_as_weights(path: Path) -> None:
    backbone = create_backbone(BackboneRequest("conv4_32", 3, 16))
    assert replace(backbone, base_head=head(backbone.embedding_size)).weights == backbone.weights
    assert set(read_weights(path)) == set(network().state_dict())
    assert any(name.startswith(PREFIX) for name in load_file(path))


def test_other_weights_are_another_head_and_other_names_are_not() -> None:
    assert replace(head(), bias=head().bias + 1).digest != head().digest
    assert replace(head(), weight=head().weight * 2).digest != head().digest
    assert replace(head(), classes=("a", "b", "c")).digest == head().digest


Forged = Callable[[dict[str, Tensor], dict[str, str]], Any]
WEIGHT, BIAS = PREFIX + "weight", PREFIX + "bias"
CARD = "base_head"


def card(**changes: Any) -> str:
    return json.dumps({"kind": "linear", "classes": NAMES, **changes})


FORGERIES: dict[str, tuple[Forged, str]] = {
    "no bias": (lambda t, m: t.pop(BIAS), "should hold a weight and a bias"),
    "a third tensor": (lambda t, m: t.update({PREFIX + "scale": torch.ones(1)}), "and nothing else of it"),
    "no tensors": (lambda t, m: (t.pop(BIAS), t.pop(WEIGHT)), "should hold a weight and a bias"),
    "no card": (lambda t, m: m.pop(CARD), "does not say what its base classifier is"),
    "no JSON": (lambda t, m: m.update({CARD: "{"}), "does not say what"),
    "deep JSON": (lambda t, m: m.update({CARD: "[" * 100_000}), "does not say what"),
    "no mapping": (lambda t, m: m.update({CARD: "[1]"}), "does not say what"),
    "another kind": (lambda t, m: m.update({CARD: card(kind="tree")}), "of another kind than a linear or a cosine"),
    "classes that are no names": (lambda t, m: m.update({CARD: card(classes=[1, 2, 3])}), "does not name the classes"),
    "one class": (lambda t, m: m.update({CARD: card(classes=["a"])}), "does not name the classes"),
    "a class twice": (lambda t, m: m.update({CARD: card(classes=["a", "a", "b"])}), "two or more different names"),
    "classes too many": (lambda t, m: m.update({CARD: card(classes=["a", "b", "c", "d"])}), "for 4 classes with"),
    "half precision": (lambda t, m: t.update({WEIGHT: t[WEIGHT].half()}), "that is not of float32"),
    "whole numbers": (lambda t, m: t.update({BIAS: t[BIAS].long()}), "that is not of float32"),
    "three axes": (lambda t, m: t.update({WEIGHT: t[WEIGHT][None]}), "[C, D] and [C] are expected"),
    "no numbers at all": (lambda t, m: t.update({WEIGHT: t[WEIGHT][:, :0]}), "[C, D] and [C] are expected"),
    "a bias too long": (lambda t, m: t.update({BIAS: torch.zeros(4)}), "[C, D] and [C] are expected"),
    "another size": (lambda t, m: t.update({WEIGHT: t[WEIGHT][:, :5].clone()}), "for embeddings of 5 numbers"),
    "infinite": (lambda t, m: t[WEIGHT].fill_(torch.inf), "values that are not finite"),
    "not a number": (lambda t, m: t[BIAS].fill_(torch.nan), "values that are not finite"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_head_is_refused_in_one_line(name: str, path: Path) -> None:
    forge, reason = FORGERIES[name]
    tensors, metadata = load_checkpoint(path)
    tensors = {key: value.clone() for key, value in tensors.items()}
    forge(tensors, metadata)
    save_tensors(path, tensors, metadata)
    with pytest.raises(WeightsError) as error:
        load_network(path, 8)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("Delete it and train again.")


def test_a_file_without_any_head_has_none() -> None:
    assert read_base_head(network().state_dict(), {"what": "a test"}) is None
