"""Gradient-based meta-learning as a training: frozen, resumable, and evaluated by the steps that it was trained for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import toy_split
from torch import Tensor, nn

from fewshot_bench.adaptation import MAML
from fewshot_bench.audit.method_checks import predictions_of, shuffled
from fewshot_bench.backbones import Backbone, Preprocessing, TaskHead
from fewshot_bench.backbones.networks import Conv4
from fewshot_bench.cache.trials import no_trials
from fewshot_bench.engine.finetune import FinetuneClassifier, as_finetune
from fewshot_bench.episodes import Protocol, sample_episodes
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.episode_tasks import EpisodeKeys, EpisodeTask, StepViews
from fewshot_bench.finetuning.frozen_prefix import network_parts
from fewshot_bench.finetuning.trainer import EpisodeTrainer
from fewshot_bench.objectives import MetaHead, objective_of
from fewshot_bench.objectives.inner_loop import BACKBONE, InnerLoop, TaskNetwork
from fewshot_bench.training import (
    Computing,
    History,
    Recipe,
    Selection,
    StateFile,
    TrainingResult,
    seeded_randomness,
    train_on_base,
)

BASE = toy_split("base", classes=6, seed=1)
RECIPE = {
    "objective": "maml", "epochs": 2, "steps_per_epoch": 3, "tasks": 2, "way": 3, "shot": 2, "query": 3,
    "inner_steps": 2, "inner_learning_rate": 0.1, "optimizer": "adam", "learning_rate": 1e-2, "weight_decay": 0.0,
    "schedule": "constant", "views": 1, "augmentation": "none", "dropout": 0.0, "threads": 1,
}  # fmt: skip


def normalise(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def network() -> Conv4:
    with seeded_randomness(7):
        return Conv4(width=4, in_chans=3, image_size=16)


def train(*, start: nn.Module | None = None, **changes: Any) -> TrainingResult:
    given = {name: changes.pop(name) for name in ("state", "selection", "after_epoch", "computing") if name in changes}
    recipe = Recipe(**{**RECIPE, **changes})
    return train_on_base(start or network(), BASE, recipe, normalise=normalise, objective=objective_of(recipe), **given)


def weights_of(result: TrainingResult) -> dict[str, Tensor]:
    backbone = {f"backbone.{name}": value for name, value in result.backbone.state_dict().items()}
    return backbone | {f"head.{name}": value for name, value in result.head.state_dict().items()}


def differences(first: TrainingResult, second: TrainingResult) -> float:
    pairs = zip(weights_of(first).values(), weights_of(second).values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs if a.is_floating_point())


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["maml", "anil", "meta-sgd"])
def test_a_training_that_was_stopped_ends_as_one_that_was_not_bit_for_bit(objective: str, tmp_path: Path) -> None:
    def score(backbone: nn.Module, head: nn.Module) -> Mapping[str, float]:
        return {"validation": float(next(backbone.parameters()).detach().double().sum()) % 1}

    class StoppedError(Exception):
        pass

    def stop(history: History) -> None:
        if len(history) == 1:
            raise StoppedError

    selection = Selection(validate=score)
    whole = train(objective=objective, epochs=3, selection=selection)
    state = StateFile(path=tmp_path / "state.safetensors")
    with pytest.raises(StoppedError):
        train(objective=objective, epochs=3, selection=selection, state=state, after_epoch=stop)
    torch.rand(5)
    resumed = train(objective=objective, epochs=3, selection=selection, state=state)
    assert weights_of(whole).keys() == weights_of(resumed).keys()
    assert all(value.equal(weights_of(resumed)[name]) for name, value in weights_of(whole).items())
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]


@pytest.mark.slow
def test_first_order_and_statistics_and_seed_change_the_weights() -> None:
    plain = train()
    assert differences(plain, train()) == 0
    for change in ({"first_order": True}, {"inner_statistics": "support"}, {"inner_steps": 1}, {"seed": 1}):
        assert differences(plain, train(**change)) > 1e-5, change


@pytest.mark.slow
def test_meta_sgd_learns_its_rates_and_the_others_have_none() -> None:
    learned = train(objective="meta-sgd")
    assert isinstance(learned.head, MetaHead)
    rates = learned.head.task_head().rates
    assert set(rates) == {*(BACKBONE + name for name, _ in network().named_parameters()), "head.weight", "head.bias"}
    moved = {name: float((rate - 0.1).abs().max()) for name, rate in rates.items()}
    biases = {name for name in moved if name.startswith(BACKBONE) and name.endswith(".0.bias")}
    assert len(biases) == 4, "of convolutions, which batch normalisation takes off again"
    assert min(moved[name] for name in moved if name not in biases) > 1e-4
    for objective, names in (("maml", set(rates)), ("anil", {"head.weight", "head.bias"})):
        head = train(objective=objective, epochs=1).head
        assert isinstance(head, MetaHead)
        assert not len(head.rates)
        assert head.task_head().rates.keys() == names
        assert [rate.item() for rate in head.task_head().rates.values()] == pytest.approx([0.1] * len(names))


@pytest.mark.slow
def test_training_lowers_the_loss_of_tasks() -> None:
    history = train(epochs=3, steps_per_epoch=8, inner_learning_rate=0.02).history
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    assert history[-1]["accuracy"] > history[0]["accuracy"] > 1 / 3


@pytest.mark.slow
def test_running_statistics_follow_the_support_images() -> None:
    after = train().backbone.state_dict()
    means = [value for name, value in after.items() if name.endswith("running_mean")]
    assert means
    assert all(float(mean.abs().max()) > 1e-3 for mean in means)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"precision": "bf16"}, "--precision"),
        ({"views": 2}, "one view"),
        ({"computing": Computing(is_compiled=True)}, "--compile"),
        ({"start": nn.Sequential(nn.Flatten(), nn.Linear(768, 4))}, "inner_statistics=support"),
        ({"way": 7}, "6 classes"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_line(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Exception, match=word) as caught:
        train(**change)
    assert type(caught.value).__module__ == "fewshot_bench.errors"


def task_head(objective: str, backbone: nn.Module, size: int = 4) -> TaskHead:
    generator = torch.Generator().manual_seed(3)
    shapes = {BACKBONE + name: value.shape for name, value in backbone.named_parameters()}
    shapes = ({} if objective == "anil" else shapes) | {
        "head.weight": torch.Size((3, size)),
        "head.bias": torch.Size((3,)),
    }
    rates = {
        name: 0.1 * torch.rand(shape, generator=generator) if objective == "meta-sgd" else torch.tensor(0.05)
        for name, shape in shapes.items()
    }
    return TaskHead(torch.randn(3, size, generator=generator), torch.randn(3, generator=generator), rates)


class _Support(StepViews):
    def __init__(self, support: Tensor) -> None:
        self._twice = torch.cat([support, support], dim=1)

    def at(self, step: int, chosen: Tensor | None) -> Tensor:
        return self._twice


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["maml", "anil", "meta-sgd"])
@pytest.mark.parametrize("statistics", ["batch", "support"])
def test_evaluation_takes_the_steps_of_the_training(objective: str, statistics: str) -> None:
    generator = torch.Generator().manual_seed(0)
    support = torch.randn(2, 6, 3, 16, 16, generator=generator, dtype=torch.float64)
    query = torch.randn(2, 9, 3, 16, 16, generator=generator, dtype=torch.float64)
    backbone = network().double().eval()
    head = task_head(objective, backbone)
    method = MAML(steps=3, statistics=statistics).as_finetune(moves_backbone=head.moves_backbone, normalises=True)
    method = replace(method, precision="float64")
    parts = replace(network_parts(backbone, method, support[0, :2]), task_head=head)
    trainer = EpisodeTrainer(parts, method, episodes=2, way=3, shot=2)
    keys = torch.zeros(2, dtype=torch.int64)
    task = EpisodeTask(EpisodeKeys(keys, keys), support, _Support(support), 9, lambda part: query[:, part])
    found = trainer.adapt(task).logits
    weights = {BACKBONE + name: value for name, value in backbone.named_parameters()}
    weights |= {"head.weight": head.weight.double().requires_grad_(), "head.bias": head.bias.double().requires_grad_()}
    rates = {name: rate.double() for name, rate in head.rates.items()}
    tasks = TaskNetwork(backbone, support[0, :2], 2, statistics)
    expected = tasks.query_logits(weights, rates, support, query, InnerLoop(3))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-9)
    unadapted = tasks.query_logits(weights, rates, support, query, InnerLoop(0))
    assert float((found - unadapted).abs().max()) > 1e-3


def backbone_of(objective: str = "maml", head: TaskHead | None = None) -> Backbone:
    own = network().eval()
    preprocessing = Preprocessing(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Backbone("conv4", own, preprocessing, 4, True, task_head=head or task_head(objective, own))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["maml", "anil"])
def test_neither_company_nor_the_order_of_queries_changes_a_prediction(objective: str) -> None:
    backbone = backbone_of(objective)
    split = toy_split("novel", seed=3)
    episodes = sample_episodes(split, Protocol("toy", "novel", 3, 2, 5, 4, runs=1))
    with no_trials():
        classifier = FinetuneClassifier.on_images(as_finetune(MAML(steps=2), backbone), split, backbone, "cpu")
        whole = classifier(episodes, 4)
        alone = [classifier(sample_episodes(split, episodes.protocol, numbers=[number]), 1) for number in range(4)]
        shuffled_queries = predictions_of(classifier, episodes, shuffled(episodes, seed=0))
    assert np.array_equal(whole, np.concatenate(alone))
    assert np.array_equal(whole, shuffled_queries)
    assert len(np.unique(whole)) > 1


def test_another_way_than_the_trained_one_is_refused() -> None:
    backbone = backbone_of()
    split = toy_split("novel", seed=3)
    episodes = sample_episodes(split, Protocol("toy", "novel", 5, 1, 2, 1, runs=1))
    classifier = FinetuneClassifier.on_images(as_finetune(MAML(), backbone), split, backbone, "cpu")
    with pytest.raises(StudyError, match="--way 3"), no_trials():
        classifier(episodes, 1)


def test_a_network_without_such_a_head_is_refused() -> None:
    backbone = replace(backbone_of(), task_head=None)
    with pytest.raises(StudyError, match="no head"):
        FinetuneClassifier.on_images(as_finetune(MAML(), backbone), toy_split("novel"), backbone, "cpu")


@pytest.mark.parametrize(
    "settings", [{"steps": -1}, {"steps": 1.5}, {"learning_rate": 0.0}, {"learning_rate": True}, {"statistics": "all"}]
)
def test_values_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=f"{next(iter(settings))} of maml"):
        MAML(**settings)


def test_statistics_of_a_batch_make_the_method_transductive() -> None:
    assert MAML().is_transductive
    assert not MAML(statistics="support").is_transductive
    for statistics in ("batch", "support"):
        settings = MAML(statistics=statistics).as_finetune(moves_backbone=True, normalises=True)
        assert settings.is_transductive is (statistics == "batch")
    with pytest.raises(StudyError, match="statistics=support"):
        MAML().as_finetune(moves_backbone=True, normalises=False)
