"""Pickles from strangers: plain data and NumPy arrays are read, nothing is executed, big arrays stay on disk.

A pickle is a program for a small stack machine that may call anything that can be imported. Here the machine knows
only the instructions for plain data, and the only functions it can call are ones of our own that rebuild arrays and
byte strings from arguments they have checked. Three ideas carry the rest:

* Byte strings and texts of 1,024 bytes or more are not read: a `Piece` remembers where they are. An array made of
  one is a view of a memory map of the file.
* What is on the machine's stack but cannot be part of the result as it is (a piece, a function, the arguments of a
  call, an array before its pixels) is `Unsettled`, and is settled, once, when a list, a dictionary or the caller
  receives it. The result is therefore never walked, however deep it is nested.
* No instruction costs more than a fixed multiple of the bytes of the file that it uses up.

The standard library's unpickler in Python does the plain instructions. Its twin in C would be faster, but keeps its
memo in an array, so that ten bytes of pickle allocate tens of gigabytes, and copies every byte string into memory.
"""

from __future__ import annotations

import pickle
import stat
from pathlib import Path
from typing import Any, BinaryIO

from fewshot_bench.datasets.safe_pickle.source import CutOffError, DamagedError, Source, UnsafeError
from fewshot_bench.datasets.safe_pickle.unpickler import LAZY_FROM, Unpickler
from fewshot_bench.datasets.web_page import is_web_page
from fewshot_bench.errors import DatasetError

__all__ = ["LAZY_FROM", "UnsafePickleError", "read_pickle"]


class UnsafePickleError(DatasetError):
    """A pickle asks for more than plain data and arrays of numbers or fixed-size strings."""


def read_pickle(path: Path, opened: BinaryIO | None = None) -> Any:
    """Read a pickle of protocol 0 to 5, written by Python 2 or 3, without executing anything.

    Byte arrays come out as bytes, an `OrderedDict` as dict, NumPy scalars as Python numbers and strings, Python 2's
    `str` as text in which every character is one byte (latin-1). Arrays are read-only; those of 1,024 bytes or more
    are views of one memory map of the file, unless they were written as text (by Python 3 with protocol 0 to 2).
    Whatever follows the end of the pickle is ignored.

    Args:
        path: a file that nobody changes while the arrays are in use.
        opened: the same file, where it has no name of its own; `path` is then for messages only.

    Returns:
        dict, list, tuple, str, bytes, int, float, bool, None and NumPy arrays of numbers or fixed-size strings.

    Raises:
        UnsafePickleError: the pickle asks for anything else; the message names it.
        DatasetError: the file is not a pickle, cut off or damaged.
        OSError: the file cannot be opened.
    """
    if opened is not None:
        return _read(opened, path)
    if not stat.S_ISREG(path.stat().st_mode):
        raise DatasetError(f"{_one_line(path)} is not a file; a pickle was expected.")
    with path.open("rb") as file:
        return _read(file, path)


def _read(file: BinaryIO, path: Path) -> Any:
    found = _what_else_it_is(file.read(512))
    if found:
        raise DatasetError(f"{_one_line(path)} {found}")
    try:
        return Unpickler(Source(file)).load()
    except Exception as error:  # bytes of a stranger may raise anything; all of it means the same to the user
        raise _explain(error, path, file.tell()) from error


def _what_else_it_is(head: bytes) -> str:
    if not head:
        return "is empty; a pickle was expected. Obtain it again."
    if is_web_page(head):
        return (
            "is a web page, not a pickle: a download page was saved in place of the file. Download the file itself, "
            "with a browser if need be."
        )
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "is a zip archive, not a pickle. Unpack it and give the file inside."
    if head.startswith(b"\x1f\x8b"):
        return "is compressed with gzip, not a pickle. Unpack it and give the file inside."
    if head[257:262] == b"ustar" and head[0] != pickle.PROTO[0]:
        return "is a tar archive, not a pickle. Unpack it and give the file inside."
    return ""


def _explain(error: Exception, path: Path, position: int) -> DatasetError:
    name = _one_line(path)
    if isinstance(error, UnsafeError):
        return UnsafePickleError(
            f"{name} asks for {_one_line(error)} near byte {position:,}; only plain data and arrays of numbers or "
            "fixed-size strings are read from a pickle, and nothing was executed. Ask its author for such a file."
        )
    if isinstance(error, CutOffError):
        return DatasetError(
            f"{name} ends before the pickle in it does: it was probably cut off while downloading. Obtain it again."
        )
    if isinstance(error, MemoryError):
        return DatasetError(f"{name} does not fit into memory. Read it on a larger machine.")
    if isinstance(error, OSError):
        return DatasetError(f"{name} cannot be read ({_one_line(error)}). Copy it to another disk.")
    what = _one_line(error) if isinstance(error, DamagedError) else "what it says there makes no sense"
    return DatasetError(f"{name} is not a pickle, or is damaged near byte {position:,} ({what}). Obtain it again.")


def _one_line(text: object) -> str:
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in str(text))
