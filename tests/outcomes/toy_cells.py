"""A small cell, with outcomes, for the tests of the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard

PROTOCOL = ProtocolCard("toy", "ab" * 32, "novel", 3, 1, 2, 0, 1)
CELL = Cell(MethodCard("conv/centroid", "conv4", "00ff", "centroid", {"C": 1.0}), PROTOCOL, {"torch": "2.3.0"})
EPISODES = 12
PREDICTIONS = np.random.default_rng(0).integers(0, 3, size=(2, EPISODES, 6)).astype(np.uint8)


def filled(store: OutcomeStore, cell: Cell = CELL, *, chunk: int = EPISODES) -> OutcomeStore:
    for run in range(2):
        for start in range(0, EPISODES, chunk):
            numbers = np.arange(start, min(start + chunk, EPISODES))
            store.append(cell, run, numbers, PREDICTIONS[run][numbers], 0.25)
    return store


def parts(store: OutcomeStore, cell: Cell = CELL) -> list[Path]:
    return sorted((store.folder / cell.key).rglob("*.parquet"))


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
