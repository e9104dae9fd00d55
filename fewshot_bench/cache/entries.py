"""What lies in the cache, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fewshot_bench.atomic import TEMPORARY_SUFFIX
from fewshot_bench.paths import cache_folder
from fewshot_bench.tensor_file import DamagedFileError, read_metadata

EMBEDDINGS, BASE_STAGES, OWN_IMAGES, DOWNLOADS = "embeddings", "checkpoints", "own-images", "downloads"
"""Folders of the cache; nothing else below it is ever listed or removed."""
FOLDERS = (EMBEDDINGS, BASE_STAGES, OWN_IMAGES, DOWNLOADS)
LEFTOVER = "leftover"


@dataclass(frozen=True)
class Entry:
    """Something in the cache that can be removed alone.

    Attributes:
        path: a file, or a folder of files.
        kind: the folder of the cache that it lies in; "leftover" for what a process that died was writing.
        what: it is, in words.
        bytes: that it takes.
        last_used: when it was made or last read, in seconds since 1970.
        facts: what else is known of it, as plain data.
    """

    path: Path
    kind: str
    what: str
    bytes: int
    last_used: float
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the time of the last use as ISO 8601 in UTC."""
        used = datetime.fromtimestamp(self.last_used, timezone.utc).isoformat(timespec="seconds")
        return {
            "name": self.name,
            "kind": self.kind,
            "what": self.what,
            "bytes": self.bytes,
            "last_used": used,
            "facts": self.facts,
        }

    @property
    def name(self) -> str:
        """Path below the cache."""
        return f"{self.path.parent.name}/{self.path.name}"


def cache_entries() -> list[Entry]:
    """Everything in the cache, the least recently used first."""
    found = [
        entry
        for folder in FOLDERS
        for path in _paths(cache_folder() / folder)
        if (entry := _entry(folder, path)) is not None
    ]
    return sorted(found, key=lambda entry: (entry.last_used, entry.name))


def _paths(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.iterdir() if path.suffix != ".lock")
    except OSError:
        return


def _entry(folder: str, path: Path) -> Entry | None:
    """None where another process has removed it meanwhile."""
    with suppress(OSError):
        if path.name.startswith("."):
            return Entry(path, LEFTOVER, f"unfinished file of {folder}", *_size_and_time(path), {})
        if path.is_dir():
            return Entry(path, folder, _words_of_folder(folder, path.name), *_size_and_time(path), {})
        facts = _facts(path)
        what = facts.pop("what", f"{folder} of another version, or damaged")
        return Entry(path, folder, what, *_size_and_time(path), facts)
    return None


def _words_of_folder(kind: str, name: str) -> str:
    return f"own images {re.sub(r'-[0-9a-f]{16}$', '', name)}" if kind == OWN_IMAGES else f"{kind}: {name}"


def _size_and_time(path: Path) -> tuple[int, float]:
    states = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    last_used = max((state.st_mtime for state in states), default=path.stat().st_mtime)
    return sum(state.st_size for state in states), last_used


def _facts(path: Path) -> dict[str, Any]:
    try:
        return dict(read_metadata(path)) if path.suffix == ".safetensors" else {}
    except DamagedFileError:
        return {}


def target_of(leftover: Path) -> Path:
    """The entry that was being written when a temporary file was left."""
    name = leftover.name.removeprefix(".").removesuffix(TEMPORARY_SUFFIX)
    return leftover.with_name(name.rpartition(".")[0])
