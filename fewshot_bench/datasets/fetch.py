"""Download files: whole and verified, or not at all; resumed where an earlier transfer broke off.

httpx2 speaks HTTP, TLS, redirects and proxies. Resuming across versions of a file, retries that last as long as bytes
arrive, bounds on what is written, and error messages are ours: no library offers them together.

<folder>/.<name>.part         the bytes that have arrived
<folder>/.<name>.part.json    their origin; a later call resumes only while the server has the same version
<folder>/.<name>.lock         held by the one process that downloads
<folder>/<name>               only ever the whole, verified file
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from fewshot_bench._io.locks import holding
from fewshot_bench._io.storage import write_atomically
from fewshot_bench._io.versions import __version__
from fewshot_bench.datasets.sources.tree import is_web_page
from fewshot_bench.errors import DatasetError
from fewshot_bench.progress import SILENT, Progress, Step

if sys.version_info >= (3, 11):
    import httpx2 as httpx
else:
    import httpx  # the same library under its earlier name

RETRY_WAITS = (1.0, 3.0, 10.0)
"""Seconds before each retry of a failed transfer; new bytes start the row again."""
TIMEOUT = 30.0
"""Seconds of silence after which a connection counts as lost."""
MAX_REDIRECTS = 10
SIZE_LIMIT = 200 * 10**9
"""Most bytes of a file of unknown size."""
RECORD_LIMIT = 10 * 10**6
"""Most bytes of a record's JSON; real ones have some thousands."""

_BLOCK = 1 << 20  # bytes read from disk at once
_HEAD = 512  # bytes by which a web page is recognized
_LONGEST_NAME = 200
_DIGEST = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}")
_CONTENT_RANGE = re.compile(r"\s*bytes\s+([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)\s*", re.IGNORECASE)
_OTHER_WAY = "Get it elsewhere and import it with: fewshot-bench data import NAME --from PATH"

Result = TypeVar("Result")


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web and what is known about it.

    Attributes:
        name: the name of the local file; the server does not choose it.
        url: http or https address.
        size: bytes, or None if unknown.
        digest: "md5:…" or "sha256:…" in hexadecimal, or None if unknown.

    Raises:
        DatasetError: an attribute is invalid.
    """

    name: str
    url: str
    size: int | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        if not _is_plain_name(self.name):
            raise DatasetError(
                f"{_quoted(self.name)} cannot be the name of a download: expected a plain file name without folders "
                "that is not hidden. Correct the name."
            )
        if not _is_web_address(self.url):
            raise DatasetError(f"{self.name} should come from an http or https address, not from {_quoted(self.url)}.")
        if self.size is not None and self.size < 0:
            raise DatasetError(f"{self.name} cannot have {self.size} bytes. Correct its size.")
        if self.digest is not None and not _DIGEST.fullmatch(self.digest.lower()):
            raise DatasetError(
                f"the digest of {self.name} should be md5: or sha256: and hexadecimal digits, not "
                f"{_quoted(self.digest)}."
            )

    @property
    def host(self) -> str:
        """Name of the server."""
        return httpx.URL(self.url).host


def _is_plain_name(name: str) -> bool:
    """Whether it names a visible file of this folder on every system; on Windows a colon leaves the folder."""
    is_short = 0 < len(name.encode(errors="replace")) <= _LONGEST_NAME
    return is_short and name.isprintable() and not name.startswith(".") and not set(name) & set("/\\:")


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return url.isprintable() and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets or a port that cannot be
        return False


def _shown(text: str) -> str:
    """Text that may come from a server: on one line, printable, at most 200 characters."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return plain if len(plain) <= 200 else plain[:199] + "…"


def _quoted(value: object) -> str:
    return _shown(repr(value))


class _LostError(Exception):
    """A transfer broke off; `may_pass` if a retry may succeed."""

    def __init__(self, reason: str, *, may_pass: bool = True) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


class _StaleError(_LostError):
    """The bytes that have arrived do not begin the file that the server has now."""


def _with_retries(attempt: Callable[[], Result], bytes_here: Callable[[], int]) -> Result:
    """Retry failures that may pass until the waits are used up without a new byte."""
    furthest, failures = bytes_here(), 0
    while True:
        try:
            return attempt()
        except _LostError as lost:
            if bytes_here() > furthest:
                furthest, failures = bytes_here(), 0
            if not lost.may_pass or failures >= len(RETRY_WAITS):
                raise
        time.sleep(RETRY_WAITS[failures])
        failures += 1


@contextmanager
def _open_url(url: str, headers: Mapping[str, str], name: str, size: int | None = None) -> Iterator[httpx.Response]:
    """Request an address over a fresh connection; the body remains to be read.

    Redirects are followed to web addresses only, and take no credentials to other hosts.

    Args:
        url: what to request.
        headers: of the request.
        name: what is expected there, for messages.
        size: its bytes, where known.

    Raises:
        DatasetError: the server refuses.
        _LostError: the server does not answer, breaks off, or may answer otherwise next time.
    """

    def check_redirect(response: httpx.Response) -> None:
        if response.has_redirect_location:
            target = urljoin(str(response.url), response.headers["Location"])
            if not _is_web_address(target):
                raise DatasetError(
                    f"{_shown(url)} should send {name}, but redirects to {_shown(target)}, which is not a web address. "
                    f"{_OTHER_WAY}"
                )

    try:
        with (
            httpx.Client(
                headers={"User-Agent": f"fewshot-bench/{__version__}", "Accept-Encoding": "identity"},
                timeout=TIMEOUT,
                follow_redirects=True,
                max_redirects=MAX_REDIRECTS,
                limits=httpx.Limits(max_keepalive_connections=0),
                event_hooks={"response": [check_redirect]},
            ) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            if response.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                raise _refusal(response, url, name, size)
            yield response
    except httpx.TooManyRedirects:
        raise DatasetError(f"{_shown(url)} should send {name}, but redirects without end. {_OTHER_WAY}") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError) as error:  # the last: a SOCKS proxy
        raise _lost(error) from error


def _refusal(response: httpx.Response, url: str, name: str, size: int | None) -> Exception:
    """What an answer other than success means."""
    code = response.status_code
    status = f"{code} {next((known.phrase for known in HTTPStatus if known == code), '')}".strip()
    if code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        found = re.fullmatch(r"\s*bytes\s+\*/([0-9]{1,18})\s*", response.headers.get("Content-Range", ""))
        if found is not None and size is not None and int(found[1]) != size:
            return _wrong_size(name, url, size, int(found[1]))
        return _StaleError("the server has nothing beyond the bytes that are here")
    if code in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _LostError(f"the server answers {status}")
    finding = f"answers {status}"
    if code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        finding = f"the link is dead ({status})"
    elif code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        finding = f"access is refused ({status}): it may need a log-in"
    return DatasetError(f"{_shown(url)} should send {name}, but {finding}. {_OTHER_WAY}")


def _lost(error: Exception) -> _LostError:
    """Why a connection failed; false certificates, impossible addresses and unknown hosts are not retried."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and isinstance(cause, Exception):
        causes.append(cause)
    unknown_host = next((cause for cause in causes if isinstance(cause, socket.gaierror)), None)
    if isinstance(error, httpx.TimeoutException):
        reason = f"no answer for {TIMEOUT:g} seconds"
    else:
        system = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
        reason = _shown(system or str(error).rstrip(".") or type(error).__name__)
    may_pass = (
        isinstance(error, httpx.TransportError)
        and not any(isinstance(cause, ssl.SSLCertVerificationError | UnicodeError) for cause in causes)
        and (unknown_host is None or unknown_host.errno == socket.EAI_AGAIN)
    )
    return _LostError(reason, may_pass=may_pass)


class _Origin(BaseModel):
    """Where the bytes of a partial file come from.

    Attributes:
        url: the requested address.
        digest: expected of the whole file.
        size: of the whole file, if the server or the caller gave it.
        etag: the server's name for this version of the file.
        last_modified: the server's date of it.
    """

    model_config = ConfigDict(strict=True, frozen=True)

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
    def is_resumable(self) -> bool:
        """Without validator or digest, joining two versions of the file would go unnoticed."""
        return self.validator is not None or self.digest is not None

    def is_version_of(self, headers: httpx.Headers) -> bool:
        """Whether an answer names the same version: by its ETag, or by its date where it has none."""
        for known, found in ((self.etag, headers.get("ETag")), (self.last_modified, headers.get("Last-Modified"))):
            if known is not None and found is not None:
                return known == found
        return True


class PartialFile:
    """The bytes of a file that have arrived, and their origin; `step` always shows how many they are."""

    def __init__(self, file: RemoteFile, folder: Path, step: Step) -> None:
        self.path = folder / f".{file.name}.part"
        self._origin_path = folder / f".{file.name}.part.json"
        self._step = step
        self.size = 0
        try:
            self.origin: _Origin | None = _Origin.model_validate_json(self._origin_path.read_bytes())
            size = self.path.stat().st_size
        except (OSError, ValidationError):
            self.origin, size = None, 0
        if self.origin is not None and self.origin.is_resumable:
            is_same_file = (self.origin.url, self.origin.digest) == (file.url, file.digest)
            if is_same_file and (self.origin.size is None or size <= self.origin.size):
                self._count(size)

    def _count(self, amount: int) -> None:
        self.size += amount
        self._step.advance(amount)

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are here."""
        return self.size > 0 and self.origin is not None and self.size == self.origin.size

    def request_headers(self) -> dict[str, str]:
        """Ask for the rest of the same version, or for everything."""
        if self.size == 0 or self.origin is None or not self.origin.is_resumable:
            return {}
        validator = self.origin.validator
        return {"Range": f"bytes={self.size}-"} | ({} if validator is None else {"If-Range": validator})

    def begin(self, origin: _Origin) -> None:
        """Start again; the old bytes are deleted first, so that they never have the new origin."""
        self.drop()
        write_atomically(self._origin_path, origin.model_dump_json(indent=1).encode())
        self.path.touch()
        self.origin = origin

    def append(self, block: bytes, stream: IO[bytes]) -> None:
        """Hand a block to the operating system, where it outlives this process, and count it."""
        stream.write(block)
        stream.flush()
        self._count(len(block))

    def drop(self) -> None:
        """Delete what has arrived."""
        self.path.unlink(missing_ok=True)
        self._origin_path.unlink(missing_ok=True)
        self._count(-self.size)
        self.origin = None

    def become(self, target: Path) -> None:
        """Take the final name, after the bytes are on the disk."""
        with self.path.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(self.path, target)
        self._origin_path.unlink(missing_ok=True)

    def advice(self) -> str:
        """How much is here and what to do, for a message."""
        if self.size == 0:
            return "Nothing of it is here yet; run the same command again later."
        whole = f" of {self.origin.size:,}" if self.origin is not None and self.origin.size is not None else ""
        if not self.request_headers():
            return f"{self.size:,}{whole} bytes arrived, but the server cannot resume: the same command starts again."
        return f"{self.size:,}{whole} bytes are here; run the same command again to resume."


def fetch(file: RemoteFile, folder: Path, *, progress: Progress = SILENT) -> Path:
    """Download a file, or return it at once if it is already there.

    Bytes that an earlier call received are not requested again while the server has the same version. A file of the
    same name with other content is replaced once the right one has arrived. Concurrent calls, from any number of
    processes, download it once.

    Args:
        file: what to download.
        folder: where to put it, under the file's name; created if missing.
        progress: shows each byte, including those of earlier calls; goes back where bytes are dropped.

    Returns:
        The path of the whole file, of the expected size and digest.

    Raises:
        DatasetError: the file cannot be downloaded; the message says what to do.
        KeyboardInterrupt: with a message that says how much has arrived.
        OSError: the local disk is full or read-only.
    """
    target = folder / file.name
    if _is_here(target, file, progress):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    message = f"waiting for another process that fetches {file.name}"
    with holding(folder / f".{file.name}.lock", message, progress):
        if not _is_here(target, file, progress):  # the other process may have fetched it
            with progress.step(f"fetching {file.name}", file.size or 0, unit="bytes") as step:
                part = PartialFile(file, folder, step)
                _transfer(file, part)
            _verify(file, part, progress)
            part.become(target)
    return target


def _is_here(target: Path, file: RemoteFile, progress: Progress) -> bool:
    """Whether the file is there, with the size and digest that are known."""
    if target.is_dir():
        raise DatasetError(f"{target} is a folder, but {file.name} should become a file there. Move the folder away.")
    if not target.is_file() or file.size not in (None, target.stat().st_size):
        return False
    return file.digest is None or _digest(target, file, progress) == file.digest.lower()


def _digest(path: Path, file: RemoteFile, progress: Progress) -> str:
    """Digest of a local file, by the algorithm that the remote file names; MD5 is only asked to find damage."""
    hasher = hashlib.new(str(file.digest).lower().partition(":")[0], usedforsecurity=False)
    with path.open("rb") as stream, progress.step(f"checking {file.name}", path.stat().st_size, unit="bytes") as step:
        while block := stream.read(_BLOCK):
            hasher.update(block)
            step.advance(len(block))
    return f"{hasher.name}:{hasher.hexdigest()}"


def _transfer(file: RemoteFile, part: PartialFile) -> None:
    """Receive the whole file, over as many connections as it takes."""
    try:
        _with_retries(lambda: _receive(file, part), lambda: part.size)
    except _LostError as lost:
        way_out = part.advice() if lost.may_pass or part.size > 0 else _OTHER_WAY
        raise DatasetError(f"the transfer of {file.name} from {file.host} broke off: {lost}. {way_out}") from lost
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the transfer of {file.name} was stopped. {part.advice()}") from None


def _receive(file: RemoteFile, part: PartialFile) -> None:
    """Receive what one connection gives; a part that cannot be resumed is dropped."""
    if part.is_whole:
        return
    try:
        with _open_url(file.url, part.request_headers(), file.name, file.size) as response:
            _receive_body(file, part, response)
    except _StaleError:
        part.drop()
        raise


def _receive_body(file: RemoteFile, part: PartialFile, response: httpx.Response) -> None:
    resumes = response.status_code == HTTPStatus.PARTIAL_CONTENT
    is_chunked = "Transfer-Encoding" in response.headers
    length = "" if is_chunked else response.headers.get("Content-Length", "")
    announced = _resumed_size(part, response.headers) if resumes else int(length) if length.isdigit() else None
    _check_announced_size(file, announced)
    whole = announced if file.size is None else file.size
    blocks = response.iter_raw()
    head = b""
    while len(head) < _HEAD and (block := next(blocks, b"")):
        head += block
    _check_is_no_web_page(file, response, b"" if resumes else head)
    _check_room(file, part, whole)
    if not resumes:
        version = {"etag": response.headers.get("ETag"), "last_modified": response.headers.get("Last-Modified")}
        part.begin(_Origin(url=file.url, digest=file.digest, size=whole, **version))
    limit = SIZE_LIMIT if whole is None else whole
    with part.path.open("ab") as stream:
        block = head
        while block:
            if part.size + len(block) > limit:
                part.drop()
                raise DatasetError(
                    f"{file.name} should have at most {limit:,} bytes, but {_shown(file.url)} sends more; what arrived "
                    f"was deleted. {_OTHER_WAY}"
                )
            part.append(block, stream)
            block = next(blocks, b"")
    if part.size == 0 and whole != 0:
        raise _LostError("the server sent nothing")
    # A chunked body ends where the server says so; any other may have ended with a lost connection.
    if whole is not None and part.size < whole and not (announced is None and is_chunked):
        raise _LostError("the connection was closed early")


def _resumed_size(part: PartialFile, headers: httpx.Headers) -> int | None:
    """Size of the whole file, if the answer to a range request continues the part.

    Raises:
        _StaleError: it begins elsewhere or belongs to another version; some servers ignore If-Range.
    """
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or part.origin is None or part.size == 0 or int(found[1]) != part.size:
        raise _StaleError("the server sent another range than the requested one")
    whole = part.origin.size if found[2] == "*" else int(found[2])
    if part.origin.size not in (None, whole) or not part.origin.is_version_of(headers):
        raise _StaleError("the file on the server has changed")
    return whole


def _check_announced_size(file: RemoteFile, announced: int | None) -> None:
    """Refuse a file of the wrong size before its first byte."""
    if announced is None:
        return
    if file.size is not None:
        if announced != file.size:
            raise _wrong_size(file.name, file.url, file.size, announced)
    elif announced == 0:
        raise DatasetError(f"{file.name} should have content, but {_shown(file.url)} is empty. {_OTHER_WAY}")
    elif announced > SIZE_LIMIT:
        raise DatasetError(
            f"{file.name} should have at most {SIZE_LIMIT:,} bytes, but {_shown(file.url)} has {announced:,}."
        )


def _wrong_size(name: str, url: str, expected: int, found: int) -> DatasetError:
    return DatasetError(
        f"{name} should have {expected:,} bytes, but {_shown(url)} has {found:,}: it is another file now. {_OTHER_WAY}"
    )


def _check_is_no_web_page(file: RemoteFile, response: httpx.Response, head: bytes) -> None:
    """Refuse a web page, by its announced type or its first bytes, unless the file is one."""
    if file.name.lower().endswith((".html", ".htm")):
        return
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type in ("text/html", "application/xhtml+xml") or is_web_page(head):
        raise DatasetError(
            f"the link to {file.name} should lead to the file, but leads to a web page (log-in, consent or error): "
            f"{_shown(file.url)}. Open it in a browser, download the file there and import it with: "
            "fewshot-bench data import NAME --from PATH"
        )


def _check_room(file: RemoteFile, part: PartialFile, size: int | None) -> None:
    """Refuse a file that does not fit on the disk beside the bytes that are here."""
    if size is None:
        return
    here = part.path.stat().st_size if part.path.is_file() else 0  # resumed, or deleted before the first byte
    free = shutil.disk_usage(part.path.parent).free
    if size - here > free:
        raise DatasetError(
            f"{file.name} needs {size - here:,} more bytes in {part.path.parent}, but {free:,} are free. Make room, or "
            "choose a folder on another disk."
        )


def _verify(file: RemoteFile, part: PartialFile, progress: Progress) -> None:
    """Check size and digest; a wrong file is deleted."""
    if file.size is not None and (found_size := part.size) != file.size:
        part.drop()
        raise _wrong_size(file.name, file.url, file.size, found_size)
    if file.digest is not None and (found := _digest(part.path, file, progress)) != file.digest.lower():
        part.drop()
        raise DatasetError(
            f"{file.name} should have {file.digest.lower()}, but what {file.host} sent has {found}; it was deleted. "
            f"Run the same command again; if that does not help, the file has changed: {_shown(file.url)}"
        )


class _RecordEntry(BaseModel):
    """A file as a record describes it; size and checksum are required: only they reveal a half file."""

    model_config = ConfigDict(strict=True)

    key: str
    size: int
    checksum: str
    links: Any = None

    def link(self, name: str) -> Any:
        """One of its links, or None."""
        return self.links.get(name) if isinstance(self.links, dict) else None


def zenodo_files(record: str, *, api: str = "https://zenodo.org/api/records") -> dict[str, RemoteFile]:
    """List the files of a public record on Zenodo, or on another InvenioRDM.

    Zenodo answers {"files": [{"key", "size", "checksum", "links": {"self"}}]}, where "self" is the content.
    InvenioRDM answers {"files": {"entries": {name: {"key", "size", "checksum", "links": {"self", "content"}}}}}, where
    "self" only describes the file; older instances give no links.

    Args:
        record: the number of the record, e.g. "7978538".
        api: where records are.

    Returns:
        The files by name, each with size and md5.

    Raises:
        DatasetError: the record cannot be read, or does not describe its files.
    """
    if not re.fullmatch(r"[0-9]{1,18}", record):
        raise DatasetError(f"a Zenodo record is a number such as 7978538, not {_quoted(record)}.")
    url = f"{api.rstrip('/')}/{record}"
    if not _is_web_address(url):
        raise DatasetError(f"Zenodo record {record} should have an http or https address, not {_quoted(url)}.")
    try:
        answer = from_json(_read_record(url, f"Zenodo record {record}"))
    except ValueError:
        raise DatasetError(
            f"{url} should describe the record as JSON, but sends something else. {_OTHER_WAY}"
        ) from None
    listed = answer.get("files") if isinstance(answer, dict) else None
    entries = listed.get("entries") if isinstance(listed, dict) else listed
    if isinstance(entries, dict):
        entries = list(entries.values())
    if not isinstance(entries, list) or not entries:
        raise DatasetError(f"{url} should list files, but lists none: the record may be restricted. {_OTHER_WAY}")
    try:
        described = TypeAdapter(list[_RecordEntry]).validate_python(entries)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        number, *field = fault["loc"]
        raise DatasetError(
            f"{url} should give each file a key, size and checksum, but in file {number}, "
            f"{_shown('.'.join(map(str, field))) or 'the description'} is {_quoted(fault['input'])}. {_OTHER_WAY}"
        ) from None
    files: dict[str, RemoteFile] = {}
    for entry in described:
        content = f"{url}/files/{quote(entry.key, safe='', errors='replace')}/content"
        address = entry.link("self") if isinstance(listed, list) else entry.link("content") or content
        if not isinstance(address, str):
            raise DatasetError(f"{url} should link to {_quoted(entry.key)}, but gives {_quoted(address)}. {_OTHER_WAY}")
        if entry.key in files:
            raise DatasetError(f"{url} lists {entry.key} twice. {_OTHER_WAY}")
        files[entry.key] = RemoteFile(entry.key, address, entry.size, entry.checksum)
    return files


def _read_record(url: str, name: str) -> bytes:
    """The JSON at an address."""

    def attempt() -> bytes:
        with _open_url(url, {"Accept": "application/json"}, name) as response:
            content = b""
            for block in response.iter_raw():
                content += block
                if len(content) > RECORD_LIMIT:
                    raise DatasetError(
                        f"{name} should fit in {RECORD_LIMIT:,} bytes, but {url} sends more. {_OTHER_WAY}"
                    )
            return content

    try:
        return _with_retries(attempt, lambda: 0)
    except _LostError as lost:
        raise DatasetError(f"{name} cannot be read ({lost}). Run the same command again later.") from lost
