"""The table of a part, read only once its file has said, and kept, what it may hold: anybody may have written it.

A Parquet file of a few kilobytes can stand for gigabytes: by pages of one byte repeated, by a value that a dictionary
repeats, by prefixes that each value takes from the one before, or by a row number in its footer. The library reserves
what the file claims. So the footer, and the header of every page, are read here first: how many rows and bytes there
are, of which types, in which encodings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fewshot_bench.limits import MOST_EPISODES

OTHER_ROWS = "its rows are not those that its name says"
LARGEST_PART = 1 << 28
"""Bytes of a file."""

_LARGEST_FOOTER = 1 << 20  # bytes
_LEAST_ALLOWED, _GROWTH = 8 << 20, 256  # bytes, and bytes for each of the file
_BYTES_OF_A_ROW = 64  # of everything but its predictions, in memory
_ROWS_OF_A_GROUP = 1 << 16  # as few as any writer puts into one
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_FIELDS: dict[Any, int] = {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7}
_PLAIN, _ENCODINGS = 0, (0, 2, 8)  # the others mean a dictionary
_MAGIC = b"PAR1"
_DEEPEST = 8


class StoredTableError(ValueError):
    """A file is no part that was ever stored."""


def fits(rows: int, queries_bytes: int, file_size: int) -> bool:
    """Whether rows take no more memory than their file may claim: 8 MiB, and 256 bytes for each of its own.

    Args:
        rows: how many.
        queries_bytes: that the predictions of one take in memory.
        file_size: of the file, in bytes.
    """
    return rows * (_BYTES_OF_A_ROW + queries_bytes) <= _most_bytes(file_size)


def rows_that_fit(queries_bytes: int) -> int:
    """How many rows fit into any file, however well they are compressed."""
    return max(1, _LEAST_ALLOWED // (_BYTES_OF_A_ROW + queries_bytes))


class StoredTable:
    """A Parquet file whose footer has been looked at, and nothing else."""

    def __init__(self, content: bytes, columns: Collection[str], dictionaries: Collection[str], **options: Any) -> None:
        """Open it.

        Args:
            content: of the file.
            columns: that it should have, in order.
            dictionaries: those of text that is in memory once, however often it is repeated.
            **options: of `pyarrow.parquet.ParquetFile`.

        Raises:
            StoredTableError: it is no such file.
            pyarrow.ArrowException: likewise.
        """
        _check_footer(content, len(columns))
        self._content, self._columns, self._dictionaries = content, list(columns), frozenset(dictionaries)
        self._file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=[*dictionaries], **options)
        self.metadata: Mapping[bytes, bytes] = self._file.metadata.metadata or {}
        self.rows: int = self._file.metadata.num_rows

    def read(self, types: Mapping[str, pa.DataType], queries_bytes: int) -> pa.Table:
        """All rows.

        Args:
            types: of each column; those of `dictionaries` are text, and bytes of any size may be of one size each.
            queries_bytes: that the predictions of a row take in memory at most.

        Raises:
            StoredTableError: it has other columns or types, holds what is missing, or would take too much memory.
            pyarrow.ArrowException: it cannot be read.
        """
        schema = self._file.schema_arrow
        if schema.names != self._columns:
            raise StoredTableError(f"its columns should be {', '.join(self._columns)}")
        for name in self._columns:
            kind, expected = schema.field(name).type, _TEXT if name in self._dictionaries else types[name]
            fits = pa.types.is_fixed_size_binary(kind) and kind.byte_width <= queries_bytes
            if kind != expected and not (expected == pa.binary() and fits):
                shown = "string" if expected == _TEXT else expected
                raise StoredTableError(f"{name} should be of type {shown}, not {str(kind)[:40]}")
        self._check_size(queries_bytes)
        table = self._file.read(use_threads=False)
        empty = next((name for name in self._columns if table[name].null_count), None)
        if empty is not None:
            raise StoredTableError(f"{empty} has missing values")
        if len(table) != self.rows:
            raise StoredTableError(OTHER_ROWS)
        return table

    def _check_size(self, queries_bytes: int) -> None:
        file, rows = self._file.metadata, self.rows
        if not 0 < rows <= MOST_EPISODES or not fits(rows, queries_bytes, len(self._content)):
            raise StoredTableError(f"it claims {rows:,} rows in {len(self._content):,} bytes")
        groups = [file.row_group(number) for number in range(file.num_row_groups)]
        if sum(group.num_rows for group in groups) != rows or len(groups) > 1 + rows // _ROWS_OF_A_GROUP:
            raise StoredTableError(OTHER_ROWS)
        size = 0
        for group in groups:
            for number, name in enumerate(self._columns):
                size += self._page_bytes(group.column(number), name)
        if size > _most_bytes(len(self._content)):
            raise StoredTableError(f"its pages claim {size:,} bytes in a file of {len(self._content):,}")

    def _page_bytes(self, chunk: Any, name: str) -> int:
        """What the pages of a column take once they are unpacked, by their headers."""
        place = chunk.data_page_offset
        if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < place:
            place = chunk.dictionary_page_offset
        end, size = place + chunk.total_compressed_size, 0
        if not len(_MAGIC) <= place <= end <= len(self._content):
            raise StoredTableError("its footer names places outside of the file")
        may_repeat = name in self._dictionaries or chunk.physical_type != "BYTE_ARRAY"
        while place < end:
            reader = _Compact(self._content, place, end)
            header = reader.struct()
            kind, unpacked, stored = (header.get(number) for number in (1, 2, 3))
            if not (isinstance(unpacked, int) and isinstance(stored, int) and unpacked >= 0 and stored >= 0):
                raise StoredTableError("a page has no size")
            inner = header.get(_FIELDS.get(kind, 0))
            encoding = inner.get(2) if isinstance(inner, dict) else None
            if encoding not in (_ENCODINGS if may_repeat else (_PLAIN,)) or kind not in (
                (_DATA_PAGE, _DICTIONARY_PAGE) if may_repeat else (_DATA_PAGE,)
            ):
                raise StoredTableError(f"{name} is encoded as it is never stored")
            place, size = reader.place + stored, size + unpacked
        return size


_TEXT = pa.dictionary(pa.int32(), pa.string())


def _most_bytes(file_size: int) -> int:
    return _LEAST_ALLOWED + _GROWTH * file_size


def _check_footer(content: bytes, columns: int) -> None:
    """See that the footer has a size, and as many columns as it should: the library builds all that it claims."""
    end = len(content) - 8
    size = int.from_bytes(content[end : end + 4], "little") if end >= len(_MAGIC) else 0
    if not content.startswith(_MAGIC) or not content.endswith(_MAGIC) or not 0 < size <= min(end, _LARGEST_FOOTER):
        raise StoredTableError("it is no Parquet file")
    found = _Compact(content, end - size, end).struct(last=2).get(2)
    if found != columns + 1:  # and the root
        raise StoredTableError(f"it should have {columns} columns")


class _Compact:
    """Values in the compact protocol of Thrift, in which Parquet has its footer and its pages' headers."""

    def __init__(self, content: bytes, place: int, end: int) -> None:
        self.place, self._content, self._end = place, content, end

    def struct(self, *, last: int | None = None, depth: int = _DEEPEST) -> dict[int, Any]:
        """The numbers and structs of a struct, by field; of lists how long they are.

        Args:
            last: field after which nothing is read.
            depth: how many structs may be in each other.

        Raises:
            StoredTableError: there is none.
        """
        if not depth:
            raise StoredTableError("its headers are too deep in each other")
        fields: dict[int, Any] = {}
        number = 0
        while (byte := self._byte()) and (last is None or number < last):
            step, kind = byte >> 4, byte & 15
            number = number + step if step else self._signed()
            fields[number] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind in (4, 5, 6):
            return self._signed()
        if kind in (3, 7, 8):  # a byte, a double, text
            self._skip({3: 1, 7: 8}.get(kind) or self._unsigned())
            return None
        if kind in (9, 10):
            return self._list(depth)
        if kind == 12:
            return self.struct(depth=depth - 1)
        raise StoredTableError("its headers cannot be read")

    def _list(self, depth: int) -> int:
        byte = self._byte()
        count = byte >> 4 if byte >> 4 != 15 else self._unsigned()
        if count > self._end - self.place:
            raise StoredTableError("a list in its headers is longer than the file")
        for _ in range(count):
            if byte & 15 in (1, 2):
                self._skip(1)
            else:
                self._value(byte & 15, depth)
        return count

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise StoredTableError("a number in its headers is too long")

    def _byte(self) -> int:
        self._skip(1)
        return self._content[self.place - 1]

    def _skip(self, count: int) -> None:
        self.place += count
        if self.place > self._end:
            raise StoredTableError("its headers go beyond the end")
