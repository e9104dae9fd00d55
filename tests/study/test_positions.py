"""Every key of a TOML document is found on the line where it stands, however the document is written."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench._io.toml import KeyPath, key_lines, line_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCUMENT = '''# a comment = 1
name = "a # b = [c]"  # x = 1
a.b . "c d" = """
x = 1 \\"""
"""
'quoted # key' = 'C:\\'
shots = [
  1, # one ]
  [ 5,
    6 ],
]
t = { k = [1, {z = 2}], "q.q" = 'x}', w = {} }
when = 1979-05-27 07:32:00  # with a space
five = """ends with two quotes"""""

[[methods]]
lambda = [0.1,
  0.2]
[methods.hyper_parameters]
C = 1
[[ methods ]]
x = 1
[[methods.sub]]
y = 1
[table."do.t"]
z = {}
'''


def test_keys_are_found_in_every_way_to_write_them():
    lines = key_lines(DOCUMENT)
    expected: dict[KeyPath, str] = {
        ("name",): "name = ",
        ("a", "b", "c d"): "a.b . ",
        ("quoted # key",): "'quoted # key'",
        ("shots",): "shots = [",
        ("shots", 0): "  1, # one ]",
        ("shots", 1): "  [ 5,",
        ("shots", 1, 1): "    6 ],",
        ("t", "k", 1, "z"): "t = {",
        ("t", "q.q"): "t = {",
        ("t", "w"): "t = {",
        ("when",): "when = ",
        ("five",): "five = ",
        ("methods", 0): "[[methods]]",
        ("methods", 0, "lambda", 1): "  0.2]",
        ("methods", 0, "hyper_parameters", "C"): "C = 1",
        ("methods", 1, "sub", 0, "y"): "y = 1",
        ("methods", 1, "x"): "x = 1",
        ("table", "do.t", "z"): "z = {}",
    }
    numbered = DOCUMENT.splitlines()
    assert {path: numbered[lines[path] - 1].startswith(start) for path, start in expected.items()} == dict.fromkeys(
        expected, True
    )
    assert lines["methods", 1] == numbered.index("[[ methods ]]") + 1


def test_windows_line_ends_count_once():
    assert key_lines("a = 1\r\n\r\nb = '''\r\n'''\r\nc = 1\r\n") == {("a",): 1, ("b",): 3, ("c",): 5}


def test_an_unknown_path_is_where_the_thing_that_holds_it_is():
    lines = key_lines("a = 1\n[t]\nb = [1]\n")
    assert line_of(lines, ("t", "b", 7, "x")) == 3
    assert line_of(lines, ("t", "nothing")) == 2
    assert line_of(lines, ("nothing",)) is None
    assert line_of(lines, ()) is None


keys = st.text(st.sampled_from("ab.#'\"[]={}\\ é-_1"), max_size=4)
texts = st.text(st.sampled_from("a#=[]{}'\"\n\\,.é "), max_size=12)


def tables(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(keys, values, max_size=4)


data = tables(
    st.recursive(
        st.just("LEAF") | texts | st.booleans(),
        lambda inner: st.lists(inner, max_size=4) | tables(inner),
        max_leaves=12,
    )
)


def numbered(value: Any, counter: Iterator[int]) -> Any:
    """The value with a number of its own in place of every leaf that is to be found."""
    if isinstance(value, dict):
        return {key: numbered(inner, counter) for key, inner in value.items()}
    if isinstance(value, list):
        return [numbered(inner, counter) for inner in value]
    return next(counter) if value == "LEAF" else value


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every place of a document with what is there."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key), inner
        yield from leaves(inner, (*path, key))


@pytest.mark.slow
@given(data, st.booleans(), st.lists(st.sampled_from(["", "# x = '''", "  # [t]"]), min_size=1, max_size=3))
@settings(deadline=None)
def test_a_number_is_on_the_line_where_its_text_is(content, is_multiline, noise):
    content = numbered(content, iter(range(900_001, 901_000)))
    text = tomli_w.dumps(content, multiline_strings=is_multiline)
    if "'''" not in text and '"""' not in text:  # comments between lines would else come into texts
        lines = text.splitlines()
        text = "\n".join(part for number, line in enumerate(lines) for part in (noise[number % len(noise)], line))
    assert tomllib.loads(text) == content
    found = key_lines(text)
    for path, value in leaves(content):
        assert path in found
        if isinstance(value, int) and not isinstance(value, bool):
            (match,) = re.finditer(str(value), text)
            assert found[path] == text.count("\n", 0, match.start()) + 1


FRAGMENTS = [
    "a", "b", '"c d"', "'e.f'", ".", " = ", "=", "[", "]", "[[", "]]", "{", "}", ", ", "\n", "\n", "# no\n", "1",
    "true", "1979-05-27 07:32:00", '"x # y"', "'''\nz = 1\n'''", '"""q\\""""', "-1.5e3", " ", "[t]\n", "[[m]]\n",
    "[m.s]\n", "k = 1\n", "l = [1, # ]\n 2]\n", "v = {x = {y = 1}}\n",
]  # fmt: skip


@pytest.mark.slow
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join))
@settings(deadline=None, max_examples=400)
def test_whatever_python_reads_as_toml_has_a_line_for_everything_in_it(text):
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        key_lines(text)  # raises nothing
        return
    found = key_lines(text)
    assert all(path in found and 1 <= found[path] <= text.count("\n") + 1 for path, _ in leaves(content))


@pytest.mark.parametrize("text", ["[" * 9_000, "a = " + "[" * 9_000, "a = " + "{b=" * 9_000, "a" + ".a" * 5_000])
def test_a_file_that_is_too_deep_costs_the_line_and_nothing_else(text):
    assert isinstance(key_lines(text), dict)
