"""A study takes a trained network up as it was trained, and says so in the method's name and record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import toy_split
from safetensors.torch import save_file

from fewshot_bench._io.locations import checkpoints_folder
from fewshot_bench.backbones import BackboneRequest, create_backbone
from fewshot_bench.datasets import DATASETS, Dataset
from fewshot_bench.errors import StudyError, UnknownNameError, WeightsError
from fewshot_bench.outcomes import Cell
from fewshot_bench.registry import Entry
from fewshot_bench.study import Study, TrainingPlan, read_checkpoint, run_study, train_backbone
from fewshot_bench.study.checkpoints import checkpoint_entries, checkpoint_file


@pytest.fixture(autouse=True)
def toy_is_known(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Dataset("grey", {"novel": replace(toy_split(channels=1, size=20), dataset="grey")})
    for dataset in (toy, other):
        entry = Entry(dataset.name, lambda dataset=dataset: dataset, "small splits")
        monkeypatch.setitem(DATASETS._entries, dataset.name, entry)


def train(name: str = "mine", *, loss: str = "ce", backbone: str = "conv4_32", **settings: Any) -> None:
    of_plan = {key: settings.pop(key) for key in list(settings) if key in TrainingPlan.__dataclass_fields__}
    recipe = {"epochs": 1, "batch_size": 48, **settings}
    train_backbone(TrainingPlan(name=name, dataset="toy", backbone=backbone, loss=loss, recipe=recipe, **of_plan))


def run(tmp_path: Path, *names: str, dataset: str = "toy", **settings: Any) -> list[Cell]:
    study = Study(
        dataset=dataset, checkpoints=names, shots=(1,), query=5, episodes=20, runs=1, results=tmp_path, **settings
    )
    return run_study(study).cells


@pytest.mark.slow
def test_each_checkpoint_is_a_base_stage_of_its_own(tmp_path: Path) -> None:
    train("plain", epochs=12)
    train("other", loss="ce+schane", tau=0.3)
    cells = run(tmp_path, "plain", "other")
    assert [cell.method.name for cell in cells] == [
        "conv4_32/base-ce@batch_size=48/centroid",
        "conv4_32/base-ce+schane@batch_size=48,epochs=1,tau=0.3/centroid",
    ]
    base = cells[1].method.hyper_parameters["base"]
    assert (base["loss"], base["tau"], base["epochs"], base["dataset"]) == ("ce+schane", 0.3, 1, "toy")
    assert base["base_split"] == read_checkpoint("other").card.base_split
    assert base["selection"]["split"] == "validation"


def test_the_network_is_the_one_that_was_trained(tmp_path: Path, toy: Dataset) -> None:
    """The same as a study that trains it itself, where no epoch is chosen."""
    train(epochs=1, batch_size=48, validate_every=0)
    (mine,) = run(tmp_path / "mine", "mine")
    settings: dict[str, Any] = {"shots": (1,), "query": 5, "episodes": 20, "runs": 1, "results": tmp_path / "run"}
    study = Study(dataset="toy", backbone="conv4_32", base_losses=("ce",), base_epochs=1, base_batch=48, **settings)
    (trained,) = run_study(study).cells
    assert mine.method.weights == trained.method.weights
    assert mine.method.name == trained.method.name
    assert mine.method.hyper_parameters["preprocessing"] == trained.method.hyper_parameters["preprocessing"]


def test_another_dataset_is_in_the_name_and_gets_the_preprocessing_of_the_training(tmp_path: Path) -> None:
    train()
    (cell,) = run(tmp_path, "mine", dataset="grey")
    assert cell.method.name == "conv4_32/base-ce@batch_size=48,dataset=toy,epochs=1/centroid"
    assert cell.method.hyper_parameters["preprocessing"]["image_size"] == 16
    assert len(cell.method.hyper_parameters["preprocessing"]["mean"]) == 3


def test_what_a_checkpoint_has_seen_is_recorded(tmp_path: Path) -> None:
    train()
    (cell,) = run(tmp_path, "mine")
    assert cell.provenance["pretraining"] == "base split of toy"
    save_file(create_backbone(BackboneRequest("conv4_32", 3, 16)).network.state_dict(), tmp_path / "w.safetensors")
    train("started", weights=tmp_path / "w.safetensors")
    assert read_checkpoint("started").backbone().pretraining == "unknown, base split of toy"


def test_what_the_backbone_was_changed_in_is_in_the_name(tmp_path: Path) -> None:
    network = create_backbone(BackboneRequest("conv4_32", 3, 32)).network
    save_file({name: value * 1.0 for name, value in network.state_dict().items()}, tmp_path / "start.safetensors")
    train(weights=tmp_path / "start.safetensors", image_size=32, interpolation="nearest")
    (tmp_path / "start.safetensors").unlink()
    (cell,) = run(tmp_path, "mine")
    backbone, stage, _ = cell.method.name.split("/")
    assert backbone == "conv4_32@image_size=32,interpolation=nearest,weights=start"
    assert stage == "base-ce@batch_size=48,epochs=1", (
        "against the paper's recipe, since it was not trained from scratch"
    )


@pytest.mark.slow
def test_pretrained_weights_are_not_looked_for_when_a_checkpoint_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    network = timm.create_model("resnet10t", num_classes=0)
    save_file(dict(network.state_dict()), tmp_path / "start.safetensors")
    train(backbone="timm:resnet10t", weights=tmp_path / "start.safetensors", image_size=32, threads=1)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("fetched"))
    (cell,) = run(tmp_path, "mine")
    assert cell.method.name.startswith("timm:resnet10t@")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "option"),
    [
        ("backbone", "conv4_32", "backbone"),
        ("weights", Path("x.pth"), "weights"),
        ("base_losses", ("ce",), "base-loss"),
        ("base_losses", (), "base-loss"),
        ("base_epochs", 3, "base-epochs"),
        ("base_batch", 3, "base-batch"),
        ("base_precision", "float32", "base-precision"),
        ("image_size", 32, "image-size"),
        ("interpolation", "nearest", "interpolation"),
    ],
)
def test_an_option_that_the_checkpoint_answers_is_refused(field: str, value: Any, option: str, tmp_path: Path) -> None:
    train()
    with pytest.raises(StudyError, match=f"--checkpoint mine .*--{option} "):
        run(tmp_path, "mine", **{field: value})


def test_a_wrong_name_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    train()
    with pytest.raises(UnknownNameError, match=r"no checkpoint called 'mime'. Did you mean mine\?"):
        run(tmp_path, "mine", "mime")
    assert not list(tmp_path.rglob("*.parquet"))
    with pytest.raises(StudyError, match="names none"):
        run(tmp_path)


def test_a_damaged_checkpoint_is_refused_and_listed_as_such(tmp_path: Path) -> None:
    train()
    path = checkpoint_file("mine")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"mine\.safetensors does not match its digest"):
        run(tmp_path, "mine")
    path.write_bytes(content[:60])
    with pytest.raises(WeightsError, match=r"mine\.safetensors cannot be read"):
        run(tmp_path, "mine")
    assert checkpoint_entries()[0].summary.startswith("damaged: ")


def test_weights_from_elsewhere_are_no_checkpoint(tmp_path: Path) -> None:
    checkpoints_folder().mkdir(parents=True)
    save_file({"weight": torch.zeros(2)}, checkpoint_file("other"))
    with pytest.raises(WeightsError, match="not a checkpoint"):
        run(tmp_path, "other")


def test_the_embeddings_of_a_checkpoint_are_those_of_its_file_given_as_weights() -> None:
    train()
    checkpoint = read_checkpoint("mine")
    by_file = create_backbone(BackboneRequest("conv4_32", 3, 16, weights=checkpoint.path))
    assert by_file.weights == checkpoint.backbone().weights
