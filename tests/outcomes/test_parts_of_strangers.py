"""Whatever a stranger writes into a part: damage in one line with the file's name, and no number is made of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from forged_parts import CLAIMED, OTHER_TYPES, OUT_OF_RANGE, forged, whole_table, with_last, written
from toy_cells import CELL

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.checking import check_cell
from fewshot_bench.outcomes.maintenance import merge

KINDS = {"one run": (CELL, 0), "all runs": (CELL, None), "claimed": (CLAIMED, None)}


def columns_of(kind: str) -> list[str]:
    return whole_table(KINDS[kind][0]).column_names


def members() -> list[tuple[str, str, str]]:
    found = []
    for kind, (cell, _) in KINDS.items():
        types = whole_table(cell).schema
        for column in columns_of(kind):
            changed = [name for name, change in OTHER_TYPES.items() if _is_another(types.field(column).type, change)]
            found += [(kind, column, what) for what in [*changed, *OUT_OF_RANGE.get(column, ()), "missing value"]]
            found += [(kind, column, what) for what in ("not there", "there twice", "renamed", "moved", "one more")]
    return [member for member in found if member not in FINE]


def _is_another(kind: pa.DataType, change) -> bool:
    return change(pa.array([None] * 4, kind) if kind == pa.null() else whole_column(kind)).type != kind


def whole_column(kind: pa.DataType) -> pa.Array:
    tables = (whole_table(CELL), whole_table(CLAIMED))
    column = next(table[name] for table in tables for name in table.column_names if table[name].type == kind)
    return column.combine_chunks()


FINE = {
    # In the file they are the same.
    *((kind, column, "a dictionary") for kind in KINDS for column in columns_of(kind)),
    *((kind, "seed", what) for kind in KINDS for what in ("long text", "text view")),
    *(
        ("claimed", column, what)
        for column, what in (("queries", "none"), ("queries", "more"), ("episode", "too large"))
    ),
}
"""Members that are parts all the same."""


def changed(table: pa.Table, column: str, what: str) -> pa.Table:
    """A table with one thing wrong."""
    place = table.column_names.index(column)
    if what == "not there":
        return table.drop_columns([column])
    if what == "there twice":
        return table.append_column(column, table[column])
    if what == "renamed":
        return table.rename_columns([name + " " * (name == column) for name in table.column_names])
    if what == "moved":
        return table.drop_columns([column]).add_column((place + 1) % len(table.columns), column, table[column])
    if what == "one more":
        return table.add_column(place, "more", table[column])
    changes = {"missing value": with_last(lambda _: None), **OTHER_TYPES, **OUT_OF_RANGE.get(column, {})}
    return table.set_column(place, column, changes[what](table[column].combine_chunks()))


def stored(folder: Path, cell: Cell, run: int | None, table: pa.Table, **options) -> tuple[OutcomeStore, Path]:
    store = OutcomeStore(folder / "outcomes")
    store.open_cell(cell)
    return store, forged(store.cell_folder(cell), written(table, cell, run, **options), run)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keeps_types", [False, True])
def test_the_table_that_the_others_are_made_of_is_read(tmp_path, kind, keeps_types):
    cell, run = KINDS[kind]
    store, _ = stored(tmp_path, cell, run, whole_table(cell), store_schema=keeps_types)
    assert store.read(cell)["accuracy"].tolist() == [0.0, 0.5, 1.0, 0.5]
    assert check_cell(store.cell_folder(cell)).damage == []


@pytest.mark.parametrize(("kind", "column", "what"), members())
def test_what_no_part_says_is_damage(tmp_path, kind, column, what):
    cell, run = KINDS[kind]
    store, part = stored(tmp_path, cell, run, changed(whole_table(cell), column, what))
    ways = {
        "read": lambda: OutcomeStore(store.folder).read(cell),
        "read without predictions": lambda: OutcomeStore(store.folder).read(cell, with_predictions=False),
        "done": lambda: OutcomeStore(store.folder).done(cell),
        "merge": lambda: merge([store.folder], tmp_path / "other"),
    }
    for way, use in ways.items():
        with pytest.raises(OutcomeError) as caught:
            use()
        assert part.name in str(caught.value), way
        assert "\n" not in str(caught.value), way
    assert [part.name in line for line in check_cell(store.cell_folder(cell)).damage] == [True]
    assert not (tmp_path / "other").exists()
