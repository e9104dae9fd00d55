"""Cells on a whole test split with made-up outcomes, for the tests of the report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from stored_cells import cell

from fewshot_bench.outcomes import Cell, OutcomeStore

CE, SCHANE = "conv/base-ce/classifier", "conv/base-ce+schane/classifier"
SIZES = (30, 20, 10)
LABELS = np.repeat(np.arange(3), SIZES).astype(np.uint8)


def whole_cell(name: str, seed: int | None, dataset: str = "cifar-100", **protocol: object) -> Cell:
    """A cell of a method after a training with a seed; None for a network that nothing is trained of."""
    backbone, stage, head = name.split("/")
    shown = f"{backbone}/{stage}@seed={seed}/{head}" if seed else name
    kind = {"split": "test", "way": 3, "shot": 0, "query": 1, "sampler": "whole", "dataset": dataset}
    of = cell(shown, **kind | protocol)
    base = {} if seed is None else {"loss": stage, "seed": seed, "epochs": 3}
    method = replace(of.method, adaptation=head, hyper_parameters={"base": base})
    return replace(of, method=method, class_sizes=SIZES, class_names=("owl", "wren", "rook"))


def right_or_wrong(accuracy: float, seed: int, seeds: int = 1) -> np.ndarray:
    """Whether each image is classified correctly in each training, [k, I]."""
    generator = np.random.default_rng(seed)
    hard = generator.random(len(LABELS))  # the same images are hard in all trainings
    return (0.7 * hard + 0.3 * generator.random((seeds, len(LABELS)))) < accuracy


def fill_whole(store: OutcomeStore, of: Cell, is_right: np.ndarray, confidence: np.ndarray | float = 0.8) -> None:
    """Store whether each of the first images, [I], is classified correctly, and with which confidence."""
    labels = LABELS[: len(is_right)]
    predictions = np.where(is_right, labels, (labels + 1) % 3).astype(np.uint8)[:, None]
    of_images = np.broadcast_to(np.asarray(confidence, dtype=np.float64), len(is_right))
    truth = labels[:, None]
    store.append(of, 0, np.arange(len(is_right)), predictions, 0.001, truth=truth, confidence=of_images)


def store_whole(results, *, seeds=(3, 3), levels=(0.5, 0.65), datasets=("cifar-100",)) -> OutcomeStore:
    """CE and CE+SCHaNe with so many trainings each."""
    store = OutcomeStore(results / "outcomes")
    for dataset in datasets:
        for name, count, level in zip((CE, SCHANE), seeds, levels, strict=True):
            for seed, is_right in enumerate(right_or_wrong(level, 7, count)):
                fill_whole(store, whole_cell(name, seed, dataset), is_right, 0.6 + 0.3 * is_right)
    return store
