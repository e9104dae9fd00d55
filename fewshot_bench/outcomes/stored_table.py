"""The Parquet table of a part, whose claims are checked before pyarrow reserves memory for them.

A hostile Parquet file of a few kilobytes can stand for gigabytes: by pages that repeat one byte, a value that a
dictionary repeats, prefixes that each value takes from the one before, or a row count in its footer. So the footer and
the header of every page are read here first: the numbers of rows and bytes, the types and the encodings.
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
_ALLOWED_BYTES, _ALLOWED_GROWTH = 8 << 20, 256  # of memory: at least, and per byte of the file
_BYTES_OF_A_ROW = 64  # in memory, without its predictions
_ROWS_OF_A_GROUP = 1 << 16  # the fewest that any writer puts into a group
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_HEADER_FIELDS: dict[Any, int] = {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7}
_PLAIN, _ENCODINGS = 0, (0, 2, 8)  # the others use a dictionary
_MAGIC = b"PAR1"
_DEEPEST = 8
_TEXT = pa.dictionary(pa.int32(), pa.string())


class StoredTableError(ValueError):
    """No release has ever stored such a file."""


def fits(rows: int, queries_bytes: int, file_size: int) -> bool:
    """Whether rows take no more memory than their file may claim: 8 MiB, and 256 bytes per byte of the file.

    Args:
        rows: their number.
        queries_bytes: memory that the predictions of a row take.
        file_size: in bytes.
    """
    return rows * (_BYTES_OF_A_ROW + queries_bytes) <= _most_bytes(file_size)


def rows_that_fit(queries_bytes: int) -> int:
    """The number of rows that any file may claim, however small it is."""
    return max(1, _ALLOWED_BYTES // (_BYTES_OF_A_ROW + queries_bytes))


class StoredTable:
    """A Parquet file; only its footer was read."""

    def __init__(self, content: bytes, columns: Collection[str], dictionaries: Collection[str], **options: Any) -> None:
        """Read the footer.

        Args:
            content: of the file.
            columns: that it should have, in order.
            dictionaries: columns of text that is in memory once, however often it is repeated.
            **options: of `pyarrow.parquet.ParquetFile`.

        Raises:
            StoredTableError: it is not such a file.
            pyarrow.ArrowException: it is damaged.
        """
        _check_footer(content, len(columns))
        self._content, self._columns, self._dictionaries = content, list(columns), frozenset(dictionaries)
        self._file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=[*dictionaries], **options)
        self.metadata: Mapping[bytes, bytes] = self._file.metadata.metadata or {}
        self.rows: int = self._file.metadata.num_rows

    def read(self, types: Mapping[str, pa.DataType], queries_bytes: int) -> pa.Table:
        """All rows.

        Args:
            types: of each column that is not in `dictionaries`; bytes of variable size may have a fixed size.
            queries_bytes: the most memory that the predictions of a row take.

        Raises:
            StoredTableError: it has other columns or types, has missing values, or would take too much memory.
            pyarrow.ArrowException: it cannot be read.
        """
        schema = self._file.schema_arrow
        if schema.names != self._columns:
            raise StoredTableError(f"its columns should be {', '.join(self._columns)}")
        for name in self._columns:
            kind, expected = schema.field(name).type, _TEXT if name in self._dictionaries else types[name]
            is_small = pa.types.is_fixed_size_binary(kind) and kind.byte_width <= queries_bytes
            if kind != expected and not (expected == pa.binary() and is_small):
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
        """The bytes of the unpacked pages of a column, by their headers."""
        offset = chunk.data_page_offset
        if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < offset:
            offset = chunk.dictionary_page_offset
        end, size = offset + chunk.total_compressed_size, 0
        if not len(_MAGIC) <= offset <= end <= len(self._content):
            raise StoredTableError("its footer names offsets outside of the file")
        may_repeat = name in self._dictionaries or chunk.physical_type != "BYTE_ARRAY"
        allowed = (_ENCODINGS, (_DATA_PAGE, _DICTIONARY_PAGE)) if may_repeat else ((_PLAIN,), (_DATA_PAGE,))
        while offset < end:
            reader = _Compact(self._content, offset, end)
            header = reader.struct()
            kind, unpacked, stored = (header.get(number) for number in (1, 2, 3))
            if not (isinstance(unpacked, int) and isinstance(stored, int) and unpacked >= 0 and stored >= 0):
                raise StoredTableError("a page has no size")
            inner = header.get(_HEADER_FIELDS.get(kind, 0))
            encoding = inner.get(2) if isinstance(inner, dict) else None
            if encoding not in allowed[0] or kind not in allowed[1]:
                raise StoredTableError(f"{name} has an encoding in which it is never stored")
            offset, size = reader.offset + stored, size + unpacked
        return size


def _most_bytes(file_size: int) -> int:
    return _ALLOWED_BYTES + _ALLOWED_GROWTH * file_size


def _check_footer(content: bytes, columns: int) -> None:
    """Check the size of the footer and its number of columns, since pyarrow builds all that it claims."""
    end = len(content) - 8
    size = int.from_bytes(content[end : end + 4], "little") if end >= len(_MAGIC) else 0
    if not content.startswith(_MAGIC) or not content.endswith(_MAGIC) or not 0 < size <= min(end, _LARGEST_FOOTER):
        raise StoredTableError("it is not a Parquet file")
    found = _Compact(content, end - size, end).struct(last=2).get(2)
    if found != columns + 1:  # and the root
        raise StoredTableError(f"it should have {columns} columns")


class _Compact:
    """Values in Thrift's compact protocol, in which Parquet writes its footer and the headers of its pages."""

    def __init__(self, content: bytes, offset: int, end: int) -> None:
        self.offset, self._content, self._end = offset, content, end

    def struct(self, *, last: int | None = None, depth: int = _DEEPEST) -> dict[int, Any]:
        """The numbers, structs and lengths of lists in a struct, by field.

        Args:
            last: field after which nothing is read.
            depth: how many structs may be nested.

        Raises:
            StoredTableError: it cannot be read.
        """
        if not depth:
            raise StoredTableError("its headers are nested too deeply")
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
        if count > self._end - self.offset:
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
        return self._content[self.offset - 1]

    def _skip(self, count: int) -> None:
        self.offset += count
        if self.offset > self._end:
            raise StoredTableError("its headers go beyond the end")
