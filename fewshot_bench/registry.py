"""Names for things that a user picks: datasets, backbones, adaptations, losses.

Each registry is filled by a decorator beside the thing it names. Other packages add to it through entry points of the
groups `fewshot_bench.datasets`, `.backbones`, `.adaptations` and `.losses`; a user can name anything importable as
`module:callable`.

Looking a name up never imports `module:callable`, since names also come from files that strangers write. A caller that
knows a name to be the user's own admits it first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar

from fewshot_bench._io.notebooks import html_rows
from fewshot_bench.code_identity import CodeIdentity, code_of, what_changed
from fewshot_bench.errors import ArgumentError, CodeError, CodeNotTrustedError, UnknownNameError
from fewshot_bench.plugins import import_failure, import_named, is_code, load_from_source, make_importable

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered thing: its factory, a one-line summary, and facts such as paper and year.

    Attributes:
        name: the registered name.
        factory: makes the thing.
        summary: one line.
        facts: paper, family and so on.
        preset: the settings that an alias stands for.
    """

    name: str
    factory: T
    summary: str
    facts: dict[str, Any] = field(default_factory=dict)
    preset: dict[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> CodeIdentity | None:
        """The identity of its code; None for a part of this project."""
        return code_of(self.factory)


class Registry(Generic[T]):
    """A mapping from names to factories of one kind of thing, open to entry points.

    >>> import fewshot_bench as fb
    >>> "centroid" in fb.ADAPTATIONS, fb.LOSSES["ce+supcon"].summary
    (True, 'cross-entropy and supervised contrast')
    >>> fb.ADAPTATIONS["simpleshot"].preset
    {'features': 'cl2', 'metric': 'euclidean'}
    """

    def __init__(
        self,
        kind: str,
        *,
        check: Callable[[str, T], None] | None = None,
        schemes: Iterable[str] = (),
    ) -> None:
        """Begin empty.

        Args:
            kind: of the things it names, such as "loss".
            check: raises for a wrong factory; called with name and factory.
            schemes: what may stand before a colon without being a module.
        """
        self.kind = kind
        self.group = f"fewshot_bench.{kind}{'es' if kind.endswith('s') else 's'}"
        self._check, self._schemes = check, tuple(schemes)
        self._entries: dict[str, Entry[T]] = {}
        self._aliases: dict[str, str] = {}
        self._admitted: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"<Registry of {self.group.rpartition('.')[2]}: {', '.join(self.names())}>"

    def _repr_html_(self) -> str:
        known = [(name, self._entries[name].summary if name in self._entries else "") for name in self.names()]
        return html_rows(self.group.rpartition(".")[2], ("name", "summary"), known)

    def register(self, name: str, summary: str, **facts: Any) -> Callable[[T], T]:
        """Decorate a factory to make it known as `name`."""

        def add(factory: T) -> T:
            self._add(name, factory, summary, facts)
            return factory

        return add

    def alias(self, name: str, target: str, *, preset: Mapping[str, Any], **facts: Any) -> None:
        """Register an alias of a thing, which stands for some of its settings; `facts` are those that differ."""
        known = self._entries[target]
        settings = " and ".join(f"{key}={value}" for key, value in preset.items())
        summary = f"alias of {target} with {settings}"
        self._entries[name] = Entry(name, known.factory, summary, {**known.facts, **facts}, dict(preset))
        self._aliases[name] = target

    def target_of(self, name: str) -> str:
        """The name that an alias stands for; any other name stands for itself."""
        return self._aliases.get(name, name)

    def __getitem__(self, name: str) -> Entry[T]:
        """Find an entry; nothing is imported but an installed entry point of that name.

        Raises:
            UnknownNameError: nothing is registered under that name.
            CodeNotTrustedError: the name is code that has not been admitted.
            CodeError: the entry point cannot be imported.
        """
        if not isinstance(name, str):
            raise ArgumentError(
                f"the name of {'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind} is text, not {name!r:.40}."
            )
        if name in self._entries:
            return self._entries[name]
        if name in self._points:
            return self._loaded(self._points[name])
        if is_code(name):
            raise CodeNotTrustedError(self.kind, name)
        raise UnknownNameError(self.kind, name, self.names())

    def __iter__(self) -> Iterator[Entry[T]]:
        for name in self.names():
            try:
                yield self[name]
            except CodeError as error:
                yield Entry(name, None, f"broken: {error}")  # type: ignore[arg-type]  # it cannot be imported

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._points

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._entries.keys() | self._points.keys())

    def admit(self, name: str) -> None:
        """Import `module:callable`, so that it can be looked up in this process; other names are left alone.

        For names that the user typed, or trusts by `--trust-code`; never for what a file says.

        Raises:
            CodeError: it cannot be imported, fails the registry's check, or has no source to identify it by.
        """
        if not is_code(name) or (name in self and name not in self._admitted):
            return
        scheme, _, _ = name.partition(":")
        if scheme not in self._schemes:
            factory, module = import_named(name)
            code = code_of(factory, module=module)
            if code is not None and not code.is_known:
                raise CodeError(
                    f"{name} has no file with its source, so its code cannot be identified later. Put it into a module "
                    "of its own."
                )
            self._add(name, factory, f"{name.partition(':')[2]} of {module}", {})
        self._admitted[name] = None
        code = self[name].code if name in self else None
        _ADMITTED[self.kind, name] = code.as_record() if code is not None else {}

    def is_admitted(self, name: str) -> bool:
        """Whether a name has been admitted in this process."""
        return name in self._admitted

    def _add(self, name: str, factory: T, summary: str, facts: dict[str, Any]) -> Entry[T]:
        if self._check is not None:
            self._check(name, factory)
        code_of(factory)  # now, before its file is edited
        self._entries[name] = Entry(name, factory, summary, facts)
        return self._entries[name]

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        """The entry points of other packages by name; those of this project come first."""
        return {point.name: point for point in reversed(list(entry_points(group=self.group)))}

    def _loaded(self, point: EntryPoint) -> Entry[T]:
        load_from_source()
        try:
            factory = point.load()
        except (Exception, SystemExit) as error:  # a plug-in's module may raise anything
            raise import_failure(error, f"{point.name} ({point.value})") from error
        code_of(factory, module=point.value.partition(":")[0], installed=getattr(point, "dist", None))
        summary = (getattr(factory, "__doc__", None) or point.value).strip().splitlines()[0]
        return self._add(point.name, factory, summary, {"from": point.value})


_ADMITTED: dict[tuple[str, str], dict[str, Any]] = {}
"""The record of the code of every name admitted in this process, by kind and name."""

_REGISTRIES = {
    "dataset": "fewshot_bench.datasets:DATASETS",
    "backbone": "fewshot_bench.backbones:BACKBONES",
    "adaptation": "fewshot_bench.adaptation:ADAPTATIONS",
    "loss": "fewshot_bench.losses:LOSSES",
}


class WithCode:
    """A value for another process, which first admits what this process has admitted.

    It unpickles as the value itself. The names come first in the pickle, so their modules are importable by then.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        """Admit, then give the value."""
        return _second, (_Admission(), self._value)


class _Admission:
    def __reduce__(self) -> tuple[Any, ...]:
        folder = os.getcwd()
        return _admit_here, (folder if folder in sys.path else "", [(*name, code) for name, code in _ADMITTED.items()])


def _second(first: object, second: Any) -> Any:
    return second


def _admit_here(folder: str, names: list[tuple[str, str, dict[str, Any]]]) -> None:
    """Admit what another process has admitted, perhaps on another machine.

    Raises:
        CodeError: the code differs here: a file was edited since, or this machine has another copy.
    """
    if folder and names:
        make_importable(folder)
    for kind, name, record in names:
        registry = resolve_name(_REGISTRIES[kind])
        registry.admit(name)
        here = _ADMITTED[kind, name]
        if here.get("digest") != record.get("digest"):
            raise CodeError(
                f"a worker finds other code of {name} than the command that started it ({what_changed(record, here)}). "
                "Give all machines the same files, leave them alone while it runs, and run the same command again."
            )
