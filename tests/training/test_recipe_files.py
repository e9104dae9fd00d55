"""The recipes that come with the package say what their sources say, and name what exists."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fewshot_bench.adaptation import ADAPTATIONS
from fewshot_bench.backbones import BACKBONES, BackboneRequest, create_backbone
from fewshot_bench.datasets import DATASETS, Dataset
from fewshot_bench.errors import StudyError
from fewshot_bench.registry import Entry
from fewshot_bench.study import TrainingPlan, read_checkpoint, train_backbone
from fewshot_bench.study.known_names import finished_names
from fewshot_bench.study.methods import planned_adaptations
from fewshot_bench.study.study import Study
from fewshot_bench.study.validation import validation_head
from fewshot_bench.training import named_recipes
from fewshot_bench.training.named_recipes import named_recipe, recipe_entries, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_names_a_network_a_source_and_an_adaptation_that_takes_its_hyper_parameters(name: str) -> None:
    recipe = named_recipe(name)
    assert recipe.backbone.startswith("timm:") or recipe.backbone in BACKBONES
    assert recipe.source
    assert recipe.notes
    assert recipe.evaluation.adaptation in ADAPTATIONS
    for dataset in ("cifar-fs", *recipe.dataset):
        recipe.recipe(dataset)
        adaptation = recipe.evaluation.adaptation
        study = Study(adaptations=(adaptation,), hyper_parameters=recipe.hyper_parameters(dataset))
        assert planned_adaptations(study)[0].name == adaptation


def test_a_recipe_says_what_a_training_on_cifar_fs_costs() -> None:
    assert named_recipe("rfs-conv4").views("cifar-fs", 38_400) == 90 * 38_400
    assert named_recipe("protonet-conv4").views("cifar-fs", 38_400) == 250 * 100 * 20 * 20
    assert named_recipe("beit3-ce").views("cifar-fs", 38_400) == 100 * 38_400 * 2
    cost = "on cifar-fs 3.5 million views, about 1.4 hours of a CPU core"
    assert named_recipe("rfs-conv4").cost() == cost
    assert {entry.name: entry.facts["cost"] for entry in recipe_entries()}["rfs-conv4"] == cost


RFS = {
    "batch_size": 64, "learning_rate": 0.05, "optimizer": "sgd", "momentum": 0.9, "nesterov": False,
    "weight_decay": 5e-4, "decays": "all", "views": 1, "augmentation": "jitter",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("rfs-")])
def test_the_recipes_of_rfs_are_those_of_its_code_and_of_its_authors_answer(name: str) -> None:
    recipe = named_recipe(name)
    for dataset, epochs, drops in [
        ("mini-imagenet", 100, (60, 80)),
        ("tiered-imagenet", 60, (30, 40, 50)),
        ("cifar-fs", 90, (45, 60, 75)),
        ("fc100", 90, (45, 60, 75)),
    ]:
        settings = recipe.recipe(dataset)
        assert settings.epochs == epochs
        assert settings.drops == tuple((epoch, pytest.approx(0.1**power)) for power, epoch in enumerate(drops, 1))
        assert {field: getattr(settings, field) for field in RFS} == RFS
        if "resnet12" in name:
            assert settings.drop_block == 0.1
            assert settings.drop_block_size == (5 if "imagenet" in dataset else 2)


def test_a_distillation_differs_from_its_teachers_recipe_by_the_teacher_alone() -> None:
    for network in ("conv4", "resnet12"):
        own, other = named_recipe(f"rfs-{network}-distill"), named_recipe(f"rfs-{network}")
        assert own.backbone == other.backbone
        changes = own.recipe("cifar-fs").changes_from(other.recipe("cifar-fs"))
        assert changes == {"objective": "distillation", "teacher": f"rfs-{network}"}


def test_weights_of_the_code_of_rfs_fit_its_conv4(tmp_path: Path) -> None:
    """The names are those of models/convnet.py."""
    tensors: dict[str, torch.Tensor] = {"classifier.weight": torch.zeros(64, 64), "classifier.bias": torch.zeros(64)}
    torch.manual_seed(0)
    for layer in (1, 2, 3, 4):
        tensors[f"layer{layer}.0.weight"] = torch.randn(64, 3 if layer == 1 else 64, 3, 3)
        for part in ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
            tensors[f"layer{layer}.{part}"] = torch.rand(64)
        tensors[f"layer{layer}.1.num_batches_tracked"] = torch.tensor(1)
    save_file(tensors, tmp_path / "rfs.safetensors")
    network = create_backbone(
        BackboneRequest("conv4_64_gap", native_size=32, weights=tmp_path / "rfs.safetensors")
    ).network
    images = expected = torch.randn(2, 3, 32, 32)
    for layer in (1, 2, 3, 4):  # forward of models/convnet.py
        expected = torch.nn.functional.conv2d(
            expected, tensors[f"layer{layer}.0.weight"], tensors[f"layer{layer}.0.bias"], padding=1
        )
        norm = [tensors[f"layer{layer}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        expected = torch.nn.functional.batch_norm(expected, *norm).relu()
        expected = torch.nn.functional.max_pool2d(expected, 2) if layer < 4 else expected
    with torch.no_grad():
        torch.testing.assert_close(network(images), expected.mean((2, 3)))


DISTILL = """
description = "a small network learns from another"
source = "a test"
backbone = "conv4_32"
[training]
objective = "distillation"
teacher = "{teacher}"
epochs = 1
batch_size = 48
views = 1
threads = 1
"""


@pytest.fixture
def toy_is_known(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS._entries, "toy", Entry("toy", lambda: toy, "three small splits"))


def plan(name: str, folder: Path, teacher: str, **changes: Any) -> TrainingPlan:
    path = folder / "mine.toml"
    path.write_text(DISTILL.format(teacher=teacher), encoding="utf-8")
    return TrainingPlan(name=name, dataset="toy", named_recipe=str(path), device="cpu", **changes)


@pytest.mark.slow
@pytest.mark.usefixtures("toy_is_known")
def test_a_student_records_its_teacher_by_its_weights(tmp_path: Path) -> None:
    small = {"epochs": 1, "batch_size": 48}
    train_backbone(TrainingPlan(name="first", dataset="toy", backbone="conv4_32", recipe=small))
    train_backbone(TrainingPlan(name="second", dataset="toy", backbone="conv4_32", recipe={**small, "seed": 1}))
    student = train_backbone(plan("student", tmp_path, "first"))
    other = train_backbone(plan("other", tmp_path, "second"))
    assert student.recipe.teacher == "first"
    assert student.recipe.teacher_weights != other.recipe.teacher_weights
    assert student.backbone().weights != other.backbone().weights
    again = train_backbone(plan("again", tmp_path, "first"))
    assert again.backbone().weights == student.backbone().weights
    next_generation = train_backbone(plan("student-2", tmp_path, "student"))
    assert next_generation.recipe.teacher == "student"


@pytest.mark.slow
@pytest.mark.usefixtures("toy_is_known")
def test_the_recipe_of_a_teacher_is_trained_first_with_the_students_seed(
    toy: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first.toml").write_text(
        DISTILL.format(teacher="").replace('objective = "distillation"\nteacher = ""\n', ""), encoding="utf-8"
    )
    monkeypatch.setattr(named_recipes, "_FOLDER", tmp_path)
    train_backbone(plan("student", tmp_path, "first", recipe={"seed": 2}))
    assert finished_names() == ["first-toy-seed2", "student"]
    assert read_checkpoint("first-toy-seed2").recipe.seed == 2
    assert read_checkpoint("student").stage(toy)[0] == "mine@seed=2"


@pytest.mark.slow
@pytest.mark.usefixtures("toy_is_known")
def test_a_student_has_seen_what_its_teachers_have_seen(tmp_path: Path) -> None:
    small = {"epochs": 1, "batch_size": 48}
    train_backbone(TrainingPlan(name="plain", dataset="toy", backbone="conv4_32", recipe=small))
    weights = tmp_path / "found.safetensors"
    save_file(read_checkpoint("plain").backbone().network.state_dict(), weights)
    train_backbone(TrainingPlan(name="other", dataset="toy", backbone="conv4_32", recipe=small, weights=weights))
    assert train_backbone(plan("of-plain", tmp_path, "plain")).pretraining == "base split of toy"
    assert "teacher_pretraining" not in read_checkpoint("of-plain").card.as_json()
    student = train_backbone(plan("student", tmp_path, "other"))
    assert student.pretraining == student.backbone().pretraining == "unknown, base split of toy"
    assert train_backbone(plan("grandchild", tmp_path, "student")).pretraining == "unknown, base split of toy"


@pytest.mark.slow
@pytest.mark.usefixtures("toy_is_known")
def test_a_checkpoint_that_is_called_like_a_recipe_does_not_replace_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first.toml").write_text(
        DISTILL.format(teacher="").replace('objective = "distillation"\nteacher = ""\n', ""), encoding="utf-8"
    )
    monkeypatch.setattr(named_recipes, "_FOLDER", tmp_path)
    train_backbone(TrainingPlan(name="first", dataset="toy", backbone="conv4_32", recipe={"epochs": 1, "seed": 3}))
    own = tmp_path / "own"
    own.mkdir()
    train_backbone(plan("student", own, "first"))
    assert finished_names() == ["first", "first-toy", "student"]


@pytest.mark.usefixtures("toy_is_known")
def test_a_network_does_not_wait_for_itself_as_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "recipes"
    own.mkdir()
    (own / "born-again.toml").write_text(DISTILL.format(teacher="born-again"), encoding="utf-8")
    (own / "student.toml").write_text(DISTILL.format(teacher="born-again"), encoding="utf-8")
    monkeypatch.setattr(named_recipes, "_FOLDER", own)
    for recipe in ("born-again", "student"):
        with pytest.raises(StudyError, match="born-again-toy would learn from itself"):
            train_backbone(TrainingPlan(name=f"{recipe}-toy", dataset="toy", named_recipe=recipe, device="cpu"))
    assert finished_names() == []


@pytest.mark.parametrize("table", ["training", "dataset.toy.training"])
def test_the_seed_of_a_training_is_not_in_a_file(tmp_path: Path, table: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'description = "d"\nsource = "s"\nbackbone = "conv4_32"\n[{table}]\nseed = 1\n', encoding="utf-8")
    with pytest.raises(StudyError, match="sets a seed, which a command chooses"):
        named_recipe(str(path))


@pytest.mark.parametrize("table", ["training", "dataset.toy.training"])
@pytest.mark.parametrize("line", ["inner_steps = 3", "momentum = 0.8", "temperature = 2.0", "drop_block_size = 2"])
def test_a_file_with_a_setting_without_effect_is_refused(tmp_path: Path, table: str, line: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'description = "d"\nsource = "s"\nbackbone = "conv4_32"\n[{table}]\n{line}\n', encoding="utf-8")
    where = " on toy" if table.startswith("dataset") else ""
    with pytest.raises(StudyError, match=rf"mine.toml{where}: {line.split()[0]} has no effect"):
        named_recipe(str(path))


@pytest.mark.parametrize("epoch", ["1e400", "1e300", "nan"])
def test_a_rate_drops_in_an_epoch_that_can_come(tmp_path: Path, epoch: str) -> None:
    path = tmp_path / "mine.toml"
    text = 'description = "d"\nsource = "s"\nbackbone = "conv4_32"\n[training]\nschedule = "steps"\n'
    path.write_text(f"{text}drops = [[{epoch}, 0.5]]\n", encoding="utf-8")
    with pytest.raises(StudyError, match="drops of a training on the base split should be pairs"):
        named_recipe(str(path))


def test_a_named_pipe_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.toml")
    with pytest.raises(StudyError, match="should be a regular file"):
        named_recipe(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("size", [-5, 8, 100_000])
def test_images_of_a_recipe_are_as_large_as_those_of_a_study_may_be(tmp_path: Path, size: int) -> None:
    path = tmp_path / "mine.toml"
    text = 'description = "d"\nsource = "s"\nbackbone = "conv4_32"\n'
    path.write_text(f"{text}image_size = {size}\n", encoding="utf-8")
    with pytest.raises(StudyError, match="image_size: Input should be"):
        named_recipe(str(path))


@pytest.mark.parametrize("name", ["protonet-conv4", "base-ce"])
def test_a_file_of_ones_own_takes_no_name_that_stands_for_other_results(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.toml"
    path.write_text('description = "d"\nsource = "s"\nbackbone = "conv4_32"\n', encoding="utf-8")
    with pytest.raises(StudyError, match="should have a name of its own"):
        named_recipe(str(path))


PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


def test_the_page_of_recipes_has_a_row_for_each_and_a_file_that_works(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for name in recipe_names():
        recipe = named_recipe(name)
        assert f"`{recipe.evaluation.adaptation}`" in rows[name]
        assert f"`{recipe.backbone}`" in rows[name] or "BEiT-3 base" in rows[name]
    (tmp_path / "mine.toml").write_text(page.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    recipe = named_recipe(str(tmp_path / "mine.toml"))
    assert recipe.recipe("tiered-imagenet").drops == ((15, 0.1), (20, 0.01))
    assert recipe.validation is not None
    assert recipe.validation.every == 5


def test_the_recipes_of_metaoptnet_are_those_of_its_train_py() -> None:
    settings = {
        "objective": "episodic", "way": 5, "query": 6, "tasks": 8, "steps_per_epoch": 1000, "epochs": 60,
        "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4,
        "decays": "all", "schedule": "steps", "drops": ((20, 0.06), (40, 0.012), (50, 0.0024)), "views": 1,
        "augmentation": "jitter", "drop_block": 0.1,
    }  # fmt: skip
    heads = {"protonet": ("centroid", None), "ridge": ("ridge", 50.0), "svm": ("svm", 0.1)}
    for name, head in heads.items():
        recipe = named_recipe(f"{name}-resnet12")
        assert recipe.backbone == "resnet12_flat"
        for dataset, shot, side in [
            ("mini-imagenet", 15, 84),
            ("tiered-imagenet", 10, 84),
            ("cifar-fs", 5, 32),
            ("fc100", 15, 32),
        ]:
            trained = recipe.recipe(dataset)
            assert {field: getattr(trained, field) for field in settings} == settings
            assert (trained.episodic_head, trained.head_penalty) == head
            assert trained.shot == (shot if name != "protonet" else 5)
            assert trained.drop_block_size == (5 if side == 84 else 2)
            # For the true class 1 - 0.1, for each of the others 0.1 / 4.
            smoothing = 0.1 * 5 / 4 if (name, dataset) == ("svm", "mini-imagenet") else 0.0
            assert trained.label_smoothing == pytest.approx(smoothing)
            if name == "protonet":
                size = create_backbone(BackboneRequest("resnet12_flat", native_size=side)).embedding_size
                assert (trained.head_scale, trained.learned_scale) == (1 / size, True)


def test_an_episodic_recipe_is_evaluated_by_the_head_that_it_is_trained_with() -> None:
    for name in recipe_names():
        named = named_recipe(name)
        recipe, hyper_parameters = named.recipe("cifar-fs"), named.hyper_parameters("cifar-fs")
        if recipe.objective != "episodic":
            continue
        assert named.evaluation.adaptation == recipe.episodic_head
        assert hyper_parameters.pop("features") == "raw"
        expected = {
            "centroid": {"metric": "euclidean"},
            "matching": {"scale": recipe.head_scale},
            "ridge": {"penalty": recipe.head_penalty},
            "svm": {"C": recipe.head_penalty},
        }
        assert hyper_parameters == expected[recipe.episodic_head]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('epochs = "ten"', "epochs .* a whole number, not 'ten'"),
        ("epochs = 1.5", "epochs .* a whole number, not 1.5"),
        ("epochs = true", "epochs .* a whole number, not True"),
        ('learning_rate = "1"', "learning_rate .* a number, not '1'"),
        ("nesterov = 1", "nesterov .* true or false, not 1"),
        ("loss = 3", "loss .* a word, not 3"),
        ("threads = 0.5", "threads .* a whole number, not 0.5"),
        ("drops = [60, 80]", r"drops .* such as \[\[60, 0.1\], \[80, 0.01\]\], not \[60, 80\]"),
        ('drops = [["a", 0.1]]', "drops .* pairs of an epoch and a share"),
        ("drops = 60", "drops .* pairs of an epoch and a share"),
        ('teacher_weights = "abc"', "no setting 'teacher_weights'"),
        ("epoch = 3", "no setting 'epoch'"),
        ('objective = "distilation"', "objective .* one of classification"),
    ],
)
def test_a_file_with_a_wrong_value_is_refused_in_a_sentence_that_names_it(
    line: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'description = "d"\nsource = "s"\nbackbone = "conv4_32"\n[training]\n{line}\n', encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        named_recipe(str(path))


@pytest.mark.parametrize(
    ("name", "changes", "setting", "value"),
    [
        ("matching-conv4", {"head_scale": 10.0}, "scale", 10.0),
        ("ridge-conv4", {"head_penalty": 3.0}, "penalty", 3.0),
        ("svm-resnet12", {"head_penalty": 3.0}, "C", 3.0),
        ("meta-sgd-conv4", {"inner_steps": 2}, "steps", 2),
        ("maml-conv4", {"inner_steps": 2}, "steps", 10),  # which are not those of the training in the recipe
        ("maml-conv4", {"inner_statistics": "support"}, "statistics", "support"),
    ],
)
def test_what_a_head_shares_with_its_training_follows_it(
    name: str, changes: dict[str, Any], setting: str, value: object
) -> None:
    named = named_recipe(name)
    head = validation_head(named, "cifar-fs", named.recipe("cifar-fs", **changes))
    assert getattr(head, setting) == value
    study = Study(dataset="cifar-fs", recipe=name, base_settings=changes)
    if setting != "statistics":  # taken when the network is known
        assert study.hyper_parameters[setting] == value
    assert Study(dataset="cifar-fs", recipe=name).hyper_parameters == named.hyper_parameters("cifar-fs")
