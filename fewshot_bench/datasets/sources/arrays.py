"""Pickles and NumPy files of a tree as plain data: arrays are mapped from the disk, and nothing is executed."""

from __future__ import annotations

import math
import os
import tokenize
import warnings
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.sources.archives import ZipTree
from fewshot_bench.datasets.sources.safe_pickle import read_pickle
from fewshot_bench.datasets.sources.tree import FileTree, check_is_no_web_page
from fewshot_bench.errors import DatasetError

_SUFFIXES = (".pkl", ".pickle", ".p", ".npz", ".npy")
_NO_SUFFIX = ("train", "test", "meta")  # what CIFAR-100 calls its pickles
_KINDS = "biufSU"
_MOST_NAMES = 10_000  # a longer list of byte strings holds images, not class names
_LAST_CHARACTER = 0x10FFFF
_DAMAGED = (
    ValueError, TypeError, EOFError, OverflowError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError,
)  # fmt: skip


def array_files(tree: FileTree, folder: str = "") -> list[str]:
    """Files of a folder that may hold arrays, sorted."""
    return [name for name in tree.files(folder) if name.lower().endswith(_SUFFIXES) or name in _NO_SUFFIX]


def read_arrays(tree: FileTree, file: str) -> Any:
    """What a pickle or a NumPy file holds.

    Args:
        tree: where it lies.
        file: its path.

    Returns:
        Plain containers of plain values; arrays are read-only and stay on disk until they are read. Those of an npz
        come as a dictionary.

    Raises:
        DatasetError: the file is damaged, cut off, unsafe, or a web page.
    """
    if file not in tree.known:
        opened = tree.local(file)
        first = opened.read(512)
        opened.seek(0)
        place = tree.path / file
        check_is_no_web_page(first, place)
        if first.startswith(b"PK"):
            tree.known[file] = _read_npz(tree, opened, place)
        elif first.startswith(b"\x93NUMPY"):
            tree.known[file] = _read_npy(opened, place)
        else:
            tree.known[file] = _with_text_keys(read_pickle(place, cast(BinaryIO, opened)))
    return tree.known[file]


def _with_text_keys(content: Any) -> Any:
    """Keys as text, also in a pickle of Python 2 that was loaded with encoding="bytes" and saved again."""
    if isinstance(content, dict):
        return {_text(key): _with_text_keys(value) for key, value in content.items()}
    if isinstance(content, list) and content and len(content) < _MOST_NAMES and isinstance(content[0], bytes):
        return [_text(item) for item in content]
    return content


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _read_npz(tree: FileTree, opened: IO[bytes], place: Path) -> dict[str, NDArray[Any]]:
    members = ZipTree(place, opened)
    tree.closing.callback(members.close)
    return {
        name.removesuffix(".npy"): _read_npy(members.local(name), place / name)
        for name in members.files()
        if name.endswith(".npy")
    }


def _read_npy(opened: IO[bytes], place: Path) -> NDArray[Any]:
    try:
        return _mapped(opened, place)
    except _DAMAGED as error:
        raise DatasetError(
            f"{place} is not a complete array ({' '.join(str(error).split())[:200]}). Obtain it again."
        ) from error


def _mapped(opened: IO[bytes], place: Path) -> NDArray[Any]:
    """The array, if its header is plausible: NumPy multiplies the extents of a shape without regard to overflow."""
    version = np.lib.format.read_magic(opened)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        shape, is_fortran, dtype = read(opened)
    if dtype.hasobject:
        raise DatasetError(f"{place} holds Python objects, which are not read from strangers' files.")
    if version > (3, 0) or dtype.kind not in _KINDS or not dtype.itemsize:
        raise ValueError(f"of version {version} and type {dtype}")
    if any(type(extent) is not int or extent < 0 for extent in shape):
        raise ValueError(f"of shape {shape}")
    needed = math.prod(shape) * dtype.itemsize
    left = os.fstat(opened.fileno()).st_size - opened.tell()
    if needed > left:
        raise ValueError(f"{needed:,} bytes are announced, {left:,} follow")
    if not shape or not needed:
        return np.frombuffer(opened.read(needed), dtype).reshape(shape)
    array = np.memmap(opened, dtype, "r", opened.tell(), shape, "F" if is_fortran else "C")
    if dtype.kind == "U" and array.reshape(-1, order="A").view(dtype.byteorder + "u4").max() > _LAST_CHARACTER:
        raise ValueError("a character that does not exist")
    return array
