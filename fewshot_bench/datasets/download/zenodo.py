"""The files of a public record on Zenodo, or on another InvenioRDM."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

from fewshot_bench.datasets.download import limits
from fewshot_bench.datasets.download.connection import LostError, content_length, open_url, persist, pieces_of
from fewshot_bench.datasets.download.remote_file import OTHER_WAY, RemoteFile, is_web_address, quoted
from fewshot_bench.errors import DatasetError


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
        raise DatasetError(f"a Zenodo record is a number such as 7978538, not {quoted(record)}.")
    url = f"{api.rstrip('/')}/{record}"
    if not is_web_address(url):
        raise DatasetError(
            f"Zenodo record {record} should be asked for at an http or https address, not at {quoted(url)}."
        )
    files: dict[str, RemoteFile] = {}
    for entry in _entries(_ask(url, f"Zenodo record {record}"), url):
        file = _described_file(entry, url)
        if file.name in files:
            raise DatasetError(f"{url} lists {file.name} twice. {OTHER_WAY}")
        files[file.name] = file
    return files


def _ask(url: str, what: str) -> object:
    """The JSON at an address."""

    def attempt() -> bytes:
        with open_url(url, {"Accept": "application/json"}, what, None) as response:
            content = b""
            for piece in pieces_of(response, content_length(response)):
                content += piece
                if len(content) > limits.RECORD_LIMIT:
                    raise DatasetError(
                        f"{what} should fit in {limits.RECORD_LIMIT:,} bytes, but {url} sends more. {OTHER_WAY}"
                    )
            return content

    try:
        content = persist(attempt, lambda: 0)
    except LostError as lost:
        raise DatasetError(
            f"{what} cannot be asked for its files ({lost}). Run the same command again later."
        ) from lost
    try:
        answer: object = json.loads(content)
    except (ValueError, RecursionError):
        raise DatasetError(f"{url} should describe {what} as JSON, but sends something else. {OTHER_WAY}") from None
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
        raise DatasetError(f"{url} should list files, but lists none: the record may be restricted. {OTHER_WAY}")
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
            raise DatasetError(f"{url} should give each file a {field}, but gives one {quoted(value)}. {OTHER_WAY}")
    return RemoteFile(facts["key"], str(address), facts["size"], facts["checksum"])
