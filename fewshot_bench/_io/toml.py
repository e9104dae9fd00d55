"""TOML: the standard library's parser, the values of options, and the line of every key in a document."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["KeyPath", "key_lines", "line_of", "tomllib", "value_of"]

KeyPath = tuple[str | int, ...]
"""Keys and, within lists, positions from 0: ("methods", 0, "lambda")."""

_TOKEN = re.compile(
    r"""
    (?P<blank> \s+ | \#[^\n]* )
    | \"{3} (?: \\. | (?!\"{3}). )* \"{3,5} | '{3} (?: (?!'{3}). )* '{3,5}  # over several lines
    | " (?: \\. | [^"\\\n] )* " | '[^'\n]*'
    | [][{}=,.]
    | [^][{}=,.\s\#"']+
    """,
    re.VERBOSE | re.DOTALL,
)


def value_of(text: str) -> Any:
    """The number or truth value of a text, or else the text itself.

    >>> value_of("10"), value_of("0.1"), value_of("True"), value_of("cosine")
    (10, 0.1, True, 'cosine')
    """
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line of every key, table and list element of a TOML document, which the standard parser does not give.

    Args:
        text: a valid document.

    Returns:
        Lines from 1, by path; what spans several lines has the first of them. A construct that is not understood costs
        line numbers, never an error.
    """
    return _Walk(text).lines


def line_of(lines: dict[KeyPath, int], path: KeyPath) -> int | None:
    """The line of a path, or of the nearest thing that contains it; None if there is none."""
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)


class _Walk:
    """One pass over the tokens of a document; `lines` is the result."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._counts: dict[KeyPath, int] = {}
        self._tokens: list[tuple[str, int]] = []
        line = 1
        for match in _TOKEN.finditer(text):
            if match["blank"] is None:
                self._tokens.append((match[0], line))
            line += match[0].count("\n")
        self._tokens.reverse()  # so that the next one is the last
        table: KeyPath = ()
        with suppress(IndexError, ValueError, RecursionError):
            while self._tokens:
                table = self._header() if self._next() == "[" else self._pair(table)

    def _next(self) -> str:
        return self._tokens[-1][0]

    def _line(self) -> int:
        return self._tokens[-1][1]

    def _take(self, *expected: str) -> str:
        if expected and self._next() not in expected:
            raise ValueError(self._next())
        return self._tokens.pop()[0]

    def _note(self, path: KeyPath, line: int) -> KeyPath:
        self.lines.setdefault(path, line)
        return path

    def _header(self) -> KeyPath:
        line = self._line()
        self._take("[")
        is_list = self._next() == "["
        if is_list:
            self._take("[")
        keys = self._keys()
        for _ in range(1 + is_list):
            self._take("]")
        path: KeyPath = ()
        for number, key in enumerate(keys, start=1):
            path = self._note((*path, key), line)
            if is_list and number == len(keys):
                self._counts[path] = self._counts.get(path, -1) + 1
            if path in self._counts:
                path = self._note((*path, self._counts[path]), line)
        return path

    def _pair(self, table: KeyPath) -> KeyPath:
        line, path = self._line(), table
        for key in self._keys():
            path = self._note((*path, key), line)
        self._take("=")
        self._value(path)
        return table

    def _keys(self) -> list[str]:
        keys = [self._key()]
        while self._next() == ".":
            self._take(".")
            keys.append(self._key())
        return keys

    def _key(self) -> str:
        token = self._take()
        return next(iter(tomllib.loads(f"{token} = 0"))) if token[0] in "\"'" else token

    def _value(self, path: KeyPath) -> None:
        line, token = self._line(), self._take()
        if token in ("[", "{"):
            closing, number = {"[": "]", "{": "}"}[token], 0
            while self._next() != closing:
                if token == "[":
                    self._value(self._note((*path, number), self._line()))
                    number += 1
                else:
                    self._pair(path)
                if self._next() != closing:
                    self._take(",")
            self._take(closing)
        elif token[0] not in "\"'":  # a number or a date may consist of several tokens
            while self._tokens and self._line() == line and self._next() not in ("]", "}", ","):
                self._take()
