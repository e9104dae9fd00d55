"""Where somebody's own code is called: an error of it becomes one line with its file and line.

Somebody's own is what lies neither in this project, nor in Python, nor in an installed package; and an installed
package as well, once something of it has been called as a plug-in.
"""

from __future__ import annotations

import inspect
import linecache
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from fewshot_bench.debugging import keep_traceback
from fewshot_bench.errors import FewshotBenchError, PluginError

_OWN = Path(__file__).parent
_PYTHON = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
_NOT_A_PLUGIN = {"fewshot_bench", "builtins", "functools", "torch", "torchvision", "timm", "numpy", "scipy", "sklearn"}
_INSTALLED = ("site-packages", "dist-packages")
_GENERATED = "torchinductor"
_LONGEST = 300  # characters of what an error says
_plugin_packages: set[str] = set()


@contextmanager
def plugin_errors(thing: object = None, called: str = "") -> Iterator[None]:
    """Turn what somebody's code raises into a `PluginError`; errors of this program stay what they are.

    Memory that runs out, Ctrl-C and errors that are one sentence already are passed on.

    Args:
        thing: whose code is called; None where nobody knows whether it is anybody's.
        called: the name of the method of it that is called; empty for a class or function itself.

    Raises:
        PluginError: the code raised, or could not be called so.
    """
    if is_plugin(thing):
        _plugin_packages.add(_package_of(thing))
    try:
        yield
    except BaseException as error:
        told = _told(error, thing, called)
        if told is None:
            raise
        raise told from error


def is_plugin(thing: object) -> bool:
    """Whether the code of a class, a function or an instance is somebody's own."""
    return thing is not None and _package_of(thing) not in _NOT_A_PLUGIN


def is_raised_in_plugin(error: BaseException) -> bool:
    """Whether a line of somebody's own code is in the traceback of an error."""
    return _deepest(error.__traceback__) is not None


def place_of(thing: object, called: str = "") -> str:
    """The file and line where somebody's code is defined, as the beginning of a sentence; empty for this project's.

    Args:
        thing: whose code it is.
        called: the name of the method that is meant.
    """
    if not is_plugin(thing):
        return ""
    # An instance or a class is no function, and unwrap gives it back as it is.
    function = inspect.unwrap(getattr(thing, called, thing) if called else thing)  # type: ignore[arg-type]
    code = getattr(function, "__code__", None)
    with suppress(OSError, TypeError):
        if code is not None:
            return _place(code.co_filename, code.co_firstlineno)
        kind: Any = function if isinstance(function, type) else type(function)
        return _place(inspect.getsourcefile(kind) or "", inspect.getsourcelines(kind)[1])
    return ""


def described(value: object) -> str:
    """What came back, in words: its type, and the shape and type of the numbers of an array."""
    if value is None:
        return "None"
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    name = {"Tensor": "a tensor", "ndarray": "a NumPy array"}.get(kind, f"{article} {kind}")
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return name
    return f"{name} {list(shape)} of {str(dtype).removeprefix('torch.')}"


def _told(error: BaseException, thing: object, called: str) -> PluginError | None:
    """An error of somebody's code in one line; None where it is none, or must be passed on."""
    is_sentence = isinstance(error, FewshotBenchError | KeyboardInterrupt | GeneratorExit)
    if is_sentence or isinstance(error, MemoryError) or _is_out_of_memory(error):
        return None
    if thing is None and isinstance(error, OSError):  # of a disk, until somebody is known to have caused it
        return None
    found = _deepest(error.__traceback__)
    if found is None and not is_plugin(thing):
        return None
    place = _in_function(found) if found is not None else place_of(thing, called)
    told = PluginError(f"{place}{_reason(error, found)}")
    keep_traceback(told, error)
    return told


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the system gave no more memory: who tries smaller chunks looks for that error itself."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _package_of(thing: object) -> str:
    inner = getattr(thing, "func", thing)  # of a partial
    return str(getattr(inner, "__module__", None) or type(inner).__module__).partition(".")[0]


def _deepest(step: TracebackType | None) -> TracebackType | None:
    """The last step of a traceback that is in somebody's code."""
    found = None
    while step is not None:
        if _is_somebodys(step.tb_frame.f_code.co_filename, str(step.tb_frame.f_globals.get("__name__"))):
            found = step
        step = step.tb_next
    return found


def _is_somebodys(file: str, module: str) -> bool:
    package = module.partition(".")[0]
    if package in _plugin_packages or file.startswith("<"):  # a notebook's cell, or text that was executed
        return package in _plugin_packages or package == "__main__"
    path = Path(file)
    if package == "fewshot_bench" or _OWN in path.parents or _GENERATED in file:
        return False
    return not any(folder in path.parents for folder in _PYTHON) and not any(part in _INSTALLED for part in path.parts)


def _in_function(step: TracebackType) -> str:
    code = step.tb_frame.f_code
    return f"{_place(code.co_filename, step.tb_lineno).removesuffix(': ')}, in {code.co_name}: "


def _place(file: str, line: int) -> str:
    """A file from the current folder, or from where its module was found: a record with it is read elsewhere too."""
    found = [Path(folder) for folder in (os.getcwd(), *sys.path) if folder and Path(folder) in Path(file).parents]
    shown = Path(file).relative_to(found[0]) if found else file
    return f"{shown}, line {line}: "


def _reason(error: BaseException, step: TracebackType | None) -> str:
    """The type of an error and what it says; of one that says nothing, the line that raised it."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # somebody's __str__
        text = ""
    if not text and step is not None:
        text = linecache.getline(step.tb_frame.f_code.co_filename, step.tb_lineno).strip()
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return ": ".join(part for part in (type(error).__name__, shown) if part)
