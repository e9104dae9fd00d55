"""What has arrived of a file, and where it comes from."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from fewshot_bench._io.storage import write_atomically
from fewshot_bench.datasets.download import limits
from fewshot_bench.datasets.download.remote_file import RemoteFile
from fewshot_bench.progress import Step


@dataclass(frozen=True)
class Origin:
    """Where the bytes of a part come from.

    Attributes:
        url: the address that was asked.
        digest: what the whole file should have.
        size: of the whole file, if the server or the caller said it.
        etag: the server's name for this version of the file.
        last_modified: the server's date of it.
    """

    url: str
    digest: str | None
    size: int | None
    etag: str | None
    last_modified: str | None

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong ETag, else the date."""
        for value in (self.etag, self.last_modified):
            if value and not value.startswith("W/") and value.isascii() and value.isprintable():
                return value
        return None

    @property
    def allows_going_on(self) -> bool:
        """Without a validator the pieces of two versions could be joined; only a digest would tell."""
        return self.validator is not None or self.digest is not None

    @classmethod
    def of(cls, file: RemoteFile, size: int | None, headers: http.client.HTTPMessage) -> Origin:
        """As an answer tells it."""
        return cls(file.url, file.digest, size, headers.get("ETag"), headers.get("Last-Modified"))

    def is_version_of(self, headers: http.client.HTTPMessage) -> bool:
        """Whether an answer names the same version: by its ETag, or by its date where it has none."""
        for known, found in ((self.etag, headers.get("ETag")), (self.last_modified, headers.get("Last-Modified"))):
            if known is not None and found is not None:
                return known == found
        return True

    def is_of(self, file: RemoteFile) -> bool:
        """Whether it is this very file that was asked for."""
        return (self.url, self.digest) == (file.url, file.digest)


class Part:
    """What has arrived of a file: bytes on disk, their running digest, their origin; it tells the caller its size."""

    def __init__(self, file: RemoteFile, folder: Path, step: Step) -> None:
        self.path = folder / f".{file.name}.part"
        self._origin_path = folder / f".{file.name}.part.json"
        self._step = step
        self._hash = hasher_for(file.digest)
        self._empty_hash = None if self._hash is None else self._hash.copy()
        self.size = 0
        self.origin = _read_origin(self._origin_path)
        if self.path.is_file() and self.origin is not None and self._is_beginning_of(file, self.origin):
            for piece in content_of(self.path):
                self._count(piece)

    def _is_beginning_of(self, file: RemoteFile, origin: Origin) -> bool:
        fits = origin.size is None or self.path.stat().st_size <= origin.size
        return fits and origin.is_of(file) and origin.allows_going_on

    def _count(self, piece: bytes) -> None:
        self.size += len(piece)
        self._step.advance(len(piece))
        if self._hash is not None:
            self._hash.update(piece)

    @property
    def digest(self) -> str | None:
        """Of what has arrived; None if the file's is unknown."""
        return None if self._hash is None else digest_of(self._hash)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to fetch."""
        return self.size > 0 and self.origin is not None and self.size == self.origin.size

    def request_headers(self) -> dict[str, str]:
        """Ask for the rest of the same version, or for everything."""
        if self.size == 0 or self.origin is None or not self.origin.allows_going_on:
            return {}
        headers = {"Range": f"bytes={self.size}-"}
        if self.origin.validator is not None:
            headers["If-Range"] = self.origin.validator
        return headers

    def begin(self, origin: Origin) -> None:
        """Start anew; the old bytes go first, so that they never stand beside the new origin."""
        self.drop()
        write_atomically(self._origin_path, json.dumps(asdict(origin), indent=1).encode())
        self.path.touch()
        self.origin = origin

    def append(self, piece: bytes, stream: IO[bytes]) -> None:
        """Hand a piece to the operating system, where it outlives this process, and count it."""
        stream.write(piece)
        stream.flush()
        self._count(piece)

    def drop(self) -> None:
        """Delete what has arrived."""
        self.path.unlink(missing_ok=True)
        self._origin_path.unlink(missing_ok=True)
        self._step.advance(-self.size)
        self._hash = None if self._empty_hash is None else self._empty_hash.copy()
        self.size, self.origin = 0, None

    def become(self, target: Path) -> None:
        """Take the final name, after the bytes are on the disk."""
        with self.path.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(self.path, target)
        self._origin_path.unlink(missing_ok=True)

    def standing(self) -> str:
        """How much is here and what to do, for a message."""
        if self.size == 0:
            return "Nothing of it is here yet; run the same command again later."
        whole = f" of {self.origin.size:,}" if self.origin is not None and self.origin.size is not None else ""
        if not self.request_headers():
            return (
                f"{self.size:,}{whole} bytes arrived, but the server gives no means to go on from there: the same "
                "command starts again."
            )
        return f"{self.size:,}{whole} bytes are here; run the same command again to go on from there."


def _read_origin(path: Path) -> Origin | None:
    try:
        origin = Origin(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (origin.url, origin.digest, origin.etag, origin.last_modified)
    is_sound = all(text is None or isinstance(text, str) for text in texts) and isinstance(origin.size, int | None)
    return origin if is_sound else None


def content_of(path: Path) -> Iterator[bytes]:
    """The bytes of a local file, piece by piece."""
    with path.open("rb") as stream:
        while piece := stream.read(limits.CHUNK):
            yield piece


def hasher_for(digest: str | None) -> hashlib._Hash | None:
    """For the algorithm of a digest; md5 tells damage, which is all that it is asked to tell."""
    return None if digest is None else hashlib.new(digest.lower().partition(":")[0], usedforsecurity=False)


def digest_of(hasher: hashlib._Hash) -> str:
    """As a `RemoteFile` gives it."""
    return f"{hasher.name}:{hasher.hexdigest()}"
