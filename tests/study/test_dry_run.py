"""A dry run says what would be done and takes, does none of it, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toy_sweeps

from fewshot_bench._io.locations import cache_folder
from fewshot_bench.backbones import BackboneRequest, create_backbone
from fewshot_bench.datasets import Dataset
from fewshot_bench.errors import DatasetError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.study import Study, StudyPlan, run_plan, run_study
from fewshot_bench.study.dry_run import estimate
from fewshot_bench.study.estimates import Machine, outcome_bytes, part_bytes

UNTRAINED = {"adaptations": ("centroid", "logistic"), "hyper_parameters": {}}
TRAINED = {"adaptations": ("centroid",), "hyper_parameters": {}, "base_losses": ("ce",), "base_epochs": 1}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    dataset = toy_sweeps.toy_dataset()
    toy_sweeps.use(dataset, monkeypatch)
    return dataset


def plan_of(results: Path, *changes, baselines=None) -> StudyPlan:
    studies = tuple(toy_sweeps.study(results, **change) for change in changes)
    places = tuple(f"study.toml, line {number}" for number in range(1, len(studies) + 1))
    return StudyPlan(name="toy", studies=studies, places=places, baselines=baselines or {})


def test_it_writes_neither_results_nor_caches(tmp_path, home):
    ahead = estimate(plan_of(tmp_path / "results", UNTRAINED, TRAINED))
    assert len(ahead.cells) == 3
    assert not (tmp_path / "results").exists()
    assert not list(cache_folder().rglob("*.safetensors"))


def test_episodes_left_and_bytes_of_embeddings_are_exact(tmp_path, toy):
    ahead = estimate(plan_of(tmp_path, UNTRAINED | {"shots": (1, 2), "episodes": 7, "runs": 3}))
    assert [(cell.method, cell.episodes, cell.done, cell.left) for cell in ahead.cells] == [
        ("conv4_32/centroid", 21, 0, 21),
        ("conv4_32/centroid", 21, 0, 21),
        ("conv4_32/logistic", 21, 0, 21),
        ("conv4_32/logistic", 21, 0, 21),
    ]
    (embeddings,) = [one for one in ahead.work if one.kind == "embeddings"]
    size = create_backbone(BackboneRequest("conv4_32", native_size=16)).embedding_size
    assert (embeddings.units, embeddings.bytes) == (len(toy.novel), 4 * len(toy.novel) * size)
    assert ahead.cache.needed == embeddings.bytes
    assert ahead.results.needed == sum(cell.bytes for cell in ahead.cells) > 0
    assert ahead.is_whole
    assert 0 < ahead.seconds.low <= ahead.seconds.high
    assert ahead.peak_bytes > 1 << 20


def test_what_is_stored_is_counted_and_its_embeddings_are_not_made_again(tmp_path):
    run_study(toy_sweeps.study(tmp_path, **UNTRAINED | {"adaptations": ("centroid",)}))
    ahead = estimate(plan_of(tmp_path, UNTRAINED | {"episodes": 10}))
    assert [(cell.method, cell.done, cell.left) for cell in ahead.cells] == [
        ("conv4_32/centroid", 6, 4),
        ("conv4_32/logistic", 0, 10),
    ]
    assert not [one for one in ahead.work if one.kind == "embeddings"]


def test_a_finished_study_needs_nothing(tmp_path):
    plan = plan_of(tmp_path, UNTRAINED)
    run_plan(plan)
    ahead = estimate(plan)
    assert [cell.left for cell in ahead.cells] == [0, 0]
    assert ahead.work == []
    assert ahead.seconds == (0, 0)
    assert (ahead.results.needed, ahead.cache.needed) == (0, 0)


def test_before_a_training_nobody_knows_its_cells_and_after_it_everybody_does(tmp_path, toy):
    plan = plan_of(tmp_path, TRAINED)
    (before,) = estimate(plan).cells
    assert (before.done, before.why, before.left) == (None, "after training", 6)
    (training,) = [one for one in estimate(plan).work if one.kind == "training"]
    network = create_backbone("conv4_32").network
    assert training.bytes == sum(tensor.nbytes for tensor in network.state_dict().values())
    assert training.units == 1, "one epoch of fewer images than a batch"
    run_plan(plan)
    (after,) = estimate(plan).cells
    assert (after.method, after.done, after.why) == (before.method, 6, "")
    assert not [one for one in estimate(plan).work if one.kind == "training"]


def test_a_training_for_several_cells_is_counted_once(tmp_path):
    ahead = estimate(plan_of(tmp_path, TRAINED, TRAINED | {"adaptations": ("logistic",)}, TRAINED))
    assert [cell.method.rpartition("/")[2] for cell in ahead.cells] == ["centroid", "logistic"]
    assert [one.kind for one in ahead.work].count("training") == 1
    assert [one.kind for one in ahead.work].count("embeddings") == 1


def test_views_of_a_contrastive_head_and_the_base_split_of_cl2_are_counted(tmp_path, toy):
    head = {"shots": (2,)}  # finetune-head with ce+schane
    cl2 = {"adaptations": ("centroid",), "hyper_parameters": {"features": "cl2"}}
    ahead = estimate(plan_of(tmp_path, head, cl2))
    units = [one.units for one in ahead.work if one.kind == "embeddings"]
    assert units == [len(toy.novel)] * 3 + [len(toy.base)]


def test_fine_tuning_is_timed_on_a_few_epochs(tmp_path):
    fields = {"adaptations": ("finetune",), "losses": ("ce",), "hyper_parameters": {"epochs": 40}}
    ahead = estimate(plan_of(tmp_path, fields))
    (cell,) = ahead.cells
    assert cell.method == "conv4_32/episode-ce/finetune@epochs=40"
    assert cell.seconds is not None
    assert cell.seconds.low > 0
    assert not [one for one in ahead.work if one.kind == "embeddings"]


@pytest.mark.slow
def test_what_is_missing_is_said_for_each_study_and_the_others_are_looked_at(tmp_path, monkeypatch, toy):
    def opened(name: str, **_: object):
        if name == "toy":
            return toy
        raise DatasetError(f"{name} has not been imported.")

    monkeypatch.setattr("fewshot_bench.study.resolved.known_dataset", opened)
    ahead = estimate(
        plan_of(
            tmp_path,
            TRAINED | {"dataset": "fc100"},
            TRAINED | {"backbone": "conv5"},
            TRAINED,
            TRAINED | {"backbone": "timm:test_vit.r160_in1k", "base_losses": ()},
            baselines={"toy": "ridge"},
        )
    )
    assert [one.partition(":")[0] for one in ahead.missing] == [
        "study.toml, line 1", "study.toml, line 2", "baseline of toy"
    ]  # fmt: skip
    assert "fc100 has not been imported." in ahead.missing[0]
    assert [(cell.task, cell.why) for cell in ahead.cells] == [
        ("fc100 5-way 1-shot", "once its images are here"),
        ("toy 5-way 1-shot", "after training"),
        ("toy 5-way 1-shot", "after its weights are fetched"),
    ]
    assert len(ahead.notes) == 1
    assert "timm:test_vit.r160_in1k come from the Hugging Face hub" in ahead.notes[0]
    assert not ahead.is_whole


def test_images_without_a_base_split_need_none_unless_a_network_is_trained(tmp_path, monkeypatch, toy):
    toy_sweeps.use(Dataset("toy", {"novel": toy.novel}), monkeypatch)
    assert [cell.done for cell in estimate(plan_of(tmp_path, UNTRAINED)).cells] == [0, 0]
    ahead = estimate(plan_of(tmp_path, TRAINED))
    assert "base split" in ahead.missing[0]


def test_a_rule_that_stops_sooner_is_said(tmp_path):
    study = toy_sweeps.study(tmp_path, **UNTRAINED, until_ci=1.0, max_episodes=9)
    study = Study(**study.model_dump(exclude_unset=True, exclude={"episodes"}))
    ahead = estimate(StudyPlan.of_options([study]))
    assert [cell.episodes for cell in ahead.cells] == [9, 9]
    assert "until_ci may stop sooner" in ahead.notes[0]


def test_a_batch_that_does_not_fit_is_found_without_training(tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot_bench.training.optimisation.free_bytes", lambda _: 1 << 20)
    ahead = estimate(plan_of(tmp_path, TRAINED | {"base_batch": 32}))
    assert "training on batches of 32 images in two views needs about" in ahead.missing[0]


@pytest.mark.slow
@pytest.mark.parametrize("machine", [None, Machine(memory=80_000_000_000, flops=1e12)])
def test_features_that_are_roots_are_tried_on_embeddings_as_the_network_gives_them(tmp_path, machine):
    roots = {"adaptations": ("pt-map",), "hyper_parameters": {}}
    ahead = estimate(plan_of(tmp_path, roots), machine=machine)
    assert ahead.missing == []
    assert ahead.is_whole
    negative = roots | {"backbone": "timm:test_vit.r160_in1k", "image_size": 32}
    (problem,) = estimate(plan_of(tmp_path, negative), machine=machine).missing
    assert "power features are roots" in problem


def test_outcomes_take_no_more_than_was_said(tmp_path):
    study = toy_sweeps.study(tmp_path, **UNTRAINED | {"episodes": 50, "query": 6, "chunk": 20})
    said = estimate(StudyPlan(name="", studies=(study,), places=("",))).results.needed
    cells = run_study(study).cells
    parts = [path.stat().st_size for path in (tmp_path / "outcomes").rglob("*.parquet")]
    assert 0 < sum(parts) <= said < 4 * sum(parts) + sum(len(cell.as_json()) for cell in cells)
    assert part_bytes(5, 15, 500) > part_bytes(5, 15, 100)
    assert outcome_bytes(cells[0], 0, 10) == 0


def test_an_image_of_a_whole_split_takes_a_few_bytes_however_many_classes_there_are():
    few, many = (part_bytes(classes, 1, 2000, is_whole=True) for classes in (5, 5000))
    assert few < many < 3 * few
    assert many < 2000 * 40


def test_as_plain_data_it_has_everything(tmp_path):
    ahead = estimate(plan_of(tmp_path, UNTRAINED)).as_dict()
    assert {"cells", "work", "missing", "notes", "results", "cache", "seconds", "is_whole", "peak_bytes"} <= set(ahead)
    assert ahead["cells"][0]["left"] == 6
    assert np.isfinite(ahead["seconds"]).all()
    assert OutcomeStore(tmp_path / "outcomes").cells() == []
