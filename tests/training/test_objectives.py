"""Cosine heads, teachers, mixup and DropBlock change what a step minimises, and nothing about resuming."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bars import SIZE, are_equal, bars, conv4, normalise, small_recipe, train
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fewshot_bench.adaptation import Finetune
from fewshot_bench.backbones import Backbone, BaseHead, Preprocessing, networks
from fewshot_bench.backbones.drop_block import DropBlock
from fewshot_bench.backbones.networks import ResNet12
from fewshot_bench.engine.finetune import base_head_for
from fewshot_bench.errors import StudyError
from fewshot_bench.losses import distillation
from fewshot_bench.training import (
    Computing,
    History,
    Recipe,
    StateFile,
    TrainingResult,
    seeded_randomness,
    train_on_base,
)
from fewshot_bench.training.classification import Classification
from fewshot_bench.training.data_parallel import Processes
from fewshot_bench.training.distillation import Distillation
from fewshot_bench.training.heads import CosineHead, base_head_of
from fewshot_bench.training.learner import Learner
from fewshot_bench.training.mixup import mixup
from fewshot_bench.training.objective import ObjectiveFactory
from fewshot_bench.training.optimisation import dropped
from fewshot_bench.training.scheduled_optimizer import ScheduledOptimizer

CPU = torch.device("cpu")


class StoppedError(Exception):
    """What a test stops a training with."""


def teacher() -> Backbone:
    split = bars()
    with seeded_randomness(9):
        network = conv4()
        head = BaseHead(torch.randn(4, network.num_features), torch.randn(4), split.class_names)
    half = (0.5,)
    return Backbone("mine", network, Preprocessing(SIZE, half, half), network.num_features, True, base_head=head)


OF_TEACHER = {"objective": "distillation", "teacher": "mine"}
RECIPES: dict[str, dict[str, Any]] = {
    "cosine": {"objective": "cosine"},
    "mixup": {"mixup": 0.25, "views": 1, "label_smoothing": 0.1},
    "distillation": OF_TEACHER,
    "contrast with a teacher": {**OF_TEACHER, "loss": "ce+schane"},
    "restarts": {"schedule": "cosine", "drops": [[1, 0.1]]},
}


def factory(recipe: Recipe) -> ObjectiveFactory:
    return partial(Distillation, teacher=teacher()) if recipe.objective == "distillation" else Classification


def learner(
    network: nn.Module | None = None, micro_batch: int = 16, processes: Processes | None = None, **changes: Any
) -> Learner:
    recipe, computing = small_recipe(**changes), Computing(micro_batch=micro_batch, processes=processes)
    with seeded_randomness(0):
        return Learner(network or conv4(), bars(), recipe, normalise, CPU, computing, factory(recipe))


@pytest.mark.parametrize("name", ["mixup", "distillation"])
def test_what_needs_a_whole_batch_in_one_process_says_so(name: str) -> None:
    with pytest.raises(StudyError, match=r"takes one process. Leave out torchrun"):
        learner(processes=Processes(rank=0, count=2), **RECIPES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_stopped_training_has_the_weights_of_one_that_never_stopped(name: str, tmp_path: Path) -> None:
    recipe = small_recipe(**{"epochs": 3, **RECIPES[name]})

    def trained(**more: Any) -> TrainingResult:
        return train_on_base(conv4(), bars(), recipe, normalise=normalise, objective=factory(recipe), **more)

    def stop(history: History) -> None:
        if len(history) == 2:
            raise StoppedError

    state = StateFile(path=tmp_path / "state.safetensors")
    with pytest.raises(StoppedError):
        trained(state=state, after_epoch=stop)
    torch.rand(5)
    assert are_equal(trained(), trained(state=state))


def test_a_cosine_head_learns_and_is_kept_as_it_classifies() -> None:
    result = train(objective="cosine", epochs=1)
    (layer,) = (module for module in result.head.modules() if isinstance(module, CosineHead))
    assert not torch.equal(layer.norms, layer.weight.norm(dim=1))  # both are trained
    embeddings = torch.randn(5, layer.weight.shape[1])
    kept = base_head_of(result.head, bars().class_names)
    assert kept is not None
    assert kept.kind == "cosine"
    torch.testing.assert_close(kept(embeddings), result.head(embeddings))


def test_fine_tuning_on_logits_refuses_a_base_head_that_is_not_linear() -> None:
    method = Finetune(on="logits", start="support")
    trained = teacher()
    assert base_head_for(method, trained) is trained.base_head
    assert trained.base_head is not None
    cosine = replace(trained, base_head=replace(trained.base_head, kind="cosine"))
    with pytest.raises(StudyError, match=r"that of mine compares by cosines\. Use on=embeddings"):
        base_head_for(method, cosine)


def test_mixup_mixes_all_views_of_an_image_with_those_of_one_other() -> None:
    torch.manual_seed(0)
    views = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8)
    mixed = mixup(views, per_image=2, alpha=0.5)
    own, partner = mixed.shares.view(-1, 1, 1, 1), views[mixed.partners]
    torch.testing.assert_close(mixed.views, (own * views + (1 - own) * partner).round().to(torch.uint8))
    assert torch.equal(mixed.partners[10:], mixed.partners[:10] + 10)
    assert torch.equal(mixed.shares[10:], mixed.shares[:10])
    assert sorted(mixed.partners[:10].tolist()) == list(range(10))
    assert bool((mixed.shares >= 0.5).all())


def test_the_loss_of_mixup_weighs_both_labels_of_each_view_by_its_share() -> None:
    trained = learner(mixup=0.5, views=1, label_smoothing=0.1)
    objective = trained.objective
    assert isinstance(objective, Classification)
    torch.manual_seed(0)
    logits, labels, others, shares = torch.randn(6, 4), torch.arange(6) % 4, torch.arange(6) // 2, torch.rand(6)
    loss = objective._loss(logits, torch.randn(6, 8), labels, torch.arange(6), others, shares)
    soft = torch.zeros(6, 4).scatter_add(1, labels.view(-1, 1), shares.view(-1, 1))
    soft = soft.scatter_add(1, others.view(-1, 1), 1 - shares.view(-1, 1))
    torch.testing.assert_close(loss, cross_entropy(logits, 0.9 * soft + 0.1 / 4))


def test_a_teacher_shares_the_loss_with_the_labels_as_the_code_of_rfs_does() -> None:
    trained = learner(**OF_TEACHER)
    objective = trained.objective
    assert isinstance(objective, Distillation)
    batch = objective.views(next(objective.batches(0)))
    (logits_of_teacher,) = batch.targets
    known = teacher()
    known.network.eval()
    assert known.base_head is not None
    with torch.no_grad():
        torch.testing.assert_close(logits_of_teacher, known.base_head(known.network(known.preprocessing(batch.views))))
    logits = torch.randn(len(batch.labels), 4)
    loss = objective._loss(logits, torch.zeros(1), batch.labels, batch.images, logits_of_teacher)
    expected = 0.5 * cross_entropy(logits, batch.labels) + 0.5 * distillation(logits, logits_of_teacher, temperature=4)
    torch.testing.assert_close(loss, expected)


def gradients(micro_batch: int, recipe: dict[str, Any]) -> list[Tensor]:
    """The gradients of a step on a network without batch normalisation."""
    with seeded_randomness(3):
        network = nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 6))
    trained = learner(network, micro_batch, dropout=0.0, **recipe)
    with seeded_randomness(4):
        trained.step(next(trained.objective.batches(0)))
    parameters = [*trained.backbone.parameters(), *trained.head.parameters()]
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@pytest.mark.parametrize("name", ["cosine", "mixup", "distillation", "contrast with a teacher"])
def test_micro_batches_give_the_gradients_of_the_whole_batch(name: str) -> None:
    whole, parts = gradients(16, RECIPES[name]), gradients(5, RECIPES[name])
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_teacher_of_other_classes_and_mixup_of_a_contrast_are_refused() -> None:
    head = teacher().base_head
    assert head is not None
    stranger = replace(teacher(), base_head=replace(head, classes=("a", "b", "c", "d")))
    encoder = learner(**OF_TEACHER).encoder
    with pytest.raises(StudyError, match="the teacher mine was not trained to tell the base classes of toy apart"):
        Distillation(encoder, stranger)
    with pytest.raises(StudyError, match="mixup makes images of two"):
        learner(mixup=0.2, loss="ce+schane")
    with pytest.raises(StudyError, match="teacher of a training"):
        small_recipe(objective="distillation")


def narrow_resnet12(monkeypatch: pytest.MonkeyPatch) -> ResNet12:
    monkeypatch.setattr(networks, "_RESNET12_WIDTHS", (4, 4, 8, 8))
    with seeded_randomness(0):
        return ResNet12(in_chans=1, image_size=SIZE)


def test_the_rate_of_drop_block_rises_with_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    network = narrow_resnet12(monkeypatch)
    trained = learner(network, drop_block=0.4, drop_block_size=1, drop_block_steps=4)
    assert not isinstance(network.layer4[0].drop, DropBlock)  # the caller's network stays as it was
    (layer, *_) = (module for module in trained.backbone.modules() if isinstance(module, DropBlock))
    rates = []
    for samples in [*trained.objective.batches(0), *trained.objective.batches(1)]:
        trained.step(samples)
        rates.append(round(float(layer.rate), 6))
    assert rates == [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]
    with pytest.raises(StudyError, match="drop_block belongs to resnet12; Conv4 has none"):
        learner(drop_block=0.1)


def test_a_cosine_begins_anew_at_each_drop() -> None:
    recipe = small_recipe(epochs=12, schedule="cosine", drops=[[4, 0.1]], learning_rate=1.0)
    share = dropped(recipe, 120)
    assert [round(share(step), 6) for step in (0, 20, 40, 80)] == [1.0, 0.5, 0.1, 0.05]
    assert share(39) < 0.01
    assert share(119) < 0.001
    optimizer = ScheduledOptimizer(recipe, [nn.Linear(2, 2)], 120, CPU)
    assert optimizer.learning_rate == 1.0


@pytest.mark.slow
def test_drop_block_resumes_at_the_rate_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(epochs=2, batch_size=24, drop_block=0.4, drop_block_size=1, drop_block_steps=50)
    network = narrow_resnet12(monkeypatch)

    def trained(**more: Any) -> TrainingResult:
        return train_on_base(network, bars(), recipe, normalise=normalise, **more)

    def stop(history: History) -> None:
        raise StoppedError

    state = StateFile(path=tmp_path / "state.safetensors")
    with pytest.raises(StoppedError):
        trained(state=state, after_epoch=stop)
    assert are_equal(trained(), trained(state=state))
