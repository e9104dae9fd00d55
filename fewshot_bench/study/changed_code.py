"""What a user hears where somebody's own code has changed since a method of that name was stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fewshot_bench.code_identity import what_changed
from fewshot_bench.outcomes import Cell, OutcomeStore


def changed_code(store: OutcomeStore, cells: Sequence[Cell]) -> list[str]:
    """A sentence for each part of methods whose code is not that of the outcomes that are stored under their names.

    Args:
        store: with the outcomes.
        cells: of the methods as they are now; those that have outcomes already are passed over.
    """
    new = [cell for cell in cells if cell.method.code and not store.done(cell)]
    stored = store.cells() if new else []
    return list(dict.fromkeys(sentence for cell in new for sentence in _sentences(cell, stored)))


def _sentences(cell: Cell, stored: Sequence[Cell]) -> Iterator[str]:
    same = [other for other in stored if other.method.name == cell.method.name and other.protocol == cell.protocol]
    for part, code in cell.method.code.items():
        others = [other.method.code.get(part) for other in same]
        if others and code not in others:
            what = what_changed(others[-1], code)
            yield (
                f"the code of {code['name']} has changed since {cell.method.name} was stored ({what}). Its outcomes "
                "are those of a new method; the stored ones were not changed."
            )
