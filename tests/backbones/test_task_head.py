"""The head of gradient-based meta-learning stays beside the network: kept, checked, and not a part of its identity."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewshot_bench.backbones import TaskHead
from fewshot_bench.backbones.task_head import PREFIX
from fewshot_bench.backbones.weights_file import read_weights
from fewshot_bench.errors import WeightsError
from fewshot_bench.training import load_checkpoint, load_network, save_checkpoint
from fewshot_bench.training.checkpoints import save_tensors


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))


def head() -> TaskHead:
    torch.manual_seed(0)
    rates = {"backbone.0.weight": torch.rand(8, 4), "head.weight": torch.rand(3, 8), "head.bias": torch.tensor(0.5)}
    return TaskHead(torch.randn(3, 8), torch.randn(3), rates)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "mine.safetensors", network(), {"what": "a test"}, head())
    return tmp_path / "mine.safetensors"


def test_network_and_head_come_back_apart(path: Path) -> None:
    weights, found, metadata = load_network(path, 8)
    network().load_state_dict(weights)
    assert isinstance(found, TaskHead)
    assert found.way == 3
    assert found.moves_backbone
    assert torch.equal(found.weight, head().weight)
    assert found.rates.keys() == head().rates.keys()
    assert all(torch.equal(rate, head().rates[name]) for name, rate in found.rates.items())
    assert found.digest == head().digest
    assert metadata["what"] == "a test"


def test_weights_files_are_read_without_the_head(path: Path) -> None:
    assert read_weights(path).keys() == network().state_dict().keys()


def test_a_head_that_moves_alone_says_so() -> None:
    own = head()
    alone = TaskHead(own.weight, own.bias, {name: rate for name, rate in own.rates.items() if name.startswith("head.")})
    assert not alone.moves_backbone
    assert alone.digest != own.digest


Forgery = Callable[[dict[str, Tensor], dict[str, str]], Any]
FORGERIES: dict[str, tuple[Forgery, str]] = {
    "no weight": (lambda tensors, _: tensors.pop(PREFIX + "weight"), "should hold a weight"),
    "no rate of the head": (lambda tensors, _: tensors.pop(PREFIX + "rates.head.bias"), "should hold a weight"),
    "one more": (lambda tensors, _: tensors.update({PREFIX + "other": torch.ones(1)}), "should hold a weight"),
    "a rate of nothing": (
        lambda tensors, _: tensors.update({PREFIX + "rates.backbone.9.weight": torch.ones(())}),
        "learning rate",
    ),
    "a rate of the wrong shape": (
        lambda tensors, _: tensors.update({PREFIX + "rates.head.weight": torch.ones(8, 3)}),
        "learning rate",
    ),
    "not finite": (
        lambda tensors, _: tensors.update({PREFIX + "bias": torch.full((3,), torch.nan)}),
        "not finite",
    ),
    "of halves": (lambda tensors, _: tensors.update({PREFIX + "bias": torch.ones(3).half()}), "float32"),
    "of one class": (
        lambda tensors, _: tensors.update({PREFIX + "weight": torch.ones(1, 8), PREFIX + "bias": torch.ones(1)}),
        "2 classes or more",
    ),
    "flat": (lambda tensors, _: tensors.update({PREFIX + "weight": torch.ones(24)}), "2 classes or more"),
    "of other embeddings": (
        lambda tensors, _: tensors.update(
            {PREFIX + "weight": torch.ones(3, 5), PREFIX + "rates.head.weight": torch.ones(())}
        ),
        "embeddings of 5 numbers",
    ),
    "without a card": (lambda _, metadata: metadata.pop("task_head"), "does not say"),
    "with a card of nothing": (lambda _, metadata: metadata.update(task_head="[" * 100_000), "does not say"),
    "with another kind": (
        lambda _, metadata: metadata.update(task_head=json.dumps({"kind": "cosine"})),
        "another kind",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_file_is_one_clear_line(name: str, path: Path) -> None:
    forge, words = FORGERIES[name]
    tensors, metadata = load_checkpoint(path)
    kept = {key: value for key, value in metadata.items() if key != "tensors_sha256"}
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    forge(tensors, kept)
    save_tensors(path, tensors, kept)
    with pytest.raises(WeightsError, match=words) as caught:
        load_network(path, 8)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
