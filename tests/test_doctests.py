"""The examples in docstrings print what they say."""

import doctest
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

import fewshot_bench
from fewshot_bench import embeddings, losses, statistics

PACKAGE = Path(fewshot_bench.__file__).parent
MODULES = sorted(
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    for file in PACKAGE.rglob("*.py")
    if ">>>" in file.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_print_what_they_say(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_name_has_an_example() -> None:
    public = {name: getattr(fewshot_bench, name) for name in fewshot_bench.__all__}
    without_own_docstring = [name for name, value in public.items() if isinstance(value, Mapping)]
    assert without_own_docstring == ["MEASURES"]
    assert [name for name in sorted(public.keys() - {"MEASURES"}) if ">>>" not in (public[name].__doc__ or "")] == []


@pytest.mark.parametrize("room", [embeddings, losses, statistics], ids=lambda room: room.__name__)
def test_every_public_function_of_a_room_has_an_example(room: ModuleType) -> None:
    functions = {name: value for name in room.__all__ if inspect.isfunction(value := getattr(room, name))}
    assert functions
    assert [name for name, function in functions.items() if ">>>" not in (function.__doc__ or "")] == []
