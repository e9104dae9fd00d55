"""The identity of a plug-in's code: the digest of its source, and its distribution.

This project, Python and the packages whose versions are recorded anyway need no identity. For everything else the
source counts: of the module that defines an object, and of all that this module imports from its package or folder.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fewshot_bench.plugins import INSTALLED, loaded_source

_WITH_VERSIONS = ("fewshot_bench", "torch", "torchvision", "timm", "numpy", "scipy")
"""Packages whose versions are recorded with every outcome."""

_UNKNOWN = "unknown"
_SHOWN = 3


@dataclass(frozen=True)
class CodeIdentity:
    """The identity of the code of an object.

    Attributes:
        name: module and name of the object.
        digest: over the content of all files.
        distribution: name and version of the installed distribution that it belongs to, if any.
        files: first digits of the digest of each file, by its path from the folder of its package or module.
    """

    name: str
    digest: str
    distribution: str = ""
    files: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def is_known(self) -> bool:
        """Whether there is a source to identify it by."""
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
    """How two records of an object's code differ, in words: files, or the version of the distribution.

    Args:
        stored: a record by `CodeIdentity.as_record`, or anything that a stranger wrote in its place.
        here: the record of the code in this process.
    """
    before, now = (_mapping(_mapping(record).get("files")) for record in (stored, here))
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if not changed:
        versions = [str(_mapping(record).get("distribution") or "none") for record in (stored, here)]
        return f"{versions[0]}, now {versions[1]}" if versions[0] != versions[1] else "another definition"
    more = f" and {len(changed) - _SHOWN} more files" if len(changed) > _SHOWN else ""
    return ", ".join(changed[:_SHOWN]) + more


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def code_of(obj: Any, *, module: str = "", installed: Distribution | None = None) -> CodeIdentity | None:
    """The identity of the code of an object; None for what needs none.

    It is that of the loaded source: an edit counts once the module is loaded again.

    Args:
        obj: a class, a function or another callable.
        module: where the object was found, if not in the module that defines it.
        installed: the distribution whose entry point it is.
    """
    if isinstance(obj, type) and obj.__module__.partition(".")[0] == "fewshot_bench":
        return None  # also where a user's module imports it under another name
    origin = (module, installed)
    known = _KNOWN.get(id(obj))
    is_other = known is None or known.loaded != _loaded(known.modules) or (any(origin) and known.origin != origin)
    if known is None or is_other:
        origin = origin if any(origin) or known is None else known.origin
        known = _KNOWN[id(obj)] = _identified(obj, *origin)
    return known.identity


def code_of_call(function: Any) -> CodeIdentity | None:
    """The identity of what calling an object computes; None for what needs none.

    The source of a function of a module says it all. What else can be called holds values that no source tells, such
    as a lambda, a closure, a partial or an instance with weights: its identity is never the same in another process.
    """
    identity = code_of(function)
    if inspect.isbuiltin(function) or (inspect.isfunction(function) and _found_by_name(function) is function):
        return identity
    known = _CALLS.get(id(function))
    if known is None:
        name = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__qualname__)}"
        shown = CodeIdentity(name, "") if identity is None else identity
        known = _CALLS[id(function)] = (function, replace(shown, digest=f"{_UNKNOWN} {secrets.token_hex(8)}"))
    return known[1]


_CALLS: dict[int, tuple[Any, CodeIdentity]] = {}
"""Identities of one process, with the objects, so that no other object gets the same id."""


def _found_by_name(function: Any) -> Any:
    """What the module of a function has under its name."""
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found


def source_digest(module: str) -> str:
    """Digest over the source of an imported module and of what it imports from its package or folder.

    Returns:
        64 hexadecimal digits; "unknown" without a source, as in a notebook.
    """
    files = {source.path: source.digest for source in _sources(module)}
    return _digest(files) if files else _UNKNOWN


@dataclass(frozen=True)
class _Known:
    """An identity and its origin. It holds the object, so that no other object gets the same id."""

    obj: Any
    origin: tuple[str, Distribution | None]
    identity: CodeIdentity | None
    modules: tuple[str, ...] = ()
    loaded: tuple[Any, ...] = ()


_KNOWN: dict[int, _Known] = {}


def _identified(obj: Any, module: str, installed: Distribution | None) -> _Known:
    origin = (module, installed)
    defining = [*_modules_of(obj), *([module] if module else [])]
    modules = [name for name in dict.fromkeys(defining) if not _has_version(name)]
    if not modules:
        return _Known(obj, origin, None)
    defined_in, own_name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    is_named = defined_in and own_name
    name = f"{defined_in}:{own_name}" if is_named else f"{module or modules[0]}:{type(obj).__qualname__}"
    sources = {module_name: _sources(module_name) for module_name in modules}
    all_modules = tuple(sorted({source.module for found in sources.values() for source in found} | set(modules)))
    if not all(sources.values()):
        # Whether it is the same code later cannot be told, so its identity is never the same again.
        identity = CodeIdentity(name, f"{_UNKNOWN} {secrets.token_hex(8)}")
        return _Known(obj, origin, identity, all_modules, _loaded(all_modules))
    files = {source.path: source.digest for found in sources.values() for source in found}
    package = installed or _distribution_of(modules[0])
    version = f"{package.metadata['Name']} {package.version}" if package is not None else ""
    starts = {path: digest[:16] for path, digest in sorted(files.items())}
    identity = CodeIdentity(name, _digest(files), version, starts)
    return _Known(obj, origin, identity, all_modules, _loaded(all_modules))


def _loaded(modules: Iterable[str]) -> tuple[Any, ...]:
    """The functions and plain values of modules as loaded now, to notice when they are loaded again."""
    state: list[Any] = []
    for name in modules:
        for member in list(vars(sys.modules[name]).values()) if name in sys.modules else []:
            values = vars(member).values() if isinstance(member, type) else [member]
            state += [value.__code__ for value in values if inspect.isfunction(value)]
            state += [value for value in values if type(value) in (int, float, str, bool)]
    return tuple(state)


def _modules_of(obj: Any) -> list[str]:
    """The modules that define an object, including those of base classes and of wrappers."""
    if isinstance(obj, partial):
        inner = [name for part in (obj.func, *obj.args, *obj.keywords.values()) for name in _of_part(part)]
        return list(dict.fromkeys(inner))
    if isinstance(obj, type):
        return list(dict.fromkeys(kind.__module__ for kind in obj.__mro__))
    if inspect.isfunction(obj):
        wrapped = getattr(obj, "__wrapped__", None)
        names = [obj.__module__, str(obj.__globals__.get("__name__"))]
        return list(dict.fromkeys(names + (_modules_of(wrapped) if wrapped is not None else [])))
    if inspect.ismethod(obj):
        return list(dict.fromkeys([*_modules_of(obj.__func__), *_of_part(obj.__self__)]))
    name = getattr(obj, "__module__", None)
    return list(dict.fromkeys([*([name] if isinstance(name, str) else []), *_modules_of(type(obj))]))


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


class _Source(NamedTuple):
    """A file of a module: the module's name, its path from the folder it is imported from, its digest."""

    module: str
    path: str
    digest: str


def _sources(name: str) -> list[_Source]:
    """Every file that a module is made of; none without a readable source."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or not isinstance(file, str):
        return []
    return list(_Folder(*_root(module, Path(file))).sources())


def _root(module: ModuleType, file: Path) -> tuple[Path, str, Path]:
    """The folder that a module is imported from, its dotted name from there, and its file."""
    spec = getattr(module, "__spec__", None)
    parts = (spec.name if spec is not None else module.__name__).split(".")
    path = file.parent if file.name.startswith("__init__.") else file
    if tuple(parts[:-1]) == path.parts[-len(parts) : -1] and parts[-1] == path.name.partition(".")[0]:
        return path.parents[len(parts) - 1], ".".join(parts), file
    return file.parent, file.name.partition(".")[0], file  # a script, or a file under a name of its own


class _Folder:
    """The modules that one module imports from its folder; of installed packages, from its own package."""

    def __init__(self, folder: Path, name: str, file: Path) -> None:
        self._folder, self._name, self._file = folder, name, file
        is_installed = folder.name in INSTALLED
        self._only = name.partition(".")[0] if is_installed else ""

    def sources(self) -> Iterator[_Source]:
        """Every file of the module that can be read."""
        to_visit, seen = [self._name], set[Path]()
        while to_visit:
            for name, file in self._files_of(to_visit.pop()):
                if file in seen:
                    continue
                seen.add(file)
                try:
                    content = loaded_source(name, file)
                except OSError:
                    continue
                path = file.relative_to(self._folder).as_posix()
                yield _Source(name, path, hashlib.sha256(content).hexdigest())
                if file.suffix == ".py":
                    to_visit += _imports(content, name, is_package=file.name == "__init__.py")

    def _files_of(self, name: str) -> Iterator[tuple[str, Path]]:
        """The files that run when a name is imported: those of its parent packages, and its own."""
        parts = name.split(".")
        if self._is_another_package(parts[0]):
            return
        for end in range(1, len(parts) + 1):
            part = ".".join(parts[:end])
            file = self._file if part == self._name else self._file_of(parts[:end])
            if file is not None:
                yield part, file

    def _is_another_package(self, top: str) -> bool:
        """Whether a top-level name means an installed or standard package, and nothing in this folder."""
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
    """Every module that a source may import, anywhere in it."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):  # then the import has failed as well
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
