"""The studies that come with the package are valid, say what they are, and are what the paper did."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import timm
from typer.testing import CliRunner

import fewshot_bench.training.named_recipes
from fewshot_bench.cli.main import app, exit_code
from fewshot_bench.report import method_labels
from fewshot_bench.study import PAPER_GRID, Study, plan_of_file, resolve_study
from fewshot_bench.study.study_file import known_preset, preset_entries, preset_names
from fewshot_bench.study.study_parser import Override
from fewshot_bench.training import paper_recipe
from fewshot_bench.training.named_recipes import named_recipe

RECIPES = Path(fewshot_bench.training.named_recipes.__file__).with_name("recipes")


def test_the_presets_that_are_promised_are_there_each_with_a_line():
    assert preset_names() == [
        "dhillon-table1",
        "heads",
        "quickstart",
        "schane-ablation",
        "schane-lambda",
        "schane-paper-literal",
        "schane-table1",
        "schane-table1-small",
        "schane-table2",
        "schane-table2-small",
    ]
    assert all(20 < len(entry.summary) < 100 for entry in preset_entries())


def test_quickstart_is_the_default_study_with_the_contrast_that_its_validation_split_chose():
    (study,) = plan_of_file("quickstart").studies
    default = Study()
    chosen = {"backbone": default.backbone_name, "base_losses": ("ce", "ce+schane"), "lambda_": 0.3, "tau": 0.1}
    assert study == default.model_copy(update=chosen)


@pytest.mark.parametrize(
    ("typed", "contrast"),
    [
        ([], 0.3),
        (["--results", "there", "--device", "cpu", "--chunk", "7"], 0.3),
        (["--shots", "1"], 0.9),
        (["--adapt", "logistic"], 0.9),
        (["--set", "metric=euclidean"], 0.9),
    ],
    ids=["nothing", "where and how", "--shots", "--adapt", "--set"],
)
def test_run_without_a_description_of_a_study_runs_quickstart_under_plain_names(typed, contrast, monkeypatch):
    plans = []
    monkeypatch.setattr("fewshot_bench.cli.run._work", lambda context, plan, *_: plans.append(plan))
    assert exit_code(["run", *typed]) == 0
    ((study,), labels) = plans[0].studies, plans[0].outputs.labels
    assert study.lambda_ == contrast
    assert list(labels.values()) == (["CE", "CE + SCHaNe"] if contrast == 0.3 else [])
    names = [method.name for method in resolve_study(study).methods] if labels else []
    assert set(method_labels(names, labels.items())) == set(names)


@pytest.mark.parametrize("name", preset_names())
def test_a_copy_of_a_preset_is_the_preset(name, tmp_path):
    copy = tmp_path / "mine.toml"
    copy.write_text(known_preset(name), encoding="utf-8")
    assert plan_of_file(str(copy)).studies == plan_of_file(name).studies


@pytest.mark.parametrize("name", ["schane-ablation", "schane-lambda"])
def test_the_papers_studies_have_its_backbone_and_its_recipe(name):
    recipe = paper_recipe("ce+schane")
    for study in plan_of_file(name).studies:
        assert timm.is_model_pretrained(study.backbone_name.removeprefix("timm:"))
        assert (study.base_epochs, study.base_batch) == (recipe.epochs, recipe.batch_size) == (100, 1024)
        assert (study.way, study.query) == (5, 15)


@pytest.mark.parametrize("name", preset_names())
def test_presets_meant_for_a_gpu_train_in_bf16_and_the_others_in_float32(name):
    is_for_a_gpu = name in ("dhillon-table1", "schane-ablation", "schane-lambda", "schane-table2")
    for study in plan_of_file(name).studies:
        assert study.base_precision == ("bf16" if is_for_a_gpu else None)
        fine_tunes_large_networks = name == "dhillon-table1" or study.recipe == "dhillon-wrn28-10"
        assert study.hyper_parameters.get("precision") == ("bf16" if fine_tunes_large_networks else None)


@pytest.mark.parametrize(("name", "loss"), [("beit3-ce-literal", "ce"), ("beit3-schane-literal", "ce+schane")])
def test_the_literal_recipes_make_every_choice_that_the_paper_prints_and_no_other(name, loss):
    printed = {"epochs": 100, "batch_size": 1024, "views": 2, "dropout": 0.1, "learning_rate": 1e-4}
    printed |= {"optimizer": "adam", "weight_decay": 0.05, "decays": "all", "augmentation": "autoaugment-policy"}
    not_printed = {"schedule": "constant", "warmup_epochs": 0, "label_smoothing": 0, "objective": "classification"}
    of_schane = {"lambda_": 0.9, "tau": 0.5, "stop_gradient": "none", "anchors": "sum"} if loss == "ce+schane" else {}
    named = named_recipe(name)
    recipe = named.recipe("cifar-fs")
    assert (recipe.loss, recipe.precision) == (loss, "bf16")
    assert {key: getattr(recipe, key) for key in printed | not_printed | of_schane} == printed | not_printed | of_schane
    assert recipe.hyper_parameters().get("reading") == ("in" if loss == "ce+schane" else None)
    assert named.validation is None, "no choice of an epoch is printed"
    assert timm.is_model_pretrained(named.backbone.removeprefix("timm:"))


def test_the_literal_preset_is_table_1_with_the_literal_recipes():
    literal, usual = plan_of_file("schane-paper-literal").studies, plan_of_file("schane-table1").studies
    protocol = ("dataset", "shots", "way", "query", "episodes", "runs", "split")
    of_table = {tuple(getattr(study, name) for name in protocol) for study in usual}
    assert {tuple(getattr(study, name) for name in protocol) for study in literal} == of_table
    assert {study.recipe for study in literal} == {"beit3-ce-literal", "beit3-schane-literal"}


@pytest.mark.slow
def test_the_literal_preset_runs_in_small(monkeypatch, tmp_path):
    """With a small network in its recipes, which a study cannot change otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSHOT_BENCH_HOME", str(tmp_path / "home"))
    for name in ("beit3-ce-literal", "beit3-schane-literal"):
        text = (RECIPES / f"{name}.toml").read_text(encoding="utf-8")
        assert 'backbone = "timm:' in text
        small = re.sub(r"^backbone = .*$", 'backbone = "conv4_32"', text, flags=re.MULTILINE)
        Path(name.replace("beit3", "small")).with_suffix(".toml").write_text(small, encoding="utf-8")
    changes = {
        "datasets": "glyphs", "shots": "1", "episodes": "10", "runs": "1", "base_epochs": "1", "base_batch": "2048",
        "base_precision": "float32", "methods.0.recipe": "small-ce-literal.toml,small-schane-literal.toml",
    }  # fmt: skip
    settings = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(app, ["run", "schane-paper-literal", "--results", "results", *settings])
    assert result.exit_code == 0, result.output
    rows = pd.read_csv("results/leaderboard.csv")
    changed = "@batch_size=2048,epochs=1,precision=float32"
    assert set(rows["method"]) == {f"conv4_32/small-{loss}-literal{changed}/centroid" for loss in ("ce", "schane")}


def test_table_1_trains_and_evaluates_each_of_its_rows_by_a_recipe_on_four_datasets_and_two_shots():
    studies = plan_of_file("schane-table1").studies
    assert {(s.shots, s.episodes, s.runs, s.split) for s in studies} == {((1, 5), 3000, 3, "novel")}
    datasets = ("cifar-fs", "fc100", "mini-imagenet", "tiered-imagenet")
    recipes = ("ridge-resnet12", "svm-resnet12", "rfs-resnet12-distill", "beit3-ce", "beit3-schane", "protonet-conv4")
    rows = [(recipe, None) for recipe in recipes] + [("dhillon-wrn28-10", None), ("dhillon-wrn28-10", 1.0)]
    assert sorted((s.dataset, s.recipe or "", str(s.hyper_parameters.get("query_entropy"))) for s in studies) == sorted(
        (dataset, recipe, str(entropy)) for dataset in datasets for recipe, entropy in rows
    )
    alone = plan_of_file("schane-table1", [Override.from_text("datasets", "cifar-fs")]).studies
    assert alone == tuple(s for s in studies if s.dataset == "cifar-fs")


@pytest.mark.parametrize(("name", "loss"), [("beit3-ce", "ce"), ("beit3-schane", "ce+schane")])
def test_the_papers_own_rows_are_trained_by_its_numbers(name, loss):
    recipe = named_recipe(name)
    assert recipe.backbone == "timm:beit3_base_patch16_224.pt"
    assert recipe.recipe("cifar-fs") == paper_recipe(loss, precision="bf16")
    assert (recipe.evaluation.adaptation, recipe.evaluation.hyper_parameters) == ("centroid", {})


def test_table_1_in_small_has_the_seven_kinds_of_rows_on_conv4():
    studies = plan_of_file("schane-table1-small").studies
    assert {s.dataset for s in studies} == {"cifar-fs", "fc100"}
    of_one = [s for s in studies if s.dataset == "fc100"]
    networks = {named_recipe(s.recipe).backbone if s.recipe else s.backbone_name for s in of_one}
    assert networks == {"conv4_64", "conv4_64_gap"}
    assert len(of_one) == 6  # of which one has two losses
    assert [s.base_losses for s in of_one if s.recipe is None] == [("ce", "ce+schane")]
    entropies = [s.hyper_parameters.get("query_entropy") for s in of_one if s.adaptations == ("finetune",)]
    assert entropies == [None, 1.0]


def test_the_ablation_has_the_four_losses_of_table_3():
    (study,) = plan_of_file("schane-ablation").studies
    assert study.base_losses == ("ce", "ce+simclr", "ce+supcon", "ce+schane")
    assert (study.dataset, study.shots) == ("cifar-fs", (1,))


def test_the_search_has_every_point_of_the_papers_grid_on_the_validation_split():
    studies = plan_of_file("schane-lambda").studies
    points = [(point["lambda"], point["tau"]) for point in PAPER_GRID.points()]
    assert [(s.lambda_, s.tau) for s in studies] == [p for p in points if p[0] or p[1] == 0.1]
    assert {s.split for s in studies} == {"validation"}


def test_the_ablation_can_be_scaled_down_by_set():
    changes = [Override.from_text("base_epochs", "1"), Override.from_text("backbone", "conv4_32")]
    (study,) = plan_of_file("schane-ablation", changes).studies
    assert (study.base_epochs, study.backbone) == (1, "conv4_32")


def test_table_2_has_its_networks_datasets_losses_and_seeds():
    studies = plan_of_file("schane-table2").studies
    assert len(studies) == 3 * 8
    assert {study.dataset for study in studies} == {
        "cifar-100", "cub-200-2011", "caltech-256", "flowers-102", "oxford-iiit-pet", "inaturalist-2017", "places365",
        "imagenet-1k",
    }  # fmt: skip
    for study in studies:
        assert timm.is_model_pretrained(study.backbone_name.removeprefix("timm:"))
        assert (study.is_whole, study.adaptations, study.training_seeds) == (True, ("classifier",), 3)
        assert study.base_losses == ("ce", "ce+schane")
        assert (study.base_epochs, study.base_batch) == (None, None), "the recipe of whole datasets has them"


def test_table_2_in_small_trains_a_conv4_and_the_last_block_of_a_pretrained_network():
    conv4, lite = plan_of_file("schane-table2-small").studies
    assert (conv4.backbone_name, conv4.base_epochs, conv4.base_settings) == ("conv4_64", 10, {"train_share": 0.2})
    assert (lite.image_size, lite.base_settings["tune"]) == (64, "last:1")
    assert {study.training_seeds for study in (conv4, lite)} == {3}
