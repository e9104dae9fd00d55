"""A small cell, with outcomes, for the tests of the store."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd

from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard, episode_frame

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


def old_layout(folder: Path, cell: Cell = CELL, *, chunk: int = 5) -> Path:
    """A cell as the first releases left it: fewer columns, no digest in the name, a description without a format."""
    (folder / cell.key / "parts").mkdir(parents=True)
    description = cell.as_json().replace(' "format": 2,\n', "")
    (folder / cell.key / "cell.json").write_text(description, encoding="utf-8")
    for run in range(2):
        for start in range(0, EPISODES, chunk):
            numbers = np.arange(start, min(start + chunk, EPISODES))
            name = f"run-{run:03d}-episodes-{start:05d}-{numbers[-1] + 1:05d}.parquet"
            frame = episode_frame(run, numbers, PREDICTIONS[run][numbers], 3, 0.25)
            (folder / cell.key / "parts" / name).write_bytes(_as_it_was(frame))
    return folder / cell.key


def _as_it_was(frame: pd.DataFrame) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "run": pa.int16(),
        "episode": pa.int32(),
        "correct": pa.int32(),
        "accuracy": pa.float64(),
        "predictions": pa.binary(6),
        "seconds": pa.float64(),
    }
    table = pa.Table.from_pandas(frame, schema=pa.schema(columns.items()), preserve_index=False)
    content = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), content, compression="zstd", write_page_checksum=True)
    return content.getvalue()


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
