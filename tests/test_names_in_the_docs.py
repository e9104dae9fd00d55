"""Every name of the package that a page, README or a docstring mentions exists."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fewshot_bench as fb

PACKAGE = Path(fb.__file__).parent
ROOT = PACKAGE.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
IMPORT = re.compile(r"from (fewshot_bench[\w.]*) import ([\w, ]+)")
DOTTED = re.compile(r"(?<![\w/.\-`:])(?:fb|fewshot_bench)\.(?!toml\b|py\b)([a-zA-Z_]\w*(?:\.[A-Za-z_]\w*)*)")
ENTRY_POINTS = {"datasets", "backbones", "adaptations", "losses"}


def names_in(text):
    for module, names in IMPORT.findall(text):
        for name in names.split(","):
            if name.strip():
                yield f"{module}.{name.split()[0]}".removeprefix("fewshot_bench").removeprefix(".")
    yield from DOTTED.findall(text)


def exists(dotted):
    """Whether a dotted name is there: attributes of the package, or modules below it."""
    found = fb
    for part in dotted.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = importlib.import_module(f"{found.__name__}.{part}")
            except (ImportError, AttributeError):
                return dotted in ENTRY_POINTS
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_on_a_page_exists(page):
    assert [name for name in names_in(page.read_text(encoding="utf-8")) if not exists(name)] == []


def test_every_name_in_a_docstring_exists():
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                missing += [(path.name, name) for name in names_in(ast.get_docstring(node) or "") if not exists(name)]
    assert missing == []


def test_pages_name_what_is_at_the_top():
    """A reader should not need to know the rooms."""
    deep = {"training", "engine.ray_engine", "statistics", "datasets.glyphs", "interop"}
    for page in PAGES:
        for module, names in IMPORT.findall(page.read_text(encoding="utf-8")):
            room = module.removeprefix("fewshot_bench").removeprefix(".")
            assert room in deep or not room or not set(map(str.strip, names.split(","))) <= set(fb.__all__), page.name


def test_names_at_the_top_are_sorted_and_all_there():
    assert dir(fb) == sorted(dir(fb)) == fb.__all__
    assert all(getattr(fb, name) is not None for name in dir(fb))


def test_type_checkers_see_the_same_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in checked.body for alias in node.names}
    assert seen.keys() == set(fb.__all__)
    for name, module in seen.items():
        assert getattr(importlib.import_module(module), name) is getattr(fb, name)


def test_importing_the_package_loads_nothing_else():
    program = (
        "import sys, fewshot_bench; "
        "sys.exit(str([m for m in ('torch', 'numpy', 'pandas', 'pydantic', 'PIL') if m in sys.modules] or ''))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr.strip() == ""
