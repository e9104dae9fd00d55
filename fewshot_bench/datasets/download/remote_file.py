"""A file on the web, and the words in which messages speak of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from fewshot_bench.errors import DatasetError

OTHER_WAY = "Get it elsewhere and bring it in with: fewshot-bench data import NAME --from PATH"
"""The way out where fetching again does not help."""

_LONGEST_NAME = 200
_DIGEST = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web and what is known of it.

    Attributes:
        name: the file name that it gets; the server has no say in it.
        url: where it is, http or https.
        size: bytes, or None if unknown.
        digest: "md5:…" or "sha256:…" in hexadecimal, or None if unknown.

    Raises:
        DatasetError: one of them is not what it should be.
    """

    name: str
    url: str
    size: int | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        if not _is_plain_name(self.name):
            raise DatasetError(
                f"{quoted(self.name)} cannot be the name of a download: it should be a plain file name, "
                "without folders, not hidden. Correct the name."
            )
        if not is_web_address(self.url):
            raise DatasetError(f"{self.name} should come from an http or https address, not from {quoted(self.url)}.")
        if self.size is not None and self.size < 0:
            raise DatasetError(f"{self.name} cannot have {self.size} bytes. Correct its size.")
        if self.digest is not None and not _DIGEST.fullmatch(self.digest.lower()):
            raise DatasetError(
                f"the digest of {self.name} should be md5: or sha256: and its hexadecimal digits, not "
                f"{quoted(self.digest)}."
            )


def _is_plain_name(name: str) -> bool:
    """Whether it names a visible file of this folder on every system; the colon is Windows' way out of a folder."""
    is_short = 0 < len(name.encode(errors="replace")) <= _LONGEST_NAME
    return is_short and name.isprintable() and not name.startswith(".") and not set(name) & set("/\\:")


def is_web_address(url: str) -> bool:
    """Whether it is an http or https address with a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return url.isprintable() and parts.scheme in ("http", "https") and bool(parts.hostname)


def wrong_size(name: str, url: str, expected: int, found: int) -> DatasetError:
    """The error that the file there has another size than it should have."""
    return DatasetError(
        f"{name} should have {expected:,} bytes, but {shown(url)} has {found:,}: it is another file now. {OTHER_WAY}"
    )


def shown(text: str) -> str:
    """On one line, without control characters, at most 200 characters: it may come from a server."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return plain if len(plain) <= 200 else plain[:199] + "…"


def quoted(value: object) -> str:
    """A value from elsewhere, for a message."""
    return shown(repr(value))


def host(url: str) -> str:
    """The server's name in an address."""
    return urlsplit(url).hostname or ""
