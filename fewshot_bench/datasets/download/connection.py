"""Connections to web servers: what they give, why they end, and when another attempt may fare better."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import string
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import IO, TypeVar
from urllib.parse import quote

from fewshot_bench._io.versions import __version__
from fewshot_bench.datasets.download import limits
from fewshot_bench.datasets.download.remote_file import OTHER_WAY, is_web_address, shown, wrong_size
from fewshot_bench.errors import DatasetError

_MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_REDIRECTS = (301, 302, 303, 307, 308)

Result = TypeVar("Result")


class LostError(Exception):
    """A transfer broke off; `may_pass` if another attempt may fare better."""

    def __init__(self, reason: str, *, may_pass: bool = True) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


class StaleError(LostError):
    """What has arrived is not the beginning of what the server has now."""


def persist(attempt: Callable[[], Result], reached: Callable[[], int]) -> Result:
    """Try again after failures that may pass, until the waits are used up without a new byte."""
    furthest, failures = reached(), 0
    while True:
        try:
            return attempt()
        except LostError as lost:
            if reached() > furthest:
                furthest, failures = reached(), 0
            if not lost.may_pass or failures >= len(limits.WAITS):
                raise
        time.sleep(limits.WAITS[failures])
        failures += 1


def open_url(url: str, headers: Mapping[str, str], name: str, size: int | None) -> http.client.HTTPResponse:
    """Ask for an address; the body is still to be read.

    Only web handlers are there: urllib's usual opener would read file:// as well. Proxies are those of the environment.

    Raises:
        DatasetError: the answer is a refusal.
        LostError: there is no answer, or one that may be another next time.
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
        response: http.client.HTTPResponse = opener.open(request, timeout=limits.TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, url, name, size) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise LostError(_reason(error), may_pass=_may_pass(error)) from error
    if response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        response.close()
        raise DatasetError(f"{shown(url)} should send {name}, but answers {_status(response.status)}. {OTHER_WAY}")
    return response


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
        if not is_web_address(newurl):
            raise urllib.error.HTTPError(newurl, code, msg, headers, fp)
        return super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)


def _refusal(error: urllib.error.HTTPError, url: str, name: str, size: int | None) -> Exception:
    """What an answer other than success means."""
    status, place = _status(error.code), shown(url)
    if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        found = re.fullmatch(r"\s*bytes\s+\*/([0-9]{1,18})\s*", error.headers.get("Content-Range", ""))
        if found is not None and size is not None and int(found[1]) != size:
            return wrong_size(name, url, size, int(found[1]))
        return StaleError("the server has nothing beyond what is here")
    if error.code in _MAY_PASS or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return LostError(f"the server answers {status}")
    if error.code in _REDIRECTS:
        new = error.url or ""
        how = "without end" if is_web_address(new) else f"to {shown(new)}, which is no web address"
        return DatasetError(f"{place} should send {name}, but redirects {how}. {OTHER_WAY}")
    if error.code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return DatasetError(f"{place} should send {name}, but the link is dead ({status}). {OTHER_WAY}")
    if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return DatasetError(
            f"{place} should send {name}, but access is refused ({status}): it may need a log-in. {OTHER_WAY}"
        )
    return DatasetError(f"{place} should send {name}, but answers {status}. {OTHER_WAY}")


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
        return f"no answer for {limits.TIMEOUT:g} seconds"
    if isinstance(cause, http.client.IncompleteRead):
        return "the connection was closed early"
    if isinstance(cause, OSError) and cause.strerror:
        return shown(cause.strerror)
    return shown(str(cause) or type(cause).__name__)


def _status(code: int) -> str:
    """The code and its usual words, never the server's."""
    known = {status.value: status.phrase for status in HTTPStatus}
    return f"{code} {known.get(code, '')}".strip()


def content_length(response: http.client.HTTPResponse) -> int | None:
    """Bytes of the body as announced, or None if unknown."""
    text = (response.headers.get("Content-Length") or "").strip()
    return int(text) if not response.chunked and re.fullmatch(r"[0-9]{1,18}", text) else None


def pieces_of(response: http.client.HTTPResponse, length: int | None) -> Iterator[bytes]:
    """What arrives, as it arrives, up to the announced length; the first piece is long enough to tell a web page.

    Raises:
        LostError: the connection ends before.
    """
    held, received = b"", 0
    while length is None or received < length:
        piece = _read(response, limits.CHUNK if length is None else min(limits.CHUNK, length - received))
        if not piece:
            break
        received += len(piece)
        held += piece
        if received >= limits.HEAD:
            yield held
            held = b""
    if held:
        yield held
    if length is not None and received < length:
        raise LostError("the connection was closed early")


def _read(response: http.client.HTTPResponse, limit: int) -> bytes:
    """One read, never a full buffer: what arrived before a failure is kept."""
    try:
        return response.read1(limit)
    except (OSError, http.client.HTTPException) as error:
        raise LostError(_reason(error)) from error
