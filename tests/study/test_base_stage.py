"""Processes that want the same base stage at once train it once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from conftest import toy_split
from torch import nn

from fewshot_bench.backbones import BackboneRequest, create_backbone
from fewshot_bench.study.base_stage import base_recipe, fine_tuned_on_base

pytestmark = pytest.mark.slow


def test_of_two_that_want_the_same_checkpoint_one_trains(monkeypatch):
    trained = []

    def slow(network, *_, **__):
        trained.append(network)
        time.sleep(0.3)
        for parameter in network.parameters():
            parameter.data.fill_(0.5)
        head = nn.Linear(backbones[0].embedding_size, len(base.class_names))
        return SimpleNamespace(backbone=network, head=head, history=[])

    monkeypatch.setattr("fewshot_bench.study.base_stage.train_on_base", slow)
    base = toy_split("base")
    backbones = [create_backbone(BackboneRequest("conv4_32", 3, 16)) for _ in range(2)]
    recipe = base_recipe(backbones[0], "ce")
    with ThreadPoolExecutor(2) as threads:
        tuned = list(threads.map(lambda backbone: fine_tuned_on_base(backbone, base, recipe, device="cpu"), backbones))
    assert len(trained) == 1
    assert tuned[0].weights == tuned[1].weights
