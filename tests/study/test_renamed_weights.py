"""The same weights in another file are the same method, which keeps the name it was stored under."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import toy_sweeps
from safetensors.torch import save_file

from fewshot_bench.backbones import BackboneRequest, create_backbone
from fewshot_bench.cli.main import exit_code
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.study import Study, StudyPlan, TrainingPlan, run_plan, run_study, train_backbone
from fewshot_bench.study.checkpoints import read_checkpoint
from fewshot_bench.study.plan import Outputs, write_outputs

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    toy_sweeps.use(toy_sweeps.toy_dataset(), monkeypatch)
    monkeypatch.setattr("fewshot_bench.study.train.known_dataset", lambda *_, **__: toy_sweeps.toy_dataset())


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = create_backbone(BackboneRequest("conv4_32", 3, 16)).network
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network.state_dict()


def study_of(weights: Path, results: Path | None = None, **changes: Any) -> Study:
    fields = {"adaptations": ("centroid",), "hyper_parameters": {}, "weights": weights, "base_losses": None}
    return toy_sweeps.study(results or weights.parent / "results", **fields | changes)


def is_of(folder: Path, name: str) -> bool:
    """Whether the record of a study plans a method of that name."""
    return name in folder.with_suffix(".json").read_text()


def another_file(kind: str, folder: Path) -> Path:
    """The weights of `a.pth` otherwise."""
    tensors = state()
    if kind == "safetensors":
        save_file(tensors, folder / "b.safetensors")
        return folder / "b.safetensors"
    prefix = {"prefix": "module.", "key and prefix": "encoder."}.get(kind, "")
    content: Any = {prefix + name: tensor for name, tensor in tensors.items()}
    if kind in ("key", "key and prefix"):
        content = {"model": content, "epoch": 3}
    if kind == "float64":
        content = {name: t.double() if t.is_floating_point() else t for name, t in content.items()}
    path = folder / ("elsewhere/a.pth" if kind == "folder" else "b.pth")
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("kind", ["name", "folder", "safetensors", "key", "prefix", "key and prefix", "float64"])
def test_a_method_goes_on_under_its_first_name(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(state(), tmp_path / "a.pth")
    (first,) = run_study(study_of(tmp_path / "a.pth")).cells
    monkeypatch.setattr("fewshot_bench.study.workers.embed", None)  # what is stored takes no embedding
    other = another_file(kind, tmp_path)
    result = run_study(study_of(other, results=tmp_path / "results"))
    (again,) = result.cells
    assert again.method == first.method
    assert again.key == first.key
    assert result.missing == 0
    asked = {} if kind == "folder" else {first.method.name: "conv4_32@weights=b/centroid"}
    assert dict(result.asked_names) == asked
    (stored,) = OutcomeStore(tmp_path / "results" / "outcomes").cells()
    assert stored.method == first.method


def test_other_protocols_of_the_method_are_stored_under_that_name_too(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    run_study(study_of(tmp_path / "a.pth"))
    more = run_study(study_of(another_file("key", tmp_path), shots=(1, 5))).cells
    assert {cell.method.name for cell in more} == {"conv4_32@weights=a/centroid"}
    assert len(OutcomeStore(tmp_path / "results" / "outcomes").cells()) == 2


def test_other_weights_under_the_old_name_are_another_method(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    (first,) = run_study(study_of(tmp_path / "a.pth")).cells
    torch.save({name: t * 1.5 if t.is_floating_point() else t for name, t in state().items()}, tmp_path / "a.pth")
    (other,) = run_study(study_of(tmp_path / "a.pth")).cells
    assert other.method.name == first.method.name
    assert other.key != first.key


def test_baselines_and_labels_are_those_that_the_study_names(tmp_path: Path) -> None:
    both = {"adaptations": ("centroid", "logistic")}
    torch.save(state(), tmp_path / "a.pth")
    run_study(study_of(tmp_path / "a.pth", **both))
    renamed = study_of(another_file("name", tmp_path), **both)
    outputs = Outputs(markdown=True, labels={"conv4_32@weights=b/logistic": "Mine"})
    plan = StudyPlan(
        name="toy",
        studies=(renamed,),
        places=("",),
        baselines={renamed.dataset: "conv4_32@weights=b/logistic"},
        outputs=outputs,
    )
    result = run_plan(plan)
    _, places, _ = write_outputs(outputs, plan.results, result.cells, result.baselines, result.asked_names)
    written = pd.read_csv(places["leaderboard"])
    assert set(written["baseline"].dropna().str.partition("#")[0]) == {"conv4_32@weights=a/logistic"}
    assert "Mine" in places["markdown"].read_text()
    (folder,) = (path for path in (plan.results / "studies").iterdir() if path.is_dir() and is_of(path, "weights=b"))
    assert len([path for path in folder.iterdir() if path.name.startswith("cell-")]) == 2, "status finds its cells"


def test_a_training_goes_on_from_the_same_weights_whatever_their_file_is_called(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    recipe = {"epochs": 1, "batch_size": 48}

    def train(weights: Path) -> str:
        plan = TrainingPlan(
            name="mine", dataset="toy", backbone="conv4_32", loss="ce", recipe=recipe, weights=weights, image_size=16
        )
        return str(train_backbone(plan).card.initial_weights)

    assert train(tmp_path / "a.pth") == "a"
    assert train(another_file("key", tmp_path)) == "a", "it is done already"
    assert "weights" not in read_checkpoint("mine").computing


def test_the_command_says_what_was_taken_and_under_which_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(state(), tmp_path / "a.pth")
    monkeypatch.setattr("fewshot_bench.study.known_names.check_name", lambda name: None)
    command = ["run", "--dataset", "toy", "--backbone", "conv4_32", "--shots", "1", "--query", "5", "--episodes", "4"]
    command += ["--runs", "1", "--results", str(tmp_path / "results"), "--weights"]
    assert exit_code([*command, str(tmp_path / "a.pth")]) == 0
    assert "note:" not in capsys.readouterr().err
    torch.save({"model": {f"module.{n}": t for n, t in state().items()}, "fc": torch.ones(1)}, tmp_path / "b.pth")
    assert exit_code([*command, str(tmp_path / "b.pth")]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "note: weights b.pth: taken from 'model.module.'; unused: 'fc'" in told
    assert "note: conv4_32@weights=b/centroid is stored as conv4_32@weights=a/centroid: " in told
    assert exit_code([*command, str(tmp_path / "b.pth"), "--episodes", "8", "--dry-run"]) == 0
    assert "taken from 'model.module.'" in capsys.readouterr().out


def test_how_weights_were_fitted_is_recorded_with_the_outcomes(tmp_path: Path) -> None:
    (cell,) = run_study(study_of(another_file("key and prefix", tmp_path))).cells
    assert cell.provenance["weights"] == {"file": "b.pth", "prefix": "model.encoder."}
    (stored,) = OutcomeStore(tmp_path / "results" / "outcomes").cells()
    assert stored.provenance["weights"] == cell.provenance["weights"]
