"""A cell's own description: whether it can be read, says what it should, and belongs to its folder."""

from __future__ import annotations

import re

from fewshot_bench.audit.finding import Finding
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell
from fewshot_bench.outcomes.description import description_text, read_description
from fewshot_bench.paths import Place

CHECK = "description"
_KEY = re.compile(r"[0-9a-f]{16}")
_SHOWN = 3


def check_description(folder: Place) -> tuple[Cell | None, Finding]:
    """Read cell.json.

    Args:
        folder: of the cell.

    Returns:
        The cell, if its method and protocol hold the kinds of values that they should, and the finding.
    """
    try:
        text = description_text(folder / "cell.json")
        cell, left_out = Cell.from_json(text), read_description(text).left_out
    except (OSError, OutcomeError) as error:
        return None, Finding(CHECK, "fail", f"cell.json cannot be read: {error}")
    if _KEY.fullmatch(folder.name) is None or cell.key != folder.name:
        return cell, Finding(CHECK, "fail", f"it describes the cell {cell.key}, and the folder is called {folder.name}")
    if left_out:
        more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        told = "; ".join(left_out[:_SHOWN])
        return cell, Finding(CHECK, "fail", f"cell.json, taken as not recorded: {told}{more}")
    return cell, Finding(CHECK, "pass", "method and protocol are those that the folder is named after")
