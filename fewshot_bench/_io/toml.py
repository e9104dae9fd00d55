"""The standard library's reader of TOML, which Python 3.10 does not have; and the reader of single values."""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["tomllib", "value_of"]


def value_of(text: str) -> Any:
    """A number or a truth value where the text reads as one, the text itself otherwise.

    >>> value_of("10"), value_of("0.1"), value_of("True"), value_of("cosine")
    (10, 0.1, True, 'cosine')
    """
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
