"""All outcomes as one tidy table: a row for each method and episode, for pandas, R and spreadsheets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
from fewshot_bench.arguments import checked_arguments
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


@checked_arguments
def export_outcomes(
    store: OutcomeStore, path: str | Path, *, methods: Sequence[str] = (), datasets: Sequence[str] = ()
) -> int:
    """Write a table of stored outcomes, cell after cell, all of it or nothing.

    Args:
        store: where they are.
        path: the file, .csv or .parquet; an older one is replaced.
        methods: names, parts that no other name has, or labels; all by default.
        datasets: names; all by default.

    Returns:
        The number of rows. Their columns are those of `SCHEMA`; accuracies are fractions, and unknown values are empty.

    Raises:
        AccuracyFileError: the file's name ends otherwise.
        OutcomeError: there are no outcomes, or some are damaged.
        FewshotBenchError: a name fits no method, or several.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import fewshot_bench as fb
    >>> novel = fb.open_dataset("glyphs").novel
    >>> episodes = fb.sample_episodes(novel, fb.Protocol("glyphs", shot=5, episodes=50, runs=1))
    >>> evaluation = fb.evaluate("centroid", novel.images.reshape(len(novel), -1), episodes)
    >>> with TemporaryDirectory() as folder:
    ...     rows = fb.export_outcomes(evaluation.save(folder), Path(folder, "outcomes.csv"))
    >>> rows
    50
    """
    path = Path(path)
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
        found = [same for name in methods for same in cells_of_method(cells, name).values()]
        keys = {cell.key for same in found for cell in same}
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
    constants = {"method": name, "dataset": protocol.dataset, "split": protocol.split, "tasks": tasks_of(protocol)}
    is_transductive = cell.method.is_transductive
    is_unknown = protocol.is_claimed and not is_transductive  # an import need not say it
    correct = frame["correct"].to_numpy()
    columns: dict[str, Any] = {
        **{key: _constant(value, len(frame)) for key, value in constants.items()},
        "is_transductive": pa.array(np.full(len(frame), is_transductive), mask=np.full(len(frame), is_unknown)),
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
    """The name of a protocol's episodes, which distinguishes them from others of the same size."""
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
    """The classes of each episode, by number or by imported name; empty if unknown."""
    if "classes" in frame:
        texts = frame["classes"].to_numpy()
        return pa.array(texts, pa.string(), mask=texts == NO_CLASSES)
    run, episode = (frame[name].to_numpy(np.int64) for name in ("run", "episode"))
    with suppress(FewshotBenchError):
        if cell.class_sizes:
            classes = np.sort(classes_of_episodes(cell.protocol, cell.class_sizes, run, episode), axis=1)
            numbers = [[str(number) for number in row if number >= 0] for row in classes.tolist()]
            return pa.array(map(SEPARATOR.join, numbers), pa.string())
    return pa.nulls(len(frame), pa.string())


def _constant(value: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value], pa.string()))


Write = Callable[[pa.Table], None]


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        yield writer.write_table


@contextmanager
def _csv(path: Path) -> Iterator[Write]:
    plain = pa.schema([pa.field(item.name, pa.string() if item.type == _NAME else item.type) for item in SCHEMA])
    with pc.CSVWriter(path, plain, write_options=pc.WriteOptions(quoting_style="needed")) as writer:
        yield lambda table: writer.write_table(_guarded(table).cast(plain))


def _guarded(table: pa.Table) -> pa.Table:
    """Put an apostrophe before text that a spreadsheet would run as a formula."""
    for position, item in enumerate(table.schema):
        if item.type in (_NAME, pa.string()):
            column = table.column(position).combine_chunks()
            column = column if item.type == _NAME else column.dictionary_encode()
            values = pa.array([guarded(text) for text in column.dictionary.to_pylist()], pa.string())
            table = table.set_column(position, item.name, pa.DictionaryArray.from_arrays(column.indices, values))
    return table


_WRITERS = {".csv": _csv, ".parquet": _parquet}
