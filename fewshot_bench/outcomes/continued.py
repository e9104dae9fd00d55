"""The description of a cell that goes on: what was recorded, and what a later run adds."""

from __future__ import annotations

from dataclasses import replace

from fewshot_bench.outcomes.cell import Cell


def continued(stored: Cell, new: Cell) -> Cell:
    """A stored description with what a run that goes on adds to it."""
    provenance = {**new.provenance, **stored.provenance}
    for several in ("commands", "stopping"):
        known = stored.provenance.get(several, [])
        more = [entry for entry in new.provenance.get(several, []) if entry not in known]
        if known or more:
            provenance[several] = [*known, *more]
    return replace(
        stored,
        versions=_both(stored.versions, new.versions),
        class_sizes=stored.class_sizes or new.class_sizes,
        provenance=provenance,
    )


def _both(old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
    """Versions that contributed to a cell, in the order in which they came."""
    merged = dict(old)
    for package, version in new.items():
        known = merged[package].split(" and ") if package in merged else []
        merged[package] = " and ".join(known if version in known else [*known, version])
    return merged
