"""Small files that stand for gigabytes are refused before that memory is taken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from forged_parts import CLAIMED, forged, whole_table, written
from toy_cells import CELL

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard
from fewshot_bench.outcomes.checking import check_store
from fewshot_bench.outcomes.maintenance import Damaged, compact_store

pytestmark = pytest.mark.slow

MOST_GROWTH = 150  # MB
LARGEST_FILE = 400_000  # bytes
ROWS = 3_000_000
VARIED = Cell(
    MethodCard("conv/centroid", "conv4", "00ff", "centroid", {}),
    ProtocolCard("toy", "ab", "novel", 3, 1, 2, 0, 1, "varied", {"least_way": 2, "least_shot": 1}),
)
IN_A_PROCESS = """
import sys
from pathlib import Path
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.checking import check_store
from fewshot_bench.outcomes.study_log import recorded_studies

def status(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line)

folder = Path(sys.argv[1])
check_store(Path(sys.argv[2]))  # what reading imports
Path("/proc/self/clear_refs").write_text("5")  # forget the peak
before = status("VmRSS")
lines = [line for found in check_store(folder) for line in found.damage]
for with_predictions in (False, True):
    try:
        store = OutcomeStore(folder)
        for cell in store.cells():
            store.read(cell, with_predictions=with_predictions)
            lines.append("")
    except OutcomeError as error:
        lines.append(str(error))
lines += recorded_studies(folder.parent)[1]
print((status("VmHWM") - before) // 1024)
print("\\n".join(lines))
"""


def many_rows(kind: Cell, **options) -> bytes:
    """A table whose every column says the same in millions of rows, but for numbers that differ by one."""
    table = whole_table(kind)
    rows = {name: pa.repeat(table[name][0], ROWS) for name in table.column_names}
    rows["episode"] = pa.array(np.arange(ROWS, dtype=np.int32))
    by_name = [name for name in rows if name != "episode"]
    options = {"use_dictionary": by_name, "column_encoding": {"episode": "DELTA_BINARY_PACKED"}, **options}
    return written(pa.table(rows), kind, None, **options)


def one_value(column: str, value: object, kind: pa.DataType, cell: Cell = CELL, rows: int = 4, **options) -> bytes:
    table = (
        whole_table(cell)
        .take(pa.array([0] * rows))
        .set_column(whole_table(cell).column_names.index("episode"), "episode", pa.array(range(rows), pa.int32()))
    )
    place = table.column_names.index(column)
    if cell is VARIED:
        place_of = table.column_names.index
        table = table.set_column(place_of("queries"), "queries", pa.array([6] * rows, pa.int32()))
    table = table.set_column(place, column, pa.array([value] * rows, kind))
    return written(table, cell, None, **options)


BOMBS: dict[str, tuple[Cell, Callable[[], bytes]]] = {
    "rows that are all alike": (CELL, lambda: many_rows(CELL)),
    "claimed rows that are all alike": (CLAIMED, lambda: many_rows(CLAIMED)),
    "predictions of 200 MB of nothing": (
        VARIED, lambda: one_value("predictions", bytes(200_000_000), pa.binary(), VARIED, rows=1, use_dictionary=False)
    ),
    "predictions of one size, as large": (
        CELL, lambda: one_value("predictions", bytes(200_000_000), pa.binary(200_000_000), rows=1, use_dictionary=False)
    ),
    "a value that a dictionary repeats": (
        VARIED, lambda: one_value("predictions", bytes(1_000_000), pa.binary(), VARIED, rows=1500, use_dictionary=True)
    ),
    "a value that each takes from the one before": (
        VARIED,
        lambda: one_value(
            "predictions", bytes(1_000_000), pa.binary(), VARIED, rows=1500, use_dictionary=False,
            column_encoding={"predictions": "DELTA_BYTE_ARRAY"},
        ),
    ),
    "a fingerprint of 200 MB": (CELL, lambda: one_value("protocol", "a" * 200_000_000, pa.string(), rows=1)),
    "a fingerprint that is repeated": (
        CELL, lambda: one_value("protocol", "a" * 1_000_000, pa.string(), rows=1500, use_dictionary=True)
    ),
    "classes of 200 MB": (CLAIMED, lambda: one_value("classes", "1;" * 100_000_000, pa.string(), CLAIMED, rows=1)),
    "fewer rows in the footer than in the groups": (CELL, lambda: with_rows_in_footer(many_rows(CELL), 4)),
}  # fmt: skip


def with_rows_in_footer(content: bytes, rows: int) -> bytes:
    """The same file, whose footer tells another number of rows as a whole."""
    size = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - size : -8]
    told = b"\x16" + _varint(2 * ROWS) + b"\x19"
    assert footer.count(told) == 1
    footer = footer.replace(told, b"\x16" + _varint(2 * rows) + b"\x19")
    return content[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + _varint(value >> 7) if value > 127 else bytes([value])


def growth(folder: Path, tmp_path: Path) -> tuple[int, list[str]]:
    """By how many MB reading a store grows a process, and the lines that it says."""
    whole = OutcomeStore(tmp_path / "whole")
    whole.open_cell(CELL)
    forged(whole.cell_folder(CELL), written(whole_table(), CELL, None), None)
    program = [sys.executable, "-c", IN_A_PROCESS, str(folder), str(whole.folder)]
    told = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
    return int(told[0]), told[1:]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_part_takes_no_more_memory_than_its_file_can_stand_for(tmp_path, bomb):
    cell, make = BOMBS[bomb]
    store = OutcomeStore(tmp_path / "outcomes")
    store.open_cell(cell)
    content = make()
    assert len(content) < LARGEST_FILE
    part = forged(store.cell_folder(cell), content, None)
    megabytes, lines = growth(store.folder, tmp_path)
    assert len(lines) == 3
    assert all(part.name in line and "damaged" in line for line in lines), lines
    assert megabytes < MOST_GROWTH


def described(content: dict) -> str:
    return json.dumps({**json.loads(CELL.as_json()), **content})


LONG_LISTS: dict[str, Callable[[], str]] = {
    "three million class sizes": lambda: described({"class_sizes": [1] * 3_000_000}),
    "three million class names": lambda: described({"class_names": [""] * 1_900_000}),
    "empty lists": lambda: described({"provenance": {"a": [[]] * 1_900_000}}),
    "empty mappings": lambda: described({"more": [{}] * 1_900_000}),
    "lists in each other": lambda: '{"a": ' + "[" * 4_000_000 + "]" * 3_900_000 + "}",
    "mappings in each other": lambda: '{"a":' * 1_500_000,
    "a number of many digits": lambda: described({}).replace('"seed": 0', '"seed": 1' + "0" * 7_000_000),
    "a number of a large exponent": lambda: described({}).replace('"seed": 0', '"seed": 1e999999'),
    "many unknown fields": lambda: described({"method": dict.fromkeys(map(str, range(600_000)), 1)}),
    "many settings": lambda: described({"protocol": {"sampler_settings": {str(n): [] for n in range(500_000)}}}),
    "many versions that are no text": lambda: described({"versions": dict.fromkeys(map(str, range(600_000)), 1)}),
    "many values that are not finite": lambda: described(
        {"provenance": dict.fromkeys(map(str, range(400_000)), float("inf"))}
    ),
    "many commands that are no text": lambda: described({"provenance": {"commands": [1] * 1_900_000}}),
    "many cells that are none": lambda: described({"cells": [1] * 1_900_000, "stops_early": False}),
    "more than any description has": lambda: described({"more": "x" * 31_000_000}),
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("what", LONG_LISTS)
def test_a_description_takes_no_more_memory_than_a_description_can(tmp_path, what):
    store = OutcomeStore(tmp_path / "outcomes")
    store.open_cell(CELL)
    forged(store.cell_folder(CELL), written(whole_table(), CELL, None), None)
    (store.cell_folder(CELL) / "cell.json").write_text(LONG_LISTS[what]())
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / f"{CELL.key}.json").write_text(LONG_LISTS[what]())
    megabytes, lines = growth(store.folder, tmp_path)
    assert all(len(line) < 1000 for line in lines)
    assert megabytes < 2 * MOST_GROWTH


@pytest.mark.parametrize(
    "protocol", [{"shot": 1_000_000}, {"way": 60_000, "query": 1000}, {"shot": 500_000, "query": 500_000}], ids=str
)
def test_an_episode_of_more_images_than_can_be_drawn_is_a_damaged_description(tmp_path, protocol):
    store = OutcomeStore(tmp_path)
    store.open_cell(CELL)
    changed = {**json.loads(CELL.as_json())["protocol"], **protocol}
    (store.cell_folder(CELL) / "cell.json").write_text(described({"protocol": changed}))
    with pytest.raises(OutcomeError, match="at most 2,000,000 images of an episode"):
        OutcomeStore(tmp_path).done(CELL)


def test_rows_that_would_not_fit_into_one_part_are_stored_in_several(tmp_path):
    """A method that always says the same compresses so well that no reader would believe a single part."""
    wide = Cell(MethodCard("wide", "b", "w", "a"), ProtocolCard("toy", "ab", "novel", 1000, 1, 15, 0, 1))
    store = OutcomeStore(tmp_path)
    store.append(wide, 0, np.arange(600), np.zeros((600, 15_000), np.uint16), 0.5)
    assert len([*tmp_path.rglob("*.parquet")]) > 1
    assert len(OutcomeStore(tmp_path).read(wide, with_predictions=False)) == 600
    assert check_store(tmp_path)[0].damage == []
    (left,) = compact_store(tmp_path)
    assert isinstance(left, Damaged)
    assert "was not changed" in left.damage
    assert len(OutcomeStore(tmp_path).read(wide, with_predictions=False)) == 600
