"""Sweeps of a moment: an untrained Conv4 and a head of two steps on toy images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import toy_split

from fewshot_bench.datasets.dataset import Dataset, SplitName
from fewshot_bench.study import Axis, Grid, Study, Sweep, plan_sweep

SMALL_GRID = Grid((Axis("lambda", (0, 0.5)), Axis("tau", (0.1, 0.5))))


def toy_dataset() -> Dataset:
    """Three small splits."""
    names: tuple[SplitName, ...] = ("base", "validation", "novel")
    return Dataset("toy", {name: toy_split(name, classes=5, images=8, seed=seed) for seed, name in enumerate(names)})


def use(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every study be about this dataset."""
    monkeypatch.setattr("fewshot_bench.study.resolved.known_dataset", lambda *_, **__: dataset)


def study(results: Path, **changes: Any) -> Study:
    fields: dict[str, Any] = {
        "dataset": "toy", "backbone": "conv4_32", "base_losses": (), "adaptations": ("finetune-head",),
        "losses": ("ce+schane",), "hyper_parameters": {"steps": 2}, "shots": (1,), "query": 3, "episodes": 6,
        "runs": 1, "device": "cpu", "results": results,
    }  # fmt: skip
    return Study.model_validate(fields | changes)


def planned(results: Path, grid: Grid = SMALL_GRID, name: str | None = None, **changes: Any) -> Sweep:
    return plan_sweep(study(results, **changes), grid, name=name)
