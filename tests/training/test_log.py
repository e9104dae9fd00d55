"""The log of a training reads back as what happened."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fewshot_bench.training.history import write_history

FIRST = {"step": 3.0, "loss": 1.5, "accuracy": 0.25, "images_per_second": 1234.5678, "learning_rate": 1e-3}
HISTORY = [{**FIRST, "seconds": 2.0}, {**FIRST, "step": 6.0, "seconds": 2.5, "validation_1shot": 0.5}]


def test_every_epoch_has_a_row_and_looks_have_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_history(path, HISTORY)
    frame = pd.read_csv(path)
    assert frame.columns.tolist() == [
        "epoch", "step", "loss", "accuracy", "images_per_second", "learning_rate", "validation_1shot", "seconds"
    ]  # fmt: skip
    assert frame["epoch"].tolist() == [1, 2]
    assert frame["step"].tolist() == [3, 6]
    assert frame["validation_1shot"].isna().tolist() == [True, False]
    assert frame["seconds"].tolist() == [2.0, 2.5]


def test_writing_again_leaves_one_file_without_doubled_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_history(path, HISTORY[:1])
    write_history(path, HISTORY)
    assert len(pd.read_csv(path)) == 2
    assert list(tmp_path.iterdir()) == [path]
