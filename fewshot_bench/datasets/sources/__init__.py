"""Folders and archives from strangers, read in place: nothing is unpacked under a name that an archive chose."""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import IO

from fewshot_bench.datasets.sources.archives import TarTree, ZipTree
from fewshot_bench.datasets.sources.tree import (
    DelegatingTree,
    FileTree,
    Subtree,
    check_is_no_web_page,
    clutter_kind,
    within,
)
from fewshot_bench.errors import DatasetError

__all__ = ["MOST_ARCHIVES", "ArchivesInFolder", "FileTree", "Subtree", "archives_in", "open_tree"]


class FolderTree(FileTree):
    """A folder; each sub-folder is listed once, when it is asked for. Links are followed: they are the user's own."""

    description = "folder"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._listed: dict[str, tuple[list[str], list[str]]] = {}

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder, sorted."""
        return self._list(folder)[0]

    def files(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted."""
        return self._list(folder)[1]

    def size(self, file: str) -> int:
        """Bytes of a file."""
        return (self.path / file).stat().st_size

    def _read(self, file: str) -> bytes:
        with self._file(file).open("rb") as opened:
            return opened.read(self.size(file))

    def local(self, file: str) -> IO[bytes]:
        """The file itself."""
        return self.closing.enter_context(self._file(file).open("rb"))

    def _file(self, file: str) -> Path:
        """The path of a regular file: opening a pipe waits forever, and so does reading some devices."""
        place = self.path / file
        if not stat.S_ISREG(place.stat().st_mode):
            raise DatasetError(f"{place} is a pipe or a device, not a file.")
        return place

    def nested(self, archive: str) -> FileTree:
        """A tar in the folder as a tree; it is opened for each read, because a folder may hold a thousand of them."""
        return TarTree(self.path / archive, stays_open=False)

    def _list(self, folder: str) -> tuple[list[str], list[str]]:
        if folder not in self._listed:
            place = self.path / folder
            if not place.is_dir():
                raise DatasetError(f"{place} is not a folder.")
            folders: list[str] = []
            files: list[str] = []
            with os.scandir(place) as entries:
                for entry in entries:
                    if kind := clutter_kind(entry.name):
                        self.clutter[within(folder, entry.name)] = kind
                        continue
                    if entry.is_symlink() and _leads_up(entry.path):
                        raise DatasetError(f"{entry.path} is a link to a folder that holds it. Remove it.")
                    (folders if entry.is_dir() else files).append(entry.name)
            self._listed[folder] = (sorted(folders), sorted(files))
        return self._listed[folder]


def _leads_up(link: str) -> bool:
    """Whether the folder that a link leads to holds the link, so that following it never ends."""
    holder, target = Path(os.path.realpath(os.path.dirname(link))), Path(os.path.realpath(link))
    return target.is_dir() and target in (holder, *holder.parents)


_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")


def open_tree(path: Path) -> FileTree:
    """Open a folder or an archive; any other file is a folder of one file.

    Raises:
        DatasetError: nothing is there, or it is a web page, an empty file, or an archive that is cut off or hostile.
    """
    if path.is_dir():
        return FolderTree(path)
    if not path.is_file():
        state = "is neither a folder nor a file" if path.exists() else "does not exist"
        raise DatasetError(f"{path} {state}. Give a folder or an archive that you have.")
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
        raise DatasetError(f"{path} is not a zip archive, despite its name. Obtain it again.")
    return SingleFile(path)


def _ends_as_a_zip(path: Path) -> bool:
    """Whether a zip follows something else, such as the program of a self-extracting archive."""
    try:
        return zipfile.is_zipfile(path)
    except (zipfile.BadZipFile, struct.error, ValueError):
        return False


class SingleFile(FolderTree):
    """One file, seen as a folder that holds nothing else."""

    description = "file"

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self.path = path.parent
        self._listed[""] = ([], [path.name])


_ARCHIVE = re.compile(r"(.+?)\.(zip|tar|tgz|tar\.gz|tar\.bz2|tar\.xz)", re.IGNORECASE)
MOST_ARCHIVES = 40


def archives_in(tree: FileTree) -> dict[str, str]:
    """Files of a folder with names of archives, by what they would unpack to."""
    matches = ((_ARCHIVE.fullmatch(name), name) for name in tree.files())
    return {match[1]: name for match, name in matches if match}


class ArchivesInFolder(DelegatingTree):
    """The archives of one folder, each seen as the folder that it would unpack to: train.tar is the folder "train"."""

    description = "folder of archives"

    def __init__(self, tree: FileTree) -> None:
        super().__init__()
        self.path = tree.path
        self._trees: dict[str, FileTree] = {}
        damage: DatasetError | None = None
        for name, file in archives_in(tree).items():
            try:
                self._trees[name] = open_tree(tree.path / file)
            except DatasetError as error:
                damage = damage or error
                continue
            self.closing.callback(self._trees[name].close)
        if damage is not None and not self._trees:
            raise damage

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder, sorted."""
        return super().folders(folder) if folder else sorted(self._trees)

    def files(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted."""
        return super().files(folder) if folder else []

    def _located(self, name: str) -> tuple[FileTree, str]:
        archive, _, inside = name.partition("/")
        return self._trees[archive], inside
