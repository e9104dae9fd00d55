"""The description of a cell that goes on: what was recorded, and what a later run adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.description import LARGEST_FILE, description_as_json
from fewshot_bench.outcomes.kinds import RECORDED

SET_ASIDE = "set_aside"
ELSEWHERE = "continued"
"""Under which the provenance lists where else a cell went on."""
_WHERE = ("git_commit", "hardware", "platform", "python", "engine")


def continued_text(content: Mapping[str, Any], stored: Cell, new: Cell) -> str | None:
    """The text of a stored description with what a run that goes on adds to it.

    What could not be read, because it is of another kind than it should be, stays where it is; where the run brings a
    value of that name, the old one goes to `set_aside`.

    Args:
        content: of the stored file.
        stored: the cell that was made of it.
        new: the cell as the run describes it.

    Returns:
        None where it cannot be written as it was read, or would become larger than any description.
    """
    merged = continued(stored, new).as_dict()
    aside = content.get(SET_ASIDE)
    set_aside: dict[str, Any] = dict(aside) if isinstance(aside, dict) else {}
    for path, value in _unread(content, stored):
        inner = merged
        for name in path[:-1]:
            inner = inner[name]
        if inner.get(path[-1]):
            set_aside.setdefault(".".join(path), value)
        else:
            inner[path[-1]] = value
    try:
        text = description_as_json({**content, **merged, **({SET_ASIDE: set_aside} if set_aside else {})})
        is_small = len(text.encode()) <= LARGEST_FILE
    except (ValueError, RecursionError):
        return None
    return text if is_small else None


def _unread(content: Mapping[str, Any], stored: Cell) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What a description says beside the method and the protocol that counts as not recorded: where, and the value."""
    for name, kind in RECORDED.items():
        found, read = content.get(name), getattr(stored, name)
        if name in content and not kind.holds(found):
            yield (name,), found
        elif isinstance(found, dict):
            yield from (((name, key), value) for key, value in found.items() if key not in read)


def continued(stored: Cell, new: Cell) -> Cell:
    """A stored description with what a run that goes on adds to it."""
    provenance = {**new.provenance, **stored.provenance}
    for several in ("commands", "stopping"):
        known = stored.provenance.get(several, [])
        more = [entry for entry in new.provenance.get(several, []) if entry not in known]
        if known or more:
            provenance[several] = [*known, *more]
    provenance.pop(ELSEWHERE, None)
    if elsewhere := _elsewhere(stored, new):
        provenance[ELSEWHERE] = elsewhere
    if "peak_bytes" in stored.provenance:
        provenance["peak_bytes"] = max(stored.provenance["peak_bytes"], new.provenance.get("peak_bytes", 0))
    return replace(
        stored,
        versions=_both(stored.versions, new.versions),
        class_sizes=stored.class_sizes or new.class_sizes,
        class_names=stored.class_names or new.class_names,
        provenance=provenance,
    )


def places_of(cell: Cell) -> list[dict[str, Any]]:
    """Where a cell was made (commit, hardware, platform, Python, engine): where it began, then where it went on."""
    first = {name: cell.provenance[name] for name in _WHERE if name in cell.provenance}
    return [first, *cell.provenance.get(ELSEWHERE, [])]


def _elsewhere(stored: Cell, new: Cell) -> list[dict[str, Any]]:
    """Where a cell went on, but for where it began; what that place did not record is no difference."""
    first, *others = places_of(stored)
    for place in places_of(new):
        is_first = all(place[name] == first.get(name, place[name]) for name in place)
        if not is_first and place not in others:
            others.append(place)
    return others


def _both(old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
    """Versions that contributed to a cell, in the order in which they came."""
    merged = dict(old)
    for package, version in new.items():
        known = merged[package].split(" and ") if package in merged else []
        merged[package] = " and ".join(known if version in known else [*known, version])
    return merged
