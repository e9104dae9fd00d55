"""Text of strangers cannot do anything to a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench._io.text import printable
from fewshot_bench.cli.main import exit_code


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ncm (resnet12, ce+schane)", "ncm (resnet12, ce+schane)"),
        ("Häßler, λ=0.9, 模型", "Häßler, λ=0.9, 模型"),
        ("\x1b[31mred", "\ufffd[31mred"),
        ("two\nlines\r", "two\ufffdlines\ufffd"),
        ("\u202egnp.exe", "\ufffdgnp.exe"),
        ("\ud800", "\ufffd"),
        ("", ""),
    ],
)
def test_what_would_command_a_terminal_is_replaced_and_all_else_stays(text, expected):
    assert printable(text) == expected


@given(st.text())
def test_printable_text_is_one_line_of_as_many_characters_that_can_be_written(text):
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert printable(shown) == shown
    shown.encode("utf-8")


def test_an_error_that_quotes_a_name_is_one_plain_line(capsys):
    assert exit_code(["audit", "no\x1b[31m\u202ewhere"]) == 2
    message = capsys.readouterr().err.strip("\n")
    assert message.startswith("error: no\ufffd[31m\ufffdwhere is not one cell")
    assert message.isprintable()
