"""Import what a user names as `module:callable`, also from the current folder; what goes wrong becomes one line."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from fewshot_bench.errors import CodeError
from fewshot_bench.source_loading import load_from_source

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
        place = _place(error)
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


def _place(error: BaseException) -> str:
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
