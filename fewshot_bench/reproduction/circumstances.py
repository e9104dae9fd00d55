"""What is not here as it was when a result was made: versions, hardware, the commit of this project."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from fewshot_bench.outcomes import Cell
from fewshot_bench.reproduction.outcome import Circumstance
from fewshot_bench.study.provenance import hardware, platform_name, source_commit
from fewshot_bench.versions import installed_versions

_UNKNOWN = "not recorded"


def other_circumstances(cell: Cell, device: str) -> tuple[Circumstance, ...]:
    """Everything around a result that its record says otherwise, or does not say.

    Args:
        cell: with its record.
        device: a torch device.
    """
    told = cell.provenance
    recorded = {
        **cell.versions,
        "commit": told.get("git_commit", ""),
        "python": told.get("python", ""),
        "platform": told.get("platform", ""),
        **told.get("hardware", {}),
    }
    here: Mapping[str, Any] = {
        **installed_versions(),
        "commit": source_commit(),
        "python": platform.python_version(),
        "platform": platform_name(),
        **hardware(device),
    }
    names = list(dict.fromkeys([*here, *recorded]))
    return tuple(
        Circumstance(name, _text(recorded.get(name)), _text(here.get(name)))
        for name in names
        if _text(recorded.get(name)) != _text(here.get(name))
    )


def _text(value: Any) -> str:
    return str(value) if value not in (None, "") else _UNKNOWN
