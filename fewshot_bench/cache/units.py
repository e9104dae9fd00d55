"""Sizes and ages as people write them, and nothing that could be read in two ways."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from math import isfinite

from fewshot_bench.errors import CacheError

SIZE_VARIABLE = "FEWSHOT_BENCH_CACHE_SIZE"

_BYTES = {"B": 1} | {
    f"{prefix}{kind}": base**power
    for kind, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT", start=1)
}
_SECONDS = {"min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_bytes(text: str, source: str) -> int:
    """A size such as "10GB" in bytes.

    Args:
        text: a number and one of B, KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (of 1024).
        source: where the text comes from, for the message.

    Raises:
        CacheError: it is anything else.
    """
    return int(_parse(text, source, _BYTES, "10GB"))


def parse_age(text: str, source: str) -> float:
    """An age such as "30d" in seconds.

    Args:
        text: a number and one of min, h, d, w.
        source: where the text comes from, for the message.

    Raises:
        CacheError: it is anything else.
    """
    return _parse(text, source, _SECONDS, "30d")


def size_limit() -> int | None:
    """The bound that the cache keeps by itself, in bytes: `$FEWSHOT_BENCH_CACHE_SIZE`; None where it has none.

    Raises:
        CacheError: the variable is no size.
    """
    text = os.environ.get(SIZE_VARIABLE, "")
    return parse_bytes(text, SIZE_VARIABLE) if text else None


def _parse(text: str, source: str, units: Mapping[str, int], example: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", text.strip(), re.ASCII)
    value = float(found[1]) * units.get(found[2], 0) if found else 0.0
    if found is None or found[2] not in units or not isfinite(value):
        raise CacheError(f"{source} takes a number and a unit ({', '.join(units)}) such as {example}, not '{text}'.")
    return value
