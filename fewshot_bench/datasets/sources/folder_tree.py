"""A folder on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from fewshot_bench.datasets.sources.tree import FileTree, is_clutter
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
        return (self.path / file).read_bytes()

    def local(self, file: str) -> IO[bytes]:
        """The file itself."""
        return self.closing.enter_context((self.path / file).open("rb"))

    def _list(self, folder: str) -> tuple[list[str], list[str]]:
        if folder not in self._listed:
            place = self.path / folder
            if not place.is_dir():
                raise DatasetError(f"{place} is not a folder.")
            folders: list[str] = []
            files: list[str] = []
            with os.scandir(place) as entries:
                for entry in entries:
                    if not is_clutter(entry.name):
                        (folders if entry.is_dir() else files).append(entry.name)
            self._listed[folder] = (sorted(folders), sorted(files))
        return self._listed[folder]
