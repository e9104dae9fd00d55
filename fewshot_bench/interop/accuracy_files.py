"""One function for each kind of file that may hold accuracies: tables, arrays and tensors.

A stranger's file of accuracies as columns of numbers and text, nothing in it executed; bounds come before memory.
"""

from __future__ import annotations

import csv
import math
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fewshot_bench._io.text import unguarded
from fewshot_bench.errors import AccuracyFileError, FewshotBenchError
from fewshot_bench.limits import MOST_EPISODES
from fewshot_bench.outcomes.claimed import ACCURACY_FILES, SEPARATOR

MOST_BYTES = 1_000_000_000
MOST_COLUMNS = 2_000
MOST_VALUES = 100_000_000
_LONGEST = 40  # characters of a file's text in a sentence


@dataclass(frozen=True)
class Texts:
    """A column of text.

    Attributes:
        values: the different texts, stripped.
        codes: which of them each row has, [R].
    """

    values: Sequence[str]
    codes: NDArray[np.int64]


Column = Texts | NDArray[np.float64]


@dataclass(frozen=True)
class AccuracyTable:
    """The rows of one file.

    Attributes:
        path: of the file.
        columns: by name, all of R rows.
        unreadable: columns of other types, by name: what they hold.
    """

    path: Path
    columns: Mapping[str, Column]
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: _length(column) for name, column in self.columns.items()}
        shortest, longest = (
            (min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)) if lengths else ("", "")
        )
        if lengths and lengths[shortest] != lengths[longest]:
            self.refuse(
                f"'{shortest}' has {lengths[shortest]:,} values and '{longest}' {lengths[longest]:,}. Every method "
                "needs one accuracy for each episode"
            )
        for name in self.unreadable if not lengths else ():
            self._column(name)  # refuses it
        if not lengths or not lengths[longest]:
            self.refuse("it has no rows")

    def __len__(self) -> int:
        return _length(next(iter(self.columns.values())))

    def refuse(self, finding: str) -> NoReturn:
        """Say what is wrong with this file.

        Raises:
            AccuracyFileError: always.
        """
        raise AccuracyFileError(f"{self.path}: {finding}. Nothing was imported.")

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of finite numbers, [R].

        Raises:
            AccuracyFileError: a value is missing, or is not such a number.
        """
        column = self._column(name)
        if isinstance(column, Texts):
            parsed = np.array([_number(text) for text in column.values], dtype=np.float64)
            values = parsed[column.codes]
        else:
            values = column
        odd = ~np.isfinite(values)
        if odd.any():
            row = int(np.argmax(odd))
            text = column.values[column.codes[row]] if isinstance(column, Texts) else ""
            found = repr(text[:_LONGEST]) if text else "inf" if math.isinf(values[row]) else "empty or NaN"
            how = " without %" if "%" in text else " with a decimal point" if "," in text else ""
            self.refuse(f"'{name}' is {found} in row {row + 1}, and should be a number{how}")
        return values

    def whole(self, name: str, least: int, most: int) -> NDArray[np.int64]:
        """A column of whole numbers, both ends included, [R].

        Raises:
            AccuracyFileError: a value is not such a number.
        """
        values = self.numbers(name)
        odd = (values != np.floor(values)) | (values < least) | (values > most)
        if odd.any():
            row = int(np.argmax(odd))
            self.refuse(
                f"'{name}' is {values[row]:.12g} in row {row + 1}, and should be a whole number, {least} to {most:,}"
            )
        return values.astype(np.int64)

    def texts(self, name: str) -> Texts:
        """A column as text; whole numbers are written without a point.

        Raises:
            AccuracyFileError: it holds neither text nor whole numbers.
        """
        column = self._column(name)
        if isinstance(column, Texts):
            return column
        unique, codes = np.unique(self.whole(name, -(1 << 53), 1 << 53), return_inverse=True)
        return Texts([str(value) for value in unique.tolist()], codes.astype(np.int64))

    def _column(self, name: str) -> Column:
        if name in self.unreadable:
            self.refuse(f"'{name}' holds {self.unreadable[name]}, not numbers or text")
        return self.columns[name]


def first_row(is_so: NDArray[np.bool_]) -> int:
    """The number of the first row that is marked, counted from 1 as in messages."""
    return int(np.argmax(is_so)) + 1


def texts_of(values: Sequence[Any], codes: NDArray[Any]) -> Texts:
    """Text as a column, with equal texts put together."""
    stripped = ["" if value is None else str(value).strip() for value in values]
    unique = {text: number for number, text in enumerate(dict.fromkeys(stripped))}
    return Texts(list(unique), np.array([unique[text] for text in stripped], np.int64)[codes])


def check_bounds(path: Path, rows: int, columns: int) -> None:
    """Refuse a file before its content is read.

    Raises:
        AccuracyFileError: it has more rows, columns or values than any file of accuracies.
    """
    for found, most, what in (
        (rows, MOST_EPISODES, "rows"),
        (columns, MOST_COLUMNS, "columns"),
        (rows * columns, MOST_VALUES, "values"),
    ):
        if found > most:
            raise AccuracyFileError(f"{path} has {found:,} {what}; at most {most:,} are read. Cut it into several.")


def _length(column: Column) -> int:
    return len(column.codes) if isinstance(column, Texts) else len(column)


def _number(text: str) -> float:
    """The number that a text is; NaN for any other text."""
    try:
        return float(text) if "_" not in text else math.nan
    except ValueError:
        return math.nan


CLASSES = "classes"
_LONGEST_HEADER = 1_000_000  # bytes
_LONGEST_MESSAGE = 200  # characters of a message from a library
_DELIMITERS = ",;\t"
_INDEX = "__index_level_"  # what pandas calls the index of a frame in a Parquet file


def read_accuracy_file(path: Path, methods: Sequence[str] = ()) -> AccuracyTable:
    """Read a file of accuracies.

    Args:
        path: its suffix names its format.
        methods: names for the columns of an array that has none.

    Raises:
        AccuracyFileError: it is not there, of another kind, damaged, too large, or would have to be executed.
    """
    if not path.is_file():
        raise AccuracyFileError(f"{path} is not a file. Name a file of accuracies: {', '.join(ACCURACY_FILES)}.")
    if path.stat().st_size > MOST_BYTES:
        raise AccuracyFileError(f"{path} has {path.stat().st_size:,} bytes; at most {MOST_BYTES:,} are read.")
    twice = next((name for name in methods if list(methods).count(name) > 1), None)
    if twice is not None:
        raise AccuracyFileError(f"the method '{twice}' is named twice. Give every column a name of its own.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise AccuracyFileError(f"{path} is none of the kinds that can be read: {', '.join(ACCURACY_FILES)}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote, and of odd pickles
            return reader(path, methods)
    except FewshotBenchError:
        raise
    except Exception as error:  # whatever a stranger's bytes make of five libraries
        told = " ".join(str(error).split())[:_LONGEST_MESSAGE] or type(error).__name__
        raise AccuracyFileError(
            f"{path} cannot be read ({told}): it is damaged, not what its name says, or holds more than numbers, which "
            "is never executed. Nothing was imported."
        ) from error


def _read_text(path: Path, methods: Sequence[str]) -> AccuracyTable:
    import pyarrow as pa
    import pyarrow.csv as pc

    header = _header(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=header.count)
    first = next(csv.reader([header], delimiter=delimiter), [])
    names = _distinct(path, [unguarded(name.strip()) for name in first])
    check_bounds(path, 0, len(names))
    fields = [str(number) for number in range(len(names))]
    found = pc.read_csv(
        path,
        pc.ReadOptions(column_names=fields, skip_rows=1),
        pc.ParseOptions(delimiter=delimiter),
        pc.ConvertOptions(column_types=dict.fromkeys(fields, pa.string()), strings_can_be_null=False),
    )
    check_bounds(path, found.num_rows, len(names))
    columns = {name: _text_column(found.column(number), unguarded) for number, name in enumerate(names)}
    return AccuracyTable(path, columns)


def _header(path: Path) -> str:
    """The first line, which names the columns."""
    with path.open("rb") as file:
        line = file.readline(_LONGEST_HEADER)
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise AccuracyFileError(f"{path} is not text in UTF-8. Save it as UTF-8.") from error


def _distinct(path: Path, names: list[str]) -> list[str]:
    """The names of a table's columns.

    Raises:
        AccuracyFileError: a name is missing or there twice, or all of them are numbers.
    """
    if "" in names:
        raise AccuracyFileError(
            f"{path}: column {names.index('') + 1} has no name. Call it episode, or leave it out (pandas: index=False)."
        )
    if not names or all(_is_number(name) for name in names):
        raise AccuracyFileError(f"{path} should name its columns in the first line, such as episode,method_a,method_b.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise AccuracyFileError(f"{path} has two columns '{twice}'. Give every column a name of its own.")
    return names


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _text_column(column: Any, read: Callable[[str], str] = str) -> Column:
    """A column of text of an Arrow table; what is empty or missing is ""."""
    import pyarrow as pa

    column = column.combine_chunks()
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    values = [read(value or "") for value in column.dictionary.to_pylist()]
    codes = column.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    return texts_of([*values, ""], codes)


def _read_parquet(path: Path, methods: Sequence[str]) -> AccuracyTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    check_bounds(path, file.metadata.num_rows, len(schema))
    kinds = {item.name: _kind(item.type) for item in schema if not item.name.startswith(_INDEX)}
    names = _distinct(path, [name for name in schema.names if not name.startswith(_INDEX)])
    flags = [name for name in names if pa.types.is_boolean(schema.field(name).type)]
    texts = [name for name in names if kinds[name] == "text" and name not in flags]
    wanted = [name for name in names if kinds[name]]
    table = pq.ParquetFile(path, read_dictionary=texts).read(columns=wanted, use_threads=False)
    columns: dict[str, Column] = {
        name: _text_column(table[name].cast(pa.string()) if name in flags else table[name])
        if kinds[name] == "text"
        else table[name].cast(pa.float64()).to_numpy().astype(np.float64)
        for name in wanted
    }
    return AccuracyTable(path, columns, {name: str(schema.field(name).type) for name in names if not kinds[name]})


def _kind(of: Any) -> str:
    """What a column of a Parquet file holds: "text" (true and false too), "numbers", or "" for anything else."""
    import pyarrow as pa

    if pa.types.is_dictionary(of):
        of = of.value_type
    if pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_boolean(of):
        return "text"
    return "numbers" if pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_null(of) else ""


def _read_npy(path: Path, methods: Sequence[str]) -> AccuracyTable:
    with path.open("rb") as file:
        return _of_array(path, _array(path, file, path.stat().st_size), methods)


def _read_npz(path: Path, methods: Sequence[str]) -> AccuracyTable:
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_members(path, members)
        for member in members:
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = _array(path, file, member.file_size)
    return _of_arrays(path, arrays)


def _check_members(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse an archive that unpacks to more than a file may have.

    Raises:
        AccuracyFileError: it does.
    """
    check_bounds(path, 0, len(members))
    total = sum(member.file_size for member in members)
    if total > MOST_BYTES:
        raise AccuracyFileError(f"{path} unpacks to {total:,} bytes; at most {MOST_BYTES:,} are read.")


def _array(path: Path, file: IO[bytes], size: int) -> NDArray[Any]:
    """An array in the format of NumPy, after a look at what its header announces.

    Raises:
        AccuracyFileError: it holds Python objects.
        ValueError: it is damaged.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise AccuracyFileError(f"{path} holds Python objects, which are never unpickled. Save plain numbers.")
    needed = math.prod(shape) * dtype.itemsize
    if version > (3, 0) or dtype.kind not in "biufcSU" or not 0 <= needed <= size:
        raise ValueError(f"an array of type {dtype} and shape {shape} does not fit into {size:,} bytes")
    flat = np.frombuffer(file.read(needed), dtype)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _read_torch(path: Path, methods: Sequence[str]) -> AccuracyTable:
    try:
        import torch
    except ImportError as error:
        raise AccuracyFileError(f"{path} needs PyTorch, which is not installed. Save it as .npy or .csv.") from error
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist())
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # PyTorch's words would advise to execute it
        raise AccuracyFileError(
            f"{path} is damaged, or holds Python objects, which are never unpickled. Save plain tensors. "
            "Nothing was imported."
        ) from error
    if isinstance(content, torch.Tensor):
        return _of_array(path, _numpy(path, content), methods)
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise AccuracyFileError(f"{path} should hold a tensor, or a dict of tensors by method.")
    check_bounds(path, 0, len(content))
    return _of_arrays(path, {str(name): _numpy(path, tensor) for name, tensor in content.items()})


def _numpy(path: Path, tensor: Any) -> NDArray[Any]:
    """A tensor as an array; one that repeats a few bytes without end is refused before it is unrolled."""
    import torch

    check_bounds(path, tensor.numel(), 1)
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise AccuracyFileError(f"{path} should hold dense tensors on the CPU.")
    plain = tensor.detach()
    array: NDArray[Any] = (plain.double() if plain.is_floating_point() else plain).numpy()
    return array


def _read_safetensors(path: Path, methods: Sequence[str]) -> AccuracyTable:
    import safetensors

    with safetensors.safe_open(path, framework="np") as file:
        names = list(file.keys())
        check_bounds(path, 0, len(names))
        arrays = {name: file.get_tensor(name) for name in names}
    return _of_arrays(path, arrays)


def _of_array(path: Path, array: NDArray[Any], methods: Sequence[str]) -> AccuracyTable:
    """An array without names, [E] or [E, A]."""
    if array.ndim not in (1, 2):
        raise AccuracyFileError(
            f"{path} has shape {list(array.shape)}; it should be [episodes] or [episodes, methods]."
        )
    columns = array[:, None] if array.ndim == 1 else array
    if columns.shape[1] != len(methods) or not methods:
        given = f"{len(methods)} {'is' if len(methods) == 1 else 'are'} named"
        found = f"{columns.shape[1]:,} column{'' if columns.shape[1] == 1 else 's'}"
        turned = " Turn it round ([episodes, methods])." if columns.shape[0] == len(methods) else ""
        raise AccuracyFileError(
            f"{path} has {found} and {given}. Name the method of each column with --method NAME.{turned}"
        )
    check_bounds(path, *columns.shape)
    return AccuracyTable(path, {name: _of_numbers(path, name, columns[:, at]) for at, name in enumerate(methods)})


def _of_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> AccuracyTable:
    """Arrays by name, [E] each; the classes may be [E, N]."""
    if not arrays:
        raise AccuracyFileError(f"{path} holds no arrays.")
    columns: dict[str, Column] = {}
    for name, array in arrays.items():
        if name.lower() == CLASSES and array.ndim == 2 and array.dtype.kind in "iuU":
            rows, codes = np.unique(array, axis=0, return_inverse=True)
            columns[name] = texts_of([SEPARATOR.join(map(str, row)) for row in rows.tolist()], np.ravel(codes))
        elif array.ndim != 1:
            raise AccuracyFileError(f"{path}: '{name}' has shape {list(array.shape)}; it should be [episodes].")
        elif array.dtype.kind == "U":
            values, codes = np.unique(array, return_inverse=True)
            columns[name] = texts_of(values.tolist(), codes)
        else:
            columns[name] = _of_numbers(path, name, array)
    check_bounds(path, max(map(len, arrays.values())), len(arrays))
    return AccuracyTable(path, columns)


def _of_numbers(path: Path, name: str, array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype.kind not in "iuf":
        raise AccuracyFileError(f"{path}: '{name}' is of type {array.dtype}; it should be numbers.")
    return array.astype(np.float64)


_READERS: Mapping[str, Callable[[Path, Sequence[str]], AccuracyTable]] = {
    ".csv": _read_text,
    ".tsv": _read_text,
    ".parquet": _read_parquet,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".safetensors": _read_safetensors,
}
