"""What a study writes down when it begins is what it then does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fewshot_bench import Study, run_study
from fewshot_bench.outcomes.study_log import recorded_studies
from fewshot_bench.study import StudyPlan, run_plan
from fewshot_bench.study.run import resolve_plan, run_resolved

pytestmark = pytest.mark.slow

SMALL = {"device": "cpu", "episodes": 2, "runs": 1, "base_epochs": 1, "base_batch": 512}


def test_every_planned_cell_becomes_the_stored_one_of_its_name(tmp_path, monkeypatch):
    def untrained(network, split, recipe, **_):
        torch.nn.init.uniform_(next(network.parameters()), 0, 1 if recipe.loss == "ce" else 2)
        return SimpleNamespace(backbone=network, head=torch.nn.Linear(1600, 64), history=[])

    monkeypatch.setattr("fewshot_bench.study.base_stage.train_on_base", untrained)
    study = Study(results=tmp_path, adaptations=("centroid", "logistic"), **SMALL)
    result = run_study(study, arguments=["run", "--results", str(tmp_path)])
    ((recorded,), problems) = recorded_studies(tmp_path)
    assert problems == []
    keys = {cell.key: (cell.protocol.task, cell.method.name) for cell in result.cells}
    assert len(recorded.cells) == len(keys) == 8  # two base losses, two adaptations, two numbers of shots
    for number, cell in enumerate(recorded.cells):
        (key,) = recorded.keys[number]
        assert keys[key] == (cell.task, cell.method)
        assert (cell.runs, cell.episodes) == (1, 2)
    assert recorded.is_finished
    assert recorded.processes[0].command == f"fewshot-bench run --results {tmp_path.name}"


def test_studies_of_a_plan_are_written_down_before_the_first_begins(tmp_path, monkeypatch):
    studies = tuple(
        Study(results=tmp_path, base_losses=(), shots=(1,), adaptations=(name,), **SMALL | {"base_epochs": None})
        for name in ("centroid", "logistic")
    )
    seen = []

    def run(resolved, **_):
        seen.append({study.id: len(study.processes) for study in recorded_studies(tmp_path)[0]})
        return run_resolved(resolved)

    monkeypatch.setattr("fewshot_bench.study.run.run_resolved", run)
    plan = StudyPlan(name="both", studies=studies, places=("", ""))
    run_plan(plan)
    planned = {resolved.record.id for resolved in resolve_plan(plan)}
    assert [set(ids) for ids in seen] == [planned, planned]
    assert [sum(ids.values()) for ids in seen] == [0, 1]
    assert {study.id for study in recorded_studies(tmp_path)[0]} == planned
