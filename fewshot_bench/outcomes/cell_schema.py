"""The content of cell.json, which a stranger may have written: checked before anything is made of it.

Method and protocol say what the outcomes are, so each of their values has to be of its kind. What else is recorded is
told beside the outcomes only; a value of another kind counts as not recorded.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewshot_bench.errors import OutcomeError
from fewshot_bench.limits import LARGEST_TASK, task_size
from fewshot_bench.outcomes.kinds import (
    CLAIMED_SAMPLER,
    DEEPEST,
    METHOD,
    NAME,
    PLAIN,
    PROTOCOL,
    PROVENANCE,
    QUERY,
    RECORDED,
    TEXT,
    Kind,
    is_plain,
    whole,
)
from fewshot_bench.paths import Place
from fewshot_bench.stored_files import read_bytes

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
