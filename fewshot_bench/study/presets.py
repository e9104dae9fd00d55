"""Studies that come with the package, by name."""

from __future__ import annotations

import re
from pathlib import Path

from fewshot_bench.errors import UnknownNameError
from fewshot_bench.registry import Entry

_FOLDER = Path(__file__).with_name("preset_files")
_ADVICE = "A file of your own is a path that ends in .toml. See: fewshot-bench ls studies"


def preset_names() -> list[str]:
    """The names of all presets."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def preset_text(name: str) -> str | None:
    """The text of a preset; None where the name is the path of a file.

    Raises:
        UnknownNameError: there is no such preset, and no such file.
    """
    if name in preset_names():
        return (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    if Path(name).exists():
        return None
    raise UnknownNameError("study", name, preset_names(), _ADVICE)


def preset_entries() -> list[Entry[None]]:
    """Every preset with its description, for `fewshot-bench ls studies`."""
    return [Entry(name, None, _description(preset_text(name) or "")) for name in preset_names()]


def _description(text: str) -> str:
    found = re.search(r'^description = "(.*)"$', text, re.MULTILINE)
    return found[1] if found else ""
