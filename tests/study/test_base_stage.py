"""A base stage is trained once, in the memory there is, and resumes after a stop."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import toy_split
from torch import Tensor, nn

from fewshot_bench._io.locations import cache_folder
from fewshot_bench.backbones import Backbone, BackboneRequest, Preprocessing, create_backbone
from fewshot_bench.cache import cache_entries
from fewshot_bench.engine.engine import LocalEngine
from fewshot_bench.errors import StudyError
from fewshot_bench.progress import SILENT
from fewshot_bench.study import base_stage
from fewshot_bench.study.base_stage import (
    base_recipe,
    base_stage_name,
    checkpoint_path,
    fine_tuned_on_base,
    initialised_backbone,
)
from fewshot_bench.training import Recipe, checkpoint_metadata, load_network
from fewshot_bench.training.optimisation import StepMemory

pytestmark = pytest.mark.slow
BASE = toy_split("base", classes=4, images=10)


def smooth() -> Backbone:
    """A network without batch normalisation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    preprocessing = Preprocessing(16, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Backbone("smooth", network, preprocessing, 24, is_pretrained=False)


def normalised() -> Backbone:
    """A network with batch normalisation."""
    return initialised_backbone(BackboneRequest("conv4_32", 3, 16), 0)


def recipe_of(loss: str = "ce+schane", **changes: Any) -> Recipe:
    return base_recipe(smooth(), loss, **{"epochs": 3, "batch_size": 20, "augmentation": "none", **changes})


def let_fit(monkeypatch: pytest.MonkeyPatch, images: float, backbone: Backbone) -> None:
    """Let a device have room for so many images, each in two views, beside the weights."""
    memory = StepMemory.measured(backbone.network, base_stage.four_inputs(backbone, BASE, "cpu"))
    free = int(memory.weights + images * memory.per_image / 0.9) + 1
    monkeypatch.setattr("fewshot_bench.training.optimisation.free_bytes", lambda device: free)


class StopsAfter:
    """A progress that is interrupted after some steps, as by Ctrl-C or a kill."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[StopsAfter]:
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.left -= amount
        if self.left <= 0:
            raise KeyboardInterrupt


def train(recipe: Recipe, backbone: Backbone | None = None, progress: Any = SILENT, **settings: Any) -> Backbone:
    return fine_tuned_on_base(backbone or smooth(), BASE, recipe, device="cpu", progress=progress, **settings)


def weights(recipe: Recipe, backbone: Backbone | None = None) -> dict[str, Tensor]:
    """Those of the cached checkpoint."""
    return load_network(checkpoint_path(backbone or smooth(), BASE, recipe), 24)[0]


def computing(recipe: Recipe) -> dict[str, Any]:
    metadata = checkpoint_metadata(checkpoint_path(smooth(), BASE, recipe))
    return dict(json.loads(metadata.get("computing", "{}")))


def states() -> list[Path]:
    return sorted(cache_folder().rglob("*.state.safetensors"))


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


@pytest.mark.parametrize("loss", ["ce", "ce+schane"])
def test_a_batch_that_does_not_fit_is_trained_in_parts_with_its_own_gradients(loss, monkeypatch):
    recipe = recipe_of(loss, dropout=0.0)  # whose random numbers depend on the parts
    train(recipe)
    whole = weights(recipe)
    assert computing(recipe) == {}, "nothing is recorded of a whole batch on a CPU"
    checkpoint_path(smooth(), BASE, recipe).unlink()
    let_fit(monkeypatch, 9, smooth())
    assert train(recipe).computing == train(recipe).computing == computing(recipe) == {"micro_batches": [8]}
    for name, value in weights(recipe).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-3, atol=1e-5)


def test_batch_normalisation_never_depends_on_free_memory(monkeypatch):
    let_fit(monkeypatch, 9, normalised())
    recipe = base_recipe(normalised(), "ce", epochs=1, batch_size=20)
    with pytest.raises(StudyError, match=r"batches of 20 images .* batch normalisation. Use --base-batch 8 or less"):
        train(recipe, normalised())
    assert not list(cache_folder().rglob("*.safetensors"))


@pytest.mark.parametrize("make", [smooth, normalised])
def test_micro_batches_are_halved_while_memory_runs_out_but_not_with_batch_normalisation(make, monkeypatch):
    whole = base_stage.train_on_base

    def scarce(*arguments: Any, **settings: Any) -> Any:
        if settings["computing"].micro_batch > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*arguments, **settings)

    monkeypatch.setattr(base_stage, "train_on_base", scarce)
    recipe = recipe_of("ce", epochs=1)
    if make is smooth:
        train(recipe)
        assert computing(recipe) == {"micro_batches": [20, 10, 5]}
    else:
        with pytest.raises(StudyError, match=r"20 images does not fit into the memory of cpu. Use --base-batch 10"):
            train(recipe, normalised())


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("make", [smooth, normalised])
def test_after_a_stop_it_resumes_with_the_weights_of_no_stop_bit_for_bit(make, steps):
    recipe = recipe_of()
    path = checkpoint_path(make(), BASE, recipe)
    train(recipe, make())
    whole = load_network(path, make().embedding_size)[0]
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        train(recipe, make(), StopsAfter(steps))
    assert len(states()) == (steps > 2), "an epoch has two steps"
    assert [entry.what.partition(":")[0] for entry in cache_entries()] == ["unfinished"] * len(states())
    progress = StopsAfter(100)
    train(recipe, make(), progress)
    resumed = load_network(path, make().embedding_size)[0]
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert not states()


def test_it_resumes_with_the_micro_batch_that_it_had(monkeypatch):
    recipe = recipe_of()
    let_fit(monkeypatch, 9, smooth())
    with pytest.raises(KeyboardInterrupt):
        train(recipe, progress=StopsAfter(3))
    monkeypatch.setattr("fewshot_bench.training.optimisation.free_bytes", lambda device: None)
    train(recipe)
    assert computing(recipe) == {"micro_batches": [8]}


def test_a_damaged_state_starts_again():
    recipe = recipe_of()
    with pytest.raises(KeyboardInterrupt):
        train(recipe, progress=StopsAfter(3))
    content = bytearray(states()[0].read_bytes())
    content[-9] ^= 1
    for damaged in (content, content[:40]):
        states()[0].write_bytes(damaged)
        train(recipe)
        assert not states()
        checkpoint_path(smooth(), BASE, recipe).unlink()
        with pytest.raises(KeyboardInterrupt):
            train(recipe, progress=StopsAfter(3))


def test_a_state_that_cannot_be_written_costs_the_state_and_not_the_training(monkeypatch):
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("fewshot_bench.training.fit.save_tensors", full)
    assert train(recipe_of()).is_pretrained
    assert not states()


def test_another_machine_keeps_no_state_where_this_one_would_look(monkeypatch):
    seen = []
    whole = base_stage.train_on_base

    def watched(*arguments: Any, **settings: Any) -> Any:
        seen.append(settings["state"])
        return whole(*arguments, **settings)

    monkeypatch.setattr(base_stage, "train_on_base", watched)
    remote = SimpleNamespace(device="cpu", call=LocalEngine("cpu").call)
    train(recipe_of("ce"), engine=remote)
    assert seen == [None]


def test_precision_is_a_part_of_the_method_and_float32_leaves_names_and_keys_as_they_were():
    plain = recipe_of("ce")
    assert recipe_of("ce", precision="float32") == plain
    assert "precision" not in plain.hyper_parameters()
    half = recipe_of("ce", precision="bf16")
    assert base_stage_name(half, plain) == "base-ce@precision=bf16"
    assert checkpoint_path(smooth(), BASE, half) != checkpoint_path(smooth(), BASE, plain)
    train(half)
    train(plain)
    assert any(not torch.equal(value, weights(plain)[name]) for name, value in weights(half).items())


def test_memory_is_measured_in_the_precision_of_the_training(monkeypatch):
    seen = []
    measured = StepMemory.measured

    def noted(*arguments: Any, precision: str, **settings: Any) -> StepMemory:
        seen.append(precision)
        return measured(*arguments, precision=precision, **settings)

    monkeypatch.setattr(base_stage.StepMemory, "measured", noted)
    train(replace(recipe_of("ce"), precision="bf16", epochs=1))
    assert seen == ["bf16"]
