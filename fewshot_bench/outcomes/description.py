"""The content of cell.json, which a stranger may have written: checked before anything is made of it.

Method and protocol say what the outcomes are, so each of their values has to be of its kind. What else is recorded is
told beside the outcomes only; a value of another kind counts as not recorded.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench.errors import OutcomeError

LARGEST_WAY = 255  # class positions are stored in one byte
_LARGEST_FILE = 32_000_000  # bytes
_LARGEST_CLASS = 1 << 20
_LARGEST_SIZE = 1_000_000
_LARGEST_SEED = 1 << 128
_LARGEST_COUNT = (1 << 63) - 1
_DEEPEST = 64  # levels of lists and mappings, far from where Python gives up


@dataclass(frozen=True)
class Kind:
    """What a value should be: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Description:
    """What cell.json says, every value of its kind.

    Attributes:
        method: fields of a `MethodCard`.
        protocol: fields of a `ProtocolCard`.
        recorded: further fields of a `Cell`; of another kind, they are left out.
        left_out: what those are and should be, in words.
    """

    method: dict[str, Any]
    protocol: dict[str, Any]
    recorded: dict[str, Any]
    left_out: tuple[str, ...]


def description_text(path: Path) -> str:
    """The text of a file cell.json.

    Raises:
        OSError: it cannot be read.
        OutcomeError: it is larger than any description, or no text.
    """
    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise OutcomeError(f"it should have at most {_LARGEST_FILE:,} bytes, not {size:,}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise OutcomeError(f"it should be text in UTF-8: {error}") from error


def read_description(text: str) -> Description:
    """Read the content of cell.json as data.

    Raises:
        OutcomeError: it is no JSON, or a value of the method or the protocol is missing, unknown or of another kind.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OutcomeError(f"it should be JSON of at most {_DEEPEST} levels: {error}") from error
    if not isinstance(content, dict):
        raise OutcomeError(f"it should be a mapping, not {reprlib.repr(content)}")
    method = _identity("method", content, _METHOD, optional=("hyper_parameters", "is_transductive"))
    protocol = _identity("protocol", content, _PROTOCOL, optional=("sampler", "sampler_settings"))
    _check_least_way(protocol)
    left_out: list[str] = []
    recorded = _kept("", content, _RECORDED, left_out, only_known=True)
    for name, kinds in (("provenance", _PROVENANCE), ("versions", {}), ("dataset_recipe", {})):
        if name in recorded:
            every = _TEXT if name == "versions" else _PLAIN
            recorded[name] = _kept(f"{name}.", recorded[name], kinds, left_out, every)
    return Description(method, protocol, recorded, tuple(left_out))


def is_plain(value: Any, levels: int = _DEEPEST) -> bool:
    """Whether a value is finite numbers, Unicode text, lists and mappings that can be written as they were read.

    Args:
        value: of a JSON file.
        levels: how many lists and mappings may be in each other.
    """
    if isinstance(value, str):
        return _is_unicode(value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return levels > 0 and all(is_plain(key) and is_plain(inner, levels - 1) for key, inner in value.items())
    if isinstance(value, list):
        return levels > 0 and all(is_plain(inner, levels - 1) for inner in value)
    return value is None or isinstance(value, int)


def _is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which JSON can spell and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _whole(least: int, most: int) -> Kind:
    return Kind(f"a whole number from {least:,} to {most:,}", lambda value: _is_whole(value, least, most))


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_stopping_rule(value: Any) -> bool:
    """As `study.until` records one."""
    if not isinstance(value, dict):
        return False
    width = value.get("half_width")
    return (
        isinstance(width, int | float)
        and not isinstance(width, bool)
        and 0 < width <= 100
        and all(_is_whole(value.get(name, 1), 1, _LARGEST_COUNT) for name in ("episodes_between_looks", "max_episodes"))
        and isinstance(value.get("rule", ""), str)
    )


_TEXT = Kind("text", lambda value: isinstance(value, str) and is_plain(value))
_PLAIN = Kind("finite numbers, Unicode text, lists and mappings", is_plain)
_MAPPING = Kind("a mapping", lambda value: isinstance(value, dict))
_SETTINGS = Kind(
    "a mapping to finite numbers and text",
    lambda value: isinstance(value, dict) and all(is_plain(inner, 0) for inner in value.values()),
)
_METHOD = {
    "name": _TEXT,
    "backbone": _TEXT,
    "weights": _TEXT,
    "adaptation": _TEXT,
    "hyper_parameters": _MAPPING,
    "is_transductive": Kind("true or false", lambda value: isinstance(value, bool)),
}
_PROTOCOL = {
    "dataset": _TEXT,
    "dataset_fingerprint": _TEXT,
    "split": _TEXT,
    "way": _whole(1, LARGEST_WAY),
    "shot": _whole(1, _LARGEST_SIZE),
    "query": _whole(1, _LARGEST_SIZE),
    "seed": _whole(-_LARGEST_SEED, _LARGEST_SEED),
    "sampler_version": _whole(1, _LARGEST_SIZE),
    "sampler": _TEXT,
    "sampler_settings": _SETTINGS,
}
_RECORDED = {
    "versions": _MAPPING,
    "dataset_recipe": _MAPPING,
    "class_sizes": Kind(
        f"a list of whole numbers from 1 to {_LARGEST_CLASS:,}",
        lambda value: isinstance(value, list) and all(_is_whole(size, 1, _LARGEST_CLASS) for size in value),
    ),
    "provenance": _MAPPING,
}
_PROVENANCE = {
    "commands": Kind("a list of texts", lambda value: isinstance(value, list) and all(map(_TEXT.holds, value))),
    "study": _MAPPING,
    "git_commit": _TEXT,
    "hardware": _MAPPING,
    "platform": _TEXT,
    "python": _TEXT,
    "pretraining": _TEXT,
    "peak_bytes": _whole(0, _LARGEST_COUNT),
    "stopping": Kind(
        "a list of rules with half_width, episodes_between_looks, max_episodes and rule",
        lambda value: isinstance(value, list) and all(map(_is_stopping_rule, value)),
    ),
}


def _identity(
    name: str, content: Mapping[str, Any], kinds: Mapping[str, Kind], optional: tuple[str, ...]
) -> dict[str, Any]:
    """The method or the protocol.

    Raises:
        OutcomeError: a value is missing, unknown or of another kind.
    """
    values = content.get(name)
    if not isinstance(values, dict):
        raise OutcomeError(f"{name} should be a mapping, not {reprlib.repr(values)}")
    odd = next((field for field in values if field not in kinds), None)
    missing = next((field for field in kinds if field not in values and field not in optional), None)
    if odd is not None or missing is not None:
        finding = f"lacks {missing}" if odd is None else f"has {reprlib.repr(odd)}, which this version does not know"
        raise OutcomeError(f"{name} {finding}")
    for field, value in values.items():
        for kind in (kinds[field], _PLAIN):
            if not kind.holds(value):
                raise OutcomeError(f"{name}.{field} should be {kind.words}, not {reprlib.repr(value)}")
    return dict(values)


def _check_least_way(protocol: Mapping[str, Any]) -> None:
    settings = protocol.get("sampler_settings", {})
    kind = _whole(2, protocol["way"])
    if "least_way" in settings and not kind.holds(settings["least_way"]):
        found = reprlib.repr(settings["least_way"])
        raise OutcomeError(f"protocol.sampler_settings.least_way should be {kind.words}, not {found}")


def _kept(
    prefix: str,
    values: Mapping[str, Any],
    kinds: Mapping[str, Kind],
    left_out: list[str],
    every: Kind | None = None,
    *,
    only_known: bool = False,
) -> dict[str, Any]:
    """The values that are of their kind, and of the kind of every value; the others are added to `left_out`."""
    kept = {}
    for name, value in values.items():
        if only_known and name not in kinds:
            continue
        wrong = next((kind for kind in (kinds.get(name), every) if kind is not None and not kind.holds(value)), None)
        if wrong is None and is_plain(name):
            kept[name] = value
        else:
            words = f"should be {wrong.words}" if wrong is not None else "should have a name of Unicode text"
            left_out.append(f"{prefix}{name} {words}, not {reprlib.repr(value)}")
    return kept
