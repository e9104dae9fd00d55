"""A study trains each base stage with several seeds, evaluates all on the same episodes, and reports one method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fewshot_bench.audit.rebuild import rebuild, recorded_study
from fewshot_bench.audit.selection import RerunOptions
from fewshot_bench.datasets import DATASETS, Dataset
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.progress import SILENT
from fewshot_bench.registry import Entry
from fewshot_bench.report import leaderboard
from fewshot_bench.report.trainings import training_seed, trainings_of_methods
from fewshot_bench.study import (
    Axis,
    Grid,
    Study,
    TrainingPlan,
    plan_of_file,
    plan_sweep,
    run_study,
    run_sweep,
    train_backbone,
)
from fewshot_bench.study.networks import Backbones, resolve_networks
from fewshot_bench.study.provenance import study_record


@pytest.fixture(autouse=True)
def toy_is_known(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS._entries, toy.name, Entry(toy.name, lambda: toy, "small splits"))


def study_of(results: Path = Path("results"), **settings: Any) -> Study:
    small = {"dataset": "toy", "backbone": "conv4_32", "base_losses": ("ce",), "base_epochs": 1, "base_batch": 48}
    few = {"shots": (1,), "query": 5, "episodes": 20, "runs": 1, "device": "cpu", "results": results}
    return Study(**{**small, **few, **settings})


def run(results: Path, **settings: Any) -> list[Cell]:
    return run_study(study_of(results, **settings)).cells


def test_each_seed_is_a_network_of_its_own_named_as_one_that_is_trained_alone(toy: Dataset) -> None:
    networks = resolve_networks(study_of(base_losses=("ce", "ce+schane"), training_seeds=3), toy, Backbones())
    assert [network.stage.partition("base_batch")[0].split("@")[0] for network in networks] == [
        *["base-ce"] * 3, *["base-ce+schane"] * 3,
    ]  # fmt: skip
    assert [network.hyper_parameters["seed"] for network in networks] == [0, 1, 2, 0, 1, 2]
    for seed in range(3):
        (alone,) = resolve_networks(study_of(training_seed=seed), toy, Backbones())
        assert (alone.stage, alone.hyper_parameters) == (networks[seed].stage, networks[seed].hyper_parameters)
        assert alone.start().weights == networks[seed].start().weights


def test_the_seeds_follow_the_first_one_and_one_training_is_recorded_as_before() -> None:
    assert list(study_of(training_seed=4, training_seeds=2).seeds_of_trainings) == [4, 5]
    assert "training_seeds" not in study_record(study_of())
    assert study_record(study_of(training_seeds=2))["training_seeds"] == 2


def test_a_study_file_and_the_limit_of_cells_count_the_trainings(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('base_losses = "ce"\ntraining_seeds = 3\n')
    (study,) = plan_of_file(str(tmp_path / "study.toml")).studies
    assert study.training_seeds == 3
    (tmp_path / "study.toml").write_text('base_losses = "ce"\ntraining_seeds = 0\n')
    with pytest.raises(StudyError, match=r"line 2: training_seeds should be greater than or equal to 1"):
        plan_of_file(str(tmp_path / "study.toml"))
    with pytest.raises(StudyError, match="at most"):
        study_of(adaptations=("centroid",) * 900, training_seeds=900)


def test_several_trainings_of_what_is_not_trained_are_refused(toy: Dataset) -> None:
    with pytest.raises(StudyError, match="--training-seeds 2 repeats the training on the base split"):
        resolve_networks(
            study_of(base_losses=(), base_epochs=None, base_batch=None, training_seeds=2), toy, Backbones()
        )
    of_checkpoints = {"backbone": None, "base_losses": None, "base_epochs": None, "base_batch": None}
    study = study_of(checkpoints=("mine",), training_seeds=2, **of_checkpoints)
    with pytest.raises(StudyError, match="--checkpoint mine determines what --training-seeds would set"):
        resolve_networks(study, toy, Backbones())


@pytest.mark.slow
def test_trainings_share_their_episodes_and_a_run_of_more_seeds_keeps_the_cells_of_fewer(tmp_path: Path) -> None:
    (alone,) = run(tmp_path)
    cells = run(tmp_path, training_seeds=2)
    assert cells[0].key == alone.key
    assert [training_seed(cell.method) for cell in cells] == [0, 1]
    assert len({cell.method.weights for cell in cells}) == 2
    assert len({cell.protocol.fingerprint for cell in cells}) == 1
    frame = leaderboard(OutcomeStore(tmp_path / "outcomes"))
    assert frame["source"].tolist() == ["measured", "one training", "one training"]
    assert frame["method"][0] == alone.method.name
    assert frame["method_fingerprint"].tolist()[1:] == [cell.method.fingerprint for cell in cells]


@pytest.mark.slow
def test_the_cell_of_each_training_is_run_again_with_its_own_seed_alone(tmp_path: Path, toy: Dataset) -> None:
    for cell in run(tmp_path, training_seed=2, training_seeds=2):
        study = recorded_study(cell)
        assert (study.training_seed, study.training_seeds) == (training_seed(cell.method), None)
        rebuilt = rebuild(cell, toy, RerunOptions(device="cpu"), SILENT)
        assert rebuilt.card.fingerprint == cell.method.fingerprint
        assert len(rebuilt.resolved.methods) == 1


@pytest.mark.slow
def test_checkpoints_that_differ_by_their_seed_are_trainings_of_one_method(tmp_path: Path) -> None:
    for name, seed in (("mine", 0), ("mine-seed1", 1)):
        recipe = {"epochs": 2, "batch_size": 48, "seed": seed}
        train_backbone(TrainingPlan(name=name, dataset="toy", backbone="conv4_32", recipe=recipe, validate_every=1))
    of_checkpoints = {"backbone": None, "base_losses": None, "base_epochs": None, "base_batch": None}
    cells = run(tmp_path, checkpoints=("mine", "mine-seed1"), **of_checkpoints)
    assert [len(trainings) for trainings in trainings_of_methods(cells)] == [2]
    frame: pd.DataFrame = leaderboard(OutcomeStore(tmp_path / "outcomes"))
    assert frame["trainings"].tolist()[0] == 2


@pytest.mark.slow
def test_a_recipe_is_trained_with_each_seed_and_found_again_by_an_audit(tmp_path: Path, toy: Dataset) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        'description = "small"\nsource = "none"\nbackbone = "conv4_32"\n[training]\nepochs = 1\nbatch_size = 48\n'
        "[validation]\nepisodes = 5\n"
    )
    few = {"shots": (1,), "query": 5, "episodes": 20, "runs": 1, "device": "cpu", "results": tmp_path}
    cells = run_study(Study(dataset="toy", recipe=str(recipe), training_seeds=2, **few)).cells
    assert [cell.method.name for cell in cells] == ["conv4_32/small/centroid", "conv4_32/small@seed=1/centroid"]
    assert [len(trainings) for trainings in trainings_of_methods(cells)] == [2]
    for cell, name in zip(cells, ("small-toy", "small-toy-seed1"), strict=True):
        assert recorded_study(cell).checkpoints == (name,)
        rebuilt = rebuild(cell, toy, RerunOptions(device="cpu"), SILENT)
        assert rebuilt.card.fingerprint == cell.method.fingerprint


@pytest.mark.slow
def test_the_points_of_a_sweep_are_means_over_their_trainings(tmp_path: Path) -> None:
    grid = Grid((Axis("image_size", (16, 20)),))
    sweep = plan_sweep(study_of(tmp_path, shots=(1, 2), training_seeds=2), grid)
    frame = run_sweep(sweep).frame
    assert frame[["image_size", "shot"]].to_numpy().tolist() == [[16, 1], [16, 2], [20, 1], [20, 2]]
    assert frame["trainings"].tolist() == [2] * 4
    own = [
        100 * sweep.store.read(cell)["accuracy"].mean()
        for cell in sweep.store.cells()
        if cell.protocol.shot == 1 and cell.method.hyper_parameters["preprocessing"]["image_size"] == 16
    ]
    assert len(own) == 2
    assert frame["mean"][0] == pytest.approx(sum(own) / 2)
