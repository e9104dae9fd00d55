"""The user's own code: which files it is, how `module:callable` is imported, and errors with its file and line.

A plug-in is the user's own code, or an installed package once something of it has been called as a plug-in. Code is
always imported from its source. Python takes cached bytecode for that of any source of the same size and second. An
edit within a second, or a copy that keeps its times, would run the old code under the identity of the new.
"""

from __future__ import annotations

import importlib
import inspect
import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from fewshot_bench.errors import CodeError, FewshotBenchError, PluginError, keep_traceback

_OURS_OR_PYTHONS = (Path(__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")))
INSTALLED = ("site-packages", "dist-packages")
_GENERATED = "torchinductor"

DATA_SCHEMES = ("timm", "hf", "torchvision")
"""What may stand before a colon in a name that is not code: `timm:` for networks, the others for datasets."""


def is_users_file(file: str) -> bool:
    """Whether a file is the user's: not part of this project, of Python or of an installed package."""
    path = Path(file)
    is_source = not file.startswith("<") and _GENERATED not in file
    return is_source and not is_installed(file) and not any(folder in path.parents for folder in _OURS_OR_PYTHONS)


def is_installed(file: str) -> bool:
    """Whether a file belongs to an installed package."""
    return any(part in INSTALLED for part in Path(file).parts)


def location(file: str | None, line: int | None) -> str:
    """File and line as the beginning of a sentence, relative to the current folder or to an entry of `sys.path`."""
    return f"{_shown(file)}, line {line}: " if file else ""


def is_code(name: str) -> bool:
    """Whether a name is `module:callable` rather than the name of something registered."""
    return isinstance(name, str) and ":" in name


def import_named(name: str) -> tuple[Any, str]:
    """Import what `module:callable` names; return the object and the name of its module.

    Modules are looked for in the current folder first, as `python -m` does. A folder in which one was found stays
    importable, for imports inside functions later.

    Args:
        name: typed or trusted by the user; never taken from a file of another person.

    Raises:
        CodeError: the name has another form, there is no such module or attribute, or importing the module fails.
    """
    module_name, _, attribute = name.partition(":")
    scheme = module_name.strip().casefold()
    if scheme in DATA_SCHEMES:
        kind = "backbones" if scheme == "timm" else "datasets"
        raise CodeError(f"'{name}' is not code: {scheme}: stands for {kind} alone. Code is module:callable.")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise CodeError(f"'{name}' should be module:callable, such as mymodule:MyMethod.")
    with _current_folder_first():
        module = _module(module_name, name)
        try:
            return getattr(module, attribute), module_name
        except AttributeError as error:
            file = getattr(module, "__file__", None)
            place = f" ({_shown(file)})" if file else ""
            raise CodeError(f"{module_name}{place} has no '{attribute}', which {name} asks for.") from error
        except Exception as error:
            raise import_failure(error, name) from error


def make_importable(folder: str) -> None:
    """Find modules of a folder from now on, after all other places; see `import_named`."""
    if folder not in sys.path:
        sys.path.append(folder)


def import_failure(error: BaseException, name: str) -> CodeError:
    """An error raised while importing a module of the user, as one line with its file and line."""
    if isinstance(error, SyntaxError):
        reason, place = error.msg, location(error.filename, error.lineno)
    else:
        reason = " ".join(str(error).split()) or "no reason is given"
        frames = traceback.extract_tb(error.__traceback__)
        steps = [frame for frame in frames if is_users_file(frame.filename)]
        steps = steps or [frame for frame in frames if is_installed(frame.filename)]
        place = location(steps[-1].filename, steps[-1].lineno) if steps else ""
    return CodeError(f"{name} cannot be imported: {place}{type(error).__name__}: {reason}")


def load_from_source() -> None:
    """From now on, compile every module of the user from its source in this process."""
    if not any(isinstance(finder, _UsersModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _UsersModules())


def loaded_source(module: str, file: Path) -> bytes:
    """The source that a module was loaded from, or else its file's; raises OSError if that cannot be read."""
    loader = getattr(getattr(sys.modules.get(module), "__spec__", None), "loader", None)
    if isinstance(loader, _FromSource) and Path(loader.path) == file and loader.content is not None:
        return loader.content
    return file.read_bytes()


def _shown(file: str) -> str:
    folders = [Path(folder) for folder in (os.getcwd(), *sys.path) if folder and Path(folder) in Path(file).parents]
    return str(Path(file).relative_to(folders[0])) if folders else file


def _module(module_name: str, name: str) -> ModuleType:
    importlib.invalidate_caches()
    load_from_source()
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise CodeError(
                f"there is no module '{missing}' for {name}, neither in the current folder nor installed here."
            ) from error
        raise import_failure(error, name) from error


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Find modules in the current folder first; if one was found there, keep the folder as the last place."""
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
        files = [getattr(module, "__file__", None) for module in added]
        if any(isinstance(file, str) and Path(folder) in Path(file).parents for file in files):
            make_importable(folder)


class _UsersModules(MetaPathFinder):
    """Asks the other finders, and loads what is the user's from its source."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                if type(spec.loader) is SourceFileLoader and is_users_file(spec.loader.path):
                    spec.loader = _FromSource(spec.loader.name, spec.loader.path)
                return spec
        return None


class _FromSource(SourceFileLoader):
    content: bytes | None = None

    def get_code(self, fullname: str) -> CodeType:
        self.content = self.get_data(self.path)
        code: CodeType = self.source_to_code(self.content, self.path)
        return code


_NOT_A_PLUGIN = {"fewshot_bench", "builtins", "functools", "torch", "torchvision", "timm", "numpy", "scipy", "sklearn"}
_LONGEST = 300  # characters shown of an error's text
_plugin_packages: set[str] = set()


@contextmanager
def plugin_errors(obj: object = None, called: str = "") -> Iterator[None]:
    """Turn what a plug-in raises into a `PluginError`.

    Errors of this program, running out of memory and Ctrl-C are passed on.

    Args:
        obj: what is called; None where it is unknown whether a plug-in is called at all.
        called: the method of it that is called; empty for a class or function itself.

    Raises:
        PluginError: the plug-in raised, or could not be called with these arguments.
    """
    if is_plugin(obj):
        _plugin_packages.add(_package_of(obj))
    try:
        yield
    except BaseException as error:
        plugin_error = _as_plugin_error(error, obj, called)
        if plugin_error is None:
            raise
        raise plugin_error from error


def is_plugin(obj: object) -> bool:
    """Whether a class, a function or an instance comes from a plug-in."""
    return obj is not None and _package_of(obj) not in _NOT_A_PLUGIN


def is_raised_in_plugin(error: BaseException) -> bool:
    """Whether the traceback of an error passes through a plug-in."""
    return _deepest(error.__traceback__) is not None


def place_of(obj: object, called: str = "") -> str:
    """File and line where a plug-in is defined, as the beginning of a sentence; empty for our own code.

    Args:
        obj: a class, a function or an instance.
        called: the method of it that is meant.
    """
    if not is_plugin(obj):
        return ""
    function = inspect.unwrap(getattr(obj, called, obj) if called else obj)  # type: ignore[arg-type]
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


def _as_plugin_error(error: BaseException, obj: object, called: str) -> PluginError | None:
    """The error of a plug-in in one line; None if it is another error, or one to pass on."""
    is_sentence = isinstance(error, FewshotBenchError | KeyboardInterrupt | GeneratorExit)
    if is_sentence or isinstance(error, MemoryError) or _is_out_of_memory(error):
        return None
    if obj is None and isinstance(error, OSError):  # a disk's, unless a plug-in is known to be called
        return None
    step = _deepest(error.__traceback__)
    if step is None and not is_plugin(obj):
        return None
    place = place_of(obj, called) if step is None else _in_function(step)
    plugin_error = PluginError(f"{place}{_reason(error, step)}")
    keep_traceback(plugin_error, error)
    return plugin_error


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the system ran out of memory; callers that try smaller chunks look for that error."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _package_of(obj: object) -> str:
    inner = getattr(obj, "func", obj)  # of a partial
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
