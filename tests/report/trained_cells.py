"""Cells of methods with several trainings and made-up outcomes, for the tests of the report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from stored_cells import cell, fill

from fewshot_bench.outcomes import Cell, OutcomeStore

CE, SCHANE, RAW = "conv/base-ce/centroid", "conv/base-ce+schane/centroid", "raw/centroid"


def training(name: str, seed: int | None, *, weights: str = "", **protocol: object) -> Cell:
    """A cell of a method after a training with a seed; None for a network that nothing is trained of."""
    backbone, *stages = name.split("/")
    shown = name
    if seed:
        stage, *rest = stages
        shown = "/".join([backbone, f"{stage}{',' if '@' in stage else '@'}seed={seed}", *rest])
    of = cell(shown, weights=weights or f"weights of {shown}", **{"dataset": "birds", **protocol})
    base = {} if seed is None else {"loss": name, "seed": seed, "epochs": 3}
    method = replace(of.method, adaptation=stages[-1], hyper_parameters={"base": base})
    return replace(of, method=method)


def store_trainings(
    results,
    *,
    seeds: int = 3,
    spread: float = 1.0,
    gain: float = 6,
    names=(CE, SCHANE),
    episodes: int = 30,
    with_raw: bool = True,
    **protocol,
) -> OutcomeStore:
    """Methods of several trainings, whose means differ by so many queries of 75, and a network without a training."""
    store, generator = OutcomeStore(results / "outcomes"), np.random.default_rng(4)
    hard = generator.integers(-6, 7, size=(2, episodes))
    for number, name in enumerate(names):
        for seed in range(seeds):
            own = round(spread * (seed - (seeds - 1) / 2))
            noise = generator.integers(-2, 3, size=(2, episodes))
            fill(store, training(name, seed, **protocol), 40 + round(gain * number) + own + hard + noise)
    if with_raw:
        fill(store, training(RAW, None, **protocol), 30 + hard + generator.integers(-2, 3, size=(2, episodes)))
    return store
