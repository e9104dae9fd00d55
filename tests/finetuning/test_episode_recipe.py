"""A recipe that cannot be trained is refused in one sentence that names the value."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from fewshot_bench.errors import StudyError, UnknownNameError
from fewshot_bench.finetuning.recipe import EpisodeRecipe
from fewshot_bench.losses import LOSSES

WRONG: list[tuple[str, Any, str]] = [
    ("bn", "batch", "one of frozen, support, transductive"),
    ("optimizer", "lion", "one of adamw, adam, sgd"),
    ("schedule", "one-cycle", "one of constant, cosine"),
    ("augmentation", "crop", "one of auto, autoaugment, autoaugment-policy, jitter, affine, none"),
    ("start", "random", "one of centroid, zero, support, trained"),
    ("on", "features", "one of embeddings, logits"),
    ("precision", "fp16", "one of float32, bf16, float64"),
    ("decays", "biases", "one of matrices, all"),
    *[("epochs", value, "a whole number of 0 or more") for value in (-1, 1.0, True, "100", None)],
    *[("batch_size", value, "a whole number of 1 or more") for value in (0, 16.0, None)],
    *[("warmup_epochs", value, "a whole number of 0 or more") for value in (-1, 0.5)],
    *[("patience", value, "a whole number of 0 or more") for value in (-1, math.inf)],
    *[("views", value, "0 for new ones in every step, or 2 or more") for value in (1, -2, 2.0, True)],
    *[("learning_rate", value, "positive") for value in (0, -1e-4, math.nan, math.inf, "1e-4", True)],
    *[("tau", value, "positive") for value in (0, -0.5, math.nan)],
    *[("scale", value, "positive") for value in (0, -10.0, math.inf)],
    *[("query_entropy", value, "0 or more") for value in (-1, math.nan, math.inf, None, True)],
    *[("weight_decay", value, "0 or more") for value in (-0.05, math.nan, None)],
    *[("lambda_", value, "between 0 and 1") for value in (-0.1, 1.1, math.nan, "0.9")],
    *[("dropout", value, "at least 0 and less than 1") for value in (-0.1, 1.0, math.nan)],
    *[("label_smoothing", value, "at least 0 and less than 1") for value in (-0.1, 1, math.inf)],
    *[("seed", value, "a whole number of 64 bits") for value in (0.5, "0", None, True)],
]
RIGHT: list[dict[str, Any]] = [
    {},
    *[{"loss": name} for name in ("ce", "ce+schane", "ce+supcon", "ce+simclr")],
    *[{"tune": tune, "loss": "ce+schane"} for tune in ("all", "last:1", "norm", "bias", "lora:4+last:2")],
    *[{"bn": bn} for bn in ("frozen", "support", "transductive")],
    *[{"precision": precision} for precision in ("float32", "bf16", "float64")],
    *[{"views": views} for views in (None, 0, 2, 8)],
    {"epochs": 0, "warmup_epochs": 0, "patience": 0, "batch_size": 1},
    {"lambda_": 0, "weight_decay": 0, "dropout": 0, "label_smoothing": 0},
    {"lambda_": 1, "dropout": 0.99, "label_smoothing": 0.99, "seed": -3},
    {"tune": "head"},
    {"start": "support", "on": "logits", "query_entropy": 1, "epochs": 25},
    *[{"on": "logits", "tune": tune} for tune in ("all", "last:1", "norm", "bias", "lora:4", "head")],
    *[{"query_entropy": 0.1, "start": "support", "bn": bn} for bn in ("frozen", "support", "transductive")],
    {"query_entropy": 1.0, "loss": "ce+schane", "start": "support"},
]


@pytest.mark.parametrize(("name", "value", "expectation"), WRONG, ids=str)
def test_a_wrong_value_is_refused_by_name_with_what_was_expected(name: str, value: Any, expectation: str) -> None:
    with pytest.raises(StudyError) as error:
        EpisodeRecipe(**{name: value}).check()
    assert str(error.value) == f"{name.rstrip('_')} of finetune should be {expectation}, not {value}."


@pytest.mark.parametrize("values", RIGHT, ids=str)
def test_what_can_be_trained_is_not_refused(values: dict[str, Any]) -> None:
    EpisodeRecipe(**values).check()


def test_every_field_but_those_checked_elsewhere_has_a_wrong_value_here() -> None:
    elsewhere = {"loss", "tune", "reading", "stop_gradient", "anchors"}
    assert {name for name, *_ in WRONG} | elsewhere == {field.name for field in fields(EpisodeRecipe)}


def test_rates_lengths_and_regularisation_are_the_numbers_of_the_paper() -> None:
    recipe = EpisodeRecipe()
    assert (recipe.learning_rate, recipe.weight_decay, recipe.dropout) == (1e-4, 0.05, 0.1)
    assert (recipe.epochs, recipe.batch_size, recipe.lambda_, recipe.tau) == (100, 1024, 0.9, 0.5)


def test_an_unknown_loss_answers_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no loss called 'ce\+shane'.*ce\+schane"):
        EpisodeRecipe(loss="ce+shane").check()


@pytest.mark.parametrize("loss", ["ce+schane", "ce+supcon", "ce+simclr"])
def test_a_contrastive_loss_has_nothing_to_move_in_a_head_alone(loss: str) -> None:
    with pytest.raises(StudyError) as error:
        EpisodeRecipe(tune="head", loss=loss).check()
    assert f"contrastive term of {loss}" in str(error.value)
    assert "Use --tune last:1, or --adapt finetune-head" in str(error.value)
    EpisodeRecipe(tune="last:1", loss=loss).check()


REFUSED_TOGETHER: list[tuple[dict[str, Any], str]] = [
    ({"on": "logits", "loss": "ce+schane"}, "compares the encoder's embeddings. Use --loss ce, or on=embeddings."),
    ({"start": "support", "scale": 5.0}, "starts with weights of length one. Leave scale out"),
    ({"query_entropy": 1.0, "epochs": 0}, "there are 0 epochs. Use 1 or more."),
]


@pytest.mark.parametrize(("values", "reason"), REFUSED_TOGETHER, ids=str)
def test_values_that_make_no_sense_together_are_refused_in_one_line(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(StudyError) as error:
        EpisodeRecipe(**values).check()
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    for name in values:
        EpisodeRecipe(**{other: value for other, value in values.items() if other != name}).check()


def test_what_came_later_is_recorded_only_where_it_is_used() -> None:
    """The fingerprints of outcomes that were stored before stay as they are."""
    plain = EpisodeRecipe().recorded()
    assert plain == EpisodeRecipe(on="embeddings", query_entropy=0.0).recorded()
    assert (plain["start"], plain["scale"]) == ("centroid", 10.0)
    used = EpisodeRecipe(on="logits", start="support", query_entropy=1.0).recorded()
    assert (used["on"], used["start"], used["query_entropy"]) == ("logits", "support", 1.0)
    assert "scale" not in used


@pytest.mark.parametrize(
    ("images", "batch_size", "per_epoch"), [(5, 1024, 1), (25, 25, 1), (25, 24, 2), (25, 5, 5), (26, 5, 6), (1, 1, 1)]
)
def test_steps_are_epochs_times_the_batches_that_cover_the_support_set(
    images: int, batch_size: int, per_epoch: int
) -> None:
    recipe = EpisodeRecipe(epochs=7, batch_size=batch_size)
    assert recipe.steps_per_epoch(images) == per_epoch
    assert recipe.steps(images) == 7 * per_epoch
    assert EpisodeRecipe(epochs=0, batch_size=batch_size).steps(images) == 0


def test_what_cross_entropy_does_not_use_is_not_recorded() -> None:
    contrast = {"lambda_", "tau", "reading"}
    names = {field.name for field in fields(EpisodeRecipe)} - {
        "on", "query_entropy", "stop_gradient", "anchors", "decays",
    }  # fmt: skip
    assert set(EpisodeRecipe(loss="ce").recorded()) == names - contrast
    for loss in ("ce+schane", "ce+supcon", "ce+simclr"):
        assert set(EpisodeRecipe(loss=loss).recorded()) == names
    assert EpisodeRecipe(loss="ce", tau=0.1).recorded() == EpisodeRecipe(loss="ce", lambda_=0.3).recorded()
    assert EpisodeRecipe(loss="ce+schane", tau=0.1).recorded()["tau"] == 0.1


@pytest.mark.slow
def test_a_loss_that_says_nothing_of_contrast_counts_as_contrastive() -> None:
    LOSSES.admit("test_episode_recipe:own_loss")
    assert EpisodeRecipe(loss="test_episode_recipe:own_loss").is_contrastive
    assert "tau" in EpisodeRecipe(loss="test_episode_recipe:own_loss").recorded()


def own_loss() -> None:
    """What a user could name; it is never called."""
