"""The types of values in stored JSON files, which a stranger may have written, and the errors about other values.

Pydantic checks each file against types made of these. They are strict, so nothing is converted: what is read is what
was written. Lists stop at their first wrong value, so that a hostile file cannot ask for millions of error messages.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from typing import Annotated, Any

from pydantic import AfterValidator, Field, Strict, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from fewshot_bench._io.text import printable
from fewshot_bench.errors import OutcomeError

DEEPEST = 64
"""Levels of lists and mappings in each other, far fewer than Python can hold."""
LARGEST_COUNT = (1 << 63) - 1
NAME_RULE = "printable text of 1 to 200 characters"
_LONGEST_NAME = 200
_LONGEST_TEXT = 8_000_000
_LONGEST_KEY = 80  # characters of a key in an error
_PLAIN_RULE = "finite numbers, Unicode text, lists and mappings"
_EXPECTATIONS = {
    "string_type": "should be text",
    "string_unicode": "should be text in Unicode",
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "list_type": "should be a list",
    "tuple_type": "should be a list",
    "dict_type": "should be a mapping",
    "dataclass_type": "should be a mapping",
    "model_type": "should be a mapping",
}


def is_plain(value: Any, levels: int = DEEPEST) -> bool:
    """Whether JSON can hold a value: finite numbers, Unicode text, lists and mappings, at most `levels` deep."""
    if isinstance(value, str):
        return _is_unicode(value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return levels > 0 and all(is_plain(key) and is_plain(inner, levels - 1) for key, inner in value.items())
    if isinstance(value, list):
        return levels > 0 and all(is_plain(inner, levels - 1) for inner in value)
    return value is None or isinstance(value, int)


def is_name(text: str) -> bool:
    """Whether a text can name a method, dataset or set of tasks: see `NAME_RULE`."""
    return 0 < len(text) <= _LONGEST_NAME and text.isprintable() and text == text.strip()


def refusal(expectation: str, value: Any, *keys: str) -> ValidationError:
    """The error that a validator raises for a value below the one that it checks.

    Args:
        expectation: such as "should be 2 or more".
        value: that was found.
        keys: that lead to it.
    """
    details = InitErrorDetails(type=PydanticCustomError("refused", expectation), loc=keys, input=value)
    return ValidationError.from_exception_data("", [details])


def _check_plain(value: Any) -> Any:
    if not is_plain(value):
        raise refusal(f"should be {_PLAIN_RULE}", value)
    return value


def _check_settings(values: dict[str, Any]) -> dict[str, Any]:
    if not all(is_plain(name) and is_plain(value, 0) for name, value in values.items()):
        raise refusal("should be a mapping to finite numbers and text", values)
    return values


# The bound has pydantic decode each text, which refuses halves of surrogate pairs: JSON can spell them, files cannot.
Text = Annotated[str, Strict(), Field(max_length=_LONGEST_TEXT)]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1, le=LARGEST_COUNT)]
Plain = Annotated[Any, AfterValidator(_check_plain)]
PlainMapping = Annotated[dict[str, Any], Strict(), AfterValidator(_check_plain)]
Settings = Annotated[dict[str, Any], Strict(), AfterValidator(_check_settings)]


def read_mapping(content: str | bytes) -> dict[str, Any]:
    """The mapping in a JSON file; raises OutcomeError if it is not JSON, nested too deeply, or not a mapping."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise OutcomeError(f"it should be JSON of at most {DEEPEST} levels: {error}") from error
    if not isinstance(values, dict):
        raise OutcomeError(f"it should be a mapping, not {reprlib.repr(values)}")
    return values


def mapping_in(content: bytes) -> dict[str, Any]:
    """The mapping in a JSON file; empty if the file holds anything else."""
    try:
        return read_mapping(content)
    except OutcomeError:
        return {}


def problem(details: ErrorDetails) -> str:
    """One error of pydantic in one line that names the key, what it should be and what it is."""
    *table, key = [printable(str(part))[:_LONGEST_KEY] for part in details["loc"]] or [""]
    name = ".".join([*table, key])
    if details["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{'.'.join(table)} has {reprlib.repr(key)}, which this version does not know"
    if details["type"] == "missing":
        return f"{'.'.join(table)} lacks {key}" if table else f"{key} is missing"
    expectation = _EXPECTATIONS.get(details["type"]) or re.sub(
        "^(Input|List|Tuple|String) should", "should", details["msg"]
    )
    return f"{name} {expectation}, not {reprlib.repr(details['input'])}"


def first_problem(error: ValidationError) -> str:
    """The first error that pydantic found, see `problem`."""
    return problem(error.errors(include_url=False, include_context=False)[0])


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
