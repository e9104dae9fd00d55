"""`stop_gradient` and `anchors`: what they do to a loss, and where they are taken, named, recorded and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_contrastive_losses import READINGS, views
from test_readings import conv4, recipes
from torch import Tensor
from typer.testing import CliRunner

from fewshot_bench.adaptation import Finetune, FinetuneHead
from fewshot_bench.cli.main import app
from fewshot_bench.errors import StudyError
from fewshot_bench.losses import (
    LOSSES,
    Anchors,
    Reading,
    StopGradient,
    contrastive_loss,
    extra_settings,
    schane,
    simclr,
    supcon,
)
from fewshot_bench.study.base_stage import base_recipe, base_stage_name
from fewshot_bench.study.methods import method_name, planned_adaptations
from fewshot_bench.study.study import Study
from fewshot_bench.study.study_parser import plan_of_file
from fewshot_bench.study.sweep import Axis, Grid, plan_sweep
from fewshot_bench.training import Recipe

STOPS: tuple[StopGradient, ...] = ("none", "beta")
ANCHORS: tuple[Anchors, ...] = ("mean", "sum")
LITERAL = {"stop_gradient": "beta", "anchors": "sum"}


def own_loss(logits: Tensor, *_: Tensor, lambda_: float, tau: float, reading: Reading) -> Tensor:
    """A user's loss that takes what every loss takes, and nothing else."""
    return logits.square().mean((-1, -2)) * lambda_ * tau


OWN = "test_contrast_settings:own_loss"


def formula(
    embeddings: Tensor, labels: Tensor, tau: float, reading: Reading, stop_gradient: StopGradient, anchors: Anchors
) -> Tensor:
    """Equations 3 and 4 with their sign mended, one anchor at a time, without log space."""
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    losses = []
    for i, anchor in enumerate(unit):
        exponentials = torch.exp(unit @ anchor / tau)
        is_negative = labels != labels[i]
        is_positive = ~is_negative & (torch.arange(len(labels)) != i)
        if not is_negative.any() or not is_positive.any():
            continue
        positives, negatives = exponentials[is_positive], exponentials[is_negative]
        beta = negatives * len(negatives) / negatives.sum()
        if stop_gradient == "beta":
            beta = beta.detach()
        fractions = positives / (positives.sum() + (beta * negatives).sum())
        losses.append(-fractions.mean().log() if reading == "in" else -fractions.log().mean())
    total = torch.stack(losses).sum()
    return total if anchors == "sum" else total / len(losses)


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), leaf)[0]


@pytest.mark.parametrize("anchors", ANCHORS)
@pytest.mark.parametrize("stop_gradient", STOPS)
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_values_and_gradients_are_those_of_the_formula_for_any_leading_dimensions(
    tau: float, reading: Reading, stop_gradient: StopGradient, anchors: Anchors
) -> None:
    batches = [views(seed, count=11) for seed in range(4)]
    embeddings = torch.stack([batch[0] for batch in batches]).unflatten(0, (2, 2)).requires_grad_()
    labels = torch.stack([batch[1] for batch in batches]).unflatten(0, (2, 2))
    settings: dict[str, Any] = {"stop_gradient": stop_gradient, "anchors": anchors}
    found = schane(embeddings, labels, tau=tau, reading=reading, **settings)
    expected = torch.stack(
        [
            formula(z, y, tau, reading, **settings)
            for z, y in zip(embeddings.flatten(0, 1), labels.flatten(0, 1), strict=True)
        ]
    ).view(2, 2)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient(found, embeddings), gradient(expected, embeddings), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("reading", READINGS)
def test_a_constant_beta_changes_the_gradient_and_not_the_loss(reading: Reading) -> None:
    embeddings, labels = views(3, count=11)
    embeddings.requires_grad_()
    flowing, constant = (schane(embeddings, labels, reading=reading, stop_gradient=stop) for stop in STOPS)
    torch.testing.assert_close(constant, flowing, rtol=1e-13, atol=0)
    assert (gradient(flowing, embeddings) - gradient(constant, embeddings)).abs().max() > 1e-3


def test_a_sum_counts_the_anchors_that_have_a_positive_and_a_negative() -> None:
    embeddings, _ = views(5, count=7)
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 3])  # the last two have no positive
    for loss in (schane, supcon, simclr):
        assert loss(embeddings, labels, anchors="sum").item() == pytest.approx(5 * loss(embeddings, labels).item())
        alone = loss(embeddings, torch.arange(7), anchors="sum")
        assert alone.item() == 0


def test_other_words_are_refused() -> None:
    embeddings, labels = views(5, count=7)
    wrong: list[dict[str, Any]] = [{"stop_gradient": "gamma"}, {"anchors": "median"}]
    for setting in wrong:
        (word,) = setting.values()
        with pytest.raises(StudyError, match=f"'{word}'"):
            contrastive_loss(embeddings, labels, tau=0.5, beta="hard", reading="in", **setting)
        for kind in (Recipe, Finetune, FinetuneHead):
            with pytest.raises(StudyError, match=f"should be one of .*, not {word}"):
                kind(loss="ce+schane", **setting)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [Recipe, Finetune, FinetuneHead])
@pytest.mark.parametrize(
    ("loss", "setting", "default"),
    [
        ("ce", "stop_gradient", "none"),
        ("ce", "anchors", "mean"),
        ("ce+supcon", "stop_gradient", "none"),
        ("ce+simclr", "stop_gradient", "none"),
        (OWN, "stop_gradient", "none"),
        (OWN, "anchors", "mean"),
    ],
)
def test_a_loss_that_does_not_take_a_setting_refuses_it(kind: Any, loss: str, setting: str, default: str) -> None:
    LOSSES.admit(OWN)
    with pytest.raises(
        StudyError, match=rf"the loss {loss.replace('+', '.')} takes no {setting}; leave it at {default}"
    ):
        kind(loss=loss, **{setting: LITERAL[setting]})
    assert extra_settings(loss, **{setting: default}) == {}


@pytest.mark.parametrize("kind", [Recipe, Finetune, FinetuneHead])
@pytest.mark.parametrize("loss", ["ce", "ce+simclr", "ce+supcon", "ce+schane"])
def test_they_are_recorded_only_where_they_matter(kind: Any, loss: str) -> None:
    """So that what was recorded before there was a choice keeps its fingerprint."""
    assert LITERAL.keys().isdisjoint(kind(loss=loss).hyper_parameters())
    taken = {"ce": {}, "ce+schane": LITERAL}.get(loss, {"anchors": "sum"})
    recorded = kind(loss=loss, **taken).hyper_parameters()
    assert {name: recorded.get(name) for name in taken} == taken
    assert recorded.keys() == kind(loss=loss).hyper_parameters().keys() | taken.keys()


def test_a_study_gives_them_to_the_losses_that_take_them() -> None:
    losses = ("ce", "ce+supcon", "ce+schane")
    study = Study(
        adaptations=("finetune-head", "finetune"),
        losses=losses,
        base_losses=losses,
        stop_gradient="beta",
        anchors="sum",
    )
    assert [base_stage_name(recipe, base_recipe(conv4(), recipe.loss)) for recipe in recipes(study)] == [
        "base-ce",
        "base-ce+supcon@anchors=sum",
        "base-ce+schane@anchors=sum,stop_gradient=beta",
    ]
    assert [method_name("net", {}, "", adaptation) for adaptation in planned_adaptations(study)] == [
        "net/episode-ce/finetune-head",
        "net/episode-ce+supcon/finetune-head@anchors=sum",
        "net/episode-ce+schane/finetune-head@anchors=sum,stop_gradient=beta",
        "net/episode-ce/finetune",
        "net/episode-ce+supcon/finetune@anchors=sum",
        "net/episode-ce+schane/finetune@anchors=sum,stop_gradient=beta",
    ]
    assert study.later_defaults.isdisjoint(LITERAL)
    assert set(LITERAL) <= Study().later_defaults


@pytest.mark.parametrize("base_losses", [("ce+supcon",), ("ce",)], ids=str)
def test_a_setting_that_no_loss_of_a_study_takes_is_refused(base_losses: tuple[str, ...]) -> None:
    with pytest.raises(StudyError, match=r"takes no stop_gradient; leave it at none"):
        recipes(Study(base_losses=base_losses, stop_gradient="beta"))


def test_a_table_of_a_file_need_not_take_what_the_others_do(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        'stop_gradient = "beta"\nanchors = "sum"\nbackbone = "conv4_32"\n'
        '[[methods]]\nbase_losses = ["ce+supcon"]\n[[methods]]\nbase_losses = ["ce+schane"]\n'
    )
    found = [(made.stop_gradient, made.anchors) for study in plan_of_file(str(path)).studies for made in recipes(study)]
    assert found == [("none", "sum"), ("beta", "sum")]
    path.write_text('[[methods]]\nbase_losses = ["ce"]\nanchors = "sum"\n')
    with pytest.raises(StudyError, match="the loss ce takes no anchors"):
        [recipes(study) for study in plan_of_file(str(path)).studies]


def test_a_sweep_varies_them_where_a_loss_takes_them(tmp_path: Path) -> None:
    grid = Grid((Axis("stop_gradient", STOPS), Axis("anchors", ANCHORS)))
    study = Study(adaptations=("finetune-head",), losses=("ce+schane",), base_losses=("ce",), results=tmp_path)
    points = [planned_adaptations(point.study)[0] for point in plan_sweep(study, grid).points]
    assert [(point.stop_gradient, point.anchors) for point in points] == [
        (stop, anchors) for stop in STOPS for anchors in ANCHORS
    ]
    without = study.model_copy(update={"losses": ("ce+supcon",)})
    with pytest.raises(StudyError, match=r"stop_gradient acts nowhere in this sweep|takes no stop_gradient"):
        plan_sweep(without, Grid((Axis("stop_gradient", STOPS),)))
    of_cross_entropy = plan_sweep(
        study.model_copy(update={"lambda_": 0.0}), Grid((Axis("lambda", (0.0, 0.9)), *grid.axes))
    )
    assert len(of_cross_entropy.distinct_points()) == 5


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--dry-run", "--base-loss", "ce+supcon", "--stop-gradient", "beta"],
        ["train", "--name", "net", "--loss", "ce+supcon", "--stop-gradient", "beta"],
        ["run", "study.toml", "--dry-run", "--set", "stop_gradient=beta"],
    ],
    ids=lambda command: command[0],
)
def test_the_command_line_refuses_it_too(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text('base_losses = ["ce+supcon"]')
    result = CliRunner().invoke(app, command)
    assert result.exit_code != 0
    assert "the loss ce+supcon takes no stop_gradient" in " ".join(f"{result.output} {result.exception}".split())
