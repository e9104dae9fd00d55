"""Fetch files from the web, whole or not at all, and go on where an earlier transfer broke off.

<folder>/.<name>.part         what has arrived
<folder>/.<name>.part.json    where it comes from: a later call goes on only with the same file
<folder>/.<name>.lock         held by the one process that fetches
<folder>/<name>               only ever the whole file, verified
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import string
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import quote, urlsplit

from filelock import FileLock, Timeout

from fewshot_bench import __version__
from fewshot_bench.atomic import write_atomically
from fewshot_bench.errors import DatasetError
from fewshot_bench.progress import SILENT, Progress, Step

WAITS = (1.0, 3.0, 10.0)
"""Seconds before each further attempt after a failure that may pass; new bytes start the row again."""
TIMEOUT = 30.0
"""Seconds of silence after which a connection counts as lost."""
SIZE_LIMIT = 200 * 10**9
"""Bytes; nothing of unknown size grows beyond."""
RECORD_LIMIT = 10 * 10**6
"""Bytes of a record's JSON; real ones have some thousands."""

_CHUNK = 1 << 20
_HEAD = 512
_LONGEST_NAME = 200
_DIGEST = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}")
_CONTENT_RANGE = re.compile(r"\s*bytes\s+([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)\s*", re.IGNORECASE)
_MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_REDIRECTS = (301, 302, 303, 307, 308)
_OTHER_WAY = "Get it elsewhere and bring it in with: fewshot-bench data import NAME --from PATH"

Result = TypeVar("Result")


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
                f"{_quoted(self.name)} cannot be the name of a download: it should be a plain file name, "
                "without folders, not hidden. Correct the name."
            )
        if not _is_web_address(self.url):
            raise DatasetError(f"{self.name} should come from an http or https address, not from {_quoted(self.url)}.")
        if self.size is not None and self.size < 0:
            raise DatasetError(f"{self.name} cannot have {self.size} bytes. Correct its size.")
        if self.digest is not None and not _DIGEST.fullmatch(self.digest.lower()):
            raise DatasetError(
                f"the digest of {self.name} should be md5: or sha256: and its hexadecimal digits, not "
                f"{_quoted(self.digest)}."
            )


def fetch(file: RemoteFile, folder: Path, *, progress: Progress = SILENT) -> Path:
    """Download a file, or return it at once if it is there already.

    What an earlier call received is not fetched again, as long as the server still has the same file. A file of
    that name with other content is replaced once the right one has arrived. Calls at the same time, from any
    number of processes, fetch it once.

    Args:
        file: what to fetch.
        folder: where to put it, under the file's name; made if needed.
        progress: told of each byte, also of those that an earlier call received; taken back where bytes are dropped.

    Returns:
        The path of the whole file, with the size and digest that it should have.

    Raises:
        DatasetError: it cannot be had; the message says what to do.
        KeyboardInterrupt: with a message of what has arrived.
        OSError: the local disk is full or may not be written.
    """
    target = folder / file.name
    if _is_here(target, file, progress):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, file.name, progress):
        if not _is_here(target, file, progress):  # the process that was waited for may have fetched it
            with progress.step(f"fetching {file.name}", file.size or 0, unit="bytes") as step:
                part = _Part(file, folder, step)
                _transfer(file, part)
                _finish(file, part, target)
    return target


def zenodo_files(record: str, *, api: str = "https://zenodo.org/api/records") -> dict[str, RemoteFile]:
    """Ask a public Zenodo record for its files.

    Args:
        record: the number of the record, e.g. "7978538".
        api: where records are; any InvenioRDM instance answers alike.

    Returns:
        The files by name, each with size and md5.

    Raises:
        DatasetError: the record cannot be had, or does not describe its files as it should.
    """
    if not re.fullmatch(r"[0-9]{1,18}", record):
        raise DatasetError(f"a Zenodo record is a number such as 7978538, not {_quoted(record)}.")
    url = f"{api.rstrip('/')}/{record}"
    if not _is_web_address(url):
        raise DatasetError(
            f"Zenodo record {record} should be asked for at an http or https address, not at {_quoted(url)}."
        )
    files: dict[str, RemoteFile] = {}
    for entry in _entries(_ask(url, f"Zenodo record {record}"), url):
        file = _described_file(entry, url)
        if file.name in files:
            raise DatasetError(f"{url} lists {file.name} twice. {_OTHER_WAY}")
        files[file.name] = file
    return files


# The parts of a transfer


class _LostError(Exception):
    """A transfer broke off; `may_pass` if another attempt may fare better."""

    def __init__(self, reason: str, *, may_pass: bool = True) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


class _StaleError(_LostError):
    """What has arrived is not the beginning of what the server has now."""


@dataclass(frozen=True)
class _Origin:
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
    def of(cls, file: RemoteFile, size: int | None, headers: http.client.HTTPMessage) -> _Origin:
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


class _Part:
    """What has arrived of a file: bytes on disk, their running digest, their origin; it tells the caller its size."""

    def __init__(self, file: RemoteFile, folder: Path, step: Step) -> None:
        self.path = folder / f".{file.name}.part"
        self._origin_path = folder / f".{file.name}.part.json"
        self._step = step
        self._hash = _hasher(file.digest)
        self._empty_hash = None if self._hash is None else self._hash.copy()
        self.size = 0
        self.origin = _read_origin(self._origin_path)
        if self.path.is_file() and self.origin is not None and self._is_beginning_of(file, self.origin):
            for piece in _content(self.path):
                self._count(piece)

    def _is_beginning_of(self, file: RemoteFile, origin: _Origin) -> bool:
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
        return None if self._hash is None else _digest(self._hash)

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

    def begin(self, origin: _Origin) -> None:
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


def _read_origin(path: Path) -> _Origin | None:
    try:
        origin = _Origin(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (origin.url, origin.digest, origin.etag, origin.last_modified)
    is_sound = all(text is None or isinstance(text, str) for text in texts) and isinstance(origin.size, int | None)
    return origin if is_sound else None


def _transfer(file: RemoteFile, part: _Part) -> None:
    """Receive all of the file, over as many connections as it takes."""
    try:
        _persist(lambda: _receive(file, part), lambda: part.size)
    except _LostError as lost:
        way_out = part.standing() if lost.may_pass or part.size > 0 else _OTHER_WAY
        raise DatasetError(f"the transfer of {file.name} from {_host(file.url)} broke off: {lost}. {way_out}") from lost
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the transfer of {file.name} was stopped. {part.standing()}") from None


def _persist(attempt: Callable[[], Result], reached: Callable[[], int]) -> Result:
    """Try again after failures that may pass, until the waits are used up without a new byte."""
    furthest, failures = reached(), 0
    while True:
        try:
            return attempt()
        except _LostError as lost:
            if reached() > furthest:
                furthest, failures = reached(), 0
            if not lost.may_pass or failures >= len(WAITS):
                raise
        time.sleep(WAITS[failures])
        failures += 1


def _receive(file: RemoteFile, part: _Part) -> None:
    """Receive what one connection gives; a part that cannot be continued is dropped."""
    if part.is_whole:
        return
    try:
        with _open(file.url, part.request_headers(), file.name, file.size) as response:
            _receive_body(file, part, response)
    except _StaleError:
        part.drop()
        raise


def _receive_body(file: RemoteFile, part: _Part, response: http.client.HTTPResponse) -> None:
    goes_on = response.status == HTTPStatus.PARTIAL_CONTENT
    length = _content_length(response)
    announced = _continued_size(part, response.headers) if goes_on else length
    _check_announced_size(file.name, file.url, file.size, announced)
    whole = announced if file.size is None else file.size
    pieces = _pieces(response, length)
    first = next(pieces, b"")
    _check_no_web_page(file, response, b"" if goes_on else first)
    _check_room(file.name, part, whole)
    if not goes_on:
        part.begin(_Origin.of(file, whole, response.headers))
    with part.path.open("ab") as stream:
        for piece in chain([first], pieces):
            _check_limit(file, part, part.size + len(piece), whole)
            part.append(piece, stream)
    if part.size == 0 and whole != 0:
        raise _LostError("the server sent nothing")
    # A chunked body ends where the server says so; any other may as well have ended with a lost connection.
    if whole is not None and part.size < whole and not (response.chunked and announced is None):
        raise _LostError("the connection was closed early")


def _continued_size(part: _Part, headers: http.client.HTTPMessage) -> int | None:
    """Size of the whole file, if the answer to a Range request goes on with what is here.

    Raises:
        _StaleError: it begins elsewhere or belongs to another version; some servers ignore If-Range.
    """
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or part.origin is None or part.size == 0 or int(found[1]) != part.size:
        raise _StaleError("the server sent another range than the one that was asked for")
    whole = part.origin.size if found[2] == "*" else int(found[2])
    if part.origin.size not in (None, whole) or not part.origin.is_version_of(headers):
        raise _StaleError("the file on the server has changed")
    return whole


def _pieces(response: http.client.HTTPResponse, length: int | None) -> Iterator[bytes]:
    """What arrives, as it arrives, up to the announced length; the first piece is long enough to tell a web page.

    Raises:
        _LostError: the connection ends before.
    """
    held, received = b"", 0
    while length is None or received < length:
        piece = _read(response, _CHUNK if length is None else min(_CHUNK, length - received))
        if not piece:
            break
        received += len(piece)
        held += piece
        if received >= _HEAD:
            yield held
            held = b""
    if held:
        yield held
    if length is not None and received < length:
        raise _LostError("the connection was closed early")


def _read(response: http.client.HTTPResponse, limit: int) -> bytes:
    """One read, never a full buffer: what arrived before a failure is kept."""
    try:
        return response.read1(limit)
    except (OSError, http.client.HTTPException) as error:
        raise _LostError(_reason(error)) from error


def _finish(file: RemoteFile, part: _Part, target: Path) -> None:
    """Verify the part and give it its name."""
    found_size, found_digest = part.size, part.digest
    if file.size is not None and found_size != file.size:
        part.drop()
        raise _wrong_size(file.name, file.url, file.size, found_size)
    if file.digest is not None and found_digest != file.digest.lower():
        part.drop()
        raise DatasetError(
            f"{file.name} should have {file.digest.lower()}, but what {_host(file.url)} sent has {found_digest}; it "
            "was deleted. Run the same command again; if that does not help, the file there is another one now: "
            f"{_shown(file.url)}"
        )
    part.become(target)


# Checks, each with its sentence


def _is_here(target: Path, file: RemoteFile, progress: Progress) -> bool:
    """Whether the file is there, with the size and digest that are known of it."""
    if target.is_dir():
        raise DatasetError(f"{target} is a folder, but {file.name} should become a file there. Move the folder away.")
    if not target.is_file() or file.size not in (None, target.stat().st_size):
        return False
    hasher = _hasher(file.digest)
    if hasher is None or file.digest is None:
        return True
    with progress.step(f"checking {file.name}", target.stat().st_size, unit="bytes") as step:
        for piece in _content(target):
            hasher.update(piece)
            step.advance(len(piece))
    return _digest(hasher) == file.digest.lower()


def _check_announced_size(name: str, url: str, expected: int | None, offered: int | None) -> None:
    """Compare what the server announces with what is expected, before the first byte."""
    if offered is None:
        return
    if expected is not None:
        if offered != expected:
            raise _wrong_size(name, url, expected, offered)
    elif offered == 0:
        raise DatasetError(f"{name} should have content, but {_shown(url)} is empty. {_OTHER_WAY}")
    elif offered > SIZE_LIMIT:
        raise DatasetError(f"{name} should have at most {SIZE_LIMIT:,} bytes, but {_shown(url)} has {offered:,}.")


def _wrong_size(name: str, url: str, expected: int, found: int) -> DatasetError:
    return DatasetError(
        f"{name} should have {expected:,} bytes, but {_shown(url)} has {found:,}: it is another file now. {_OTHER_WAY}"
    )


def _check_limit(file: RemoteFile, part: _Part, size: int, whole: int | None) -> None:
    """Refuse a transfer that does not end where it should."""
    limit = SIZE_LIMIT if whole is None else whole
    if size > limit:
        part.drop()
        raise DatasetError(
            f"{file.name} should have at most {limit:,} bytes, but {_shown(file.url)} sends more; what came was "
            f"deleted. {_OTHER_WAY}"
        )


def _check_no_web_page(file: RemoteFile, response: http.client.HTTPResponse, beginning: bytes) -> None:
    if file.name.lower().endswith((".html", ".htm")):
        return
    kind = response.headers.get_content_type()
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:_HEAD].lower()
    if kind in ("text/html", "application/xhtml+xml") or text.startswith((b"<!doctype", b"<html")):
        raise DatasetError(
            f"the link to {file.name} should lead to the file, but leads to a web page (log-in, consent or error): "
            f"{_shown(file.url)}. Open it in a browser, fetch the file there and bring it in with: "
            "fewshot-bench data import NAME --from PATH"
        )


def _check_room(name: str, part: _Part, size: int | None) -> None:
    if size is None:
        return
    here = part.path.stat().st_size if part.path.is_file() else 0  # continued, or deleted before the first byte
    free = shutil.disk_usage(part.path.parent).free
    if size - here > free:
        raise DatasetError(
            f"{name} needs {size - here:,} more bytes in {part.path.parent}, but {free:,} are free. Make room, or "
            "choose a folder on another disk."
        )


def _is_plain_name(name: str) -> bool:
    """Whether it names a visible file of this folder on every system; the colon is Windows' way out of a folder."""
    is_short = 0 < len(name.encode(errors="replace")) <= _LONGEST_NAME
    return is_short and name.isprintable() and not name.startswith(".") and not set(name) & set("/\\:")


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return url.isprintable() and parts.scheme in ("http", "https") and bool(parts.hostname)


# The connection


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only; 308 too, which Python 3.10 does not know."""

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Follow, or refuse an address such as ftp://."""
        if not _is_web_address(newurl):
            raise urllib.error.HTTPError(newurl, code, msg, headers, fp)
        return super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)


def _open(url: str, headers: Mapping[str, str], name: str, size: int | None) -> http.client.HTTPResponse:
    """Ask for an address; the body is still to be read.

    Only web handlers are there: urllib's usual opener would read file:// as well. Proxies are those of the environment.

    Raises:
        DatasetError: the answer is a refusal.
        _LostError: there is no answer, or one that may be another next time.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _WebRedirects(),
    ):
        opener.add_handler(handler)
    common = {"User-Agent": f"fewshot-bench/{__version__}", "Accept-Encoding": "identity"}
    try:
        request = urllib.request.Request(quote(url, safe=string.punctuation), headers={**common, **headers})
        response: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, url, name, size) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _LostError(_reason(error), may_pass=_may_pass(error)) from error
    if response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        response.close()
        raise DatasetError(f"{_shown(url)} should send {name}, but answers {_status(response.status)}. {_OTHER_WAY}")
    return response


def _refusal(error: urllib.error.HTTPError, url: str, name: str, size: int | None) -> Exception:
    """What an answer other than success means."""
    status, place = _status(error.code), _shown(url)
    if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        found = re.fullmatch(r"\s*bytes\s+\*/([0-9]{1,18})\s*", error.headers.get("Content-Range", ""))
        if found is not None and size is not None and int(found[1]) != size:
            return _wrong_size(name, url, size, int(found[1]))
        return _StaleError("the server has nothing beyond what is here")
    if error.code in _MAY_PASS or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _LostError(f"the server answers {status}")
    if error.code in _REDIRECTS:
        new = error.url or ""
        how = "without end" if _is_web_address(new) else f"to {_shown(new)}, which is no web address"
        return DatasetError(f"{place} should send {name}, but redirects {how}. {_OTHER_WAY}")
    if error.code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return DatasetError(f"{place} should send {name}, but the link is dead ({status}). {_OTHER_WAY}")
    if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return DatasetError(
            f"{place} should send {name}, but access is refused ({status}): it may need a log-in. {_OTHER_WAY}"
        )
    return DatasetError(f"{place} should send {name}, but answers {status}. {_OTHER_WAY}")


def _may_pass(error: Exception) -> bool:
    """Not with a false certificate, an address that cannot be, or a host that does not exist."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return cause.errno == socket.EAI_AGAIN
    return isinstance(cause, OSError | http.client.HTTPException) and not isinstance(
        cause, ssl.SSLCertVerificationError | http.client.InvalidURL
    )


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer for {TIMEOUT:g} seconds"
    if isinstance(cause, http.client.IncompleteRead):
        return "the connection was closed early"
    if isinstance(cause, OSError) and cause.strerror:
        return _shown(cause.strerror)
    return _shown(str(cause) or type(cause).__name__)


def _status(code: int) -> str:
    """The code and its usual words, never the server's."""
    known = {status.value: status.phrase for status in HTTPStatus}
    return f"{code} {known.get(code, '')}".strip()


def _shown(text: str) -> str:
    """On one line, without control characters, at most 200 characters: it may come from a server."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return plain if len(plain) <= 200 else plain[:199] + "…"


def _quoted(value: object) -> str:
    return _shown(repr(value))


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _content_length(response: http.client.HTTPResponse) -> int | None:
    text = (response.headers.get("Content-Length") or "").strip()
    return int(text) if not response.chunked and re.fullmatch(r"[0-9]{1,18}", text) else None


# Files and processes


@contextmanager
def _alone(folder: Path, name: str, progress: Progress) -> Iterator[None]:
    """Be the only process that fetches this file; wait for another as long as it lives."""
    lock = FileLock(folder / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with progress.step(f"waiting for another process that fetches {name}", 0):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()  # the lock file stays: to delete it would let two others hold "the" lock


def _content(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            yield piece


def _hasher(digest: str | None) -> hashlib._Hash | None:
    """For the algorithm of a digest; md5 tells damage, which is all that it is asked to tell."""
    return None if digest is None else hashlib.new(digest.lower().partition(":")[0], usedforsecurity=False)


def _digest(hasher: hashlib._Hash) -> str:
    return f"{hasher.name}:{hasher.hexdigest()}"


# Zenodo


def _ask(url: str, what: str) -> object:
    """The JSON at an address."""

    def attempt() -> bytes:
        with _open(url, {"Accept": "application/json"}, what, None) as response:
            content = b""
            for piece in _pieces(response, _content_length(response)):
                content += piece
                if len(content) > RECORD_LIMIT:
                    raise DatasetError(
                        f"{what} should fit in {RECORD_LIMIT:,} bytes, but {url} sends more. {_OTHER_WAY}"
                    )
            return content

    try:
        content = _persist(attempt, lambda: 0)
    except _LostError as lost:
        raise DatasetError(
            f"{what} cannot be asked for its files ({lost}). Run the same command again later."
        ) from lost
    try:
        answer: object = json.loads(content)
    except (ValueError, RecursionError):
        raise DatasetError(f"{url} should describe {what} as JSON, but sends something else. {_OTHER_WAY}") from None
    return answer


def _entries(answer: object, url: str) -> list[object]:
    """The descriptions of the files, in either of the two forms that are in use.

    Zenodo: {"files": [{"key", "size", "checksum", "links": {"self"}}]}, where "self" is the content.
    InvenioRDM: {"files": {"entries": {name: {"key", "size", "checksum", "links": {"self", "content"}}}}}, where
    "self" only describes the file, and older instances give no links at all; so "self" is left out here.
    """
    files = answer.get("files") if isinstance(answer, dict) else None
    if isinstance(files, dict):
        entries = files.get("entries")
        described = list(entries.values()) if isinstance(entries, dict) else entries
        files = [_without_self(entry, url) for entry in described] if isinstance(described, list) else None
    if not isinstance(files, list) or not files:
        raise DatasetError(f"{url} should list files, but lists none: the record may be restricted. {_OTHER_WAY}")
    return files


def _without_self(entry: object, url: str) -> object:
    """The entry with the address of its content, which follows from its name."""
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
        return entry
    links = entry.get("links")
    content = links.get("content") if isinstance(links, dict) else None
    return {
        **entry,
        "links": {"self": content or f"{url}/files/{quote(entry['key'], safe='', errors='replace')}/content"},
    }


def _described_file(entry: object, url: str) -> RemoteFile:
    """One file of a record; a description without size or checksum is refused, for nothing else tells a half file."""
    facts = entry if isinstance(entry, dict) else {}
    links = facts.get("links")
    address = links.get("self") if isinstance(links, dict) else None
    for field, value, kind in (
        ("key", facts.get("key"), str),
        ("size", facts.get("size"), int),
        ("checksum", facts.get("checksum"), str),
        ("links.self", address, str),
    ):
        if type(value) is not kind:
            raise DatasetError(f"{url} should give each file a {field}, but gives one {_quoted(value)}. {_OTHER_WAY}")
    return RemoteFile(facts["key"], str(address), facts["size"], facts["checksum"])
