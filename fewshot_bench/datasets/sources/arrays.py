"""Pickles and NumPy files of a tree as plain data, their arrays mapped from the disk, nothing in them executed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.safe_pickle import read_pickle
from fewshot_bench.datasets.sources.open import check_is_no_web_page
from fewshot_bench.datasets.sources.tree import FileTree
from fewshot_bench.datasets.sources.zip_tree import ZipTree
from fewshot_bench.errors import DatasetError

_SUFFIXES = (".pkl", ".pickle", ".p", ".npz", ".npy")
_NO_SUFFIX = ("train", "test", "meta")  # what CIFAR-100 calls its pickles


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
            tree.known[file] = read_pickle(place, cast(BinaryIO, opened))
    return tree.known[file]


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
        version = np.lib.format.read_magic(opened)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(opened)
        if dtype.hasobject:
            raise DatasetError(f"{place} holds Python objects, which are not read from strangers' files.")
        if not shape or 0 in shape:
            return np.fromfile(opened, dtype, count=1 if not shape else 0).reshape(shape)
        return np.memmap(opened, dtype, "r", opened.tell(), shape, "F" if is_fortran else "C")
    except (ValueError, TypeError, EOFError, OverflowError, SyntaxError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{place} is no complete array ({error}). Obtain it again.") from error
