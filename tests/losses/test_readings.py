"""Which loss takes the mean over positives how, wherever a loss is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor
from typer.testing import CliRunner

from fewshot_bench.adaptation import Finetune, FinetuneHead
from fewshot_bench.backbones import Backbone, BackboneRequest, create_backbone
from fewshot_bench.cli.main import app
from fewshot_bench.errors import StudyError
from fewshot_bench.losses import LOSSES, Reading, cross_entropy, reading_of, readings_of
from fewshot_bench.study.base_stage import base_recipe, base_stage_name
from fewshot_bench.study.methods import method_name, planned_adaptations
from fewshot_bench.study.networks import base_recipes
from fewshot_bench.study.study import Study
from fewshot_bench.study.study_parser import plan_of_file
from fewshot_bench.study.sweep import Axis, Grid, plan_sweep, with_values
from fewshot_bench.training import Recipe

DEFAULTS: dict[str, Reading] = {"ce+schane": "in", "ce+supcon": "out", "ce+simclr": "out"}


def conv4() -> Backbone:
    return create_backbone(BackboneRequest("conv4_32", channels=1, native_size=28))


def own_loss(logits: Tensor, *_: Tensor, reading: Reading = "out", **__: float) -> Tensor:
    """A loss of a user's own, read "out" unless told otherwise."""
    return logits.sum() * (reading == "out")


def without_default(logits: Tensor, *_: Tensor, reading: Reading, **__: float) -> Tensor:
    """A loss of a user's own that leaves the default to others."""
    return logits.sum() * (reading == "out")


OWN = {"test_readings:own_loss": "out", "test_readings:without_default": "in"}


@pytest.fixture(autouse=True)
def own_losses() -> None:
    """They are admitted, as by the one who types their names."""
    for name in OWN:
        LOSSES.admit(name)


@pytest.fixture
def views() -> tuple[Tensor, Tensor, Tensor]:
    """Two views of six images of three classes: logits, embeddings, labels."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([0, 0, 1, 1, 2, 2]).repeat(2)
    return torch.randn(12, 3, generator=generator), torch.randn(12, 5, generator=generator), labels


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_ce_supcon_is_khosla_s_supcon_unless_a_caller_says_otherwise(
    views: tuple[Tensor, Tensor, Tensor], tau: float
) -> None:
    logits, embeddings, labels = views
    images = torch.arange(6).repeat(2)
    loss = LOSSES["ce+supcon"].factory
    expected = 0.1 * cross_entropy(logits, labels) + 0.9 * SupConLoss(temperature=tau)(embeddings, labels)
    for settings in ({}, {"reading": reading_of("ce+supcon")}):
        found = loss(logits, embeddings, labels, images, lambda_=0.9, tau=tau, **settings)  # type: ignore[call-arg]  # each loss has a default of its own
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("loss", "reading"), [*DEFAULTS.items(), *OWN.items()])
def test_each_loss_has_its_own_reading_in_every_recipe(loss: str, reading: Reading) -> None:
    assert reading_of(loss) == reading
    for made in (Recipe(loss=loss), Finetune(loss=loss), FinetuneHead(loss=loss)):
        assert made.hyper_parameters()["reading"] == reading
        assert made == type(made)(loss=loss, reading=reading), "the default is one recipe, however it is said"


def test_a_recipe_from_a_file_keeps_its_reading_while_nobody_has_admitted_its_loss() -> None:
    """The default of that loss may be the other one."""
    for reading in ("in", "out"):
        assert Recipe(loss="nobody_knows:loss", reading=reading).hyper_parameters()["reading"] == reading


def test_cross_entropy_has_none() -> None:
    assert readings_of("ce") == ()
    assert "reading" not in Recipe().hyper_parameters().keys() | FinetuneHead().hyper_parameters().keys()


@pytest.mark.parametrize("kind", [Recipe, Finetune, FinetuneHead])
@pytest.mark.parametrize(
    ("loss", "reading", "finding"),
    [
        ("ce+supcon", "in", "ce\\+supcon always takes 'out', as its paper defines it"),
        ("ce+simclr", "in", "ce\\+simclr always takes 'out'"),
        ("ce", "in", "ce has none"),
        ("ce", "out", "ce has none"),
        ("ce+schane", "inside", "should be one of in, out, not inside"),
        ("ce+supcon", "inside", "should be one of in, out, not inside"),
    ],
)
def test_a_reading_of_another_loss_is_refused(kind: Any, loss: str, reading: str, finding: str) -> None:
    with pytest.raises(StudyError, match=finding):
        kind(loss=loss, reading=reading)


def test_the_preset_of_the_ablation_reads_each_loss_as_its_paper_does() -> None:
    for overrides in ((), ("in",), ("out",)):
        (study,) = plan_of_file("schane-ablation", overrides_of(*overrides)).studies
        found = {recipe.loss: recipe.hyper_parameters().get("reading") for recipe in recipes(study)}
        assert found == {
            "ce": None,
            "ce+simclr": "out",
            "ce+supcon": "out",
            "ce+schane": overrides[0] if overrides else "in",
        }


def test_a_study_gives_its_reading_to_the_losses_that_take_it() -> None:
    losses = ("ce", "ce+supcon", "ce+schane")
    study = Study(adaptations=("finetune-head",), losses=losses, base_losses=losses, reading="out")
    found = [adaptation.hyper_parameters().get("reading") for adaptation in planned_adaptations(study)]
    assert found == [None, "out", "out"]
    names = [method_name("net", {}, "", adaptation) for adaptation in planned_adaptations(study)]
    assert names[1:] == ["net/episode-ce+supcon/finetune-head", "net/episode-ce+schane/finetune-head@reading=out"]
    assert [base_stage_name(recipe, base_recipe(conv4(), recipe.loss)) for recipe in recipes(study)] == [
        "base-ce",
        "base-ce+supcon",
        "base-ce+schane@reading=out",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"base_losses": ("ce+supcon",)},
        {"base_losses": ("ce", "ce+simclr")},
        {"base_losses": ("ce",)},
        {"base_losses": (), "adaptations": ("finetune-head",), "losses": ("ce+supcon",)},
        {"base_losses": ("ce+supcon",), "losses": ("ce+schane",)},  # which centroids do not train with
    ],
    ids=str,
)
def test_a_reading_that_no_loss_of_a_study_has_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="the reading 'in' belongs to ce\\+schane"):
        recipes(Study(reading="in", **fields))


def test_a_table_of_a_file_need_not_have_the_reading_of_the_others(tmp_path: Any) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        'reading = "out"\nbackbone = "conv4_32"\n'
        '[[methods]]\nbase_losses = ["ce+supcon"]\n[[methods]]\nbase_losses = ["ce+schane"]\n'
    )
    found = [
        recipe.hyper_parameters()["reading"] for study in plan_of_file(str(path)).studies for recipe in recipes(study)
    ]
    assert found == ["out", "out"]
    path.write_text('[[methods]]\nbase_losses = ["ce+supcon"]\nreading = "in"\n')
    with pytest.raises(StudyError, match="belongs to ce\\+schane"):
        [recipes(study) for study in plan_of_file(str(path)).studies]


def test_a_sweep_varies_the_reading_of_schane_and_of_nothing_else(tmp_path: Any) -> None:
    grid = Grid((Axis("reading", ("in", "out")),))
    study = Study(adaptations=("finetune-head",), losses=("ce+schane",), base_losses=("ce",), results=tmp_path)
    points = plan_sweep(study, grid).points
    found = [planned_adaptations(point.study)[0].hyper_parameters()["reading"] for point in points]
    assert found == ["in", "out"]
    for losses in (("ce+supcon",), ("ce+simclr",)):
        with pytest.raises(StudyError, match=r"reading acts nowhere in this sweep|belongs to ce\+schane"):
            plan_sweep(study.model_copy(update={"losses": losses}), grid)
    fixed = with_values(study, {"reading": "in"}).model_copy(update={"losses": ("ce+supcon",)})
    with pytest.raises(StudyError, match="belongs to ce"):
        plan_sweep(fixed, Grid((Axis("tau", (0.1, 0.5)),)))


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--dry-run", "--base-loss", "ce+supcon", "--reading", "in"],
        ["train", "--name", "net", "--loss", "ce+supcon", "--reading", "in"],
        ["run", "study.toml", "--dry-run", "--set", "reading=in"],
    ],
    ids=lambda command: command[0],
)
def test_the_command_line_refuses_it_too(command: list[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text('base_losses = ["ce+supcon"]')
    result = CliRunner().invoke(app, command)
    assert result.exit_code != 0
    said = " ".join(f"{result.output} {result.exception}".split())
    assert "the reading 'in' belongs to ce+schane" in said


def overrides_of(*readings: str) -> list[Any]:
    from fewshot_bench.study.study_parser import Override

    return [Override.from_text("reading", reading) for reading in readings]


def recipes(study: Study) -> list[Recipe]:
    return base_recipes(study, conv4())
