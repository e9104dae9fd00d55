"""Calls into plug-ins: an error of the user's own code becomes one line with its file and line.

A plug-in is the user's own code, or an installed package once something of it has been called as a plug-in.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from fewshot_bench.errors import FewshotBenchError, PluginError, keep_traceback
from fewshot_bench.user_code import is_users_file, location

_NOT_A_PLUGIN = {"fewshot_bench", "builtins", "functools", "torch", "torchvision", "timm", "numpy", "scipy", "sklearn"}
_LONGEST = 300  # characters shown of an error's text
_plugin_packages: set[str] = set()


@contextmanager
def plugin_errors(thing: object = None, called: str = "") -> Iterator[None]:
    """Turn what a plug-in raises into a `PluginError`.

    Errors of this program, running out of memory and Ctrl-C are passed on.

    Args:
        thing: what is called; None where it is unknown whether a plug-in is called at all.
        called: the method of it that is called; empty for a class or function itself.

    Raises:
        PluginError: the plug-in raised, or could not be called with these arguments.
    """
    if is_plugin(thing):
        _plugin_packages.add(_package_of(thing))
    try:
        yield
    except BaseException as error:
        plugin_error = _as_plugin_error(error, thing, called)
        if plugin_error is None:
            raise
        raise plugin_error from error


def is_plugin(thing: object) -> bool:
    """Whether a class, a function or an instance comes from a plug-in."""
    return thing is not None and _package_of(thing) not in _NOT_A_PLUGIN


def is_raised_in_plugin(error: BaseException) -> bool:
    """Whether the traceback of an error passes through a plug-in."""
    return _deepest(error.__traceback__) is not None


def place_of(thing: object, called: str = "") -> str:
    """File and line where a plug-in is defined, as the beginning of a sentence; empty for our own code.

    Args:
        thing: a class, a function or an instance.
        called: the method of it that is meant.
    """
    if not is_plugin(thing):
        return ""
    function = inspect.unwrap(getattr(thing, called, thing) if called else thing)  # type: ignore[arg-type]
    code = getattr(function, "__code__", None)
    with suppress(OSError, TypeError):
        if code is not None:
            return location(code.co_filename, code.co_firstlineno)
        kind: Any = function if isinstance(function, type) else type(function)
        return location(inspect.getsourcefile(kind), inspect.getsourcelines(kind)[1])
    return ""


def described(value: object) -> str:
    """A returned value in words: its type, and the shape and dtype of an array."""
    if value is None:
        return "None"
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    name = {"Tensor": "a tensor", "ndarray": "a NumPy array"}.get(kind, f"{article} {kind}")
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return name
    return f"{name} {list(shape)} of {str(dtype).removeprefix('torch.')}"


def _as_plugin_error(error: BaseException, thing: object, called: str) -> PluginError | None:
    """The error of a plug-in in one line; None if it is another error, or one to pass on."""
    is_sentence = isinstance(error, FewshotBenchError | KeyboardInterrupt | GeneratorExit)
    if is_sentence or isinstance(error, MemoryError) or _is_out_of_memory(error):
        return None
    if thing is None and isinstance(error, OSError):  # a disk's, unless a plug-in is known to be called
        return None
    step = _deepest(error.__traceback__)
    if step is None and not is_plugin(thing):
        return None
    place = place_of(thing, called) if step is None else _in_function(step)
    plugin_error = PluginError(f"{place}{_reason(error, step)}")
    keep_traceback(plugin_error, error)
    return plugin_error


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the system ran out of memory; callers that try smaller chunks look for that error."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _package_of(thing: object) -> str:
    inner = getattr(thing, "func", thing)  # of a partial
    return str(getattr(inner, "__module__", None) or type(inner).__module__).partition(".")[0]


def _deepest(step: TracebackType | None) -> TracebackType | None:
    """The last step of a traceback that is in a plug-in."""
    deepest = None
    while step is not None:
        if _is_in_plugin(step.tb_frame.f_code.co_filename, str(step.tb_frame.f_globals.get("__name__"))):
            deepest = step
        step = step.tb_next
    return deepest


def _is_in_plugin(file: str, module: str) -> bool:
    package = module.partition(".")[0]
    if package in _plugin_packages:
        return True
    if file.startswith("<"):  # a notebook's cell, or executed text
        return package == "__main__"
    return package != "fewshot_bench" and is_users_file(file)


def _in_function(step: TracebackType) -> str:
    code = step.tb_frame.f_code
    return f"{location(code.co_filename, step.tb_lineno).removesuffix(': ')}, in {code.co_name}: "


def _reason(error: BaseException, step: TracebackType | None) -> str:
    """The type and text of an error; where it has no text, the line that raised it."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a plug-in's own __str__
        text = ""
    if not text and step is not None:
        text = linecache.getline(step.tb_frame.f_code.co_filename, step.tb_lineno).strip()
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return ": ".join(part for part in (type(error).__name__, shown) if part)
