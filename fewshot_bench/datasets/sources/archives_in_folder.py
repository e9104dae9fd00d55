"""A folder of archives, each seen as the folder that it would unpack to."""

from __future__ import annotations

import re
from typing import IO

from fewshot_bench.datasets.sources.open import open_tree
from fewshot_bench.datasets.sources.tree import FileTree
from fewshot_bench.errors import DatasetError

_ARCHIVE = re.compile(r"(.+?)\.(zip|tar|tgz|tar\.gz|tar\.bz2|tar\.xz)", re.IGNORECASE)
MOST_ARCHIVES = 40


def archives_in(tree: FileTree) -> dict[str, str]:
    """Files of a folder that are called as archives are, by what they would unpack to."""
    matches = ((_ARCHIVE.fullmatch(name), name) for name in tree.files())
    return {match[1]: name for match, name in matches if match}


class ArchivesInFolder(FileTree):
    """The archives of one folder: train.tar is the folder "train"."""

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
        if not folder:
            return sorted(self._trees)
        archive, inside = self._within(folder)
        return archive.folders(inside)

    def files(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted."""
        if not folder:
            return []
        archive, inside = self._within(folder)
        return archive.files(inside)

    def size(self, file: str) -> int:
        """Bytes of a file."""
        archive, inside = self._within(file)
        return archive.size(inside)

    def _read(self, file: str) -> bytes:
        archive, inside = self._within(file)
        return archive._read(inside)

    def local(self, file: str) -> IO[bytes]:
        """A file that can be sought and memory-mapped, open until the tree is closed."""
        archive, inside = self._within(file)
        return archive.local(inside)

    def nested(self, archive: str) -> FileTree:
        """A tar in an archive as a tree of its own, to be closed by the caller."""
        outer, inside = self._within(archive)
        return outer.nested(inside)

    def _within(self, name: str) -> tuple[FileTree, str]:
        first, _, rest = name.partition("/")
        return self._trees[first], rest
