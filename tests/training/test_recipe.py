"""Recipes: the paper's values, what is recorded, what is refused, and that every field has an effect."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import nn

from fewshot_bench.errors import StudyError, UnknownNameError
from fewshot_bench.training import Recipe, paper_recipe, scratch_recipe
from fewshot_bench.training import recipe as recipe_module
from fewshot_bench.training.optimisation import build_optimizer, build_schedule
from fewshot_bench.training.recipe import refuse_settings_without_effect


def test_the_paper_recipe_has_the_values_of_the_paper() -> None:
    recipe = paper_recipe("ce+schane")
    assert (recipe.lambda_, recipe.tau, recipe.epochs, recipe.batch_size) == (0.9, 0.5, 100, 1024)
    assert (recipe.learning_rate, recipe.weight_decay, recipe.dropout) == (1e-4, 0.05, 0.1)
    assert recipe.optimizer == "adamw"


def test_recipes_of_two_losses_differ_in_nothing_else() -> None:
    for make in (paper_recipe, scratch_recipe):
        assert make("ce+schane", epochs=3) == replace(make("ce", epochs=3), loss="ce+schane")


def test_cross_entropy_records_no_temperature() -> None:
    assert scratch_recipe("ce", tau=0.1).hyper_parameters() == scratch_recipe("ce", tau=0.7).hyper_parameters()
    assert scratch_recipe("ce+schane").hyper_parameters()["tau"] == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs .* should be 1 or more, not 0"),
        ({"batch_size": 1}, "batch_size .* 2 or more"),
        ({"learning_rate": 0.0}, "learning_rate .* positive"),
        ({"learning_rate": 1e38}, "learning_rate .* at most 1e30"),
        ({"weight_decay": -0.1}, "weight_decay .* 0 or more"),
        ({"weight_decay": float("inf")}, "weight_decay .* at most 1e30"),
        ({"tau": float("inf")}, "tau .* at most 1e30"),
        ({"episodic_head": "svm", "head_penalty": float("inf")}, "head_penalty .* at most 1e30"),
        ({"dropout": 1.0}, "dropout .* less than 1"),
        ({"lambda_": 1.5}, "lambda_ .* between 0 and 1, not 1.5"),
        ({"tau": 0.0}, "tau .* positive"),
        ({"threads": 0}, "threads .* 1 or more"),
        ({"reading": "inside"}, "reading should be one of in, out, not inside"),
        ({"optimizer": "lion"}, "optimizer .* one of adamw, adam, sgd"),
        ({"schedule": "step"}, "schedule .* one of"),
        ({"augmentation": "crop"}, "augmentation .* one of"),
        ({"precision": "fp8"}, "precision .* one of float32, bf16, fp16"),
        ({"label_smoothing": 1.0}, "label_smoothing .* less than 1"),
        ({"warmup_epochs": 100}, "warmup_epochs .* less than 100 epochs, not 100"),
        ({"warmup_epochs": 2, "schedule": "one-cycle"}, "warmup_epochs .* a warm-up of its own"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        Recipe(**change)


def test_an_unknown_loss_is_refused_before_training() -> None:
    with pytest.raises(UnknownNameError, match="ce"):
        Recipe(loss="cee")


def step_without_gradient(optimizer: str) -> nn.Linear:
    """A layer after one step in which only the weight decay can have moved it."""
    layer = nn.Linear(2, 2)
    nn.init.ones_(layer.weight)
    nn.init.ones_(layer.bias)
    recipe = Recipe(optimizer=optimizer, learning_rate=0.1, weight_decay=0.5)  # type: ignore[arg-type]  # a parameter of the test
    chosen = build_optimizer(recipe, [layer])
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    chosen.step()
    return layer


def test_adamw_decouples_the_weight_decay_and_adam_does_not() -> None:
    torch.testing.assert_close(step_without_gradient("adamw").weight, torch.full((2, 2), 1 - 0.1 * 0.5))
    torch.testing.assert_close(step_without_gradient("adam").weight, torch.full((2, 2), 1 - 0.1))


def test_biases_are_not_decayed() -> None:
    assert torch.equal(step_without_gradient("adamw").bias, torch.ones(2))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle"])
def test_schedules_peak_at_the_learning_rate_and_last_for_all_steps(schedule: Any) -> None:
    recipe = Recipe(learning_rate=0.1, schedule=schedule)
    optimizer = build_optimizer(recipe, [nn.Linear(2, 2)])
    course = build_schedule(recipe, optimizer, steps=50)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        course.step()
    assert max(rates) == pytest.approx(0.1, rel=0.02)
    peak = rates.index(max(rates))
    assert {"constant": peak == 0, "cosine": peak == 0, "one-cycle": 5 < peak < 25}[schedule]
    assert rates[-1] == pytest.approx(0.1) if schedule == "constant" else rates[-1] < 0.005


def test_settings_that_came_later_are_recorded_only_where_they_matter() -> None:
    """So that what was recorded before there was a choice keeps its fingerprint."""
    assert set(paper_recipe("ce+schane").hyper_parameters()) == {
        "loss", "lambda_", "tau", "reading", "epochs", "batch_size", "optimizer", "learning_rate", "weight_decay",
        "dropout", "schedule", "augmentation", "seed", "threads",
    }  # fmt: skip
    later: dict[str, Any] = {"warmup_epochs": 5, "label_smoothing": 0.1, "precision": "bf16"}
    assert later.items() <= paper_recipe("ce", **later).hyper_parameters().items()
    of_schane = {"stop_gradient": "beta", "anchors": "sum"}
    assert of_schane.items() <= paper_recipe("ce+schane", **of_schane).hyper_parameters().items()


@pytest.mark.parametrize("loss", ["ce", "ce+schane"])
def test_what_is_recorded_makes_the_recipe_again(loss: str) -> None:
    recipe = paper_recipe(loss, epochs=3, warmup_epochs=1.5, tau=0.5)
    assert Recipe.from_hyper_parameters(recipe.hyper_parameters()) == recipe
    with pytest.raises(StudyError, match="no setting 'epoch'"):
        Recipe.from_hyper_parameters({"epoch": 3})


def test_changes_are_the_recorded_settings_that_differ() -> None:
    default = scratch_recipe("ce")
    changed = scratch_recipe("ce", epochs=3, label_smoothing=0.1, tau=0.1)
    assert changed.changes_from(default) == {"epochs": 3, "label_smoothing": 0.1}
    assert default.changes_from(default) == {}
    other = scratch_recipe("ce+schane", anchors="sum", decays="all", precision="bf16", lambda_=0.5)
    back = scratch_recipe("ce+schane", precision="bf16", lambda_=0.5)
    assert back.changes_from(other) == {"anchors": "mean", "decays": "matrices"}, "back to a default is a change too"
    assert scratch_recipe("ce").changes_from(scratch_recipe("ce+schane")) == {}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_warm_up_rises_in_a_line_to_the_learning_rate_and_the_schedule_follows(schedule: Any) -> None:
    recipe = Recipe(learning_rate=0.1, schedule=schedule, warmup_epochs=2, epochs=10)
    optimizer = build_optimizer(recipe, [nn.Linear(2, 2)])
    course = build_schedule(recipe, optimizer, steps=50)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        course.step()
    assert rates[:10] == pytest.approx([0.01 * step for step in range(1, 11)])
    if schedule == "constant":
        assert rates[10:] == pytest.approx([0.1] * 40)
    else:
        assert rates[10] == pytest.approx(0.1)
        assert rates[30] == pytest.approx(0.05)
        assert rates[-1] < 0.001


MAML: dict[str, Any] = {"objective": "maml"}
EPISODIC: dict[str, Any] = {"objective": "episodic"}
SGD: dict[str, Any] = {"optimizer": "sgd"}
DISTILLATION: dict[str, Any] = {"objective": "distillation", "teacher": "rfs-conv4"}
WITHOUT_EFFECT: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    ({"lambda_": 0.3}, {}, {"loss": "ce+schane"}, "contrastive"),
    ({"tau": 0.3}, {}, {"loss": "ce+simclr"}, "contrastive"),
    ({"batch_size": 64}, EPISODIC, {"objective": "cosine"}, "classification, cosine and distillation"),
    ({"dropout": 0.2}, EPISODIC, {**EPISODIC, "dropout_place": "network"}, "dropout_place=network"),
    ({"dropout": 0.2}, {**MAML, "dropout_place": "network"}, DISTILLATION, "classification, cosine and distillation"),
    ({"dropout_place": "network"}, MAML, EPISODIC, "episodic"),
    ({"momentum": 0.8}, {"optimizer": "adam"}, SGD, "optimizer sgd"),
    ({"nesterov": True}, {"optimizer": "adamw"}, SGD, "optimizer sgd"),
    ({"decays": "all"}, {"weight_decay": 0.0}, {"weight_decay": 0.1}, "weight_decay above 0"),
    ({"drops": ((5, 0.1), (20, 0.01))}, {"epochs": 20}, {"epochs": 21}, "more epochs"),
    ({"steps_per_epoch": 3}, {}, EPISODIC, "episodic, maml, anil and meta-sgd"),
    ({"tasks": 3}, {"objective": "cosine"}, {"objective": "anil"}, "episodic, maml, anil and meta-sgd"),
    ({"way": 20}, {}, {"objective": "meta-sgd"}, "episodic, maml, anil and meta-sgd"),
    ({"shot": 3}, DISTILLATION, MAML, "episodic, maml, anil and meta-sgd"),
    ({"query": 3}, {}, EPISODIC, "episodic, maml, anil and meta-sgd"),
    ({"episodic_head": "ridge"}, MAML, EPISODIC, "objective episodic"),
    ({"head_penalty": 3.0}, {"episodic_head": "svm"}, {**EPISODIC, "episodic_head": "svm"}, "objective episodic"),
    ({"head_scale": 3.0}, MAML, EPISODIC, "objective episodic"),
    ({"learned_scale": True}, {}, EPISODIC, "objective episodic"),
    ({"cosine_scale": 10.0}, {}, {"objective": "cosine"}, "objective cosine"),
    ({"mixup": 0.2}, EPISODIC, {}, "classification, cosine and distillation"),
    ({"drop_block": 0.1}, MAML, EPISODIC, "classification, cosine, distillation and episodic"),
    ({"drop_block_size": 2}, {}, {"drop_block": 0.1}, "drop_block above 0"),
    ({"drop_block_steps": 2}, {}, {"drop_block": 0.1}, "drop_block above 0"),
    ({"temperature": 2.0}, {}, DISTILLATION, "objective distillation"),
    ({"soft_share": 0.2}, EPISODIC, DISTILLATION, "objective distillation"),
    ({"inner_steps": 3}, {}, MAML, "maml, anil and meta-sgd"),
    ({"inner_learning_rate": 0.1}, EPISODIC, {"objective": "anil"}, "maml, anil and meta-sgd"),
    ({"first_order": True}, EPISODIC, MAML, "maml, anil and meta-sgd"),
    ({"inner_statistics": "support"}, EPISODIC, {"objective": "meta-sgd"}, "maml, anil and meta-sgd"),
]
"""Settings, a recipe where they change nothing, one where they do, and what they belong to."""

ACT_ALWAYS = {
    "loss", "epochs", "optimizer", "learning_rate", "weight_decay", "schedule", "label_smoothing", "augmentation",
    "seed", "threads", "precision", "objective", "ema", "layer_decay",
}  # fmt: skip
REFUSED_BY_THE_RECIPE = {
    "reading", "stop_gradient", "anchors", "warmup_epochs", "teacher", "teacher_weights", "train_share",
    "validation_share", "tune",
}  # fmt: skip
REFUSED_BY_TRAIN = {"validation_share", "kept_epoch"}
REFUSED_BY_THE_OBJECTIVE = {"views"}


@pytest.mark.parametrize(("settings", "idle", "acting", "owner"), WITHOUT_EFFECT)
def test_a_setting_without_effect_is_refused_by_what_it_belongs_to(
    settings: dict[str, Any], idle: dict[str, Any], acting: dict[str, Any], owner: str
) -> None:
    with pytest.raises(StudyError) as refused:
        refuse_settings_without_effect(settings, Recipe(**{**idle, **settings}))
    assert str(refused.value).startswith(f"{next(iter(settings)).rstrip('_')} has no effect")
    assert owner in str(refused.value)
    assert "\n" not in str(refused.value)
    refuse_settings_without_effect(settings, Recipe(**{**acting, **settings}))
    refuse_settings_without_effect(dict.fromkeys(settings), Recipe(**idle))


def test_every_field_of_a_recipe_has_an_effect_or_is_refused() -> None:
    tried = {name for settings, *_ in WITHOUT_EFFECT for name in settings}
    assert tried == set(recipe_module._CONDITIONS)
    known = tried | ACT_ALWAYS | REFUSED_BY_THE_RECIPE | REFUSED_BY_THE_OBJECTIVE | REFUSED_BY_TRAIN
    assert known == {field.name for field in fields(Recipe)}


def test_what_is_switched_off_may_be_said_anywhere() -> None:
    off = dict.fromkeys(("dropout", "mixup", "drop_block"), 0.0) | {"nesterov": False, "first_order": False}
    for idle in (EPISODIC, MAML, {}):
        refuse_settings_without_effect(off, Recipe(**{**idle, **off}))
