"""Arguments of the public functions and classes, answered in one line where they are wrong."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from fewshot_bench.errors import ArgumentError, FewshotBenchError
from fewshot_bench.plugins import described

F = TypeVar("F", bound=Callable[..., Any])

_LISTED = 12
_WORDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Path: "a path",
    NoneType: "None",
}


def checked_arguments(called: F) -> F:
    """Decorate a function, or a dataclass, to refuse arguments that it does not have, and values of another type.

    Only types that can be told at once are checked: numbers, texts, paths, words, and instances of classes.

    >>> @checked_arguments
    ... def sample(shot: int = 1) -> int:
    ...     return shot
    >>> sample(shots=5)
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.ArgumentError: sample has no argument 'shots'. Did you mean shot?
    >>> sample("5")
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.ArgumentError: shot of sample should be a whole number, not '5'.
    """
    return _decorated(called, lambda name: True)


def checked_except(*names: str) -> Callable[[F], F]:
    """Decorate as `checked_arguments`, and leave the types of some arguments to what is decorated."""
    return lambda called: _decorated(called, lambda name: name not in names)


def checked_names(called: F) -> F:
    """Decorate as `checked_arguments`, and leave all types to what is decorated."""
    return _decorated(called, lambda name: False)


def _decorated(called: F, is_checked: Callable[[str], bool]) -> F:
    if isinstance(called, type):
        kind: Any = called
        kind.__init__ = _checking(kind.__init__, called.__name__, is_checked, is_method=True)
        return called
    return cast(F, _checking(called, called.__name__, is_checked, is_method=False))


def _checking(
    function: Callable[..., Any], name: str, is_checked: Callable[[str], bool], *, is_method: bool
) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise _misfit(name, error, kwargs, signature, is_method) from None
        for argument, value in list(bound.arguments.items())[is_method:]:
            hint = _hints(function).get(argument, Any) if is_checked(argument) else Any
            if not _fits(value, hint):
                raise ArgumentError(
                    f"{argument.rstrip('_')} of {name} should be {_expected(hint)}, not {_shown(value)}."
                )
        return function(*args, **kwargs)

    return check


def _misfit(
    name: str, error: TypeError, given: Collection[str], signature: inspect.Signature, is_method: bool
) -> FewshotBenchError:
    known = list(signature.parameters)[is_method:]
    unknown = next((argument for argument in given if argument not in known), None)
    if unknown is None:
        return ArgumentError(f"{name}: {error}.")
    return unknown_argument(name, unknown, known)


def unknown_argument(name: str, unknown: str, known: Collection[str]) -> ArgumentError:
    """The error about an argument that a function or class does not have, with the nearest one."""
    nearest = difflib.get_close_matches(unknown, known, n=1, cutoff=0.6)
    first = list(known)[:_LISTED]
    offer = (
        f"Did you mean {nearest[0]}?"
        if nearest
        else f"Known: {', '.join(first)}{', ...' if len(known) > len(first) else ''}."
    )
    return ArgumentError(f"{name} has no argument '{unknown}'. {offer}")


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of the arguments; none where they cannot be told, as those that only type checkers import."""
    try:
        return get_type_hints(function)
    except Exception:
        return {}


def _fits(value: object, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if origin is Literal:  # whether the word is a known one is answered with the nearest where it is used
        return isinstance(value, tuple({type(word) for word in get_args(hint)}))
    if origin in (list, tuple, Sequence):
        return hasattr(value, "shape") or (isinstance(value, Sequence) and not isinstance(value, str | bytes))
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if hint is Any or not isinstance(hint, type) or origin is not None:
        return True
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str | Path) or hasattr(value, "fs")
    is_interface = getattr(hint, "_is_protocol", False)
    return True if is_interface else isinstance(value, hint)


def _expected(hint: Any) -> str:
    """What a type takes, in words."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_expected(part) for part in get_args(hint)))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if origin in (list, tuple, Sequence):
        return "a list"
    if origin in (dict, Mapping):
        return "a dict"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _shown(value: object) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float | bool | NoneType) else described(value)
