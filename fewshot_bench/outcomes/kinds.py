"""The kinds of values that cell.json may hold, and JSON that may be of no kind at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fewshot_bench.limits import LARGEST_CLASS, LARGEST_SEED, LARGEST_SIZE, LARGEST_WAY, MOST_CLASSES

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
