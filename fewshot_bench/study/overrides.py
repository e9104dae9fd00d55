"""What a command line changes in a study file: `--set key=value`, and options such as `--results`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_bench.errors import StudyError
from fewshot_bench.study.file_keys import known_keys, takes_several
from fewshot_bench.study.positions import KeyPath
from fewshot_bench.toml import tomllib


@dataclass(frozen=True)
class Override:
    """A key and its new value.

    Attributes:
        path: of the key.
        value: as TOML would give it.
        shown: how it was typed, for a complaint.
    """

    path: KeyPath
    value: Any
    shown: str

    @classmethod
    def from_text(cls, key: str, text: str, *, shown: str = "") -> Override:
        """What `--set key=value` means.

        Args:
            key: keys and positions from 0, joined by dots: "methods.0.lambda".
            text: a TOML value; with commas between them several, where the key takes a list; otherwise text as it is.
            shown: how it was typed; `--set KEY=VALUE` by default.
        """
        parts = [part.strip() for part in key.split(".")]
        path = tuple(int(part) if part.isdecimal() else _as_in_a_file(part) for part in parts[:2]) + tuple(parts[2:])
        value = _value(text)
        if isinstance(value, str) and takes_several(path) and value == text:
            value = [_value(word.strip()) for word in text.split(",") if word.strip()]
        return cls(path, value, shown or f"--set {key}={text}")


def _as_in_a_file(key: str) -> str:
    return key.replace("-", "_") if key.replace("-", "_") in known_keys(()) else key


def _value(text: str) -> Any:
    """What TOML makes of a value, or the text where it makes nothing of it."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if list(parsed) == ["value"] else text


def with_overrides(data: dict[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """What a file says, changed.

    Args:
        data: as TOML gives it; it is left as it is.
        overrides: applied in order.

    Raises:
        StudyError: a path leads through something that is no table, to a method that is not there, or sets what
            every method says for itself.
    """
    changed = copy.deepcopy(data)
    for override in overrides:
        _apply(changed, override)
    for override in overrides:
        _refuse_without_effect(changed, override)
    return changed


def _apply(data: dict[str, Any], override: Override) -> None:
    place: Any = data
    for number, part in enumerate(override.path[:-1]):
        if isinstance(place, list):
            place = _element(place, part, override)
        elif isinstance(place, dict):
            following: Any = {} if override.path[0] != "methods" or number else []
            place = place.setdefault(str(part), following)
    last = override.path[-1]
    if not isinstance(place, dict):
        raise StudyError(_no_table(override, place))
    place[str(last)] = override.value


def _element(tables: list[Any], part: str | int, override: Override) -> Any:
    if isinstance(part, int) and part < len(tables):
        return tables[part]
    last = len(tables) - 1
    there = f"has methods.0{f' to methods.{last}' if last else ' alone'}"
    raise StudyError(f"{override.shown}: the study {there if tables else 'has no [[methods]]; leave methods.N out'}.")


def _no_table(override: Override, place: Any) -> str:
    inner = ".".join(str(part) for part in override.path[:-1])
    if isinstance(place, list) and override.path[0] == "methods":
        return f"{override.shown}: say which of the {len(place)} methods, as in methods.0.{override.path[-1]}."
    return f"{override.shown}: {inner} is no table, so it has no keys."


def _refuse_without_effect(data: dict[str, Any], override: Override) -> None:
    tables, key = data.get("methods"), str(override.path[0])
    if len(override.path) > 1 or key == "datasets" or not isinstance(tables, list) or not tables:
        return
    if all(isinstance(table, dict) and key in table for table in tables):
        raise StudyError(
            f"{override.shown} changes nothing: every method of the study says its own {key}. Use methods.0.{key}."
        )
