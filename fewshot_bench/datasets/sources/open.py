"""A path as a tree of files, by what its first bytes say."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from fewshot_bench.datasets.sources.folder_tree import FolderTree
from fewshot_bench.datasets.sources.tar_tree import TarTree
from fewshot_bench.datasets.sources.tree import FileTree
from fewshot_bench.datasets.sources.zip_tree import ZipTree
from fewshot_bench.datasets.web_page import is_web_page
from fewshot_bench.errors import DatasetError

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")


def open_tree(path: Path) -> FileTree:
    """Open a folder or an archive; any other file is a folder of one file.

    Raises:
        DatasetError: nothing is there, or it is a web page, an empty file, or an archive that is cut off or hostile.
    """
    if path.is_dir():
        return FolderTree(path)
    if not path.is_file():
        what = "is neither a folder nor a file" if path.exists() else "does not exist"
        raise DatasetError(f"{path} {what}. A folder or an archive that you have was expected.")
    with path.open("rb") as file:
        first = file.read(512)
    check_is_no_web_page(first, path)
    if not first:
        raise DatasetError(f"{path} is empty. Obtain it again.")
    if first.startswith(b"PK") or (path.suffix == ".zip" and _ends_as_a_zip(path)):
        return SingleFile(path) if path.suffix == ".npz" else ZipTree(path)
    if first.startswith(_COMPRESSED) or first[257:262] == b"ustar" or path.suffix == ".tar":
        return TarTree(path)
    if path.suffix == ".zip":
        raise DatasetError(f"{path} is not a zip archive, whatever its name says. Obtain it again.")
    return SingleFile(path)


def _ends_as_a_zip(path: Path) -> bool:
    """Whether there is a zip behind something else, such as the program of a self-extracting one."""
    try:
        return zipfile.is_zipfile(path)
    except (zipfile.BadZipFile, struct.error, ValueError):
        return False


def check_is_no_web_page(first: bytes, path: Path) -> None:
    """Refuse what people most often have in place of a dataset.

    Raises:
        DatasetError: the bytes are the start of an HTML page.
    """
    if is_web_page(first):
        raise DatasetError(
            f"{path} is a web page, saved in place of the file that it leads to. Open it in a browser, and download "
            "the file from there."
        )


class SingleFile(FolderTree):
    """One file, seen as a folder that holds nothing else."""

    description = "file"

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self.path = path.parent
        self._listed[""] = ([], [path.name])
