"""What folders, zips and tars have in common: files under relative paths, names in one Unicode form, no clutter.

An é may be one character or an e followed by an accent. macOS used to write the second form (NFD), most others write
the first (NFC). Names are compared, sorted and stored in NFC; files are opened by their names on the disk.

Clutter is what operating systems, file managers, synchronizers and servers leave among files. Folders and archives
share one list of it. It is never opened, and users are told what was passed over.
"""

from __future__ import annotations

import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from fnmatch import translate
from pathlib import Path
from types import TracebackType
from typing import IO

from fewshot_bench.errors import DatasetError
from fewshot_bench.units import bytes_text

LARGEST_IMAGE_FILE = 64 << 20
"""Bytes; the largest of ImageNet has 15 MB."""


class FileTree(ABC):
    """Files under relative POSIX paths; "" is the top.

    Attributes:
        path: the folder or archive, for messages.
        description: its kind, e.g. "zip".
        closing: closes open files with the tree.
        known: content of files that were read already, so that each is opened once.
        clutter: paths that were passed over so far and their kind; see `clutter_kind`.
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

        An archive unpacks it into an anonymous file, which vanishes with the process whatever happens.
        """

    @abstractmethod
    def nested(self, archive: str) -> FileTree:
        """A tar among the files as a tree of its own, to be closed by the caller."""

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
                f"{file} in {self.path} is {bytes_text(size)}; at most {bytes_text(limit)} were expected."
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


class DelegatingTree(FileTree):
    """Files that lie elsewhere in other trees."""

    @abstractmethod
    def _located(self, name: str) -> tuple[FileTree, str]:
        """The tree that holds a file or folder, and its path there."""

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder, sorted."""
        tree, place = self._located(folder)
        return tree.folders(place)

    def files(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted."""
        tree, place = self._located(folder)
        return tree.files(place)

    def size(self, file: str) -> int:
        """Bytes of a file."""
        tree, place = self._located(file)
        return tree.size(place)

    def _read(self, file: str) -> bytes:
        tree, place = self._located(file)
        return tree._read(place)

    def local(self, file: str) -> IO[bytes]:
        """A file that can be sought and memory-mapped, open until the tree is closed."""
        tree, place = self._located(file)
        return tree.local(place)

    def nested(self, archive: str) -> FileTree:
        """A tar among the files as a tree of its own, to be closed by the caller."""
        tree, place = self._located(archive)
        return tree.nested(place)


class Subtree(DelegatingTree):
    """A folder of another tree, seen as a tree of its own."""

    def __init__(self, tree: FileTree, folder: str) -> None:
        self.path = tree.path / folder
        self.description = tree.description
        self.closing, self.known, self.clutter = tree.closing, {}, tree.clutter
        self._tree, self._folder = tree, folder

    def _located(self, name: str) -> tuple[FileTree, str]:
        return self._tree, within(self._folder, name) if name else self._folder


def is_web_page(head: bytes) -> bool:
    """Whether the first bytes of a file are those of an HTML page, which people often have in place of a dataset."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html"))


def check_is_no_web_page(head: bytes, path: Path) -> None:
    """Raise DatasetError for bytes that begin an HTML page."""
    if is_web_page(head):
        raise DatasetError(
            f"{path} is a web page, saved in place of the file that it leads to. Open it in a browser, and download "
            "the file from there."
        )


def within(folder: str, name: str) -> str:
    """The path of a file in a folder, which may be the top."""
    return f"{folder}/{name}" if folder else name


_NO_TEXT = re.compile("[\ud800-\udfff]")  # how Python keeps bytes that are not text


def composed(name: str) -> str:
    r"""The name in NFC; bytes that are not text, as names from other systems may hold, are written out.

    >>> composed("e\u0301cole"), composed(b"caf\xe9".decode(errors="surrogateescape"))
    ('école', 'caf\\xe9')
    """
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", _NO_TEXT.sub(_written_out, name))


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def by_composed(names: Iterable[str], place: str) -> dict[str, str]:
    """Names in one folder by their NFC form, sorted; raises DatasetError if two differ only in their form."""
    found: dict[str, str] = {}
    for name in names:
        if found.setdefault(composed(name), name) != name:
            raise DatasetError(
                f"{place} holds {composed(name)!r} twice, in two Unicode forms that look alike. Rename or remove one."
            )
    return dict(sorted(found.items()))


class NameFinder:
    """Finds files whose names are written in another Unicode form than on the disk; each folder is listed once."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, str]] = {}

    def find(self, path: Path) -> Path:
        """The path as it is on the disk; the given path where there is none like it."""
        if str(path).isascii():
            return path
        found = Path(path.anchor) if path.is_absolute() else Path()
        for part in path.parts[len(found.parts) :]:
            found /= part if part == ".." else self._names(found).get(composed(part), part)
        return found

    def _names(self, folder: Path) -> dict[str, str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = {composed(name): name for name in os.listdir(folder)}
            except OSError:
                self._listed[folder] = {}
        return self._listed[folder]


HIDDEN = "hidden"
"""The kind of whatever begins with a dot: .DS_Store, ._photo.png, .thumbnails, .@__thumb, .git, .stversions, ..."""

CLUTTER = (
    # Windows
    "Thumbs.db", "ehthumbs*.db", "desktop.ini", "$RECYCLE.BIN", "RECYCLER", "System Volume Information", "~$*",
    # macOS
    "__MACOSX", "Icon\r", "Network Trash Folder", "Temporary Items", "TheVolumeSettingsFolder", "Desktop DB",
    "Desktop DF",
    # Linux, editors, Python
    "lost+found", "*~", "__pycache__",
    # Network storage: Synology, QNAP
    "@eaDir", "SYNOFILE_THUMB_*", "SYNOPHOTO_THUMB_*", "SYNOPHOTO:THUMB_*", "SYNOPHOTO_FILM_*", "SYNOVIDEO_*",
    "@SynoResource", "@SynoEAStream", "@tmp", "@sharesnap", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot",
    # Synchronizers
    "~syncthing~*", "_gsdata_", "*.!sync",
    # Picture managers
    "Picasa.ini", "ZbThumbnail.info", "pspbrwse.jbf",
)  # fmt: skip
"""Names of files and folders, without regard to case; a star stands for anything."""

_PATTERNS = [(name, re.compile(translate(name), re.IGNORECASE)) for name in CLUTTER]
_ANY = re.compile("|".join(translate(name) for name in CLUTTER), re.IGNORECASE)


def clutter_kind(name: str) -> str | None:
    """What a file or folder of that name is: an entry of `CLUTTER`, or `HIDDEN`; None for content.

    >>> clutter_kind("@eaDir"), clutter_kind("._1.png"), clutter_kind("thumbs")
    ('@eaDir', 'hidden', None)
    """
    if name.startswith("."):
        return HIDDEN
    if not _ANY.match(name):
        return None
    return next(kind for kind, pattern in _PATTERNS if pattern.match(name)).strip()


def clutter_in(path: str) -> tuple[str, str] | None:
    """The outermost part of a path that is clutter, as a path, and what it is; None for content.

    >>> clutter_in("cat/@eaDir/1.png/SYNOFILE_THUMB_M.png")
    ('cat/@eaDir', '@eaDir')
    """
    parts = path.split("/")
    for depth, part in enumerate(parts, 1):
        if kind := clutter_kind(part):
            return "/".join(parts[:depth]), kind
    return None
