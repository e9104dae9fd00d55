"""Names for things that a user picks: datasets, backbones, adaptations, losses.

Each registry is filled by a decorator beside the thing it names. Other packages add to it through entry
points of the groups `fewshot_bench.datasets`, `.backbones`, `.adaptations` and `.losses`; a user can name anything
importable as `module:callable`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from fewshot_bench.errors import UnknownNameError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered thing: its factory, a one-line summary, and facts such as paper and year."""

    name: str
    factory: T
    summary: str
    facts: dict[str, Any] = field(default_factory=dict)


class Registry(Generic[T]):
    """A mapping from names to factories of one kind of thing, open to entry points."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.group = f"fewshot_bench.{kind}{'es' if kind.endswith('s') else 's'}"
        self._entries: dict[str, Entry[T]] = {}
        self._entry_points_are_loaded = False

    def register(self, name: str, summary: str, **facts: Any) -> Callable[[T], T]:
        """Decorate a factory to make it known as `name`."""

        def add(factory: T) -> T:
            self._entries[name] = Entry(name, factory, summary, facts)
            return factory

        return add

    def __getitem__(self, name: str) -> Entry[T]:
        """Find an entry.

        Raises:
            UnknownNameError: nothing is registered under that name.
        """
        self._load_entry_points()
        if name in self._entries:
            return self._entries[name]
        if ":" in name:
            return self._import(name)
        raise UnknownNameError(self.kind, name, self._entries)

    def __iter__(self) -> Iterator[Entry[T]]:
        self._load_entry_points()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __contains__(self, name: str) -> bool:
        self._load_entry_points()
        return name in self._entries

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return [entry.name for entry in self]

    def _import(self, name: str) -> Entry[T]:
        module_name, _, attribute = name.partition(":")
        try:
            factory = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise UnknownNameError(self.kind, name, self._entries, hint=f"({error})") from error
        return Entry(name, factory, f"{attribute} of {module_name}")

    def _load_entry_points(self) -> None:
        if self._entry_points_are_loaded:
            return
        self._entry_points_are_loaded = True
        for point in entry_points(group=self.group):
            if point.name not in self._entries:
                factory = point.load()
                summary = (getattr(factory, "__doc__", None) or point.value).strip().splitlines()[0]
                self._entries[point.name] = Entry(point.name, factory, summary, {"from": point.value})
