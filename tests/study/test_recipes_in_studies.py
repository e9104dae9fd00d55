"""`run --recipe` trains a network once, finds it again, and evaluates it by the adaptation of the recipe."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from conftest import toy_split

from fewshot_bench._io.locations import checkpoints_folder
from fewshot_bench.audit import ReproductionOptions, reproduce_cell
from fewshot_bench.audit.rebuild import recorded_study
from fewshot_bench.datasets import DATASETS
from fewshot_bench.datasets.dataset import Dataset
from fewshot_bench.errors import FewshotBenchError, StudyError, UnknownNameError
from fewshot_bench.outcomes import Cell
from fewshot_bench.registry import Entry
from fewshot_bench.study import Study, TrainingPlan, run_plan, run_study, train_backbone
from fewshot_bench.study.checkpoints import checkpoint_file, read_checkpoint
from fewshot_bench.study.dry_run import estimate
from fewshot_bench.study.estimates import Machine
from fewshot_bench.study.known_names import finished_names
from fewshot_bench.study.networks import trainings_of
from fewshot_bench.study.plan import StudyPlan
from fewshot_bench.training import named_recipes

RECIPE = """
description = "tasks of three classes"
source = "this test"
backbone = "conv4_32"

[training]
objective = "episodic"
episodic_head = "centroid"
way = 3
shot = 2
query = 2
steps_per_epoch = 2
epochs = 2
views = 1
augmentation = "none"
optimizer = "adam"
learning_rate = 1e-3
threads = 1

[validation]
every = 1
episodes = 20

[evaluation]
adaptation = "centroid"
hyper_parameters = { features = "raw", metric = "euclidean" }

[dataset.other.training]
epochs = 3
"""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def toy_is_known(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS._entries, "toy", Entry("toy", lambda: toy, "three small splits"))


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "small.toml").write_text(RECIPE)
    return str(tmp_path / "small.toml")


def study(tmp_path: Path, recipe: str, **changes: Any) -> Study:
    fields: dict[str, Any] = {
        "dataset": "toy", "recipe": recipe, "shots": (1,), "query": 3, "episodes": 6, "runs": 1, "device": "cpu",
        "results": tmp_path / "results",
    }  # fmt: skip
    return Study.model_validate(fields | changes)


def only_cell(cells: list[Cell]) -> Cell:
    (cell,) = cells
    return cell


def test_a_recipe_is_trained_once_and_evaluated_by_its_own_adaptation(tmp_path: Path, recipe: str) -> None:
    cell = only_cell(run_study(study(tmp_path, recipe)).cells)
    assert cell.method.name == "conv4_32/small/centroid@features=raw,metric=euclidean"
    assert finished_names() == ["small-toy"]
    written = checkpoint_file("small-toy").read_bytes()
    again = only_cell(run_study(study(tmp_path, recipe)).cells)
    assert again.key == cell.key
    assert checkpoint_file("small-toy").read_bytes() == written


def test_records_name_the_file_of_a_recipe_and_no_folder(tmp_path: Path, recipe: str) -> None:
    asked = study(tmp_path, recipe, dataset="glyphs", base_epochs=1)
    cell = only_cell(run_study(asked, arguments=["run", "--recipe", recipe]).cells)
    recorded = cell.provenance["study"]
    assert recorded["recipe"] == "small.toml"
    assert recorded["recipe_digest"] == sha256(Path(recipe).read_bytes()).hexdigest()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != Path(recipe)]
    files += checkpoints_folder().rglob("*")
    assert any(path.parent.name == "studies" for path in files)
    assert [path for path in files if path.is_file() and str(tmp_path).encode() in path.read_bytes()] == []
    Path(recipe).unlink()  # its content is in the checkpoint
    folder = tmp_path / "results" / "outcomes" / cell.key
    assert reproduce_cell(folder, ReproductionOptions(device="cpu")).is_equal
    checkpoint_file("small-glyphs-epochs1").unlink()
    with pytest.raises(FewshotBenchError, match=r"no checkpoint here of its training by the recipe small\.toml"):
        recorded_study(cell)


def test_run_finds_what_train_has_made(tmp_path: Path, recipe: str) -> None:
    trained = train_backbone(TrainingPlan(name="small-toy", dataset="toy", named_recipe=recipe, device="cpu"))
    assert set(trained.accuracies) == {"validation_1shot", "validation_5shot"}
    assert trained.card.selection["head"]["metric"] == "euclidean"
    before = trained.path.read_bytes()
    run_study(study(tmp_path, recipe))
    assert trained.path.read_bytes() == before


def test_changed_fields_are_in_both_names(tmp_path: Path, recipe: str) -> None:
    cell = only_cell(run_study(study(tmp_path, recipe, base_epochs=1, training_seed=2, adaptations=("ridge",))).cells)
    assert cell.method.name == "conv4_32/small@epochs=1,seed=2/ridge"
    assert read_checkpoint("small-toy-epochs1-seed2").recipe.epochs == 1


def test_the_contrast_is_that_of_the_recipe_unless_a_study_names_another(tmp_path: Path) -> None:
    file = tmp_path / "contrast.toml"
    file.write_text(
        'description = "d"\nsource = "s"\nbackbone = "conv4_32"\n'
        '[training]\nloss = "ce+schane"\nlambda_ = 0.3\ntau = 0.1\n'
    )
    plain = study(tmp_path, str(file), adaptations=("centroid",))
    assert (plain.lambda_, plain.tau) == (0.3, 0.1)
    for changes, name in [
        ({}, "contrast-toy"),
        ({"lambda_": 0.9}, "contrast-toy-lambda0.9"),  # the default where there is no recipe
        ({"lambda": 0.9, "tau": 0.5}, "contrast-toy-lambda0.9-tau0.5"),
    ]:
        assert trainings_of(study(tmp_path, str(file), **changes))[0][0] == name


def test_the_weight_of_a_contrast_is_no_change_of_a_training_without_one(tmp_path: Path, recipe: str) -> None:
    assert trainings_of(study(tmp_path, recipe, lambda_=0.3))[0][0] == "small-toy"


def test_training_seeds_are_checkpoints_of_their_own(tmp_path: Path, recipe: str) -> None:
    cells = run_study(study(tmp_path, recipe, training_seeds=2, base_epochs=1)).cells
    assert [cell.method.name.split("/")[1] for cell in cells] == ["small@epochs=1", "small@epochs=1,seed=1"]
    assert finished_names() == ["small-toy-epochs1", "small-toy-epochs1-seed1"]


def test_a_checkpoint_of_that_name_that_was_trained_otherwise_is_refused(tmp_path: Path, recipe: str) -> None:
    train_backbone(TrainingPlan(name="small-toy", dataset="toy", backbone="conv4_32", recipe={"epochs": 1}))
    with pytest.raises(StudyError, match="small-toy was trained otherwise"):
        run_study(study(tmp_path, recipe))
    ahead = estimate(StudyPlan.of_options([study(tmp_path, recipe)]))
    assert any("small-toy was trained otherwise" in problem for problem in ahead.missing)


def test_what_is_wrong_is_found_before_anything_is_trained(tmp_path: Path, recipe: str) -> None:
    with pytest.raises(FewshotBenchError, match="way"):
        run_study(study(tmp_path, recipe, way=400))
    assert finished_names() == []


@pytest.mark.parametrize("field", ["backbone", "weights", "checkpoints", "base_losses", "image_size"])
def test_a_recipe_determines_the_network(tmp_path: Path, recipe: str, field: str) -> None:
    value = {"checkpoints": ("mine",), "base_losses": ("ce",), "image_size": 32}.get(field, "conv4_64")
    with pytest.raises(StudyError, match=r"the recipe .*small.toml determines what --"):
        study(tmp_path, recipe, **{field: value})


def test_an_unknown_recipe_is_named_with_those_that_are_near() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean rfs-conv4"):
        Study(dataset="toy", recipe="rfs-conv5")


def test_a_dry_run_counts_the_training_and_then_only_the_episodes(tmp_path: Path, recipe: str) -> None:
    plan = StudyPlan.of_options([study(tmp_path, recipe)])
    ahead = estimate(plan)
    assert [(work.kind, work.units) for work in ahead.work if work.kind == "training"] == [("training", 4)]
    assert finished_names() == []
    run_plan(plan)
    after = estimate(plan)
    assert [work.kind for work in after.work if work.kind == "training"] == []
    assert [cell.left for cell in after.cells] == [0]


STUDENT = """
description = "learns from another network"
source = "this test"
backbone = "conv4_32"
[training]
objective = "distillation"
teacher = "{teacher}"
epochs = 2
batch_size = 24
threads = 1
"""


def test_a_dry_run_counts_the_training_of_a_teacher_that_is_missing(
    tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_package = tmp_path / "package"
    of_package.mkdir()
    first = STUDENT.format(teacher="").replace('objective = "distillation"\nteacher = ""\n', "")
    (of_package / "first.toml").write_text(first)
    (of_package / "second.toml").write_text(STUDENT.format(teacher="first"))
    (tmp_path / "third.toml").write_text(STUDENT.format(teacher="second"))
    monkeypatch.setattr(named_recipes, "_FOLDER", of_package)
    asked = study(tmp_path, str(tmp_path / "third.toml"), training_seeds=2, base_epochs=1)

    def trainings() -> list[tuple[str, int]]:
        work = estimate(StudyPlan.of_options([asked])).work
        return [(each.what.rpartition(": ")[2], each.units) for each in work if each.kind == "training"]

    assert trainings() == [
        ("second", 12), ("first", 12), ("third@epochs=1", 6),
        ("second@seed=1", 12), ("first@seed=1", 12), ("third@epochs=1,seed=1", 6),
    ]  # fmt: skip
    train_backbone(TrainingPlan(name="first-toy-seed1", dataset="toy", named_recipe="first", recipe={"seed": 1}))
    assert ("first@seed=1", 12) not in trainings()
    assert ("first", 12) in trainings()
    assert finished_names() == ["first-toy-seed1"]
    (tmp_path / "third.toml").write_text(STUDENT.format(teacher="nothing"))
    assert any("'nothing'" in problem for problem in estimate(StudyPlan.of_options([asked])).missing)


@pytest.mark.parametrize("machine", [None, Machine(memory=6_000_000)])
def test_a_dry_run_and_a_training_take_the_same_micro_batches(
    tmp_path: Path, machine: Machine | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training under a name takes what fits, of networks with batch normalisation too."""
    path = tmp_path / "small.toml"
    path.write_text(STUDENT.replace('objective = "distillation"\nteacher = "{teacher}"\n', ""))
    monkeypatch.setattr("fewshot_bench.training.optimisation.free_bytes", lambda device: 6_000_000)
    asked = study(tmp_path, str(path), base_epochs=1, adaptations=("centroid",))
    ahead = estimate(StudyPlan.of_options([asked]), machine=machine)
    assert [problem for problem in ahead.missing if "training" in problem] == []
    (work,) = [each for each in ahead.work if each.kind == "training"]
    assert work.micro_batch is not None
    assert work.micro_batch < 24
    assert any(f"micro-batches of {work.micro_batch} images here, not from 24" in note for note in ahead.notes)
    run_study(asked)
    assert read_checkpoint("small-toy-epochs1").micro_batches == [work.micro_batch]


def test_own_images_without_a_name_are_refused(tmp_path: Path, recipe: str) -> None:
    images = toy_split("novel", classes=5, images=8, seed=1)
    folder = tmp_path / "photos"
    from PIL import Image

    for number, pixels in enumerate(images.images):
        place = folder / f"class{number // 8}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.squeeze() if pixels.shape[-1] == 1 else pixels).save(place / f"{number}.png")
    own = study(tmp_path, recipe, dataset=str(folder), fractions=(0.6, 0.0, 0.4), way=2, query=2)
    with pytest.raises(StudyError, match="datasets that have a name"):
        run_study(own)
    ahead = estimate(StudyPlan.of_options([own]))
    assert any("datasets that have a name" in problem for problem in ahead.missing)
    with pytest.raises(StudyError, match="datasets that have a name"):
        run_plan(StudyPlan.of_options([study(tmp_path, recipe), own]))
    assert finished_names() == []  # found before the first training
