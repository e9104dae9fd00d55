"""From what a user types to the cells that are meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote

from fewshot_bench.errors import ComparisonError, OutcomeError, UnknownNameError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.claimed import ACCURACY_FILES
from fewshot_bench.paths import Place


def check_no_files(wanted: Iterable[str], store: OutcomeStore) -> None:
    """Say what to type to those who name a file where a method is expected.

    Raises:
        ComparisonError: one of the names ends like a file of accuracies, and no stored method is called so.
    """
    file = next((name for name in wanted if name.lower().endswith(ACCURACY_FILES)), None)
    if file is not None and file not in {cell.method.name for cell in store.cells()}:
        raise ComparisonError(f"{file} is a file, not a method. {import_first(file)}")


def import_first(file: str) -> str:
    """What to type to those who give a file of accuracies where stored outcomes are expected."""
    return (
        "Import it first, then compare its methods: "
        f"fewshot-bench outcomes import {quote(file)} --dataset NAME --way N --shot K"
    )


def check_no_file(place: Place, expected: str) -> Place:
    """The place of results, unless it is a file on this disk.

    Args:
        place: that somebody named.
        expected: what it should be.

    Raises:
        OutcomeError: it is a file; the sentence says how to import one of accuracies.
    """
    if isinstance(place, Path) and place.is_file():
        advice = import_first(str(place)) if place.name.lower().endswith(ACCURACY_FILES) else "Name the folder."
        raise OutcomeError(f"{place} is a file, not {expected}. {advice}")
    return place


def resolve_method(names: Iterable[str], wanted: str) -> str:
    """The one method that is meant.

    Args:
        names: of the methods there are.
        wanted: a whole name, or a part that only one of them has.

    Raises:
        UnknownNameError: no name has that part.
        ComparisonError: several have it.
    """
    known = sorted(set(names))
    if wanted in known:
        return wanted
    fitting = [name for name in known if wanted.lower() in name.lower()]
    if not fitting:
        raise UnknownNameError("method", wanted, known)
    if len(fitting) > 1:
        raise ComparisonError(f"'{wanted}' fits {len(fitting)} methods: {', '.join(fitting)}. Give more of the name.")
    return fitting[0]


def cells_of_method(cells: Sequence[Cell], wanted: str) -> dict[str, list[Cell]]:
    """The cells of the method that is meant, by protocol fingerprint.

    Several methods may share a name, for instance after a backbone was trained again: then a protocol has
    several cells, unless `wanted` is a label, the name with the start of the fingerprint.

    Args:
        cells: where to look.
        wanted: a name, a part of one, or a label.

    Raises:
        UnknownNameError: no method is called so.
        ComparisonError: names of several methods fit.
    """
    labels = {cell.method.label: cell.method.name for cell in cells}
    name = labels[wanted] if wanted in labels else resolve_method(labels.values(), wanted)
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.method.name == name:
            found.setdefault(cell.protocol.fingerprint, []).append(cell)
    return {
        protocol: [cell for cell in same if cell.method.label == wanted] or same for protocol, same in found.items()
    }


def the_only(cells: Sequence[Cell]) -> Cell:
    """The one cell of a method on a protocol.

    Raises:
        ComparisonError: methods share the name.
    """
    if len(cells) > 1:
        labels = ", ".join(sorted(cell.method.label for cell in cells))
        raise ComparisonError(
            f"{cells[0].method.name} names {len(cells)} methods on {cells[0].protocol.task} that differ in weights, "
            f"hyper-parameters or code: {labels}. Name one of these, or delete the outcomes of the others."
        )
    return cells[0]


def shown_names(cells: Sequence[Cell]) -> dict[str, str]:
    """What to call each cell's method, by cell key: its name, or its label where the protocol has that name twice."""
    count = Counter((cell.protocol.fingerprint, cell.method.name) for cell in cells)
    return {
        cell.key: cell.method.name if count[cell.protocol.fingerprint, cell.method.name] == 1 else cell.method.label
        for cell in cells
    }
