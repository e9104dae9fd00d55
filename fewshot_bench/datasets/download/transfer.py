"""From an address to a whole, verified file: one connection after the other, by one process at a time."""

from __future__ import annotations

import http.client
import re
from http import HTTPStatus
from itertools import chain
from pathlib import Path

from fewshot_bench._io.locks import holding
from fewshot_bench.datasets.download.checks import (
    check_announced_size,
    check_limit,
    check_no_web_page,
    check_room,
    is_here,
)
from fewshot_bench.datasets.download.connection import (
    LostError,
    StaleError,
    content_length,
    open_url,
    persist,
    pieces_of,
)
from fewshot_bench.datasets.download.part import Origin, Part
from fewshot_bench.datasets.download.remote_file import OTHER_WAY, RemoteFile, host, shown, wrong_size
from fewshot_bench.errors import DatasetError
from fewshot_bench.progress import SILENT, Progress

_CONTENT_RANGE = re.compile(r"\s*bytes\s+([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)\s*", re.IGNORECASE)


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
    if is_here(target, file, progress):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    waiting = f"waiting for another process that fetches {file.name}"
    with holding(folder / f".{file.name}.lock", waiting, progress):
        if not is_here(target, file, progress):  # the process that was waited for may have fetched it
            with progress.step(f"fetching {file.name}", file.size or 0, unit="bytes") as step:
                part = Part(file, folder, step)
                _transfer(file, part)
                _finish(file, part, target)
    return target


def _transfer(file: RemoteFile, part: Part) -> None:
    """Receive all of the file, over as many connections as it takes."""
    try:
        persist(lambda: _receive(file, part), lambda: part.size)
    except LostError as lost:
        way_out = part.standing() if lost.may_pass or part.size > 0 else OTHER_WAY
        raise DatasetError(f"the transfer of {file.name} from {host(file.url)} broke off: {lost}. {way_out}") from lost
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the transfer of {file.name} was stopped. {part.standing()}") from None


def _receive(file: RemoteFile, part: Part) -> None:
    """Receive what one connection gives; a part that cannot be continued is dropped."""
    if part.is_whole:
        return
    try:
        with open_url(file.url, part.request_headers(), file.name, file.size) as response:
            _receive_body(file, part, response)
    except StaleError:
        part.drop()
        raise


def _receive_body(file: RemoteFile, part: Part, response: http.client.HTTPResponse) -> None:
    goes_on = response.status == HTTPStatus.PARTIAL_CONTENT
    length = content_length(response)
    announced = _continued_size(part, response.headers) if goes_on else length
    check_announced_size(file.name, file.url, file.size, announced)
    whole = announced if file.size is None else file.size
    pieces = pieces_of(response, length)
    first = next(pieces, b"")
    check_no_web_page(file, response, b"" if goes_on else first)
    check_room(file.name, part, whole)
    if not goes_on:
        part.begin(Origin.of(file, whole, response.headers))
    with part.path.open("ab") as stream:
        for piece in chain([first], pieces):
            check_limit(file, part, part.size + len(piece), whole)
            part.append(piece, stream)
    if part.size == 0 and whole != 0:
        raise LostError("the server sent nothing")
    # A chunked body ends where the server says so; any other may as well have ended with a lost connection.
    if whole is not None and part.size < whole and not (response.chunked and announced is None):
        raise LostError("the connection was closed early")


def _continued_size(part: Part, headers: http.client.HTTPMessage) -> int | None:
    """Size of the whole file, if the answer to a Range request goes on with what is here.

    Raises:
        StaleError: it begins elsewhere or belongs to another version; some servers ignore If-Range.
    """
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or part.origin is None or part.size == 0 or int(found[1]) != part.size:
        raise StaleError("the server sent another range than the one that was asked for")
    whole = part.origin.size if found[2] == "*" else int(found[2])
    if part.origin.size not in (None, whole) or not part.origin.is_version_of(headers):
        raise StaleError("the file on the server has changed")
    return whole


def _finish(file: RemoteFile, part: Part, target: Path) -> None:
    """Verify the part and give it its name."""
    found_size, found_digest = part.size, part.digest
    if file.size is not None and found_size != file.size:
        part.drop()
        raise wrong_size(file.name, file.url, file.size, found_size)
    if file.digest is not None and found_digest != file.digest.lower():
        part.drop()
        raise DatasetError(
            f"{file.name} should have {file.digest.lower()}, but what {host(file.url)} sent has {found_digest}; it "
            "was deleted. Run the same command again; if that does not help, the file there is another one now: "
            f"{shown(file.url)}"
        )
    part.become(target)
