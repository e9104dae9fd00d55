"""The content of cell.json, which a stranger may have written: checked before anything is made of it.

Method and protocol say what the outcomes are, so each of their values has to be of its kind. What else is recorded is
told beside the outcomes only; a value of another kind counts as not recorded.

The kinds of values that cell.json may hold, and JSON that may be of no kind at all.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fewshot_bench._io.locations import Place
from fewshot_bench._io.storage import read_bytes
from fewshot_bench.errors import OutcomeError
from fewshot_bench.limits import (
    LARGEST_CLASS,
    LARGEST_SEED,
    LARGEST_SIZE,
    LARGEST_TASK,
    LARGEST_WAY,
    MOST_CLASSES,
    task_size,
)

CLAIMED_SAMPLER = "claimed"
"""What a protocol calls its sampler where a file says which episodes there are: see `claimed`."""

_LONGEST_NAME = 200
_LARGEST_COUNT = (1 << 63) - 1
DEEPEST = 64  # levels of lists and mappings, far from where Python gives up


@dataclass(frozen=True)
class Kind:
    """What a value should be: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


def mapping_in(content: bytes) -> dict[str, Any]:
    """The mapping that somebody's JSON is; an empty one where it is anything else."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def is_plain(value: Any, levels: int = DEEPEST) -> bool:
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


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_NAME and text.isprintable() and text == text.strip()


def whole(least: int, most: int) -> Kind:
    """Whole numbers of a range, both ends included; true and false are none."""
    return Kind(f"a whole number from {least:,} to {most:,}", lambda value: _is_whole(value, least, most))


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_CLASSES


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


TEXT = Kind("text", lambda value: isinstance(value, str) and is_plain(value))
NAME = Kind(
    f"printable text of 1 to {_LONGEST_NAME} characters", lambda value: isinstance(value, str) and _is_name(value)
)
PLAIN = Kind("finite numbers, Unicode text, lists and mappings", is_plain)
_MAPPING = Kind("a mapping", lambda value: isinstance(value, dict))
_SETTINGS = Kind(
    "a mapping to finite numbers and text",
    lambda value: isinstance(value, dict) and all(is_plain(inner, 0) for inner in value.values()),
)
QUERY = whole(1, LARGEST_SIZE)
YES_OR_NO = Kind("true or false", lambda value: isinstance(value, bool))
METHOD = {
    "name": TEXT,
    "backbone": TEXT,
    "weights": TEXT,
    "adaptation": TEXT,
    "hyper_parameters": _MAPPING,
    "is_transductive": YES_OR_NO,
    "assumes_balanced_queries": YES_OR_NO,
    "code": _MAPPING,
}
PROTOCOL = {
    "dataset": TEXT,
    "dataset_fingerprint": TEXT,
    "split": TEXT,
    "way": whole(1, LARGEST_WAY),
    "shot": whole(1, LARGEST_SIZE),
    "query": Kind(QUERY.words, whole(0, LARGEST_SIZE).holds),  # 0 only where the episodes are claimed
    "seed": whole(-LARGEST_SEED, LARGEST_SEED),
    "sampler_version": whole(1, LARGEST_SIZE),
    "sampler": TEXT,
    "sampler_settings": _SETTINGS,
}
RECORDED = {
    "versions": _MAPPING,
    "dataset_recipe": _MAPPING,
    "class_sizes": Kind(
        f"a list of at most {MOST_CLASSES:,} whole numbers from 1 to {LARGEST_CLASS:,}",
        lambda value: _is_list(value) and all(_is_whole(size, 1, LARGEST_CLASS) for size in value),
    ),
    "class_names": Kind(
        f"a list of at most {MOST_CLASSES:,} texts", lambda value: _is_list(value) and all(map(TEXT.holds, value))
    ),
    "provenance": _MAPPING,
}
PROVENANCE = {
    "commands": Kind("a list of texts", lambda value: isinstance(value, list) and all(map(TEXT.holds, value))),
    "study": _MAPPING,
    "git_commit": TEXT,
    "hardware": _MAPPING,
    "platform": TEXT,
    "python": TEXT,
    "pretraining": TEXT,
    "peak_bytes": whole(0, _LARGEST_COUNT),
    "continued": Kind(
        "a list of mappings", lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value)
    ),
    "stopping": Kind(
        "a list of rules with half_width, episodes_between_looks, max_episodes and rule",
        lambda value: isinstance(value, list) and all(map(_is_stopping_rule, value)),
    ),
}

FORMAT = 2
"""Of cell.json and of the parts beside it, raised when older releases would read them wrongly; absent means 1."""

LARGEST_FILE = 8_000_000
"""Bytes of a file cell.json."""

_LARGEST_FORMAT = 1_000_000
_LATER_FIELDS = ("hyper_parameters", "is_transductive", "code", "assumes_balanced_queries")
"""Fields of a method that may be left out."""
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!-]{0,40}")


class NewerFormatError(OutcomeError):
    """A description is of a format that only a later release knows."""


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


def description_text(place: Place) -> str:
    """The text of a file cell.json.

    Raises:
        OSError: it cannot be read.
        OutcomeError: it is larger than any description, or no text.
    """
    try:
        return read_bytes(place, LARGEST_FILE).decode()
    except UnicodeDecodeError as error:
        raise OutcomeError(f"it should be text in UTF-8: {error}") from error


def check_description(text: str) -> None:
    """See that a reader takes all of a description, before it is written.

    Raises:
        OutcomeError: it would take it for damaged, or leave out a part of it.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > LARGEST_FILE:
        raise OutcomeError(f"it should have at most {LARGEST_FILE:,} bytes, not {size:,}")
    left_out = read_description(text).left_out
    if left_out:
        raise OutcomeError(left_out[0])


def description_as_json(content: Mapping[str, Any]) -> str:
    """The text of a file cell.json that says this."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def description_content(text: str) -> dict[str, Any]:
    """What cell.json says, whatever that is.

    Raises:
        NewerFormatError: a later release wrote it.
        OutcomeError: it is no mapping in JSON.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OutcomeError(f"it should be JSON of at most {DEEPEST} levels: {error}") from error
    if not isinstance(content, dict):
        raise OutcomeError(f"it should be a mapping, not {reprlib.repr(content)}")
    _check_format(content)
    return content


def _check_format(content: Mapping[str, Any]) -> None:
    kind, found = whole(1, _LARGEST_FORMAT), content.get("format", 1)
    if not kind.holds(found):
        raise OutcomeError(f"format should be {kind.words}, not {reprlib.repr(found)}")
    if found > FORMAT:
        versions = content.get("versions")
        told = versions.get("fewshot-bench") if isinstance(versions, dict) else None
        newest = told.split(" and ")[-1] if isinstance(told, str) else ""
        wanted = f"fewshot-bench {newest}" if _VERSION.fullmatch(newest) else "the newest fewshot-bench"
        raise NewerFormatError(
            f"was written by a newer fewshot-bench (format {found}; this one knows up to {FORMAT}). Install {wanted} "
            "or later to use it; nothing of it has been changed."
        )


def read_description(text: str) -> Description:
    """Read the content of cell.json as data.

    Raises:
        NewerFormatError: a later release wrote it.
        OutcomeError: it is no JSON, or a value of the method or the protocol is missing, unknown or of another kind.
    """
    content = description_content(text)
    method = _identity("method", content, METHOD, optional=_LATER_FIELDS)
    protocol = _identity("protocol", content, PROTOCOL, optional=("sampler", "sampler_settings"))
    _check_sampler(protocol)
    left_out: list[str] = []
    recorded = _kept("", content, RECORDED, left_out, only_known=True)
    for name, kinds in (("provenance", PROVENANCE), ("versions", {}), ("dataset_recipe", {})):
        if name in recorded:
            every = TEXT if name == "versions" else PLAIN
            recorded[name] = _kept(f"{name}.", recorded[name], kinds, left_out, every)
    return Description(method, protocol, recorded, tuple(left_out))


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
        for kind in (kinds[field], PLAIN):
            if not kind.holds(value):
                raise OutcomeError(f"{name}.{field} should be {kind.words}, not {reprlib.repr(value)}")
    return dict(values)


def _check_sampler(protocol: Mapping[str, Any]) -> None:
    settings = protocol.get("sampler_settings", {})
    if protocol.get("sampler") == CLAIMED_SAMPLER:
        if set(settings) != {"tasks"} or not NAME.holds(settings["tasks"]):
            found = reprlib.repr(settings)
            raise OutcomeError(f"protocol.sampler_settings should be tasks, {NAME.words}, not {found}")
    elif not QUERY.holds(protocol["query"]):
        raise OutcomeError(f"protocol.query should be {QUERY.words}, not {protocol['query']}")
    way, shot, sampler = protocol["way"], protocol["shot"], protocol.get("sampler", "")
    if task_size(way, shot, protocol["query"], sampler) > LARGEST_TASK:
        raise OutcomeError(f"protocol.way, shot and query should make at most {LARGEST_TASK:,} images of an episode")
    kind = whole(2, protocol["way"])
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
