"""The classifier of a base training goes from the training to the methods that need it, and to no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from audited_results import stored, verdicts

from fewshot_bench._io.locations import cache_folder
from fewshot_bench.audit import ReproductionOptions, reproduce_cell
from fewshot_bench.audit.finding import SAME
from fewshot_bench.datasets import DATASETS, Dataset
from fewshot_bench.errors import FewshotBenchError, StudyError, WeightsError
from fewshot_bench.outcomes import Cell
from fewshot_bench.registry import Entry
from fewshot_bench.study import Study, TrainingPlan, read_checkpoint, run_study, train_backbone
from fewshot_bench.study.checkpoints import checkpoint_file
from fewshot_bench.training import load_checkpoint
from fewshot_bench.training.checkpoints import save_tensors

DHILLON = {
    "on": "logits", "start": "support", "query_entropy": 1.0, "epochs": 2, "tune": "head", "views": 2
}  # fmt: skip


@pytest.fixture(autouse=True)
def toy_is_known(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS._entries, "toy", Entry("toy", lambda: toy, "three small splits"))


def train(name: str = "mine", **settings: Any) -> None:
    recipe = {"epochs": 1, "batch_size": 48}
    train_backbone(TrainingPlan(name=name, dataset="toy", backbone="conv4_32", recipe=recipe, **settings))


def run(folder: Path, hyper_parameters: dict[str, Any], **settings: Any) -> list[Cell]:
    study = {"adaptations": ("finetune",), "shots": (1,), "query": 3, "episodes": 4, "runs": 1, "device": "cpu"}
    study |= {"checkpoints": ("mine",), "hyper_parameters": hyper_parameters}
    return run_study(Study(**{"dataset": "toy", **study, **settings}, results=folder)).cells


def without_head(path: Path) -> None:
    """What a version before this one would have written."""
    tensors, metadata = load_checkpoint(path)
    kept = {key: tensor.clone() for key, tensor in tensors.items() if not key.startswith("fewshot_bench.base_head.")}
    assert len(kept) == len(tensors) - 2
    save_tensors(path, kept, {key: value for key, value in metadata.items() if key != "base_head"})


def test_backbone_and_head_of_a_checkpoint_classify_the_base_classes(toy: Dataset) -> None:
    train()
    backbone, head = read_checkpoint("mine").backbone_and_head()
    assert head.classes == toy.base.class_names
    images = torch.from_numpy(toy.base.images.copy()).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = head(backbone.network(backbone.preprocessing(images)))
    accuracy = (logits.argmax(-1) == torch.from_numpy(toy.base.labels)).float().mean()
    assert accuracy > 1.5 / len(head.classes), "better than chance after one epoch"


@pytest.mark.slow
def test_the_head_is_recorded_and_identifies_only_a_method_that_uses_it(tmp_path: Path) -> None:
    train()
    backbone, head = read_checkpoint("mine").backbone_and_head()
    (with_logits,) = run(tmp_path, DHILLON)
    (without,) = run(tmp_path, {**DHILLON, "on": "embeddings"})
    assert with_logits.method.is_transductive
    assert with_logits.method.weights == without.method.weights == backbone.weights
    assert with_logits.method.hyper_parameters["base_head"] == head.digest
    assert "base_head" not in without.method.hyper_parameters
    assert "on=logits" in with_logits.method.name
    assert "query_entropy=1.0" in with_logits.method.name


def test_a_network_from_before_heads_were_kept_is_the_same_network_and_says_what_to_do_for_logits(
    tmp_path: Path,
) -> None:
    train()
    (before,) = run(tmp_path / "with", {**DHILLON, "on": "embeddings"})
    without_head(checkpoint_file("mine"))
    (after,) = run(tmp_path / "without", {**DHILLON, "on": "embeddings"})
    assert before.key == after.key
    with pytest.raises(WeightsError, match=r"mine has no classifier .* Train it again: .* --name mine --fresh$"):
        read_checkpoint("mine").backbone_and_head()
    with pytest.raises(WeightsError, match=r"Train it again: .* --name mine --fresh$"):
        run(tmp_path / "logits", DHILLON)


def test_logits_of_a_network_that_is_trained_on_nothing_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match=r"^on=logits needs .* Use --base-loss ce, --checkpoint NAME, or on=embeddings\.$"
    ):
        run(tmp_path, DHILLON, checkpoints=None, backbone="conv4_32", base_losses=())
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_cached_base_stage_from_before_heads_were_kept_says_what_to_remove(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"backbone": "conv4_32", "checkpoints": None, "base_losses": ("ce",), "base_epochs": 1}
    run(tmp_path, {**DHILLON, "on": "embeddings"}, **settings)
    (path,) = (cache_folder() / "checkpoints").glob("*.safetensors")
    without_head(path)
    with pytest.raises(FewshotBenchError, match=r"cache clear 'conv4_32 trained on', then the same command"):
        run(tmp_path, DHILLON, **settings)
    path.unlink()
    assert run(tmp_path, DHILLON, **settings)


def test_a_forged_head_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    train()
    tensors, metadata = load_checkpoint(checkpoint_file("mine"))
    metadata["base_head"] = json.dumps({"kind": "linear", "classes": ["a", "b"]})
    save_tensors(checkpoint_file("mine"), {name: tensor.clone() for name, tensor in tensors.items()}, metadata)
    with pytest.raises(WeightsError, match=r"for 2 classes with a weight \[6, .* train again\.$"):
        run(tmp_path, DHILLON)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.slow
def test_a_base_stage_keeps_its_head_in_the_cache_and_its_cell_is_audited_and_comes_out_again(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset": "glyphs", "backbone": "conv4_32", "checkpoints": None}
    settings |= {"base_losses": ("ce",), "base_epochs": 1, "episodes": 3}
    (cell,) = run(tmp_path, DHILLON, **settings)
    folder = tmp_path / "outcomes" / cell.key
    head = stored(folder).method.hyper_parameters["base_head"]
    (again,) = run(tmp_path / "again", DHILLON, **settings)
    assert again.method.hyper_parameters["base_head"] == head, "taken from the cache"
    assert verdicts(folder)[SAME] == "pass"
    assert reproduce_cell(folder, ReproductionOptions(device="cpu")).is_equal
