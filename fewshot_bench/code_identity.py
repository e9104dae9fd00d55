"""Which code somebody's own adaptation, loss or backbone is: its source and its distribution, as part of its identity.

What belongs to this project, to Python or to the packages whose versions are recorded anyway has no identity of its
own. Of everything else the source counts: of the module that defines a thing, and of the modules that it imports from
the same package or folder, at whatever depth.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any

_WITH_VERSIONS = ("fewshot_bench", "torch", "torchvision", "timm", "numpy", "scipy")
"""Packages whose versions are recorded with every outcome."""

_UNKNOWN = "unknown"
_SHOWN = 3


@dataclass(frozen=True)
class CodeIdentity:
    """Which code a thing is.

    Attributes:
        name: module and name of the thing.
        digest: over the content of all files.
        distribution: name and version of the installed distribution that it belongs to; empty where there is none.
        files: start of the digest of each file, by its path from the folder that its package or module lies in.
    """

    name: str
    digest: str
    distribution: str = ""
    files: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def is_known(self) -> bool:
        """Whether there is any source to tell it by."""
        return not self.digest.startswith(_UNKNOWN)

    def as_record(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "name": self.name,
            "digest": self.digest,
            **({"distribution": self.distribution} if self.distribution else {}),
            "files": dict(self.files),
        }


def what_changed(stored: Any, here: Any) -> str:
    """In what two records of a thing's code differ, in words: files, or the version of the distribution.

    Args:
        stored: a record as `CodeIdentity.as_record` makes it, or whatever a stranger has put there.
        here: likewise.
    """
    files, now = (_mapping(_mapping(record).get("files")) for record in (stored, here))
    changed = [name for name in sorted(files.keys() | now.keys()) if files.get(name) != now.get(name)]
    if not changed:
        versions = [str(_mapping(record).get("distribution") or "none") for record in (stored, here)]
        return f"{versions[0]}, now {versions[1]}" if versions[0] != versions[1] else "another definition"
    more = f" and {len(changed) - _SHOWN} more files" if len(changed) > _SHOWN else ""
    return ", ".join(changed[:_SHOWN]) + more


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def code_of(thing: Any, *, module: str = "", installed: Distribution | None = None) -> CodeIdentity | None:
    """The identity of the code of a thing, or None where that has none of its own.

    It is taken once for a thing as it is loaded, so that a file that changes later does not count.

    Args:
        thing: a class, a function or another callable.
        module: that it was found in, which may be another than the one that defines it.
        installed: the distribution whose entry point it is.
    """
    key = _key(thing)
    if module or installed or key not in _FOUND:
        _FOUND[key] = (thing, _identity(thing, module, installed))
    return _FOUND[key][1]


def source_digest(module: str) -> str:
    """Digest over the source of a module and of those that it imports from its package or folder.

    Args:
        module: its name; it has been imported.

    Returns:
        64 hexadecimal digits; "unknown" where it has no source, as in a notebook.
    """
    files = _files([module])
    return _digest(files) if files else _UNKNOWN


_FOUND: dict[Any, tuple[Any, CodeIdentity | None]] = {}
"""The things are held, so that no other one has the place in memory that their keys name."""


def _key(thing: Any) -> Any:
    """A thing as it is loaded: a class whose functions are replaced, as notebooks do it, is another one."""
    members = vars(thing).values() if isinstance(thing, type) else [thing]
    codes = tuple(member.__code__ for member in members if hasattr(member, "__code__"))
    return (id(thing), getattr(thing, "__module__", ""), getattr(thing, "__qualname__", ""), codes)


def _identity(thing: Any, module: str, installed: Distribution | None) -> CodeIdentity | None:
    defining = [name for name in _modules_of(thing) if not _has_version(name)]
    modules = list(dict.fromkeys([*defining, *([module] if module and not _has_version(module) else [])]))
    if not modules:
        return None
    defined_in, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    told = f"{defined_in}:{name}" if defined_in and name else f"{module or modules[0]}:{type(thing).__qualname__}"
    of_each = [_files([one]) for one in modules]
    if not all(of_each):
        # Nobody can say later whether it was the same code, so it is that of no other process.
        return CodeIdentity(told, f"{_UNKNOWN} {secrets.token_hex(8)}")
    files = dict(sorted(pair for some in of_each for pair in some.items()))
    found = installed or _distribution_of(modules[0])
    version = f"{found.metadata['Name']} {found.version}" if found is not None else ""
    return CodeIdentity(told, _digest(files), version, {name: digest[:16] for name, digest in files.items()})


def _modules_of(thing: Any) -> list[str]:
    """The modules that define a thing: of a class also those of its bases, of a wrapped function also its wrapper's."""
    if isinstance(thing, partial):
        inner = [name for part in (thing.func, *thing.args, *thing.keywords.values()) for name in _of_part(part)]
        return list(dict.fromkeys(inner))
    if isinstance(thing, type):
        return list(dict.fromkeys(kind.__module__ for kind in thing.__mro__))
    if inspect.isfunction(thing):
        wrapped = getattr(thing, "__wrapped__", None)
        names = [thing.__module__, str(thing.__globals__.get("__name__"))]
        return list(dict.fromkeys(names + (_modules_of(wrapped) if wrapped is not None else [])))
    if inspect.ismethod(thing):
        return list(dict.fromkeys([*_modules_of(thing.__func__), *_of_part(thing.__self__)]))
    name = getattr(thing, "__module__", None)
    return list(dict.fromkeys([*([name] if isinstance(name, str) else []), *_modules_of(type(thing))]))


def _of_part(part: Any) -> list[str]:
    return _modules_of(part) if callable(part) else _modules_of(type(part))


def _has_version(module: str) -> bool:
    top = module.partition(".")[0]
    return top in _WITH_VERSIONS or (top in sys.stdlib_module_names and top != "__main__")


def _distribution_of(module: str) -> Distribution | None:
    """The installed distribution that a module belongs to; a module of the same name elsewhere does not."""
    file = getattr(sys.modules.get(module), "__file__", None)
    for name in _distributions(tuple(sys.path)).get(module.partition(".")[0], []):
        with suppress(PackageNotFoundError, OSError):
            found = distribution(name)
            if file is None or _is_editable(found) or Path(str(found.locate_file(""))) in Path(file).parents:
                return found
    return None


@cache
def _distributions(path: tuple[str, ...]) -> dict[str, list[str]]:
    """The distributions of each package that is found along `sys.path`."""
    return {name: list(found) for name, found in packages_distributions().items()}


def _is_editable(found: Distribution) -> bool:
    try:
        return bool(json.loads(found.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"))
    except (OSError, ValueError, AttributeError):
        return False


def _digest(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def _files(modules: list[str]) -> dict[str, str]:
    """Digest of every file that modules are made of, by its path from the folder they are imported from."""
    found: dict[str, str] = {}
    for name in modules:
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if module is not None and isinstance(file, str):
            for path, digest in _Folder(*_root(module, Path(file))).files():
                found[path] = digest
    return dict(sorted(found.items()))


def _root(module: ModuleType, file: Path) -> tuple[Path, str, Path]:
    """The folder that a module is imported from, its name as its path says it, and its file."""
    spec = getattr(module, "__spec__", None)
    parts = (spec.name if spec is not None else module.__name__).split(".")
    path = file.parent if file.name.startswith("__init__.") else file
    if tuple(parts[:-1]) == path.parts[-len(parts) : -1] and parts[-1] == path.name.partition(".")[0]:
        return path.parents[len(parts) - 1], ".".join(parts), file
    return file.parent, file.name.partition(".")[0], file  # a script, or a file under a name of its own


class _Folder:
    """The modules of a folder that one of them imports; of a folder of installed packages those of its own package."""

    def __init__(self, folder: Path, name: str, file: Path) -> None:
        self._folder, self._name, self._file = folder, name, file
        is_installed = folder.name in ("site-packages", "dist-packages")
        self._only = name.partition(".")[0] if is_installed else ""

    def files(self) -> Iterator[tuple[str, str]]:
        """Path and digest of every file; none where the module itself has no content that can be read."""
        waiting, seen = [self._name], set[Path]()
        while waiting:
            for name, file in self._of_name(waiting.pop()):
                if file in seen:
                    continue
                seen.add(file)
                try:
                    content = file.read_bytes()
                except OSError:
                    continue
                yield file.relative_to(self._folder).as_posix(), hashlib.sha256(content).hexdigest()
                if file.suffix == ".py":
                    waiting += _imports(content, name, is_package=file.name == "__init__.py")

    def _of_name(self, name: str) -> Iterator[tuple[str, Path]]:
        """The files that are run to import a name: those of the packages above it, and its own."""
        parts = name.split(".")
        if self._is_another_package(parts[0]):
            return
        for end in range(1, len(parts) + 1):
            part = ".".join(parts[:end])
            file = self._file if part == self._name else self._file_of(parts[:end])
            if file is not None:
                yield part, file

    def _is_another_package(self, top: str) -> bool:
        """Whether a name stands for an installed package or one of Python, and for nothing in this folder."""
        if top == self._name.partition(".")[0]:
            return False
        file = getattr(sys.modules.get(top), "__file__", None)
        is_from_here = file is not None and self._folder in Path(file).parents
        return bool(self._only) or top == "fewshot_bench" or (_has_version(top) and not is_from_here)

    def _file_of(self, parts: list[str]) -> Path | None:
        base = self._folder.joinpath(*parts)
        endings = [*EXTENSION_SUFFIXES, ".py", ".pyc"]
        places = [base / f"__init__{ending}" for ending in endings]
        places += [base.with_name(f"{base.name}{ending}") for ending in endings]
        return next((place for place in places if place.is_file()), None)


def _imports(content: bytes, name: str, *, is_package: bool) -> Iterator[str]:
    """Every module that a source may import, at whatever place in it."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):  # it is not imported, or the import has failed
        return
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__") and node.args:
            named = node.args[0]
            if isinstance(named, ast.Constant) and isinstance(named.value, str):
                yield named.value


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))
