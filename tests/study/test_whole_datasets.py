"""`protocol="full"`: networks are trained on a train split, and every image of the test split is classified."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import toy_split

from fewshot_bench.adaptation import Centroid, TrainedClassifier
from fewshot_bench.audit.rebuild import rebuild
from fewshot_bench.audit.selection import RerunOptions
from fewshot_bench.backbones import BaseHead
from fewshot_bench.datasets import DATASETS, Dataset, ImageSplit
from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.engine.engine import LocalEngine
from fewshot_bench.episodes import draw, whole_protocol
from fewshot_bench.errors import EpisodeError, StudyError
from fewshot_bench.evaluation.evaluate import evaluate
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.progress import SILENT
from fewshot_bench.registry import Entry
from fewshot_bench.report.trainings import trainings_of_methods
from fewshot_bench.study import Study, StudyPlan, TrainingPlan, plan_of_file, read_checkpoint, run_study, train_backbone
from fewshot_bench.study.chunks import Shard
from fewshot_bench.study.networks import Backbones, resolve_networks
from fewshot_bench.study.provenance import study_record
from fewshot_bench.study.resolved import resolve_study
from fewshot_bench.study.workers import OnWholeSplit

NAMES = tuple(f"class {label}" for label in range(4))


def split_of(name: SplitName, images: int, seed: int = 5) -> ImageSplit:
    """Images of four classes that all splits share."""
    return replace(toy_split(name, classes=4, images=images, seed=seed), class_names=NAMES, dataset="whole-toy")


def dataset_of(*names: SplitName) -> Dataset:
    sizes: dict[SplitName, int] = {"train": 20, "validation": 6, "test": 9}
    return Dataset("whole-toy", {name: split_of(name, sizes[name]) for name in names})


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    dataset = dataset_of("train", "test")
    monkeypatch.setitem(DATASETS._entries, "whole-toy", Entry("whole-toy", lambda: dataset, "for classification"))
    return dataset


def study_of(results: Path = Path("results"), **settings: Any) -> Study:
    small = {"dataset": "whole-toy", "backbone": "conv4_32", "base_epochs": 2, "base_batch": 24, "device": "cpu"}
    return Study(**{"protocol": "full", **small, "results": results, **settings})


@pytest.mark.slow
def test_a_study_stores_every_test_image_of_every_training_and_is_resumed(tmp_path: Path) -> None:
    study = study_of(tmp_path, losses=("ce", "ce+schane"), training_seeds=2)
    cells = run_study(study).cells
    assert [cell.method.adaptation for cell in cells] == ["classifier"] * 4
    assert {cell.protocol.task for cell in cells} == {"whole-toy whole test split"}
    store = OutcomeStore(tmp_path / "outcomes")
    before = {cell.key: store.read(cell) for cell in cells}
    for frame in before.values():
        assert frame["episode"].tolist() == list(range(36))
        assert frame["accuracy"].mean() > 0.4, "chance is 0.25"
        assert frame["confidence"].between(0.25, 1).all()
    assert [len(trainings) for trainings in trainings_of_methods(cells)] == [2, 2]
    files = sorted(tmp_path.rglob("*.parquet"))
    for path in files[1:]:
        path.unlink()
    assert [cell.key for cell in run_study(study).cells] == [cell.key for cell in cells]
    again = OutcomeStore(tmp_path / "outcomes")
    for cell in cells:
        assert again.read(cell).drop(columns="seconds").equals(before[cell.key].drop(columns="seconds"))


@pytest.mark.slow
def test_shards_together_are_the_whole_and_a_cell_comes_out_again(tmp_path: Path, known: Dataset) -> None:
    (cell,) = run_study(study_of(tmp_path / "whole")).cells
    for number in (1, 2):
        run_study(study_of(tmp_path / "shards"), shard=Shard(number, 2))
    whole, shards = (OutcomeStore(tmp_path / name / "outcomes").read(cell) for name in ("whole", "shards"))
    assert shards.drop(columns="seconds").equals(whole.drop(columns="seconds"))
    assert rebuild(cell, known, RerunOptions(device="cpu"), SILENT).card.fingerprint == cell.method.fingerprint


@pytest.mark.slow
def test_a_checkpoint_of_the_train_split_classifies_as_the_study_that_trains_it(tmp_path: Path) -> None:
    (cell,) = run_study(study_of(tmp_path)).cells
    recipe = {"epochs": 2, "batch_size": 24}
    plan = TrainingPlan(
        name="mine", dataset="whole-toy", backbone="conv4_32", recipe=recipe, protocol="full", device="cpu"
    )
    checkpoint = train_backbone(plan)
    assert (checkpoint.card.split, set(checkpoint.accuracies)) == ("train", {"validation_accuracy"})
    assert [row["validation_accuracy"] >= 0 for row in checkpoint.history] == [True, True]
    assert "train split of whole-toy" in read_checkpoint("mine").summary()
    named = study_of(tmp_path, backbone=None, base_epochs=None, base_batch=None, checkpoints=("mine",))
    (own,) = run_study(named).cells
    store = OutcomeStore(tmp_path / "outcomes")
    assert (store.read(own)["predictions"] == store.read(cell)["predictions"]).all()
    assert own.method.weights == cell.method.weights
    assert own.method.name == cell.method.name


def test_part_of_train_is_held_out_and_recorded_unless_there_is_a_validation_split(known: Dataset) -> None:
    (network,) = resolve_networks(study_of(), known, Backbones())
    assert network.split == "train"
    assert network.recipe is not None
    assert network.recipe.validation_share == network.hyper_parameters["validation_share"] == 0.1
    assert len(network.hyper_parameters["division"]) == 16
    assert network.stage == "base-ce@batch_size=24,epochs=2"
    (network,) = resolve_networks(study_of(), dataset_of("train", "validation", "test"), Backbones())
    assert network.recipe is not None
    assert network.recipe.validation_share == 0
    assert "division" not in network.hyper_parameters
    train, validation = network.images(dataset_of("train", "validation", "test"))
    assert (train.name, validation is not None and validation.name) == ("train", "validation")


def test_a_pretrained_network_has_the_recipe_of_the_paper(known: Dataset) -> None:
    study = study_of(backbone="timm:test_vit.r160_in1k", base_epochs=None, base_batch=None, image_size=64)
    (network,) = resolve_networks(study, known, Backbones(fetches=False))
    assert network.recipe is not None
    expected = {"epochs": 50, "learning_rate": 1e-4, "weight_decay": 0.05, "batch_size": 1024, "dropout": 0.1}
    assert {name: getattr(network.recipe, name) for name in expected} == expected
    assert (network.recipe.views, network.recipe.augmentation) == (2, "auto")
    assert network.stage == "base-ce"


def test_settings_of_the_recipe_are_part_of_the_name_and_of_the_identity(known: Dataset) -> None:
    plain, fifth = (
        resolve_networks(study_of(base_settings=settings), known, Backbones())[0]
        for settings in ({}, {"train_share": 0.2, "tune": "last:1"})
    )
    assert fifth.stage == "base-ce@batch_size=24,epochs=2,train_share=0.2,tune=last:1"
    assert fifth.hyper_parameters["division"] != plain.hyper_parameters["division"]


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"shots": (5,)}, "--shots"), ({"way": 3}, "--way"), ({"query": 5}, "--query"), ({"episodes": 7}, "--episodes"),
        ({"runs": 2}, "--runs"), ({"sampler": "disjoint"}, "--sampler"), ({"until_ci": 1.0}, "--until-ci"),
        ({"max_episodes": 9}, "--max-episodes"), ({"split": "train"}, "--split"), ({"seed": 3}, "--seed"),
        ({"alpha": 1.0}, "--alpha"), ({"adaptations": ("centroid",)}, "--adapt classifier"),
        ({"base_losses": ()}, "--loss ce"), ({"losses": ("ce",), "base_losses": ("ce+schane",)}, "--base-loss"),
        ({"base_settings": {"epochs": 3}}, "--base-epochs"), ({"base_settings": {"other": 3}}, "other"),
        ({"base_settings": {"train_share": "a"}}, "train_share"), ({"choose": "ensemble"}, "--choose"),
    ],
)  # fmt: skip
def test_options_without_effect_are_refused_in_one_line(settings: dict[str, Any], option: str, known: Dataset) -> None:
    with pytest.raises(StudyError, match=option) as error:
        _ = resolve_study(study_of(**settings)).networks
    assert "\n" not in str(error.value)


def test_few_shot_studies_refuse_what_belongs_to_whole_datasets(toy: Dataset) -> None:
    with pytest.raises(StudyError, match="Add --protocol full"):
        resolve_study(Study(adaptations=("classifier",)), dataset=toy)
    with pytest.raises(StudyError, match="Use --protocol full"):
        Study(sampler="whole")
    with pytest.raises(StudyError, match="needs a train and a test split of the same classes, and toy has base"):
        resolve_study(study_of(), dataset=toy)


def test_splits_of_other_classes_are_refused_by_name(known: Dataset) -> None:
    test = replace(known.splits["test"], class_names=(*NAMES[:3], "class 9"))
    other = Dataset("whole-toy", {**known.splits, "test": test})
    with pytest.raises(StudyError, match="2 are in one of them alone, such as 'class 3' in the train split"):
        resolve_study(study_of(), dataset=other)


def test_a_record_of_a_study_makes_the_same_study_again_and_few_shot_records_stay(tmp_path: Path) -> None:
    study = study_of(losses=("ce", "ce+schane"), base_settings={"train_share": 0.5})
    record = study_record(study)
    assert not {"shots", "way", "query", "episodes", "sampler"} & set(record)
    assert study_record(Study(**record)) == record
    assert not {"protocol", "base_settings"} & set(study_record(Study()))
    (tmp_path / "study.toml").write_text('protocol = "full"\ndatasets = "whole-toy"\nlosses = ["ce", "ce+schane"]\n')
    (described,) = plan_of_file(str(tmp_path / "study.toml")).studies
    assert (described.base_losses, described.adaptations) == (("ce", "ce+schane"), ("classifier",))


def test_the_best_epoch_is_kept_only_where_that_is_asked_for(known: Dataset) -> None:
    from fewshot_bench.study.base_stage import own_selection

    for kept, chooses in (("last", False), ("best", True)):
        (network,) = resolve_networks(study_of(base_settings={"kept_epoch": kept}), known, Backbones())
        assert network.recipe is not None
        selection = own_selection(network.start(), known.splits["train"], network.recipe, None, "cpu")
        assert selection is not None
        assert selection.chooses == chooses
    recipe = replace(network.recipe, validation_share=0.0)
    with pytest.raises(StudyError, match="kept_epoch=best needs images"):
        own_selection(network.start(), known.splits["train"], recipe, None, "cpu")


def test_predictions_are_those_of_the_trained_head_on_the_test_images(tmp_path: Path, known: Dataset) -> None:
    (cell,) = run_study(study_of(tmp_path, base_epochs=1)).cells
    (method,) = resolve_study(study_of(tmp_path, base_epochs=1)).methods
    backbone = method.network.trained(known, LocalEngine("cpu"), SILENT)
    images = torch.from_numpy(np.array(known.splits["test"].images)).permute(0, 3, 1, 2)
    assert backbone.base_head is not None
    with torch.no_grad():
        logits = backbone.base_head(backbone.network.eval()(backbone.preprocessing(images)))
    frame = OutcomeStore(tmp_path / "outcomes").read(cell)
    assert [row[0] for row in frame["predictions"]] == logits.argmax(1).tolist()
    assert frame["confidence"].to_numpy() == pytest.approx(logits.softmax(1).max(1).values.numpy(), abs=1e-4)


def test_the_classifier_goes_to_another_process() -> None:
    embeddings, head = np.eye(4, dtype=np.float32), BaseHead(torch.eye(4), torch.zeros(4), NAMES)
    factory = pickle.loads(pickle.dumps(OnWholeSplit(TrainedClassifier(), embeddings, head)))  # our own
    (episodes,) = draw(whole_protocol("whole-toy", "test", (1, 1, 1, 1)), (1, 1, 1, 1), 0, np.arange(4))
    assert factory("cpu")(episodes, 4)[:, 0].tolist() == [0, 1, 2, 3]


def test_heads_of_support_sets_refuse_episodes_without_them() -> None:
    (episodes,) = draw(whole_protocol("whole-toy", "test", (1, 1, 1, 1)), (1, 1, 1, 1), 0, np.arange(4))
    with pytest.raises(EpisodeError, match="no support sets to adapt to"):
        evaluate(Centroid(), np.eye(4), episodes)


def test_an_estimate_without_the_images_names_the_split(tmp_path: Path) -> None:
    from fewshot_bench.study.dry_run import estimate

    study = study_of(tmp_path, dataset="flowers-102")
    cells = estimate(StudyPlan(name="", studies=(study,), places=("",))).cells
    assert [cell.task for cell in cells] == ["flowers-102 whole test split"]


def test_an_option_of_whole_datasets_without_effect_on_a_few_shot_training_is_refused(toy: Dataset) -> None:
    plan = TrainingPlan(name="mine", dataset="glyphs", backbone="conv4_32", recipe={"kept_epoch": "best"})
    with pytest.raises(StudyError, match=r"kept_epoch has no effect .* it belongs to --protocol full"):
        train_backbone(plan)
    with pytest.raises(StudyError, match="--validation-episodes has no effect"):
        TrainingPlan(name="mine", protocol="full", validation_episodes=7)
