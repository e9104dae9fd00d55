"""What a folder, a zip and a tar have in common for somebody who looks for images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

from fewshot_bench.datasets.disk_space import readable_bytes
from fewshot_bench.errors import DatasetError

LARGEST_IMAGE_FILE = 64 << 20
"""Bytes; the largest of ImageNet has 15 MB."""


class FileTree(ABC):
    """Files under relative POSIX paths; "" is the top.

    Attributes:
        path: the folder or archive, for messages.
        description: what kind of thing it is, e.g. "zip".
        closing: what is to be closed with the tree.
        known: what readers have found out about files, so that each is opened once.
        clutter: what was passed over so far, its path and what it is; see `clutter_kind`.
    """

    path: Path
    description: str

    def __init__(self) -> None:
        self.closing = ExitStack()
        self.known: dict[str, object] = {}
        self.clutter: dict[str, str] = {}

    @abstractmethod
    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder, sorted."""

    @abstractmethod
    def files(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted."""

    @abstractmethod
    def size(self, file: str) -> int:
        """Bytes of a file."""

    @abstractmethod
    def _read(self, file: str) -> bytes:
        """All of a file whose size has been checked."""

    @abstractmethod
    def local(self, file: str) -> IO[bytes]:
        """A file that can be sought and memory-mapped, open until the tree is closed.

        That of an archive is unpacked into an anonymous file, which vanishes with the process whatever happens to it.
        """

    def nested(self, archive: str) -> FileTree:
        """A tar among the files as a tree of its own, to be closed by the caller."""
        from fewshot_bench.datasets.sources.tar_tree import TarTree

        return TarTree(self.path / archive, self.local(archive))

    def read(self, file: str, *, limit: int = LARGEST_IMAGE_FILE) -> bytes:
        """All of a file; may be called by several threads at once.

        Args:
            file: its path.
            limit: bytes; a larger file is refused before it is read.

        Raises:
            DatasetError: the file is larger, or damaged.
        """
        size = self.size(file)
        if size > limit:
            raise DatasetError(
                f"{file} in {self.path} is {readable_bytes(size)}; at most {readable_bytes(limit)} were expected."
            )
        return self._read(file)

    def has_folder(self, folder: str) -> bool:
        """Whether there is such a folder."""
        parent, _, name = folder.rpartition("/")
        return not folder or name in self.folders(parent)

    def has_file(self, file: str) -> bool:
        """Whether there is such a file."""
        parent, _, name = file.rpartition("/")
        return name in self.files(parent)

    def close(self) -> None:
        """Close the archive and all files."""
        self.closing.close()

    def __enter__(self) -> FileTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Subtree(FileTree):
    """A folder of another tree, seen as a tree of its own."""

    def __init__(self, tree: FileTree, folder: str) -> None:
        self.path = tree.path / folder
        self.description = tree.description
        self.closing, self.known, self.clutter = tree.closing, {}, tree.clutter
        self._tree, self._folder = tree, folder

    def _within(self, name: str) -> str:
        return within(self._folder, name) if name else self._folder

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder, sorted."""
        return self._tree.folders(self._within(folder))

    def files(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted."""
        return self._tree.files(self._within(folder))

    def size(self, file: str) -> int:
        """Bytes of a file."""
        return self._tree.size(self._within(file))

    def nested(self, archive: str) -> FileTree:
        """A tar among the files as a tree of its own, to be closed by the caller."""
        return self._tree.nested(self._within(archive))

    def _read(self, file: str) -> bytes:
        return self._tree._read(self._within(file))

    def local(self, file: str) -> IO[bytes]:
        """A file that can be sought and memory-mapped, open until the tree is closed."""
        return self._tree.local(self._within(file))


def within(folder: str, name: str) -> str:
    """The path of a file in a folder, which may be the top."""
    return f"{folder}/{name}" if folder else name
