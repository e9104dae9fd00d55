"""Names of files and classes in one Unicode form: an é may be one character or an e with an accent behind it.

macOS used to write the second form (NFD), most others write the first (NFC). Names are compared, sorted and stored in
NFC; what is opened is the name on the disk.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from fewshot_bench.errors import DatasetError


def composed(name: str) -> str:
    r"""The name in NFC; bytes that are no text, as names from other systems may hold, are written out.

    >>> composed("e\u0301cole"), composed(b"caf\xe9".decode(errors="surrogateescape"))
    ('école', 'caf\\xe9')
    """
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", _NO_TEXT.sub(_written_out, name))


_NO_TEXT = re.compile("[\ud800-\udfff]")  # how Python keeps them


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def by_composed(names: Iterable[str], place: str) -> dict[str, str]:
    """Names on the disk by their NFC form, sorted by that.

    Args:
        names: in one folder.
        place: the folder, for the message.

    Raises:
        DatasetError: two differ in nothing but their form.
    """
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
        """The path as it is on the disk; the path itself where nothing like it is there."""
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
