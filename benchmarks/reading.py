"""How long it takes to read back stored outcomes, and what packing their predictions saves.

    python benchmarks/reading.py                    # a million outcomes, three ways, and what a finished study asks
    python benchmarks/reading.py --repeats 9

Outcomes are made up and stored as a study stores them: 5-way, 15 queries of each class. Every read verifies the digests
of what it reads; "for statistics" leaves the predictions on the disk, "with predictions" unpacks and checks them too.
Times are the median of the repeats in a warm cache: seconds on the wall, and of the processor, which other programs on
the machine do not lengthen as much.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard
from fewshot_bench.outcomes.maintenance import compact
from fewshot_bench.outcomes.packing import packed

WAY, QUERY = 5, 15
METHOD = MethodCard("conv4_64/base-ce/centroid", "conv4_64", "weights", "centroid")
CELL = Cell(METHOD, ProtocolCard("cifar-fs", "ab" * 32, "novel", WAY, 1, QUERY, 0, 1))


@dataclass(frozen=True)
class Shape:
    """Outcomes of some cells, as chunks of so many episodes leave them."""

    cells: int
    runs: int
    episodes: int
    chunk: int

    @property
    def words(self) -> str:
        """What it is, for a table."""
        parts = self.cells * self.runs * -(-self.episodes // self.chunk)
        several = f"{self.cells} cells x " if self.cells > 1 else "1 cell, "
        return f"{several}{self.runs * self.episodes:,} outcomes, {parts:,} parts"


MILLION = (Shape(100, 1, 10_000, 500), Shape(1, 1, 1_000_000, 2_500))
FINISHED = Shape(10, 3, 3_000, 16)


def main() -> None:
    options = _options()
    versions = f"pyarrow {pa.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    print(f"{versions}, {os.cpu_count()} cores ({platform.machine()}), load {os.getloadavg()[0]:.0f}.")
    print("\n| what | wall s | processor s |\n| --- | ---: | ---: |")
    for shape in MILLION:
        with tempfile.TemporaryDirectory() as folder:
            for line in _reading(Path(folder), shape, options.repeats):
                print(line, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for line in _finished(Path(folder), FINISHED, options.repeats):
            print(line, flush=True)
    print("\n| predictions, per episode of 75 | bytes | to write, us | to read, us |\n| --- | ---: | ---: | ---: |")
    for line in _packing(options.repeats):
        print(line)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def _reading(folder: Path, shape: Shape, repeats: int) -> Iterator[str]:
    cells = stored(OutcomeStore(folder), shape)
    yield _row(f"{shape.words}, for statistics", repeats, lambda: _read(folder, cells, False))
    yield _row("of that, their digests", repeats, lambda: _digests(folder))
    yield _row("the same, with predictions", repeats, lambda: _read(folder, cells, True))
    for cell in cells:
        compact(folder / cell.key)
    yield _row("compact, for statistics", repeats, lambda: _read(folder, cells, False))
    yield _row("compact, with predictions", repeats, lambda: _read(folder, cells, True))


def _finished(folder: Path, shape: Shape, repeats: int) -> Iterator[str]:
    cells = stored(OutcomeStore(folder), shape)
    yield _row(f"what is done of {shape.words}, each verified", repeats, lambda: _done(OutcomeStore(folder), cells))
    store = OutcomeStore(folder)
    _done(store, cells)
    yield _row("asked again", repeats, lambda: _done(store, cells))
    yield _row("read for statistics", repeats, lambda: _read(folder, cells, False))


def stored(store: OutcomeStore, shape: Shape) -> list[Cell]:
    """Store made-up outcomes, and return their cells."""
    print(f"storing {shape.words}", file=sys.stderr)
    cells = [replace(CELL, method=replace(METHOD, weights=f"weights {number}")) for number in range(shape.cells)]
    generator = np.random.default_rng(0)
    for cell in cells:
        for run in range(shape.runs):
            for start in range(0, shape.episodes, shape.chunk):
                numbers = np.arange(start, min(start + shape.chunk, shape.episodes))
                store.append(cell, run, numbers, predictions(generator, len(numbers)), 0.001)
    return cells


def predictions(generator: np.random.Generator, episodes: int, accuracy: float = 0.75) -> NDArray[np.uint8]:
    """Predictions as methods make them: right at a rate that varies by episode, wrong with a taste for some classes."""
    truth = np.repeat(np.arange(WAY, dtype=np.uint8), QUERY)
    rate = np.clip(generator.normal(accuracy, 0.08, (episodes, 1)), 0.2, 1)
    taste = generator.dirichlet(np.ones(WAY), episodes).cumsum(1)[:, None, :]
    wrong = (taste < generator.random((episodes, len(truth), 1))).sum(2).clip(0, WAY - 1)
    return np.where(generator.random((episodes, len(truth))) < rate, truth, wrong).astype(np.uint8)


def _read(folder: Path, cells: list[Cell], with_predictions: bool) -> None:
    store = OutcomeStore(folder)
    for cell in cells:
        store.read(cell, with_predictions=with_predictions)


def _done(store: OutcomeStore, cells: list[Cell]) -> None:
    for cell in cells:
        store.done(cell)


def _digests(folder: Path) -> None:
    for path in folder.rglob("*.parquet"):
        hashlib.sha256(path.read_bytes()).hexdigest()


def _row(what: str, repeats: int, use: Callable[[], object]) -> str:
    wall, processor = _timed(repeats, use)
    return f"| {what} | {wall:.2f} | {processor:.2f} |"


def _timed(repeats: int, use: Callable[[], object]) -> tuple[float, float]:
    """Median seconds on the wall and of the processor, after one use that is not counted."""
    use()
    walls, processors = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        use()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return statistics.median(walls), statistics.median(processors)


def _packing(repeats: int) -> Iterator[str]:
    """Predictions of 10,000 episodes in a Parquet column, compressed, in three ways."""
    plain = predictions(np.random.default_rng(0), 10_000)
    bits = np.packbits((plain[..., None] >> np.arange(2, -1, -1) & 1).reshape(len(plain), -1), axis=1)
    ways = {"one byte each": plain, "three bits each": bits, "three in a byte, as stored": packed(plain, WAY)}
    for name, content in ways.items():
        file = _column(content)
        write, _ = _timed(repeats, partial(_column, content))
        read, _ = _timed(repeats, partial(_table, file))
        each = 1e6 / len(plain)
        yield f"| {name} | {len(file) / len(plain):.1f} | {write * each:.2f} | {read * each:.2f} |"


def _column(content: NDArray[np.uint8]) -> bytes:
    rows = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(content.shape[1]), len(content), [None, pa.py_buffer(np.ascontiguousarray(content))]
    )
    stream = pa.BufferOutputStream()
    pq.write_table(pa.table({"predictions": rows}), stream, compression="zstd", use_dictionary=False)
    return bytes(stream.getvalue().to_pybytes())


def _table(file: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(file))


if __name__ == "__main__":
    main()
