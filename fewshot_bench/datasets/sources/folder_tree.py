"""A folder on disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

from fewshot_bench.datasets.sources.clutter import clutter_kind
from fewshot_bench.datasets.sources.tree import FileTree, within
from fewshot_bench.errors import DatasetError


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
        """The path of a file that ends: opening a pipe waits for ever, and so does reading some devices."""
        place = self.path / file
        if not stat.S_ISREG(place.stat().st_mode):
            raise DatasetError(f"{place} is a pipe or a device, not a file.")
        return place

    def nested(self, archive: str) -> FileTree:
        """A tar in the folder; it is opened for each read, because a folder may hold a thousand of them."""
        from fewshot_bench.datasets.sources.tar_tree import TarTree

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
    """Whether the folder that a link leads to holds the link: somebody who follows it never comes to an end."""
    holder, target = Path(os.path.realpath(os.path.dirname(link))), Path(os.path.realpath(link))
    return target.is_dir() and target in (holder, *holder.parents)
