"""Studies that come with the package, by name."""

from __future__ import annotations

import re
from pathlib import Path

from fewshot_bench.errors import StudyError, UnknownNameError
from fewshot_bench.registry import Entry

_FOLDER = Path(__file__).with_name("preset_files")
MAKE_ONE = "To start from one that works: fewshot-bench study quickstart > study.toml"
_ADVICE = "A file of your own is a path that ends in .toml. See: fewshot-bench ls studies."


def preset_names() -> list[str]:
    """The names of all presets."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def preset_text(name: str) -> str | None:
    """The text of a preset; None where the name is the path of a file.

    Raises:
        UnknownNameError: there is no such preset.
        StudyError: there is no such file.
    """
    if name in preset_names():
        return known_preset(name)
    if Path(name).exists():
        return None
    if name.endswith(".toml") or Path(name).name != name:
        raise StudyError(f"there is no file {name}. {MAKE_ONE}")
    return known_preset(name)


def known_preset(name: str) -> str:
    """The text of a preset.

    Raises:
        UnknownNameError: there is no such preset.
    """
    if name not in preset_names():
        raise UnknownNameError("study", name, preset_names(), _ADVICE)
    return (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")


def preset_entries() -> list[Entry[None]]:
    """Every preset with its description, for `fewshot-bench ls studies`."""
    return [Entry(name, None, _description(known_preset(name))) for name in preset_names()]


def _description(text: str) -> str:
    found = re.search(r'^description = "(.*)"$', text, re.MULTILINE)
    return found[1] if found else ""
