"""Damage to files, from one flipped bit to archives whose members changed places."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Sequence

from samples import write_tar, write_zip

Choice = tuple[str, int, int, int]
"""Which damage; two places in the file, of 65,536; a value from 0 to 255."""


def _flip(data: bytes, start: int, end: int, value: int) -> bytes:
    return data[:start] + bytes([data[start] ^ (1 << value % 8)]) + data[start + 1 :]


def _set(data: bytes, start: int, end: int, value: int) -> bytes:
    return data[:start] + bytes([value]) + data[start + 1 :]


def _overwrite(data: bytes, start: int, end: int, value: int) -> bytes:
    word = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80")[value % 4]
    return data[:start] + word + data[start + 4 :]


def _truncate(data: bytes, start: int, end: int, value: int) -> bytes:
    return data[:start]


def _behead(data: bytes, start: int, end: int, value: int) -> bytes:
    return data[start:]


def _cut_out(data: bytes, start: int, end: int, value: int) -> bytes:
    return data[:start] + data[start + 1 + value :]


def _repeat(data: bytes, start: int, end: int, value: int) -> bytes:
    return data[: start + 1 + value] + data[start:]


def _splice(data: bytes, start: int, end: int, value: int) -> bytes:
    return data[:start] + data[end : end + 1 + value] + data[start + 1 + value :]


def _insert(data: bytes, start: int, end: int, value: int) -> bytes:
    return data[:start] + bytes([value]) * (1 + value // 16) + data[start:]


def _swap_members(data: bytes, start: int, end: int, value: int) -> bytes:
    """Give two members of an archive each other's content, or name; of anything else, swap its halves."""
    try:
        members = _members(data)
    except Exception:  # whatever earlier damage makes of it
        members = []
    if len(members) < 2:
        return data[start:] + data[:start]
    one, other = start % len(members), end % len(members)
    (name, content), (other_name, other_content) = members[one], members[other]
    if value % 2:
        members[one], members[other] = (name, other_content), (other_name, content)
    else:
        members[one] = (other_name, content)
    return _archive(data, members)


def _members(data: bytes) -> list[tuple[str, bytes]]:
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [(name, archive.read(name)) for name in archive.namelist()]
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive if member.isfile()]


def _archive(data: bytes, members: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    if data.startswith(b"PK"):
        write_zip(file, members)
    else:
        kinds = {b"\x1f\x8b": "gz", b"BZ": "bz2", b"\xfd7": "xz"}
        write_tar(file, members, compression=kinds.get(data[:2], ""))
    return file.getvalue()


DAMAGES: dict[str, Callable[[bytes, int, int, int], bytes]] = {
    function.__name__.strip("_"): function
    for function in (_flip, _set, _overwrite, _truncate, _behead, _cut_out, _repeat, _splice, _insert, _swap_members)
}


def damaged(data: bytes, choices: Sequence[Choice]) -> bytes:
    """The file after every damage in turn."""
    for damage, start, end, value in choices:
        if data:
            data = DAMAGES[damage](data, start * len(data) >> 16, end * len(data) >> 16, value)
    return data
