"""A cell's own description, read as the data that it is and checked before anything is made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot_bench.audit.finding import Finding
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell

CHECK = "description"
_LARGEST = 32_000_000  # bytes of a cell.json
_KEY = re.compile(r"[0-9a-f]{16}")
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OutcomeError)
_LARGEST_CLASS = 1 << 20
_RANGES = {"way": (2, 255), "shot": (1, 1 << 20), "query": (1, 1 << 20)}


def read_description(folder: Path) -> tuple[Cell | None, Finding]:
    """Read cell.json.

    Args:
        folder: of the cell.

    Returns:
        The cell, if it can be trusted to hold the kinds of values that it should, and the finding.
    """
    path = folder / "cell.json"
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        cell = Cell.from_json(path.read_text(encoding="utf-8"))
        problem = _problem(cell)
        key = cell.key if not problem else ""
    except _UNREADABLE as error:
        return None, Finding(CHECK, "fail", f"cell.json cannot be read: {error or type(error).__name__}")
    if problem:
        return None, Finding(CHECK, "fail", f"cell.json: {problem}")
    if _KEY.fullmatch(folder.name) is None or key != folder.name:
        return cell, Finding(CHECK, "fail", f"it describes the cell {key}, and the folder is called {folder.name}")
    return cell, Finding(CHECK, "pass", "method and protocol are those that the folder is named after")


def _problem(cell: Cell) -> str:
    """The first value that is not of its kind; empty where all are."""
    method, protocol = cell.method, cell.protocol
    texts = {
        "method.name": method.name,
        "method.backbone": method.backbone,
        "method.weights": method.weights,
        "method.adaptation": method.adaptation,
        "protocol.dataset": protocol.dataset,
        "protocol.dataset_fingerprint": protocol.dataset_fingerprint,
        "protocol.split": protocol.split,
        "protocol.sampler": protocol.sampler,
    }
    for name, value in texts.items():
        if not isinstance(value, str):
            return f"{name} should be text, not {value!r}"
    for name in ("way", "shot", "query", "seed", "sampler_version"):
        value = getattr(protocol, name)
        if not isinstance(value, int) or isinstance(value, bool):
            return f"protocol.{name} should be a whole number, not {value!r}"
        low, high = _RANGES.get(name, (value, value))
        if not low <= value <= high:
            return f"protocol.{name} should be from {low} to {high}, not {value}"
    if not isinstance(method.is_transductive, bool):
        return f"method.is_transductive should be true or false, not {method.is_transductive!r}"
    return _problem_of_mappings(cell)


def _problem_of_mappings(cell: Cell) -> str:
    mappings: dict[str, Any] = {
        "method.hyper_parameters": cell.method.hyper_parameters,
        "protocol.sampler_settings": cell.protocol.sampler_settings,
        "provenance": cell.provenance,
    }
    for name, value in mappings.items():
        if not isinstance(value, Mapping):
            return f"{name} should be a mapping, not {type(value).__name__}"
    if any(not 1 <= size <= _LARGEST_CLASS for size in cell.class_sizes):
        return f"class_sizes should be from 1 to {_LARGEST_CLASS:,} each"
    return ""
