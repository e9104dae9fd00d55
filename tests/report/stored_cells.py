"""Cells with made-up outcomes, for the tests of the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fewshot_bench.outcomes import Cell, MethodCard, Outcomes, OutcomeStore, ProtocolCard, episode_frame

PROTOCOL = ProtocolCard("cifar-fs", "ab" * 32, "novel", 5, 1, 15, 0, 1)
QUERIES = 75
TRUTH = np.repeat(np.arange(5, dtype=np.uint8), 15)


def cell(name: str = "conv/ce/centroid", *, weights: str = "", **protocol: object) -> Cell:
    method = MethodCard(name, "conv", weights or f"weights of {name}", "centroid")
    return Cell(
        method,
        replace(PROTOCOL, **protocol),
        {"torch": "2.3.0", "numpy": "1.26.4"},
        class_sizes=(600,) * 20,
        provenance={"pretraining": ""},
    )


def predictions(correct: list[int] | np.ndarray) -> np.ndarray:
    """Predictions with so many correct answers in each episode, [E, 75]."""
    is_right = np.arange(QUERIES) < np.asarray(correct)[:, None]
    return np.where(is_right, TRUTH, (TRUTH + 1) % 5).astype(np.uint8)


def outcomes(of: Cell, correct: list[int] | np.ndarray, *, run: int = 0, first: int = 0) -> Outcomes:
    numbers = np.arange(first, first + len(correct))
    return Outcomes(of, episode_frame(run, numbers, predictions(correct), 5, 0.001))


def fill(store: OutcomeStore, of: Cell, correct: np.ndarray, *, chunk: int = 100, seconds: float = 0.001) -> None:
    """Store runs of episodes, correct is [R, E]."""
    for run, counts in enumerate(correct):
        for start in range(0, len(counts), chunk):
            some = np.arange(start, min(start + chunk, len(counts)))
            store.append(of, run, some, predictions(counts[some]), seconds)


def study(folder: Path, *, chunk: int = 100, seconds: float = 0.001, episodes: int = 40) -> OutcomeStore:
    """Two protocols; CE+SCHaNe is a little better than CE on each episode, logistic is just different."""
    store = OutcomeStore(folder)
    generator = np.random.default_rng(5)
    for shot, level in ((5, 55), (1, 40)):
        difficulty = generator.integers(-8, 9, size=(3, episodes))
        noise = generator.integers(-2, 3, size=(3, 3, episodes))
        for name, gain, own in (
            ("conv/ce/centroid", 0, 0),
            ("conv/ce+schane/centroid", 3, 1),
            ("conv/ce/logistic", 0, 2),
        ):
            fill(store, cell(name, shot=shot), level + gain + difficulty + noise[own], chunk=chunk, seconds=seconds)
    return store
