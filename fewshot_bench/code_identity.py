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
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fewshot_bench.source_loading import loaded_source

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

    It is that of the source which was loaded: a file that changes later counts once it is loaded again.

    Args:
        thing: a class, a function or another callable.
        module: that it was found in, which may be another than the one that defines it.
        installed: the distribution whose entry point it is.
    """
    if isinstance(thing, type) and thing.__module__.partition(".")[0] == "fewshot_bench":
        return None  # under whatever name somebody's module has it
    asked = (module, installed)
    found = _FOUND.get(id(thing))
    is_another = found is None or found.loaded != _loaded(found.modules) or (any(asked) and found.asked != asked)
    if found is None or is_another:
        asked = asked if any(asked) or found is None else found.asked
        found = _FOUND[id(thing)] = _found(thing, *asked)
    return found.identity


def source_digest(module: str) -> str:
    """Digest over the source of a module and of those that it imports from its package or folder.

    Args:
        module: its name; it has been imported.

    Returns:
        64 hexadecimal digits; "unknown" where it has no source, as in a notebook.
    """
    files = {source.path: source.digest for source in _sources(module)}
    return _digest(files) if files else _UNKNOWN


@dataclass(frozen=True)
class _Found:
    """An identity, and how it was found; it holds the thing, so that no other one gets its place in memory."""

    thing: Any
    asked: tuple[str, Distribution | None]
    identity: CodeIdentity | None
    modules: tuple[str, ...] = ()
    loaded: tuple[Any, ...] = ()


_FOUND: dict[int, _Found] = {}


def _found(thing: Any, module: str, installed: Distribution | None) -> _Found:
    asked = (module, installed)
    defining = [*_modules_of(thing), *([module] if module else [])]
    modules = [name for name in dict.fromkeys(defining) if not _has_version(name)]
    if not modules:
        return _Found(thing, asked, None)
    defined_in, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    told = f"{defined_in}:{name}" if defined_in and name else f"{module or modules[0]}:{type(thing).__qualname__}"
    of_each = [_sources(one) for one in modules]
    known = tuple(sorted({source.module for sources in of_each for source in sources} | set(modules)))
    if not all(of_each):
        # Nobody can say later whether it was the same code, so it is that of no other process.
        identity = CodeIdentity(told, f"{_UNKNOWN} {secrets.token_hex(8)}")
        return _Found(thing, asked, identity, known, _loaded(known))
    files = {source.path: source.digest for sources in of_each for source in sources}
    of = installed or _distribution_of(modules[0])
    version = f"{of.metadata['Name']} {of.version}" if of is not None else ""
    starts = {path: digest[:16] for path, digest in sorted(files.items())}
    return _Found(thing, asked, CodeIdentity(told, _digest(files), version, starts), known, _loaded(known))


def _loaded(modules: Iterable[str]) -> tuple[Any, ...]:
    """The functions and plain values of modules as they are loaded, to see whether they were loaded again."""
    state: list[Any] = []
    for name in modules:
        for member in list(vars(sys.modules[name]).values()) if name in sys.modules else []:
            inner = vars(member).values() if isinstance(member, type) else [member]
            state += [one.__code__ for one in inner if inspect.isfunction(one)]
            state += [one for one in inner if type(one) in (int, float, str, bool)]
    return tuple(state)


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


class _Source(NamedTuple):
    """A file of a module: the module's name, its path from the folder it is imported from, its digest."""

    module: str
    path: str
    digest: str


def _sources(name: str) -> list[_Source]:
    """Every file that a module is made of; none where it has no content that can be read."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or not isinstance(file, str):
        return []
    return list(_Folder(*_root(module, Path(file))).sources())


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

    def sources(self) -> Iterator[_Source]:
        """Every file; none where the module itself has no content that can be read."""
        waiting, seen = [self._name], set[Path]()
        while waiting:
            for name, file in self._of_name(waiting.pop()):
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
