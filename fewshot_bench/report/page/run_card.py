"""A run card: everything that a cell records about how its outcomes came about."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fewshot_bench.outcomes import Cell, marked

_UNKNOWN = "not recorded"
_NAMES = 22  # letters


@dataclass(frozen=True)
class RunCard:
    """The card of one cell.

    Attributes:
        title: the method and the protocol.
        text: the command lines that made the outcomes, then name and value of everything else, aligned. One piece of
            text, because hundreds of cards as lists of elements would make the page slow to open.
    """

    title: str
    text: str


def run_card(name: str, cell: Cell, task: str | None = None) -> RunCard:
    """The card of a cell.

    Args:
        name: what the leaderboard calls the method.
        cell: with whatever it records; what it does not record is said to be missing.
        task: what the page calls the protocol; by default its own name, which others may share.
    """
    provenance = dict(cell.provenance)
    commands = [str(command) for command in provenance.pop("commands", [])]
    method, protocol = cell.method.as_dict(), asdict(cell.protocol)
    entries = {
        "git commit": provenance.pop("git_commit", None),
        "hardware": provenance.pop("hardware", None),
        "Python": provenance.pop("python", None),
        "platform": provenance.pop("platform", None),
        "versions": cell.versions,
        "seeds": _seeds(cell),
        "dataset": f"{cell.protocol.dataset}, fingerprint {cell.protocol.dataset_fingerprint}",
        "dataset recipe": cell.dataset_recipe,
        "images per class": _sizes(cell.class_sizes),
        "protocol": {key: value for key, value in protocol.items() if value not in ("", {})},
        "protocol fingerprint": cell.protocol.fingerprint,
        "method": {key: value for key, value in method.items() if key != "hyper_parameters"},
        "hyper-parameters": cell.method.hyper_parameters,
        "method fingerprint": cell.method.fingerprint,
        "pretraining": provenance.pop("pretraining", None),
        "stopping rule": provenance.pop("stopping", None),
        "peak memory": _gib(provenance.pop("peak_bytes", None)),
        "study": provenance.pop("study", None),
        **{key.replace("_", " "): value for key, value in sorted(provenance.items())},
        "outcomes": f"outcomes/{cell.key}",
    }
    lines = [_line("command", "\n".join(commands) or _UNKNOWN)]
    lines += [_line(key, _text(value)) for key, value in entries.items()]
    return RunCard(f"{marked(name, cell.method.is_transductive)}, {task or cell.protocol.task}", "\n".join(lines))


def _line(name: str, value: str) -> str:
    """A name and its value; further lines of the value stand below the first."""
    return f"{name:<{_NAMES}}" + value.replace("\n", f"\n{' ' * _NAMES}")


def _text(value: Any) -> str:
    """Mappings as `name: value` lines, nested ones as JSON."""
    if value is None or value == "" or value == {} or value == []:
        return _UNKNOWN
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_flat(item)}" for key, item in sorted(value.items()))
    return _flat(value)


def _flat(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _seeds(cell: Cell) -> dict[str, Any]:
    """Every seed that decides the outcomes: that of the episodes, and those among the hyper-parameters."""
    found: dict[str, Any] = {"episodes": cell.protocol.seed}
    for stage, settings in cell.method.hyper_parameters.items():
        if isinstance(settings, Mapping) and "seed" in settings:
            found[stage] = settings["seed"]
    return found


def _sizes(sizes: Sequence[int]) -> str | None:
    if not sizes:
        return None
    counts = sorted(Counter(sizes).items(), reverse=True)
    if len(counts) > 6:
        return f"{len(sizes)} classes of {min(sizes)} to {max(sizes)} images"
    return ", ".join(f"{count} classes of {size} images" for size, count in counts)


def _gib(count: Any) -> str | None:
    return f"{count / 2**30:.2f} GiB" if isinstance(count, (int, float)) and count else None
