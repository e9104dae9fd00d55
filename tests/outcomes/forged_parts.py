"""Parts as a forger writes them: any table, under the name and the digest that fit it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from toy_cells import CELL

from fewshot_bench.outcomes import Cell, claimed_method, claimed_protocol
from fewshot_bench.outcomes.claimed import CLAIMED_COLUMNS
from fewshot_bench.outcomes.packing import packed
from fewshot_bench.outcomes.part import CONSTANTS, METADATA, STORED, Identity, digest

ROWS = 4
CLAIMED = Cell(claimed_method("proto"), claimed_protocol("cifar-fs", "novel", 3, 1, "acc"))

Change = Callable[[pa.Array], pa.Array]


def whole_table(cell: Cell = CELL) -> pa.Table:
    """Four episodes of run 0 that nothing is wrong with."""
    identity = Identity.of(cell)
    columns: dict[str, Any] = {name: pa.array([getattr(identity, name)] * ROWS) for name in CONSTANTS}
    columns |= {"run": pa.array([0] * ROWS, pa.int16()), "episode": pa.array(range(ROWS), pa.int32())}
    columns["queries"] = pa.array([6] * ROWS, pa.int32())
    columns["correct"] = pa.array([0, 3, 6, 3], pa.int32())
    columns["accuracy"] = pa.array([0.0, 0.5, 1.0, 0.5])
    half = [0, 0, 1, 2, 0, 0]
    predictions = packed(np.array([[1, 1, 2, 2, 0, 0], half, [0, 0, 1, 1, 2, 2], half], np.uint8), 3)
    columns["predictions"] = pa.array([row.tobytes() for row in predictions], pa.binary(2))
    columns["seconds"] = pa.array([0.25, 0.0, float("nan"), 1.0])
    columns["classes"] = pa.array(["1;2;3", "", "2;3;4", "1;2;3"])
    return pa.table({name: columns[name] for name in ((*CONSTANTS, *CLAIMED_COLUMNS) if cell is CLAIMED else STORED)})


def written(table: pa.Table, cell: Cell, run: int | None, *, end: int = ROWS, **options: Any) -> bytes:
    """The bytes of a part that says of itself what it should."""
    claims, content = Identity.of(cell).metadata(run, 0, end), io.BytesIO()
    with pq.ParquetWriter(content, table.schema, **{"compression": "zstd", "use_dictionary": False, **options}) as file:
        file.write_table(table)
        file.add_key_value_metadata({METADATA: json.dumps(claims, sort_keys=True)})
    return content.getvalue()


def forged(folder: Path, content: bytes, run: int | None, rows: int = ROWS) -> Path:
    """Put bytes into the folder of a cell, under the name of a part that they make whole."""
    name = f"together-{digest(content)}" if run is None else f"run={run}/episodes-00000-{rows:05d}-{digest(content)}"
    path = folder / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def with_last(change: Callable[[Any], Any]) -> Change:
    """Another value in the last row, of the same type."""
    return lambda column: pa.array([*column.to_pylist()[:-1], change(column.to_pylist()[-1])], column.type)


def of_type(kind: pa.DataType, *values: Any) -> Change:
    """Other values, of another type."""
    return lambda column: pa.array([values[row % len(values)] for row in range(len(column))], kind)


OTHER_TYPES: dict[str, Change] = {
    "text": of_type(pa.string(), "0", "3", "6"),
    "long text": of_type(pa.large_string(), "0"),
    "text view": of_type(pa.string_view(), "0"),
    "bytes": of_type(pa.binary(), b"0"),
    "fewer bytes": of_type(pa.binary(1), b"0"),
    "nothing": of_type(pa.null(), None),
    "a list": of_type(pa.list_(pa.int32()), [1]),
    "a list of one size": of_type(pa.list_(pa.int32(), 1), [1]),
    "a mapping": of_type(pa.map_(pa.string(), pa.int32()), [("a", 1)]),
    "a struct": of_type(pa.struct({"a": pa.int32()}), {"a": 1}),
    "a duration": of_type(pa.duration("s"), timedelta(seconds=1)),
    "a moment": of_type(pa.timestamp("us", "UTC"), 1),
    "a day": of_type(pa.date32(), 1),
    "a time of day": of_type(pa.time64("us"), 1),
    "a decimal": of_type(pa.decimal128(9, 2), Decimal("1.00")),
    "true and false": of_type(pa.bool_(), True, False),
    "a byte": of_type(pa.int8(), 0),
    "no sign": of_type(pa.uint32(), 0),
    "twice as large": of_type(pa.int64(), 0),
    "half as precise": of_type(pa.float32(), 0.5),
    "a fraction": of_type(pa.float64(), 0.5),
    "a dictionary": lambda column: column.dictionary_encode(),
    "a dictionary of numbers": lambda column: pa.array([1] * len(column), pa.int32()).dictionary_encode(),
}
"""What a column can be of instead of its type."""

OUT_OF_RANGE: dict[str, dict[str, Change]] = {
    "protocol": {"another": with_last(lambda value: value[:-1] + "x"), "empty": with_last(lambda _: "")},
    "method": {"another": with_last(lambda value: value[:-1] + "x"), "longer": with_last(lambda value: value + " ")},
    "seed": {"another": with_last(lambda _: "1"), "a fraction": with_last(lambda _: "0.0")},
    "run": {"negative": of_type(pa.int16(), -1), "another": with_last(lambda _: -32768)},
    "episode": {"negative": with_last(lambda _: -1), "too large": with_last(lambda _: 999_999_999)},
    "queries": {"none": with_last(lambda _: 0), "negative": with_last(lambda _: -6), "more": with_last(lambda _: 7)},
    "correct": {"negative": with_last(lambda _: -2), "more": with_last(lambda _: 7), "other": with_last(lambda _: 4)},
    "accuracy": {
        **{str(value): with_last(lambda _, value=value: value) for value in (-0.5, 1.5, 0.49, np.nan, np.inf, -np.inf)}
    },
    "predictions": {
        "another class": with_last(lambda _: bytes([243, 0])),
        "more than there are queries": with_last(lambda _: bytes([0, 3])),
        "no class": with_last(lambda _: b"\xff\xff"),
    },
    "seconds": {str(value): with_last(lambda _, value=value: value) for value in (-1.0, np.inf, -np.inf)},
    "classes": {"too few": with_last(lambda _: "1;2"), "unsorted": with_last(lambda _: "3;2;1")},
}
"""What a value of the right type can be that no episode has."""
