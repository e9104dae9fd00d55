"""How objects look in a notebook: a small table. Names come from strangers' files, so all text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any

_MOST_ROWS = 20
_LONGEST = 200  # characters of a value


def html_facts(title: str, facts: Mapping[str, object]) -> str:
    """A title above names and values, as HTML.

    >>> html_facts("toy", {"images": 3, "classes": "<b>"})
    '<table><caption>toy</caption><tr><th>images</th><td>3</td></tr><tr><th>classes</th><td>&lt;b&gt;</td></tr></table>'
    """
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts.items())
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"


def html_rows(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A title above a table of rows, as HTML; what exceeds 20 rows is counted."""
    every = [f"<tr>{''.join(f'<td>{_text(value)}</td>' for value in row)}</tr>" for row in rows]
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    more = f'<tr><td colspan="{len(columns)}">{len(every) - _MOST_ROWS:,} more</td></tr>'
    shown = "".join(every[:_MOST_ROWS]) + (more if len(every) > _MOST_ROWS else "")
    return f"<table><caption>{escape(title)}</caption><tr>{head}</tr>{shown}</table>"


class ShownByFields:
    """A dataclass that shows the fields that differ from their default, in a notebook as a table."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "__repr__" not in vars(cls):
            setattr(cls, "__repr__", ShownByFields.__repr__)  # noqa: B010 -- or `dataclass` writes its own, of all fields

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._changed().items())})"

    def _repr_html_(self) -> str:
        return html_facts(type(self).__name__, {name: _cut(value) for name, value in self._changed().items()})

    def _changed(self) -> dict[str, Any]:
        own: Any = self
        values = {field.name: (getattr(own, field.name), field.default) for field in fields(own) if field.repr}
        return {name: value for name, (value, default) in values.items() if not _is_default(value, default)}


def _is_default(value: object, default: object) -> bool:
    return value is default or (isinstance(value, str | int | float | tuple) and value == default)


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are.

    >>> shortened(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _text(value: object) -> str:
    return escape(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
