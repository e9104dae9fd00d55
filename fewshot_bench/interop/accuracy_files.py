"""Files of accuracies (tables, arrays and tensors) as columns of numbers and text.

A stranger may have written them: nothing in them is executed, and bounds are checked before memory is taken.
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
_LONGEST_VALUE = 40  # characters of a file's text in an error
_LONGEST_MESSAGE = 200  # characters of a library's message
_LONGEST_HEADER = 1_000_000  # bytes
_DELIMITERS = ",;\t"
_CLASSES = "classes"
_PANDAS_INDEX = "__index_level_"  # names the index of a frame in a Parquet file


@dataclass(frozen=True, eq=False)
class Texts:
    """A column of text.

    Attributes:
        values: the different texts, stripped.
        codes: the number of each row's text, [R].
    """

    values: Sequence[str]
    codes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def of(cls, values: Sequence[Any], codes: NDArray[Any]) -> Texts:
        """Strip texts, and merge those that are equal then."""
        stripped = ["" if value is None else str(value).strip() for value in values]
        unique = {text: number for number, text in enumerate(dict.fromkeys(stripped))}
        return cls(list(unique), np.array([unique[text] for text in stripped], np.int64)[codes])

    @classmethod
    def repeated(cls, value: str, rows: int) -> Texts:
        """The same text in every row."""
        return cls([value], np.zeros(rows, np.int64))


Column = Texts | NDArray[np.float64]


@dataclass(frozen=True)
class AccuracyTable:
    """The rows of one file.

    Attributes:
        path: of the file.
        columns: by name, all of R rows.
        unreadable: the types of the columns that are neither numbers nor text, by name.
    """

    path: Path
    columns: Mapping[str, Column]
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.unreadable and not self.columns:
            self._column(next(iter(self.unreadable)))  # refuses it
        ordered = sorted(self.columns, key=lambda name: len(self.columns[name]))
        if not ordered or not len(self.columns[ordered[-1]]):
            self.refuse("it has no rows")
        shortest, longest = ordered[0], ordered[-1]
        few, many = len(self.columns[shortest]), len(self.columns[longest])
        if few != many:
            self.refuse(
                f"'{shortest}' has {few:,} values and '{longest}' {many:,}. Every method needs one accuracy for each "
                "episode"
            )

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def refuse(self, finding: str) -> NoReturn:
        """Raise an AccuracyFileError that says what is wrong with this file."""
        raise AccuracyFileError(f"{self.path}: {finding}. Nothing was imported.")

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of finite numbers, [R]; raises AccuracyFileError if a value is missing, or is not such a number."""
        column = self._column(name)
        if isinstance(column, Texts):
            values = np.array([_number(text) for text in column.values], np.float64)[column.codes]
        else:
            values = column
        invalid = ~np.isfinite(values)
        if invalid.any():
            row = int(np.argmax(invalid))
            text = column.values[column.codes[row]] if isinstance(column, Texts) else ""
            found = repr(text[:_LONGEST_VALUE]) if text else "inf" if math.isinf(values[row]) else "empty or NaN"
            hint = " without %" if "%" in text else " with a decimal point" if "," in text else ""
            self.refuse(f"'{name}' is {found} in row {row + 1}, and should be a number{hint}")
        return values

    def whole(self, name: str, least: int, most: int) -> NDArray[np.int64]:
        """A column of whole numbers, both ends included, [R]; raises AccuracyFileError for another value."""
        values = self.numbers(name)
        invalid = (values != np.floor(values)) | (values < least) | (values > most)
        if invalid.any():
            found = f"'{name}' is {values[np.argmax(invalid)]:.12g} in row {first_row(invalid)}"
            self.refuse(f"{found}, and should be a whole number, {least} to {most:,}")
        return values.astype(np.int64)

    def texts(self, name: str) -> Texts:
        """A column as text, whole numbers without a point; raises AccuracyFileError for other values."""
        column = self._column(name)
        if isinstance(column, Texts):
            return column
        unique, codes = np.unique(self.whole(name, -(1 << 53), 1 << 53), return_inverse=True)
        return Texts([str(value) for value in unique.tolist()], codes.astype(np.int64))

    def _column(self, name: str) -> Column:
        if name in self.unreadable:
            self.refuse(f"'{name}' holds {self.unreadable[name]}, not numbers or text")
        return self.columns[name]


def first_row(is_marked: NDArray[np.bool_]) -> int:
    """The number of the first marked row, counted from 1 as in errors."""
    return int(np.argmax(is_marked)) + 1


def read_accuracy_file(path: Path, methods: Sequence[str] = ()) -> AccuracyTable:
    """Read a file of accuracies.

    Args:
        path: its suffix names its format.
        methods: names for the columns of an array that has none.

    Raises:
        AccuracyFileError: it is missing, of another format, damaged, too large, or would have to be executed.
    """
    if not path.is_file():
        raise AccuracyFileError(f"{path} is not a file. Name a file of accuracies: {', '.join(ACCURACY_FILES)}.")
    if path.stat().st_size > MOST_BYTES:
        raise AccuracyFileError(f"{path} has {path.stat().st_size:,} bytes; at most {MOST_BYTES:,} are read.")
    repeated = next((name for name in methods if list(methods).count(name) > 1), None)
    if repeated is not None:
        raise AccuracyFileError(f"the method '{repeated}' is named twice. Give every column a name of its own.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise AccuracyFileError(f"{path} is none of the kinds that can be read: {', '.join(ACCURACY_FILES)}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote, and odd pickles
            return reader(path, methods)
    except FewshotBenchError:
        raise
    except Exception as error:  # five libraries raise anything on a stranger's bytes
        message = " ".join(str(error).split())[:_LONGEST_MESSAGE] or type(error).__name__
        raise AccuracyFileError(
            f"{path} cannot be read ({message}): it is damaged, has the wrong suffix, or holds Python objects, which "
            "are never executed. Nothing was imported."
        ) from error


def _check_bounds(path: Path, rows: int, columns: int) -> None:
    """Refuse a file with too many rows, columns or values before its content is read."""
    for found, most, unit in (
        (rows, MOST_EPISODES, "rows"),
        (columns, MOST_COLUMNS, "columns"),
        (rows * columns, MOST_VALUES, "values"),
    ):
        if found > most:
            raise AccuracyFileError(f"{path} has {found:,} {unit}; at most {most:,} are read. Cut it into several.")


def _check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that unpacks to more than a file may have."""
    _check_bounds(path, 0, len(archive.infolist()))
    total = sum(member.file_size for member in archive.infolist())
    if total > MOST_BYTES:
        raise AccuracyFileError(f"{path} unpacks to {total:,} bytes; at most {MOST_BYTES:,} are read.")


def _read_text(path: Path, methods: Sequence[str]) -> AccuracyTable:
    import pyarrow as pa
    import pyarrow.csv as pc

    with path.open("rb") as file:
        line = file.readline(_LONGEST_HEADER)
    try:
        header = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise AccuracyFileError(f"{path} is not text in UTF-8. Save it as UTF-8.") from error
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=header.count)
    names = [unguarded(name.strip()) for name in next(csv.reader([header], delimiter=delimiter), [])]
    _check_names(path, names)
    _check_bounds(path, 0, len(names))
    numbers = [str(number) for number in range(len(names))]
    table = pc.read_csv(
        path,
        pc.ReadOptions(column_names=numbers, skip_rows=1),
        pc.ParseOptions(delimiter=delimiter),
        pc.ConvertOptions(column_types=dict.fromkeys(numbers, pa.string()), strings_can_be_null=False),
    )
    _check_bounds(path, table.num_rows, len(names))
    columns = zip(names, table.columns, strict=True)
    return AccuracyTable(path, {name: _text_column(column, unguarded) for name, column in columns})


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse a table unless each column has a name of its own, which is not a number."""
    if "" in names:
        raise AccuracyFileError(
            f"{path}: column {names.index('') + 1} has no name. Call it episode, or leave it out (pandas: index=False)."
        )
    if not names or all(math.isfinite(_number(name)) for name in names):
        raise AccuracyFileError(f"{path} should name its columns in the first line, such as episode,method_a,method_b.")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise AccuracyFileError(f"{path} has two columns '{repeated}'. Give every column a name of its own.")


def _number(text: str) -> float:
    """The number in a text; NaN for any other text."""
    try:
        return float(text) if "_" not in text else math.nan
    except ValueError:
        return math.nan


def _text_column(column: Any, convert: Callable[[str], str] = str) -> Texts:
    """A column of text of an Arrow table; what is empty or missing is ""."""
    import pyarrow as pa

    column = column.combine_chunks()
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    values = [convert(value or "") for value in column.dictionary.to_pylist()]
    return Texts.of([*values, ""], column.indices.fill_null(len(values)).to_numpy(zero_copy_only=False))


def _read_parquet(path: Path, methods: Sequence[str]) -> AccuracyTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    _check_bounds(path, file.metadata.num_rows, len(schema))
    types = {item.name: item.type for item in schema if not item.name.startswith(_PANDAS_INDEX)}
    names = [name for name in schema.names if not name.startswith(_PANDAS_INDEX)]
    _check_names(path, names)
    contents = {name: _content(types[name]) for name in names}
    texts = [name for name in names if contents[name] == "text"]
    wanted = [name for name in names if contents[name]]
    table = pq.ParquetFile(path, read_dictionary=texts).read(columns=wanted, use_threads=False)
    columns: dict[str, Column] = {}
    for name in wanted:
        if contents[name] == "numbers":
            columns[name] = table[name].cast(pa.float64()).to_numpy().astype(np.float64)
        else:
            columns[name] = _text_column(table[name] if name in texts else table[name].cast(pa.string()))
    return AccuracyTable(path, columns, {name: str(types[name]) for name in names if not contents[name]})


def _content(of: Any) -> str:
    """What a column of an Arrow type holds: "text", "flags", "numbers", or "" for anything else."""
    from pyarrow import types

    of = of.value_type if types.is_dictionary(of) else of
    if types.is_string(of) or types.is_large_string(of):
        return "text"
    if types.is_boolean(of):
        return "flags"
    return "numbers" if types.is_integer(of) or types.is_floating(of) or types.is_null(of) else ""


def _read_npy(path: Path, methods: Sequence[str]) -> AccuracyTable:
    with path.open("rb") as file:
        return _table_of_array(path, _read_array(path, file, path.stat().st_size), methods)


def _read_npz(path: Path, methods: Sequence[str]) -> AccuracyTable:
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        _check_archive(path, archive)
        for member in archive.infolist():
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = _read_array(path, file, member.file_size)
    return _table_of_arrays(path, arrays)


def _read_array(path: Path, file: IO[bytes], size: int) -> NDArray[Any]:
    """An array in NumPy's format, once its header is known to fit into the file."""
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
            _check_archive(path, archive)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose message advises to execute it
        raise AccuracyFileError(
            f"{path} is damaged, or holds Python objects, which are never unpickled. Save plain tensors. "
            "Nothing was imported."
        ) from error
    if isinstance(content, torch.Tensor):
        return _table_of_array(path, _array_of(path, content), methods)
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise AccuracyFileError(f"{path} should hold a tensor, or a dict of tensors by method.")
    _check_bounds(path, 0, len(content))
    return _table_of_arrays(path, {str(name): _array_of(path, tensor) for name, tensor in content.items()})


def _array_of(path: Path, tensor: Any) -> NDArray[Any]:
    """A tensor as an array; one that repeats a few bytes without end is refused before it is expanded."""
    import torch

    _check_bounds(path, tensor.numel(), 1)
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise AccuracyFileError(f"{path} should hold dense tensors on the CPU.")
    plain = tensor.detach()
    array: NDArray[Any] = (plain.double() if plain.is_floating_point() else plain).numpy()
    return array


def _read_safetensors(path: Path, methods: Sequence[str]) -> AccuracyTable:
    import safetensors

    with safetensors.safe_open(path, framework="np") as file:
        names = list(file.keys())
        _check_bounds(path, 0, len(names))
        return _table_of_arrays(path, {name: file.get_tensor(name) for name in names})


def _table_of_array(path: Path, array: NDArray[Any], methods: Sequence[str]) -> AccuracyTable:
    """An array without names, [E] or [E, A]."""
    if array.ndim not in (1, 2):
        raise AccuracyFileError(
            f"{path} has shape {list(array.shape)}; it should be [episodes] or [episodes, methods]."
        )
    columns = array[:, None] if array.ndim == 1 else array
    if columns.shape[1] != len(methods) or not methods:
        named = f"{len(methods)} {'is' if len(methods) == 1 else 'are'} named"
        found = f"{columns.shape[1]:,} column{'' if columns.shape[1] == 1 else 's'}"
        hint = " Turn it round ([episodes, methods])." if columns.shape[0] == len(methods) else ""
        raise AccuracyFileError(
            f"{path} has {found} and {named}. Name the method of each column with --method NAME.{hint}"
        )
    _check_bounds(path, *columns.shape)
    return AccuracyTable(path, {name: _numeric(path, name, columns[:, at]) for at, name in enumerate(methods)})


def _table_of_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> AccuracyTable:
    """Arrays by name, [E] each; the classes may be [E, N]."""
    if not arrays:
        raise AccuracyFileError(f"{path} holds no arrays.")
    columns: dict[str, Column] = {}
    for name, array in arrays.items():
        if name.lower() == _CLASSES and array.ndim == 2 and array.dtype.kind in "iuU":
            rows, codes = np.unique(array, axis=0, return_inverse=True)
            columns[name] = Texts.of([SEPARATOR.join(map(str, row)) for row in rows.tolist()], np.ravel(codes))
        elif array.ndim != 1:
            raise AccuracyFileError(f"{path}: '{name}' has shape {list(array.shape)}; it should be [episodes].")
        elif array.dtype.kind == "U":
            values, codes = np.unique(array, return_inverse=True)
            columns[name] = Texts.of(values.tolist(), codes)
        else:
            columns[name] = _numeric(path, name, array)
    _check_bounds(path, max(map(len, arrays.values())), len(arrays))
    return AccuracyTable(path, columns)


def _numeric(path: Path, name: str, array: NDArray[Any]) -> NDArray[np.float64]:
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
