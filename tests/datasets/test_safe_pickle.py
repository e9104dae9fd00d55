from __future__ import annotations

import collections
import contextlib
import copyreg
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import types
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.datasets.sources import safe_pickle
from fewshot_bench.datasets.sources.safe_pickle import UnsafePickleError, read_pickle
from fewshot_bench.errors import DatasetError

PROTOCOLS = range(6)
RECONSTRUCT = np.zeros(1).__reduce__()[0]
FROMBUFFER = np.zeros(1).__reduce_ex__(5)[0]
SCALAR = np.int64(1).__reduce__()[0]
SHELL = (np.ndarray, (0,), b"b")
SYSTEM = os.system  # as it is before a test replaces it

ALLOWED_GLOBALS = [
    *(f"numpy{core}.multiarray {name}" for core in (".core", "._core") for name in ("_reconstruct", "scalar")),
    *(f"numpy{core}.numeric _frombuffer" for core in (".core", "._core")),
    "numpy ndarray",
    "numpy dtype",
    "_codecs encode",
    "__builtin__ bytes",
    "builtins bytes",
    "__builtin__ bytearray",
    "builtins bytearray",
    "collections OrderedDict",
]
REFUSED_INSTRUCTIONS = {
    *("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"),
    *("EMPTY_SET", "ADDITEMS", "FROZENSET", "NEXT_BUFFER", "READONLY_BUFFER"),
}


class Reduced:
    """Pickled as a call of our choice, whatever the protocol."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def raw_dtype(name="u1", *state):
    return Reduced(np.dtype, (name, False, True), state or (3, "|", None, None, None, -1, -1, 0))


def raw_array(*, shape=(2,), dtype=None, fortran=False, data=b"ab", version=1, shell=SHELL):
    return Reduced(RECONSTRUCT, shell, (version, shape, dtype or raw_dtype(), fortran, data))


def as_global(name):
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


@pytest.fixture
def read(tmp_path):
    def read_bytes(data):
        path = tmp_path / "cache.pkl"
        path.write_bytes(data)
        return read_pickle(path)

    return read_bytes


@pytest.fixture
def refused(read):
    """Read bytes that must not be read, and return the one line that says why."""

    def refuse(data, match=None, error=UnsafePickleError):
        with pytest.raises(error, match=match) as caught:
            read(data)
        assert "cache.pkl" in str(caught.value)
        assert str(caught.value).isprintable(), "one line"
        return str(caught.value)

    return refuse


@pytest.fixture
def executed(monkeypatch):
    """What was executed, of the functions that an attack would call."""
    calls = []
    for module, name in ((os, "system"), (sys.modules[SYSTEM.__module__], "system"), (subprocess, "Popen")):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: calls.append(args))
    return calls


def assert_same(actual, expected):
    """Equal up to what `read_pickle` documents: Python scalars, bytes for byte arrays, plain dictionaries."""
    if isinstance(expected, np.ndarray):
        assert type(actual) is np.ndarray
        # NumPy itself may swap the bytes of an array when it unpickles it.
        assert actual.dtype.newbyteorder("<") == expected.dtype.newbyteorder("<")
        assert actual.shape == expected.shape
        assert actual.tobytes("A") == expected.astype(actual.dtype).tobytes("A")
        assert actual.flags.f_contiguous == expected.flags.f_contiguous
        return
    expected = expected.item() if isinstance(expected, np.generic) else expected
    expected = bytes(expected) if isinstance(expected, bytearray) else expected
    expected = dict(expected) if isinstance(expected, collections.OrderedDict) else expected
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(map(repr, actual)) == list(map(repr, expected))
        actual, expected = list(actual.values()), list(expected.values())
    if isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert struct.pack("d", actual) == struct.pack("d", expected)
    else:
        assert actual == expected


def assert_plain(result):
    """Nothing but the documented types, however nested or circular."""
    seen, waiting = set(), [result]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        assert type(value) in (dict, list, tuple, str, bytes, int, float, bool, type(None), np.ndarray)
        if type(value) is np.ndarray:
            assert value.dtype.kind in "biufSU"
            value.tolist()
        elif type(value) is dict:
            waiting += [*value.keys(), *value.values()]
        elif type(value) in (list, tuple):
            waiting += value


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def cache():
    """What caches of few-shot datasets look like, and what else can be in them."""
    pngs = [pixels(size, seed=size) for size in (3, 1023, 1024, 1025, 5000)]
    return {
        "image_data": pixels(6, 84, 84, 3),
        "class_dict": {"n01532829": [0, 1, 2], "n02110063": [3, 4, 5]},
        "images": pngs,
        "columns": [png.reshape(-1, 1) for png in pngs],
        "labels": [np.int64(3), np.int64(-4), 5],
        "label_array": np.arange(600),
        "scalars": (np.float32(0.5), np.bool_(True), np.uint8(200), np.str_("é€"), np.bytes_(b"a\xff")),
        "numbers": [0, 255, 256, 65536, -1, 2**31, -(2**63), 10**40, 0.1, float("inf"), True, None],
        "texts": ["", "é", "€\n\\u1234\0'\"", "\ud800", "long €" * 1000],
        b"bytes \xff": [b"", b"a", bytes(range(256)), bytes(range(256)) * 8, bytearray(b"\xff"), bytearray(2000)],
        "tuples": ((), (1,), (1, "2"), (1, 2, 3), (1, 2, 3, 4), (b"x" * 2000, (b"y" * 2000,))),
        "ordered": collections.OrderedDict([("z", 1), ("a", [2])]),
        "empty": [np.zeros(0), np.zeros((0, 3), np.uint8), [], {}, ()],
        "zero_dimensional": np.array(7.5),
        "fortran": [np.asfortranarray(pixels(2, 3)), np.asfortranarray(pixels(40, 50))],
        "transposed": pixels(4, 50, 20).transpose(1, 2, 0),
        "strided": pixels(60, 60)[::2, ::3],
        "big_endian": [np.arange(6, dtype=">i4"), np.arange(600, dtype=">f8").reshape(20, 30)],
        "types": [np.arange(300).astype(name) for name in "?bBhHiIqQefd"],
        "strings": [np.array(["a", "bé€"]), np.array([b"ab", b"c"]), np.array(["word"] * 300)],
        3: "integer",
        -2.5: "float",
        None: "none",
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_cache_holds_comes_back_from_every_protocol(read, protocol):
    assert_same(read(pickle.dumps(cache(), protocol)), cache())


@pytest.mark.parametrize("protocol", range(5))  # with 5 it fails to write an empty array
def test_what_the_pickler_in_python_wrote_comes_back_too(read, protocol):
    assert_same(read(pickle._dumps(cache(), protocol)), cache())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_without_superfluous_memo_entries_is_read_too(read, protocol):
    assert_same(read(pickletools.optimize(pickle.dumps(cache(), protocol))), cache())


@pytest.mark.parametrize("protocol", range(4))
def test_arrays_of_numpy_1_and_2_are_the_same(read, protocol):
    written = pickle.dumps([pixels(2000), np.int64(4)], protocol)
    versions = [
        written.replace(b"numpy._core.", b"numpy.core."),
        written.replace(b"numpy.core.", b"numpy._core."),
    ]
    assert versions[0] != versions[1]
    for version in versions:
        assert_same(read(version), [pixels(2000), 4])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_one_object_still_is(read, protocol):
    array, data, text, inner = pixels(5000), bytes(5000), "é" * 5000, [1]
    pair = (data, inner)
    result = read(pickle.dumps([array, array, data, data, text, text, inner, inner, pair, pair], protocol))
    assert all(result[index] is result[index + 1] for index in range(0, 10, 2))
    assert result[8][0] is result[2]
    assert result[8][1] is result[6]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_object_that_contains_itself_does(read, protocol):
    ring = [bytes(3000)]
    ring.append({"ring": ring, "tuple": (ring, bytes(4000))})
    result = read(pickle.dumps(ring, protocol))
    assert result[1]["ring"] is result
    assert result[1]["tuple"][0] is result
    assert result[1]["tuple"][1] == bytes(4000)


def test_what_follows_the_pickle_is_ignored(read):
    assert read(pickle.dumps([1]) + b"cos\nsystem\n and more") == [1]


# Python 2 (2.7.18 with NumPy 1.16.6), {'d': np.array([[1, 200], [3, 255]], np.uint8), 'l': [np.int64(7), 3]}
PYTHON_2 = {
    "cPickle 0": (
        b"(dp1\nS'd'\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntS'b'\ntRp4\n(I1\n(I2\nI2\nt"
        b"cnumpy\ndtype\np5\n(S'u1'\nI0\nI1\ntRp6\n(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x01\\xc8\\x03\\xff'\ntbsS'l'"
        b"\n(lp7\ncnumpy.core.multiarray\nscalar\np8\n(g5\n(S'i8'\nI0\nI1\ntRp9\n(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"S'\\x07\\x00\\x00\\x00\\x00\\x00\\x00\\x00'\ntRp10\naI3\nas."
    ),
    "pickle 0": (
        b"(dp0\nS'd'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n"
        b"(I1\n(I2\nI2\ntp8\ncnumpy\ndtype\np9\n(S'u1'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'|'\np13\nNNNI-1\nI-1\nI0\ntp14\n"
        b"bI00\nS'\\x01\\xc8\\x03\\xff'\np15\ntp16\nbsS'l'\np17\n(lp18\ncnumpy.core.multiarray\nscalar\np19\n(g9\n(S'i8'"
        b"\np20\nI0\nI1\ntp21\nRp22\n(I3\nS'<'\np23\nNNNI-1\nI-1\nI0\ntp24\nb"
        b"S'\\x07\\x00\\x00\\x00\\x00\\x00\\x00\\x00'\np25\ntp26\nRp27\naI3\nas."
    ),
    "cPickle 1": (
        b"}q\x01(U\x01dcnumpy.core.multiarray\n_reconstruct\nq\x02(cnumpy\nndarray\nq\x03(K\x00tU\x01btRq\x04(K\x01(K\x02"
        b"K\x02tcnumpy\ndtype\nq\x05(U\x02u1K\x00K\x01tRq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbI00\n"
        b"U\x04\x01\xc8\x03\xfftbU\x01l]q\x07(cnumpy.core.multiarray\nscalar\nq\x08(h\x05(U\x02i8K\x00K\x01tRq\t(K\x03"
        b"U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x08\x07\x00\x00\x00\x00\x00\x00\x00tRq\nK\x03eu."
    ),
    "cPickle 2": (
        b"\x80\x02}q\x01(U\x01dcnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04("
        b"K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff"
        b"\xffK\x00tb\x89U\x04\x01\xc8\x03\xfftbU\x01l]q\x07(cnumpy.core.multiarray\nscalar\nq\x08h\x05U\x02i8K\x00K\x01"
        b"\x87Rq\t(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x08\x07\x00\x00\x00\x00\x00\x00\x00\x86Rq\n"
        b"K\x03eu."
    ),
}


@pytest.mark.parametrize("pickler", PYTHON_2)
def test_arrays_that_python_2_wrote_are_read(read, pickler):
    expected = {"d": np.array([[1, 200], [3, 255]], np.uint8), "l": [7, 3]}
    assert_same(read(PYTHON_2[pickler]), expected)


def test_a_large_array_of_python_2_stays_on_disk(read):
    written = PYTHON_2["cPickle 2"]
    large = written.replace(b"K\x02K\x02\x86", b"K\x40K\x40\x86", 1)
    large = large.replace(b"U\x04\x01\xc8\x03\xff", b"T" + struct.pack("<i", 4096) + bytes(range(256)) * 16)
    array = read(large)["d"]
    assert type(array.base) is np.memmap
    assert (array == np.arange(4096).reshape(64, 64) % 256).all()


def test_strings_of_python_2_are_text_in_latin_1(read):
    written = b"(lp0\nS'caf\\xe9 \\'\\n'\naVcaf\\u20ac\naU\x02a\xffaT" + struct.pack("<i", 2000) + b"\xe9" * 2000 + b"a"
    assert read(written + b"S'" + b"\\xff" * 2000 + b"'\na.") == ["café '\n", "caf€", "aÿ", "é" * 2000, "ÿ" * 2000]


def test_keys_of_python_2_are_text_however_long(read):
    long_key = b"T" + struct.pack("<i", 2000) + b"\xe9" * 2000
    assert read(b"}(U\x04n\xe91xK\x01" + long_key + b"K\x02u.") == {"né1x": 1, "é" * 2000: 2}


def test_an_ordered_dict_and_byte_arrays_of_python_2_are_read(read):
    pairs = b"ccollections\nOrderedDict\n](](U\x01zK\x01e](U\x01aK\x02ee\x85R"
    assert list(read(b"\x80\x02" + pairs + b".").items()) == [("z", 1), ("a", 2)]
    byte_array = b"c__builtin__\nbytearray\n(X\x03\x00\x00\x00x\xc3\xbfU\x07latin-1tR."
    assert read(byte_array) == b"x\xff"


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_large_arrays_are_views_of_the_file(read, tmp_path, protocol):
    image, column, small = pixels(84, 84, 3), pixels(5000, 1, seed=1), pixels(1023, seed=2)
    result = read(pickle.dumps([image, column, small], protocol))
    written = (tmp_path / "cache.pkl").read_bytes()
    for array, expected in zip(result, (image, column), strict=False):
        assert type(array.base) is np.memmap
        assert len(array.base) == len(written)
        address = array.__array_interface__["data"][0] - array.base.__array_interface__["data"][0]
        assert address == written.index(expected.tobytes())
    assert result[0].base is result[1].base
    assert type(result[2].base) is not np.memmap


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_array_can_be_written_to(read, protocol):
    for array in read(pickle.dumps([pixels(10), pixels(5000), np.asfortranarray(pixels(50, 60))], protocol)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_reading_does_not_take_the_memory_of_the_arrays(tmp_path):
    path = tmp_path / "cache.pkl"
    path.write_bytes(pickle.dumps([pixels(100_000, seed=seed) for seed in range(200)], 4))
    tracemalloc.start()
    result = read_pickle(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(array.nbytes for array in result) == 20_000_000
    assert peak < 1_000_000


def test_wide_numbers_are_read_from_any_offset(read):
    arrays = [np.arange(200 + shift) + 0.5 for shift in range(16)]
    written = pickle.dumps([part for array in arrays for part in (array, "x" * len(array) * 3)], 4)
    result = read(written)[::2]
    assert not all(array.flags.aligned for array in result)
    for array, expected in zip(result, arrays, strict=True):
        assert_same(array, expected)


KEYS = st.one_of(st.text(), st.binary(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.none())
ARRAYS = st.builds(
    lambda name, shape, order, seed: np.asarray(
        np.random.default_rng(seed).integers(0, 2, shape).astype(name), order=order
    ),
    st.sampled_from(["bool", "uint8", "<i2", ">i4", "<f4", ">f8", "S3", "<U2", ">U2"]),
    st.lists(st.integers(0, 12), max_size=4).map(tuple),
    st.sampled_from("CF"),
    st.integers(0, 9),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=2000), ARRAYS),
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(KEYS, inner),
    ),
    max_leaves=20,
)


@pytest.mark.slow
@pytest.mark.parametrize("lazy_from", [32, 1024])
@given(value=VALUES, protocol=st.sampled_from(PROTOCOLS))
@settings(max_examples=150, deadline=None)
def test_benign_values_are_what_pickle_says_they_are(lazy_from, value, protocol):
    written = pickle.dumps(value, protocol)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(safe_pickle, "LAZY_FROM", lazy_from):
        path = Path(folder) / "cache.pkl"
        path.write_bytes(written)
        assert_same(read_pickle(path), pickle.loads(written))


# What else a file can be.


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\n  \t<!doctype HTML>", "is a web page"),
        (b"\xef\xbb\xbf<HTML lang='en'>", "is a web page"),
        (b"PK\x03\x04rest", "is a zip archive"),
        (b"\x1f\x8b\x08rest", "is compressed with gzip"),
        (b"train.pkl".ljust(257, b"\0") + b"ustar\x0000", "is a tar archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a pickle"),
        (b"hello world\n", "is not a pickle"),
        (b"\x80\xff.", "is not a pickle"),
        (b".", "is not a pickle"),
        (b"\xfe\xff", "no instruction has the code 0xfe"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(refused, content, what):
    refused(content, what, DatasetError)


def test_a_pickle_that_mentions_tar_is_still_a_pickle(read):
    written = pickle.dumps(" " * 300, 2)
    written = written[:257] + b"ustar" + written[262:]
    assert "ustar" in read(written)


@pytest.mark.parametrize(
    ("written", "what"),
    [
        (b"S'\n.", "a string without quotes"),
        (b"S'a\n.", "a string without quotes"),
        (b"S'a\"\n.", "a string without quotes"),
        (b"Sxax\n.", "a string without quotes"),
        (b"}(K\x01u.", "a key without a value"),
        (b"(K\x01d.", "a key without a value"),
        (b"K\x01\x86.", "a tuple of more items than there are"),
        (b"(K\x01K\x01\x87.", "a tuple of more items than there are"),
        (b"K\x01t.", "what it says there makes no sense"),
    ],
)
def test_a_program_that_makes_no_sense_is_damaged(refused, written, what):
    refused(written, rf"is damaged near byte \d+ \({what}\)", DatasetError)


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_pickle(tmp_path / "nothing.pkl")


def test_a_folder_is_not_opened(tmp_path):
    with pytest.raises(DatasetError, match="is not a file"):
        read_pickle(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("pickler", [pickle.dumps, pickle._dumps], ids=["C", "Python"])
def test_a_pickle_cut_off_anywhere_is_refused(refused, protocol, pickler):
    written = pickler({"a": [pixels(3), np.int64(4), b"x\xff", "é", 1.5, 2**40, -3], "b": (1, "x" * 1100)}, protocol)
    for length in range(1, len(written)):
        refused(written[:length], "ends before the pickle in it does", DatasetError)


ANY_ERROR = [
    *(
        MemoryError(),
        RecursionError(),
        struct.error("x"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "\n"),
        ValueError("\n"),
    ),
    *(IndexError(), KeyError("x"), AttributeError(), TypeError(), OverflowError(), EOFError(), AssertionError()),
    *(
        pickle.UnpicklingError("x"),
        SystemError(),
        OSError(5, "Input/output error"),
        ZeroDivisionError(),
        StopIteration(),
    ),
]


@pytest.mark.parametrize("error", ANY_ERROR, ids=lambda error: type(error).__name__)
def test_whatever_goes_wrong_is_a_dataset_error(refused, monkeypatch, error):
    monkeypatch.setattr(safe_pickle.Unpickler, "load", mock.Mock(side_effect=error))
    refused(pickle.dumps(1), error=DatasetError)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "does not fit into memory"),
        (OSError(5, "Input/output error"), "cannot be read .*Input/output error"),
    ],
)
def test_a_fault_of_the_machine_is_not_blamed_on_the_file(refused, monkeypatch, error, what):
    monkeypatch.setattr(safe_pickle.Unpickler, "load", mock.Mock(side_effect=error))
    refused(pickle.dumps(1), what, DatasetError)


def test_the_user_can_still_interrupt(read, monkeypatch):
    monkeypatch.setattr(safe_pickle.Unpickler, "load", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        read(pickle.dumps(1))


# Code that wants to be executed.

EVIL = Reduced(SYSTEM, ("touch ran",))
HIDING_PLACES = {
    "top": EVIL,
    "deep": [{"a": [({"b": (1, [EVIL])},)]}],
    "key": {(1, EVIL): 2},
    "array state": Reduced(RECONSTRUCT, SHELL, EVIL),
    "array data": raw_array(data=EVIL),
    "array dtype": raw_array(dtype=EVIL),
    "array shape": raw_array(shape=(EVIL,)),
    "dtype name": Reduced(np.dtype, (EVIL, False, True)),
    "dtype state": Reduced(np.dtype, ("u1", False, True), EVIL),
    "buffer": Reduced(FROMBUFFER, (EVIL, raw_dtype(), (2,), "C")),
    "scalar": Reduced(SCALAR, (raw_dtype(), EVIL)),
    "after an array": [pixels(5000), EVIL],
}
ATTACKS = {
    (place, protocol): pickle.dumps(content, protocol)
    for place, content in HIDING_PLACES.items()
    for protocol in PROTOCOLS
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("place", HIDING_PLACES)
def test_a_call_of_the_shell_is_refused_wherever_it_hides(refused, executed, place, protocol):
    written = ATTACKS[place, protocol]
    with contextlib.suppress(Exception):  # what it makes of the result is its affair
        pickle.loads(written)
    assert executed.pop() == ("touch ran",), "the attack works where pickle is used"
    refused(written, rf"{SYSTEM.__module__}\.system")
    assert not executed


@pytest.mark.parametrize(
    "name",
    [
        *("os system", "posix system", "nt system", "subprocess Popen", "subprocess check_output", "pickle loads"),
        *("builtins eval", "builtins exec", "builtins getattr", "builtins __import__", "__builtin__ eval"),
        *("builtins set", "builtins list", "builtins str", "copyreg _reconstructor", "copy_reg _reconstructor"),
        *("numpy load", "numpy fromfile", "numpy memmap", "numpy matrix", "numpy f2py", "numpy frombuffer"),
        *("numpy.core.multiarray fromfile", "numpy.core memmap", "numpy.core.records recarray", "numpy.ma MaskedArray"),
        *("numpy.core.multiarray _reconstruct.__globals__", "numpy ndarray.__new__", "numpy.core multiarray.scalar"),
        *("_codecs decode", "_codecs lookup", "codecs encode", "collections defaultdict", "functools partial"),
        *("operator attrgetter", "runpy run_path", "__main__ x", "torch._utils _rebuild_tensor_v2", " "),
    ],
)
def test_a_global_that_is_not_needed_is_refused_by_name(refused, executed, name):
    module, attribute = name.split(" ")
    for arguments in (b"", b")R", b"(S'true'\ntR", b"}b", b")\x81"):
        refused(as_global(name) + arguments + b".", f"asks for {module}.{attribute} near")
        words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, attribute))
        refused(b"\x80\x04" + words + b"\x93" + arguments + b".", f"asks for {module}.{attribute} near")
    assert not executed


def test_a_global_whose_name_is_computed_is_refused(refused, executed):
    written = b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94(h\x01h\x00l0h\x01h\x00\x93\x8c\x04true\x85R."
    pickle.loads(written)
    assert executed.pop() == ("true",)
    refused(written, r"os\.system")
    assert not executed


def test_a_name_cannot_break_the_line_of_the_message(refused):
    line = refused(b"\x80\x04\x8c\x0ca\nb\x1b[31m\xc2\x9bcd\x8c\x01x\x93.", r"a\\nb")
    assert "\x1b" not in line
    assert len(refused(b"c" + b"m" * 4000 + b"\nn\n.")) < 600


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_exactly_the_instructions_for_plain_data_are_known(read, opcode):
    try:
        read(b"]]" + opcode.code.encode("latin1") + b"\0" * 8 + b"\n\n.")
    except DatasetError as error:
        is_refused = f"the instruction {opcode.name} " in str(error)
    else:
        is_refused = False
    assert is_refused == (opcode.name in REFUSED_INSTRUCTIONS)


@pytest.mark.parametrize(
    ("instruction", "written"),
    [
        ("INST", b"(S'true'\nios\nsystem\n."),
        ("INST", b"(inumpy\nndarray\n."),
        ("OBJ", b"(cnumpy\nndarray\nK\x01o."),
        ("NEWOBJ", b"cnumpy\nndarray\nK\x01\x85\x81."),
        ("NEWOBJ", b"ccollections\nOrderedDict\n)\x81."),
        ("NEWOBJ_EX", b"cnumpy\nndarray\n)}\x92."),
        ("PERSID", b"Pname\n."),
        ("BINPERSID", b"K\x01Q."),
        ("NEXT_BUFFER", b"\x80\x05\x97."),
        ("READONLY_BUFFER", b"\x80\x05C\x01a\x98."),
        ("EMPTY_SET", pickle.dumps({1}, 4)),
        ("FROZENSET", pickle.dumps(frozenset({1}), 4)),
    ],
)
def test_instructions_that_make_objects_are_refused_by_name(refused, executed, instruction, written):
    refused(written, f"asks for the instruction {instruction} near")
    assert not executed


@pytest.mark.parametrize(
    ("code", "instruction"), [(240, b"\x82\xf0"), (60_000, b"\x83\x60\xea"), (70_000, b"\x84\x70\x11\1\0")]
)
def test_the_extension_registry_is_never_asked(refused, executed, code, instruction):
    written = instruction + b"S'true'\n\x85R."
    copyreg.add_extension("os", "system", code)
    try:
        pickle.loads(written)
        assert executed.pop() == ("true",)
        refused(written, "asks for the instruction EXT")
        assert not executed
    finally:
        copyreg.remove_extension("os", "system", code)
        copyreg._extension_cache.pop(code, None)


STATES = [
    b"N",
    b"}",
    b")",
    b"](K\x01e",
    b"}S'__setstate__'\nK\x01s",
    b"}S'__class__'\nK\x01s",
    b"}S'call'\nK\x01s",
    b"}}S'call'\nK\x01s\x86",
    b"N}S'name'\nK\x01s\x86",
    b"(K\x03S'|'\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t",
]


@pytest.mark.parametrize("name", ALLOWED_GLOBALS)
def test_an_allowed_function_has_no_state(refused, read, name):
    for state in STATES:
        refused(as_global(name) + state + b"b.", "asks for a change of the state of")
    assert_same(read(pickle.dumps(cache(), 2)), cache())


@pytest.mark.parametrize("name", ALLOWED_GLOBALS)
def test_an_allowed_function_is_not_a_value(refused, name):
    function = as_global(name)
    for written in (
        function,
        b"(l" + function + b"a",
        b"}K\x01" + function + b"s",
        function + b"\x85\x85",
        b"(" + function + b"l",
    ):
        refused(written + b".", f"asks for {name.replace(' ', '.')} as a value")
    refused(b"}" + function + b"K\x01s.", "as a value")
    refused(b"(" + function + b"K\x01d.", "as a value")


@pytest.mark.parametrize(
    "target", [b"]", b"}", b")", b"K\x01", b"S'x'\n", b"N", b"\x80\x03B" + struct.pack("<I", 2000) + b"x" * 2000]
)
@pytest.mark.parametrize("state", STATES)
def test_plain_values_have_no_state_and_cannot_be_called(refused, target, state):
    refused(target + state + b"b.", "asks for a change of the state of a? ?[a-z]+")
    refused(target + state + b"R.", "asks for a call of a [a-z]+")


@pytest.mark.parametrize(
    "target", [b"}", b")", b"K\x01", b"S'x'\n", b"N", *(as_global(name) for name in ALLOWED_GLOBALS)]
)
def test_items_are_added_to_lists_and_dictionaries_only(refused, target):
    refused(target + b"K\x01a.", "asks for an item added to a")
    refused(target + b"(K\x01e.", "asks for an item added to a")
    target = b"]" if target == b"}" else target
    refused(target + b"K\x01K\x01s.", "asks for an item added to a")
    refused(target + b"(K\x01K\x01u.", "asks for an item added to a")


# Arrays that are not what they say.


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (np.array([{}, 1], dtype=object), "the dtype 'O8'"),
        (np.zeros(2, [("a", "i4"), ("b", "u1")]), "the dtype 'V5'"),
        (np.zeros(2, "V10"), "the dtype 'V10'"),
        (np.zeros(2, "M8[s]"), "the dtype 'M8'"),
        (np.zeros(2, "m8[s]"), "the dtype 'm8'"),
        (np.zeros(2, complex), "the dtype 'c16'"),
        (np.complex64(1j), "the dtype 'c8'"),
        (np.dtype("u1"), "numpy.dtype as a value"),
        (np.uint8, r"numpy\.uint8"),
        (np.ma.array([1, 2]), r"numpy\.ma\..*_mareconstruct"),
        (np.zeros((2, 2)).view(np.matrix), r"numpy\..*matrix"),
        (np.zeros(2).view(np.recarray), r"numpy\..*recarray"),
    ],
)
def test_arrays_of_anything_but_numbers_and_strings_are_refused_by_name(refused, content, name, protocol):
    refused(pickle.dumps({"data": [content]}, protocol), name)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "name",
    [
        "O",
        "O8",
        "|O",
        "V1000000000",
        "V10**9",
        "u1,O",
        "u1, u1",
        "(2,)u1",
        "u3",
        "U0",
        "S",
        "S-1",
        "S99999999999",
        "a5",
        "object",
    ],
)
def test_a_dtype_is_known_by_name_or_refused(refused, protocol, name):
    dtype = raw_dtype(name)
    for content in (
        raw_array(dtype=dtype),
        Reduced(SCALAR, (dtype, b"a")),
        Reduced(FROMBUFFER, (b"a", dtype, (1,), "C")),
    ):
        refused(pickle.dumps(content, protocol), "asks for the dtype '")


FOREIGN = {
    "class": (raw_array(shell=(dict, (0,), b"b")), UnsafePickleError),
    "subclass": (raw_array(shell=(np.matrix, (0,), b"b")), UnsafePickleError),
    "function as class": (raw_array(shell=(FROMBUFFER, (0,), b"b")), UnsafePickleError),
    "shell that is large": (raw_array(shell=(np.ndarray, (2**40,), b"b")), DatasetError),
    "shell without type": (raw_array(shell=(np.ndarray, (0,))), DatasetError),
    "call of ndarray": (Reduced(np.ndarray, ((2**40,),)), UnsafePickleError),
    "call of dtype with one argument": (Reduced(np.dtype, ("u1",)), DatasetError),
    "dtype of a dictionary": (Reduced(np.dtype, ({"names": ["a"], "formats": ["O"]}, False, True)), DatasetError),
    "dtype with fields": (
        raw_array(dtype=raw_dtype("u1", 3, "|", None, ("a",), {"a": (1, 0)}, -1, -1, 0)),
        UnsafePickleError,
    ),
    "dtype of arrays": (raw_array(dtype=raw_dtype("u1", 3, "|", (1, (2,)), None, None, -1, -1, 0)), UnsafePickleError),
    "dtype of another size": (raw_array(dtype=raw_dtype("u1", 3, "|", None, None, None, 2**40, 1, 0)), DatasetError),
    "dtype of no byte order": (raw_array(dtype=raw_dtype("u2", 3, "!", None, None, None, -1, -1, 0)), DatasetError),
    "dtype of swapped bytes": (raw_array(dtype=raw_dtype("u1", 3, "S", None, None, None, -1, -1, 0)), DatasetError),
    "dtype with metadata": (raw_array(dtype=raw_dtype("u1", 4, "|", None, None, None, -1, -1, 0, {})), DatasetError),
    "version": (raw_array(version=2), DatasetError),
    "order": (raw_array(fortran="yes"), DatasetError),
    "list of objects": (raw_array(data=[1, 2]), UnsafePickleError),
    "dictionary as data": (raw_array(data={}), UnsafePickleError),
    "text beyond latin-1": (raw_array(data="a€"), DatasetError),
    "dtype that is text": (Reduced(RECONSTRUCT, SHELL, (1, (2,), "u1", False, b"ab")), DatasetError),
    "state with a sixth part": (Reduced(RECONSTRUCT, SHELL, (1, (2,), raw_dtype(), False, b"ab", 0)), DatasetError),
    "array without state": (Reduced(RECONSTRUCT, SHELL), DatasetError),
    "array as state": (Reduced(RECONSTRUCT, SHELL, np.zeros(5)), DatasetError),
    "buffer in no order": (Reduced(FROMBUFFER, (b"ab", raw_dtype(), (2,), "A")), DatasetError),
    "buffer without axes": (Reduced(FROMBUFFER, (b"ab", raw_dtype(), (2,), "K")), DatasetError),
    "buffer of wrong axes": (Reduced(FROMBUFFER, (b"ab", raw_dtype(), (2, 1), "K", (0, 0))), DatasetError),
    "buffer of counted axes": (Reduced(FROMBUFFER, (b"ab", raw_dtype(), (2, 1), "K", (-1, 0))), DatasetError),
    "buffer of true axes": (Reduced(FROMBUFFER, (b"ab", raw_dtype(), (2, 1), "K", (True, False))), DatasetError),
    "empty array of large extents": (raw_array(shape=(2**62, 0), data=b""), DatasetError),
    "scalar of wrong size": (Reduced(SCALAR, (raw_dtype("i8"), b"ab")), DatasetError),
    "character that does not exist": (raw_array(shape=(1,), dtype=raw_dtype("U1"), data=b"\xff" * 4), DatasetError),
    "scalar that does not exist": (Reduced(SCALAR, (raw_dtype("U1"), b"\xff" * 4)), DatasetError),
    "bytes from a number": (Reduced(bytes, (10**12,)), UnsafePickleError),
    "bytearray from a number": (Reduced(bytearray, (10**12,)), UnsafePickleError),
    "bytearray in another encoding": (Reduced(bytearray, (b"text", "utf-8")), UnsafePickleError),
    "dictionary from a number": (Reduced(collections.OrderedDict, (5,)), DatasetError),
    "dictionary from triples": (Reduced(collections.OrderedDict, ([(1, 2, 3)],)), DatasetError),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", FOREIGN)
def test_calls_of_allowed_functions_are_checked(refused, case, protocol):
    content, error = FOREIGN[case]
    refused(pickle.dumps([content], protocol), error=error)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "shape",
    [
        *((2**62, 2), (2**31, 2**31), (2**62, 0), (2**64,), (10**400,), (-1,), (-2, -1), (-1, 0)),
        *((3,), (1,), (), (2, 2), (1,) * 31 + (2, 1), (2.0,), ("2",), (True, 2), (None,), [2], 2, None),
    ],
)
def test_a_shape_that_does_not_fit_the_data_is_refused(refused, protocol, shape):
    refused(pickle.dumps(raw_array(shape=shape), protocol), "an array ", DatasetError)


def test_the_same_array_of_a_fitting_shape_is_read(read):
    assert_same(
        read(pickle.dumps(raw_array(shape=(1,) * 31 + (2,)), 2)),
        np.frombuffer(b"ab", np.uint8).reshape((1,) * 31 + (2,)),
    )


def test_an_array_or_a_dtype_gets_its_state_once(refused):
    for content, what in ((raw_dtype(), "a dtype"), (raw_array(), "an array")):
        written, state = (pickle.dumps(part, 2)[2:-1] for part in (content, content.reduced[2]))
        refused(written + state + b"b.", f"{what} with a malformed state", DatasetError)


@pytest.mark.parametrize("encoding", ["utf-8", "rot13", "zlib", "latin-1", "LATIN1", 1, None])
def test_text_is_encoded_in_one_way_only(refused, encoding):
    encode = pickle.loads(b"c_codecs\nencode\n.")
    refused(pickle.dumps(Reduced(encode, ("text", encoding)), 2), "_codecs.encode into anything but latin1")


# Pickles that want memory or time.


def refused_in_little_memory(refused, data, match, error=DatasetError):
    tracemalloc.start()
    refused(data, match, error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


SIZES = {"<B": (255,), "<I": (2**31, 2**32 - 1), "<i": (2**31 - 1,), "<Q": (2**31, 2**62, 2**63, 2**64 - 1)}
COUNTED = {
    **{pickle.SHORT_BINBYTES: "<B", pickle.SHORT_BINSTRING: "<B", pickle.SHORT_BINUNICODE: "<B"},
    **{pickle.BINBYTES: "<I", pickle.BINUNICODE: "<I", pickle.BINSTRING: "<i"},
    **{pickle.BINBYTES8: "<Q", pickle.BINUNICODE8: "<Q", pickle.BYTEARRAY8: "<Q", pickle.FRAME: "<Q"},
}


@pytest.mark.parametrize("code", COUNTED, ids=lambda code: code.hex())
def test_a_length_is_checked_before_it_is_believed(refused, code):
    for size in SIZES[COUNTED[code]]:
        written = b"\x80\x05" + code + struct.pack(COUNTED[code], size) + b"abc."
        refused_in_little_memory(refused, written, "ends before the pickle in it does")


@pytest.mark.parametrize("size", [-1, -(2**31)])
def test_a_negative_length_is_refused(refused, size):
    refused(b"T" + struct.pack("<i", size) + b"abc.", "a string of negative length", DatasetError)
    refused(b"\x8b" + struct.pack("<i", size) + b"abc.", "an integer of -", DatasetError)


@pytest.mark.parametrize(
    "written",
    [
        b"L" + b"9" * 100_000 + b"L\n.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"F" + b"9" * 100_000 + b"\n.",
        b"Np" + b"9" * 100_000 + b"\n.",
        b"g" + b"9" * 100_000 + b"\n.",
        b"\x8b" + struct.pack("<i", 100_000) + b"\x01" * 100_000 + b".",
    ],
)
def test_a_number_of_absurd_length_is_refused(refused, written):
    refused(written, "an integer of 100,000 bytes|a line of 4,096 bytes", DatasetError)


def test_a_large_memo_index_costs_nothing(read):
    tracemalloc.start()
    result = read(b"K\x07r\xff\xff\xff\x7fr\xff\xff\xff\xff0j\xff\xff\xff\x7fp4000000000\n0g4000000000\n.")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result == 7
    assert peak < 1_000_000


@pytest.mark.parametrize(
    "written", [b"Np-1\n.", b"Np99999999999\n.", b"h\x05.", b"g0\n.", b"g-1\n.", b"j\1\0\0\0.", b"q\0.", b"\x94."]
)
def test_a_memo_index_that_cannot_be_is_refused(refused, written):
    refused(written, "is not a pickle, or is damaged", DatasetError)


@pytest.mark.slow
@given(st.lists(st.sampled_from([b"\x94", *(b"q" + bytes([index]) for index in range(7))]), min_size=1))
@settings(deadline=None)
def test_the_memo_is_that_of_pickle(instructions):
    stored = b"".join(b"K" + bytes([value]) + instruction + b"0" for value, instruction in enumerate(instructions))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache.pkl"
        for index in range(len(instructions) + 1):
            path.write_bytes(stored + b"h" + bytes([index]) + b".")
            try:
                expected = pickle._loads(path.read_bytes())
            except pickle.UnpicklingError:
                with pytest.raises(DatasetError):
                    read_pickle(path)
            else:
                assert read_pickle(path) == expected


def test_memo_entries_are_found_in_any_order(read):
    stored = b"".join(b"K" + bytes([index]) + b"q" + bytes([index]) + b"0" for index in (0, 5, 1, 2, 3, 4, 5, 7, 6))
    fetched = b"".join(b"h" + bytes([index]) for index in range(8))
    assert read(stored + b"(" + fetched + b"l.") == list(range(8))
    assert read(b"K\x09q\x05\x94\x94K\x08\x94(h\x05h\x01h\x02h\x03l.") == [9, 9, 9, 8]


def test_a_function_replaced_in_the_memo_is_not_called(refused, executed):
    refused(b"cnumpy\ndtype\nq\x000S'os'\nq\x000h\x00(S'u1'\nI0\nI1\ntR.", "asks for a call of a str")
    refused(b"cnumpy\ndtype\nq\x000cos\nsystem\nq\x000h\x00(S'true'\ntR.", r"os\.system")
    assert not executed


def test_a_billion_laughs_cost_nothing_as_a_value(read):
    result = read(
        b"]q\x00"
        + b"".join(b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(200))
        + b"."
    )
    for _ in range(200):
        assert result[0] is result[1]
        result = result[0]
    assert result == []


@pytest.mark.parametrize("first", [b")", b"K\x01\x85"])
def test_a_billion_laughs_are_no_key(refused, first):
    laughs = first + b"q\x00" + b"".join(b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(200))
    refused(b"}" + laughs + b"K\x01s.", "a dictionary with a key of type tuple")
    refused(b"}(" + laughs + b"K\x01u.", "a dictionary with a key of type tuple")
    refused(b"(" + laughs + b"K\x01d.", "a dictionary with a key of type tuple")
    pairs = b"(l" + laughs + b"K\x01\x86a"
    refused(b"ccollections\nOrderedDict\n" + pairs + b"\x85R.", "a dictionary with a key of type tuple")


@pytest.mark.parametrize("key", [b"]", b"}", b"(" + b"K\x01" * 9 + b"t", pickle.dumps(pixels(3), 2)[2:-1]])
def test_a_key_is_plain(refused, key):
    refused(b"}" + key + b"K\x01s.", "a dictionary with a key of type (list|dict|tuple|ndarray)")


def test_integers_chosen_to_have_one_hash_are_no_keys(refused):
    same_hash = [(2**61 - 1) * factor for factor in (1, 2, 3)]
    assert len(set(map(hash, same_hash))) == 1
    for key in (*same_hash, -same_hash[0]):
        refused(pickle.dumps({key: 1}), "an absurdly large integer as key")


def peak_of(read, data):
    tracemalloc.start()
    result = read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, peak


def test_a_long_string_fetched_often_is_decoded_once(read):
    for code in (b"B", b"X", b"T"):
        long = code + struct.pack("<i", 100_000) + b"x" * 100_000
        result, peak = peak_of(read, long + b"q\x000(" + b"h\x00" * 1000 + b"l.")
        assert len(result) == 1000
        assert all(value is result[0] for value in result)
        assert peak < 2_000_000


def test_a_long_text_encoded_often_is_encoded_once(read):
    for long in (b"X" + struct.pack("<i", 100_000) + b"x" * 100_000, b"V" + b"x" * 100_000 + b"\n"):
        function = b"c_codecs\nencode\nq\x010X\x06\x00\x00\x00latin1q\x020"
        result, peak = peak_of(read, long + b"q\x000" + function + b"(" + b"h\x01h\x00h\x02\x86R" * 1000 + b"l.")
        assert result[999] == b"x" * 100_000
        assert all(value is result[0] for value in result)
        assert peak < 2_000_000


def test_a_tuple_of_long_strings_fetched_often_is_made_once(read):
    long = b"B" + struct.pack("<i", 5000) + b"x" * 5000 + b"q\x000("
    result, peak = peak_of(read, long + b"h\x00" * 10_000 + b"tq\x010(" + b"h\x01" * 1000 + b"l.")
    assert all(value is result[0] for value in result)
    assert result[0][9999] == b"x" * 5000
    assert peak < 2_000_000


def arrays_of_one_buffer(dtype, count):
    """Many arrays of 10,000 elements, all made of the same 80,000 bytes."""
    dtype = pickle.dumps(raw_dtype(dtype), 2)[2:-1] + b"r\x00\x01\x00\x000"
    function = pickle.dumps(FROMBUFFER, 2)[2:-1] + b"r\x01\x01\x00\x000"
    data = b"B" + struct.pack("<i", 80_000) + b"x\0\0\0" * 20_000 + b"r\x02\x01\x00\x000"
    call = b"j\x01\x01\x00\x00(j\x02\x01\x00\x00j\x00\x01\x00\x00J\x10\x27\x00\x00\x85X\x01\x00\x00\x00CtR"
    return dtype + function + data + b"(" + call * count + b"l."


def test_one_buffer_makes_many_arrays_without_a_copy(read):
    result, peak = peak_of(read, arrays_of_one_buffer("f8", 1000))
    assert sum(array.nbytes for array in result) == 80_000_000
    assert peak < 2_000_000


def test_work_that_is_asked_for_again_and_again_is_refused(refused):
    pairs = b"(l" + b"".join(b"K" + bytes([n]) + b"K\x00\x86a" for n in range(250)) + b"q\x000"
    function = b"ccollections\nOrderedDict\nq\x010"
    refused(pairs + function + b"(" + b"h\x01h\x00\x85R" * 1000 + b"l.", "the same work again and again")
    refused(arrays_of_one_buffer("U2", 10), "the same work again and again")


def test_work_that_is_asked_for_once_is_done(read):
    assert read(arrays_of_one_buffer("U2", 1))[0].tolist() == ["xx"] * 10_000


DEPTH = 200_000
DEEP = {
    "list": b"]" * DEPTH + b"a" * (DEPTH - 1),
    "tuple": b")" + b"\x85" * (DEPTH - 1),
    "tuple after marks": b"(" * DEPTH + b"t" * DEPTH,
    "dictionary": b"}K\x00" * (DEPTH - 1) + b"}" + b"s" * (DEPTH - 1),
    "tuple around bytes": b"B" + struct.pack("<i", 2000) + b"x" * 2000 + b"\x85" * DEPTH,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEEP)
def test_very_many_levels_are_read_and_released(read, kind):
    value = read(DEEP[kind] + b".")
    depth = 0
    while type(value) in (list, tuple, dict):
        depth += 1
        value = value[0] if value else None
    assert depth == DEPTH


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEEP)
def test_very_many_levels_that_end_badly_are_released_too(refused, kind):
    refused(DEEP[kind], "ends before the pickle in it does", DatasetError)
    refused(DEEP[kind] + b"\xff.", "no instruction has the code 0xff", DatasetError)


def outcome_of(path):
    try:
        result = read_pickle(path)
    except DatasetError as error:
        return type(error) if str(error).isprintable() else "a message of several lines"
    assert_plain(result)
    return "read"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_give_plain_data_or_an_error(tmp_path, executed, seed):
    generator = random.Random(seed)
    small = {
        "a": [pixels(3), np.arange(3), np.int64(4), b"x\xff" * 600, "é"],
        "b": (1.5, {2: None}),
        "c": np.array(["é"]),
    }
    written = [pickle.dumps(small, protocol) for protocol in PROTOCOLS] + list(PYTHON_2.values())
    path, outcomes = tmp_path / "cache.pkl", collections.Counter()
    for _ in range(400):
        damaged = bytearray(generator.choice(written))
        for _ in range(generator.choice((1, 1, 2, 5))):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        outcomes[outcome_of(path)] += 1
    assert not executed
    assert set(outcomes) == {"read", DatasetError, UnsafePickleError}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_instructions_in_any_order_give_plain_data_or_an_error(tmp_path, executed, seed):
    generator = random.Random(seed)
    words = [opcode.code.encode("latin1") for opcode in pickletools.opcodes if opcode.arg is None]
    words += [as_global(name) for name in ALLOWED_GLOBALS] * 2 + [b"cos\nsystem\n"]
    words += [
        b"K\x01",
        b"K\x00",
        b"X\x02\0\0\0u1",
        b"U\x01a",
        b"C\x02ab",
        b"h\x00",
        b"q\x00",
        b"N",
        b"(",
        b"(",
        b"t",
        b"R",
        b"b",
    ]
    words += [
        b"B" + struct.pack("<i", 1100) + b"x" * 1100,
        pickle.dumps(pixels(1100), 2)[2:-1],
        as_global("numpy dtype") + b"(X\x02\0\0\0u1K\0K\1tR",
    ]
    path, outcomes = tmp_path / "cache.pkl", collections.Counter()
    for _ in range(1500):
        path.write_bytes(b"".join(generator.choices(words, k=generator.randrange(1, 12))) + b".")
        outcomes[outcome_of(path)] += 1
    assert not executed
    assert set(outcomes) == {"read", DatasetError, UnsafePickleError}


def test_nothing_is_imported(refused, monkeypatch):
    """Importing a module executes it, whatever is done with what it defines."""
    trap = types.ModuleType("trap")
    trap.__getattr__ = mock.Mock(side_effect=AssertionError("looked at"))
    monkeypatch.setitem(sys.modules, "trap", trap)
    refused(b"ctrap\nf\n.", r"asks for trap\.f near")
    refused(b"cantigravity\nf\n.", r"asks for antigravity\.f near")
    trap.__getattr__.assert_not_called()
    assert "antigravity" not in sys.modules
