"""What zips and tars share: an index of their members that nothing dangerous gets into."""

from __future__ import annotations

import re
import tempfile
import unicodedata
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Generic, TypeVar

from fewshot_bench.datasets.disk_space import check_disk_space
from fewshot_bench.datasets.sources.clutter import clutter_in
from fewshot_bench.datasets.sources.tree import FileTree
from fewshot_bench.errors import DatasetError
from fewshot_bench.paths import datasets_folder

Member = TypeVar("Member")
_MOST_MEMBERS = 20_000_000
_LONGEST_NAME = 4096
_MOST_FOLDERS = 64  # around a member
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_COPIED_AT_ONCE = 1 << 20


class ArchiveTree(FileTree, Generic[Member]):
    """An archive whose members were all checked before the first was read.

    Args:
        path: for messages.
        members: name of every entry as the archive has it, and the member; None for a folder.
    """

    def __init__(self, path: Path, members: Iterable[tuple[str, Member | None]]) -> None:
        super().__init__()
        self.path = path
        self._members: dict[str, Member] = {}
        self._contents: dict[str, tuple[list[str], list[str]]] = {"": ([], [])}
        self._spellings: dict[str, str] = {}
        for given, member in members:
            if member is None and given.strip("/") in ("", "."):
                continue
            name = safe_member_name(given, path)
            if member is None:
                continue
            if name in self._members:
                raise DatasetError(f"{path} holds two members called {name!r}: which is meant? It is not read.")
            self._check_spelling(name)
            self._members[name] = member
            if len(self._members) > _MOST_MEMBERS:
                raise DatasetError(f"{path} has more than {_MOST_MEMBERS:,} members. It is not read.")
            if clutter := clutter_in(name):
                self.clutter |= dict([clutter])
            else:
                self._index(name)
        self._spellings.clear()
        for folders, files in self._contents.values():
            folders.sort()
            files.sort()

    def _check_spelling(self, name: str) -> None:
        other = self._spellings.setdefault(_spelling(name), name)
        if other != name:
            raise DatasetError(
                f"{self.path} holds {other!r} and {name!r}, which are one file on many systems. It is not read."
            )

    def _index(self, name: str) -> None:
        folder, _, file = name.rpartition("/")
        if name in self._contents:
            raise DatasetError(f"{self.path} holds {name!r} as a file and as a folder. It is not read.")
        self._folder(folder)[1].append(file)

    def _folder(self, folder: str) -> tuple[list[str], list[str]]:
        if folder not in self._contents:
            if folder in self._members:
                raise DatasetError(f"{self.path} holds {folder!r} as a file and as a folder. It is not read.")
            self._check_spelling(folder)
            parent, _, name = folder.rpartition("/")
            self._folder(parent)[0].append(name)
            self._contents[folder] = ([], [])
        return self._contents[folder]

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder, sorted."""
        return self._contents.get(folder, ([], []))[0]

    def files(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted."""
        return self._contents.get(folder, ([], []))[1]

    def _member(self, file: str) -> Member:
        if file not in self._members:
            raise DatasetError(f"{self.path} has no member {file!r}.")
        return self._members[file]

    @abstractmethod
    def _open(self, file: str) -> IO[bytes]:
        """A stream of a member's bytes."""

    def local(self, file: str) -> IO[bytes]:
        """The member in an anonymous file."""
        copy = self.closing.enter_context(anonymous_file(self.size(file), file))
        with self._open(file) as stream:
            while block := stream.read(_COPIED_AT_ONCE):
                copy.write(block)
        copy.flush()
        copy.seek(0)
        return copy


def anonymous_file(size: int, what: str) -> IO[bytes]:
    """An unnamed file on the disk of the datasets, after a look at the space that is left there."""
    folder = datasets_folder()
    folder.mkdir(parents=True, exist_ok=True)
    check_disk_space(folder, size, f"the contents of {what}")
    return tempfile.TemporaryFile(dir=folder)


def safe_member_name(name: str, archive: Path) -> str:
    """A member's name in plain form, if it stays inside.

    Raises:
        DatasetError: it is absolute, leads outside, or is nothing that a file would be called.
    """
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if plain.startswith("/") or ".." in parts or "\0" in plain or (parts and parts[0][1:2] == ":") or not parts:
        raise DatasetError(f"{archive} holds a member called {name!r}, which leads outside of it. It is not read.")
    if len(plain) > _LONGEST_NAME or len(parts) > _MOST_FOLDERS:
        raise DatasetError(
            f"{archive} holds a member whose name has {len(plain):,} characters and {len(parts):,} folders "
            f"({name[:40]!r}...). It is not read."
        )
    if _CONTROL_CHARACTERS.search(plain) and not clutter_in(plain):
        raise DatasetError(f"{archive} holds a member called {name!r}, with control characters. It is not read.")
    return "/".join(parts)


def _spelling(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
