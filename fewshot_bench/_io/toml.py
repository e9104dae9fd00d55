"""The standard library's reader of TOML, which Python 3.10 does not have; and the reader of single values.

On which line of a TOML file each key stands, which the standard library's parser does not tell.

The text has been parsed already, so this only walks through it: whatever it should not understand costs a line number,
never the study.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from contextlib import suppress
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["tomllib", "value_of"]


def value_of(text: str) -> Any:
    """A number or a truth value where the text reads as one, the text itself otherwise.

    >>> value_of("10"), value_of("0.1"), value_of("True"), value_of("cosine")
    (10, 0.1, True, 'cosine')
    """
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


KeyPath = tuple[str | int, ...]
"""Keys and, within lists, positions from 0: ("methods", 0, "lambda")."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[^\s.=\[\]{},#\"']+")
_BARE_VALUE = re.compile(r"[^,\]}#\n]+")
_STRINGS = {
    '"""': re.compile(r'"""(?:\\.|(?!""").)*"{3,5}', re.DOTALL),
    "'''": re.compile(r"'''(?:(?!''').)*'{3,5}", re.DOTALL),
    '"': re.compile(r'"(?:\\.|[^"\\\n])*"'),
    "'": re.compile(r"'[^'\n]*'"),
}


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line of every key, table and list element of a TOML document.

    Args:
        text: a valid document.

    Returns:
        Lines from 1, by path; what is spread over several lines stands where it begins.
    """
    return _Walk(text).lines


def line_of(lines: dict[KeyPath, int], path: KeyPath) -> int | None:
    """The line of a path, or of the nearest thing that holds it; None where not even that is known."""
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)


class _Walk:
    """One pass over a document; `lines` is what it found."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text.replace("\r\n", "\n")
        self._newlines = [match.start() for match in re.finditer("\n", self._text)]
        self._at = 0
        self._counts: dict[KeyPath, int] = {}
        with suppress(IndexError, ValueError, RecursionError):  # a dialect not known here: what was found stands
            self._document()

    def _document(self) -> None:
        table: KeyPath = ()
        while self._skip_blank():
            if self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> KeyPath:
        start, is_list = self._at, self._text.startswith("[[", self._at)
        self._at += 2 if is_list else 1
        keys = self._keys()
        self._skip_blank()
        self._at += 2 if is_list else 1
        path: KeyPath = ()
        for number, key in enumerate(keys, start=1):
            path = (*path, key)
            self._note(path, start)
            if is_list and number == len(keys):
                self._counts[path] = self._counts.get(path, -1) + 1
            if path in self._counts:
                path = (*path, self._counts[path])
                self._note(path, start)
        return path

    def _pair(self, table: KeyPath) -> None:
        self._skip_blank()
        start, path = self._at, table
        for key in self._keys():
            path = (*path, key)
            self._note(path, start)
        self._skip_blank()
        self._expect("=")
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip_blank()
            keys.append(self._key())
            self._skip_blank()
            if self._peek() != ".":
                return keys
            self._at += 1

    def _key(self) -> str:
        if self._peek() in "\"'":
            quoted = self._take(_STRINGS[self._peek()])
            return next(iter(tomllib.loads(f"{quoted} = 0")))
        return self._take(_BARE_KEY)

    def _value(self, path: KeyPath) -> None:
        self._skip_blank()
        opening = self._peek()
        if opening == "[":
            self._list(path)
        elif opening == "{":
            self._inline_table(path)
        elif opening in "\"'":
            self._take(_STRINGS[opening * 3 if self._text.startswith(opening * 3, self._at) else opening])
        else:
            self._take(_BARE_VALUE)

    def _list(self, path: KeyPath) -> None:
        self._expect("[")
        number = 0
        while self._next_is_not("]"):
            self._note((*path, number), self._at)
            self._value((*path, number))
            number += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._expect("{")
        while self._next_is_not("}"):
            self._pair(path)

    def _next_is_not(self, closing: str) -> bool:
        """Step over blanks and a comma; whether something comes before the closing bracket, which is taken."""
        self._skip_blank()
        if self._peek() == ",":
            self._at += 1
            self._skip_blank()
        if self._peek() == closing:
            self._at += 1
            return False
        return True

    def _note(self, path: KeyPath, at: int) -> None:
        self.lines.setdefault(path, bisect_left(self._newlines, at) + 1)

    def _skip_blank(self) -> bool:
        """Step over spaces, line ends and comments; whether anything is left."""
        match = _BLANK.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._at < len(self._text)

    def _peek(self) -> str:
        return self._text[self._at]

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise ValueError(character)
        self._at += 1

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(pattern.pattern)
        self._at = match.end()
        return match[0]
