"""All outcomes as one tidy table: a row for each method and episode, for pandas, R and spreadsheets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fewshot_bench._io.storage import whole_or_not
from fewshot_bench._io.text import guarded
from fewshot_bench.errors import AccuracyFileError, FewshotBenchError, OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore, ProtocolCard
from fewshot_bench.outcomes.claimed import NO_CLASSES, SEPARATOR, UNKNOWN_CORRECT, UNKNOWN_QUERIES
from fewshot_bench.outcomes.frame import query_counts
from fewshot_bench.report.names import cells_of_method, shown_names
from fewshot_bench.report.scores import classes_of_episodes

_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    {
        "method": _NAME,
        "is_transductive": pa.bool_(),
        "dataset": _NAME,
        "split": _NAME,
        "way": pa.int32(),
        "shot": pa.int32(),
        "tasks": _NAME,
        "run": pa.int32(),
        "episode": pa.int32(),
        "accuracy": pa.float64(),
        "correct": pa.int32(),
        "queries": pa.int32(),
        "classes": pa.string(),
    }
)


def export_outcomes(
    store: OutcomeStore, path: Path, *, methods: Sequence[str] = (), datasets: Sequence[str] = ()
) -> int:
    """Write a table of stored outcomes, cell after cell, all of it or nothing.

    Args:
        store: where they are.
        path: the file, .csv or .parquet; an older one is replaced.
        methods: names, parts that no other name has, or labels; all by default.
        datasets: names; all by default.

    Returns:
        How many rows it has. Their columns are those of `SCHEMA`; accuracies are fractions. What is not known is empty.

    Raises:
        AccuracyFileError: the file's name ends otherwise.
        OutcomeError: there are no outcomes, or some are damaged.
        FewshotBenchError: no method or several are called so.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise AccuracyFileError(f"{path} should end in {' or '.join(_WRITERS)}.")
    cells = _chosen(store, methods, datasets)
    names = shown_names(cells)
    rows = 0
    with whole_or_not(path) as temporary, writer(temporary) as write:
        for cell in cells:
            table = _table(cell, names[cell.key], store)
            write(table)
            rows += len(table)
    return rows


def _chosen(store: OutcomeStore, methods: Sequence[str], datasets: Sequence[str]) -> list[Cell]:
    cells = store.cells()
    if methods:
        meant = [cells_of_method(cells, name) for name in methods]
        keys = {cell.key for of_method in meant for same in of_method.values() for cell in same}
        cells = [cell for cell in cells if cell.key in keys]
    if datasets:
        cells = [cell for cell in cells if cell.protocol.dataset in datasets]
    if not cells:
        raise OutcomeError(f"there are no such outcomes in {store.folder}.")
    return sorted(cells, key=lambda cell: (cell.protocol.dataset, cell.protocol.task, cell.method.name, cell.key))


def _table(cell: Cell, name: str, store: OutcomeStore) -> pa.Table:
    protocol = cell.protocol
    frame = store.read(cell, with_predictions=len(protocol.queries_per_episode) > 1)  # which say how many there are
    queries = _queries(protocol, frame)
    constants = {
        "method": name,
        "dataset": protocol.dataset,
        "split": protocol.split,
        "tasks": tasks_of(protocol),
    }
    is_marked = cell.method.is_transductive
    is_unknown = protocol.is_claimed and not is_marked  # an import need not say it
    correct = frame["correct"].to_numpy()
    columns: dict[str, Any] = {
        **{key: _constant(value, len(frame)) for key, value in constants.items()},
        "is_transductive": pa.array(np.full(len(frame), is_marked), mask=np.full(len(frame), is_unknown)),
        "way": np.full(len(frame), protocol.way),
        "shot": np.full(len(frame), protocol.shot),
        "run": frame["run"].to_numpy(),
        "episode": frame["episode"].to_numpy(),
        "accuracy": frame["accuracy"].to_numpy(),
        "correct": pa.array(correct, mask=correct == UNKNOWN_CORRECT),
        "queries": pa.array(queries, mask=queries == UNKNOWN_QUERIES),
        "classes": _classes(cell, frame),
    }
    return pa.table({key: columns[key] for key in SCHEMA.names}).cast(SCHEMA)


def tasks_of(protocol: ProtocolCard) -> str:
    """The name of a protocol's episodes, which tells them from others of the same size: under it they are imported."""
    if protocol.is_claimed:
        return str(protocol.sampler_settings["tasks"])
    return f"{protocol.sampler} seed {protocol.seed} {protocol.fingerprint[:8]}"


def _queries(protocol: ProtocolCard, frame: pd.DataFrame) -> NDArray[np.int32]:
    """Queries of each episode, [E]; 0 where they are unknown."""
    if "queries" in frame:
        return frame["queries"].to_numpy(np.int32)
    if len(protocol.queries_per_episode) == 1:
        return np.full(len(frame), protocol.queries_per_episode[0], np.int32)
    return query_counts(frame["predictions"], protocol.way)


def _classes(cell: Cell, frame: pd.DataFrame) -> pa.Array:
    """The classes of each episode, by number or by the name that they were imported with; empty where unknown."""
    if "classes" in frame:
        texts = frame["classes"].to_numpy()
        return pa.array(texts, pa.string(), mask=texts == NO_CLASSES)
    nothing = pa.nulls(len(frame), pa.string())
    if not cell.class_sizes:
        return nothing
    run, episode = (frame[name].to_numpy(np.int64) for name in ("run", "episode"))
    try:
        classes = np.sort(classes_of_episodes(cell.protocol, cell.class_sizes, run, episode), axis=1)
    except FewshotBenchError:
        return nothing
    return pa.array([SEPARATOR.join(str(one) for one in row if one >= 0) for row in classes.tolist()], pa.string())


def _constant(value: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value], pa.string()))


Write = Callable[[pa.Table], None]


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        yield writer.write_table


@contextmanager
def _csv(path: Path) -> Iterator[Write]:
    plain = pa.schema([pa.field(one.name, pa.string() if one.type == _NAME else one.type) for one in SCHEMA])
    options = pc.WriteOptions(quoting_style="needed")
    with pc.CSVWriter(path, plain, write_options=options) as writer:
        yield lambda table: writer.write_table(_guarded(table).cast(plain))


def _guarded(table: pa.Table) -> pa.Table:
    """Text that a spreadsheet would run as a formula with an apostrophe in front."""
    for place, item in enumerate(table.schema):
        if item.type == _NAME:
            value = guarded(table.column(place)[0].as_py())
            table = table.set_column(place, item.name, _constant(value, len(table)))
        elif item.type == pa.string():
            column = table.column(place).combine_chunks().dictionary_encode()
            values = [guarded(text) for text in column.dictionary.to_pylist()]
            array = pa.DictionaryArray.from_arrays(column.indices, pa.array(values, pa.string()))
            table = table.set_column(place, item.name, array.cast(pa.string()))
    return table


_WRITERS = {".csv": _csv, ".parquet": _parquet}
