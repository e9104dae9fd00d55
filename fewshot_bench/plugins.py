"""Where somebody's own code is called: an error of it becomes one line with its file and line.

Somebody's own is what lies neither in this project, nor in Python, nor in an installed package; and an installed
package as well, once something of it has been called as a plug-in.

Import what a user names as `module:callable`, also from the current folder; what goes wrong becomes one line.
"""

from __future__ import annotations

import importlib
import inspect
import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from fewshot_bench.errors import CodeError, FewshotBenchError, PluginError, keep_traceback
from fewshot_bench.source_loading import load_from_source

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


DATA_SCHEMES = ("timm", "hf", "torchvision")
"""What may stand before a colon and is no module: `timm:` names a network, `hf:` and `torchvision:` a dataset."""


def is_code(name: str) -> bool:
    """Whether a name is `module:callable` rather than the name of something that is registered."""
    return ":" in name


def imported(name: str) -> tuple[Any, str]:
    """The object that a name of the form `module:callable` means, and the name of its module.

    Modules are looked for in the current folder first, as `python -m` does. What is found there stays importable, so
    that imports within its functions work later; the current folder of a stranger's files never gets there.

    Args:
        name: that a user typed, or trusts.

    Raises:
        CodeError: it is no such name, there is no such module or attribute, or the module fails while it is imported.
    """
    module_name, _, attribute = name.partition(":")
    scheme = module_name.strip().casefold()
    if scheme in DATA_SCHEMES:
        whose = "backbones" if scheme == "timm" else "datasets"
        raise CodeError(f"'{name}' is no code: {scheme}: stands for {whose} alone. Code is module:callable.")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise CodeError(f"'{name}' should be module:callable, such as mymodule:MyMethod.")
    with _current_folder_first():
        module = _module(module_name, name)
        return _attribute(module, attribute, name), module_name


def importable_from(folder: str) -> None:
    """Have modules of a folder found where there are none of their names elsewhere; see `imported`."""
    if folder not in sys.path:
        sys.path.append(folder)


def failure_of(error: BaseException, name: str) -> CodeError:
    """An error of somebody's module as one line that names the file and the line of it.

    Args:
        error: that was raised while the module was imported.
        name: what was to be imported.
    """
    reason = " ".join(str(error).split()) or "no reason is given"
    if isinstance(error, SyntaxError):
        reason, place = error.msg, _shown(error.filename, error.lineno)
    else:
        place = _place_named_code(error)
    return CodeError(f"{name} cannot be imported: {place}{type(error).__name__}: {reason}")


def _module(module_name: str, name: str) -> ModuleType:
    importlib.invalidate_caches()
    load_from_source()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise CodeError(
                f"there is no module '{error.name}' for {name}, neither in the current folder nor installed here."
            ) from error
        raise failure_of(error, name) from error
    except (Exception, SystemExit) as error:  # somebody's module may raise anything
        raise failure_of(error, name) from error


def _attribute(module: ModuleType, attribute: str, name: str) -> Any:
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        file = getattr(module, "__file__", None)
        place = f" ({_relative(file)})" if file else ""
        raise CodeError(f"{module.__name__}{place} has no '{attribute}', which {name} asks for.") from error
    except Exception as error:
        raise failure_of(error, name) from error


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Find modules in the current folder while something is imported; keep it, as the last, if one was found there."""
    folder = os.getcwd()
    if folder in sys.path or "" in sys.path:
        yield
        return
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
        added = [sys.modules[module] for module in set(sys.modules) - before if module in sys.modules]
        if any(_is_from(module, folder) for module in added):
            importable_from(folder)


def _is_from(module: ModuleType, folder: str) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(folder) in Path(file).parents


def _place_named_code(error: BaseException) -> str:
    """Where in somebody's module it happened: the last line that is not of Python itself or of this package."""
    own = str(Path(__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((own, "<")) and not _is_of_python(frame.filename)
    ]
    local = [frame for frame in frames if "site-packages" not in Path(frame.filename).parts]
    chosen = (local or frames)[-1:]
    return "".join(_shown(frame.filename, frame.lineno) for frame in chosen)


def _is_of_python(file: str) -> bool:
    return Path(os.__file__).parent in Path(file).parents and "site-packages" not in Path(file).parts


def _shown(file: str | None, line: int | None) -> str:
    return f"{_relative(file)}, line {line}: " if file else ""


def _relative(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file
