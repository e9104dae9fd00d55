"""Imports point down the flow of data, never up."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fewshot_bench

pytestmark = pytest.mark.slow

PACKAGE = Path(fewshot_bench.__file__).parent

CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"
ROW = re.compile(r"^\| `(\w+)/` \| [^|]+ \| ([^|]*) \|$", re.MULTILINE)
IMPORTS = {
    room: set(re.findall(r"\w+", others)) for room, others in ROW.findall(CONTRIBUTING.read_text(encoding="utf-8"))
}
"""The rooms that each room imports, from the map of the house; every room may import `_io`."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imported_by(path: Path, modules: Mapping[str, Path]) -> set[str]:
    """The modules of the package that a file imports; a package counts where a file that is no package imports it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and path.name != "__init__.py":
            found |= {
                name if (name := f"{node.module}.{alias.name}") in modules else node.module for alias in node.names
            }
    return found & {name for name, file in modules.items() if file.name != "__init__.py"}


def rooms_imported_by(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "fewshot_bench" and len(part) > 1 and (PACKAGE / part[1]).is_dir()}


@pytest.mark.parametrize("room", sorted(IMPORTS))
def test_a_room_imports_what_the_map_of_the_house_says(room):
    found = set().union(*map(rooms_imported_by, (PACKAGE / room).rglob("*.py")))
    assert found - {room, "_io"} == IMPORTS[room]


def test_every_room_is_on_the_map():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(IMPORTS)


def test_imports_never_run_in_a_circle():
    rooms = TopologicalSorter(IMPORTS)
    rooms.prepare()  # raises CycleError
    modules = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    files = TopologicalSorter({name: imported_by(path, modules) - {name} for name, path in modules.items()})
    files.prepare()


def test_statistics_report_and_the_command_line_load_without_torch():
    program = (
        "import sys, fewshot_bench, fewshot_bench.statistics, fewshot_bench.outcomes, fewshot_bench.report, "
        "fewshot_bench.cli.main; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_command_line_itself_loads_no_heavy_library():
    heavy = ("torch", "numpy", "pandas", "scipy", "pydantic", "timm", "ray")
    program = f"import sys, fewshot_bench.cli.main; sys.exit(str([m for m in {heavy} if m in sys.modules] or ''))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stderr.strip() == ""


def test_ray_is_imported_only_where_its_engine_is_asked_for():
    for path in sorted(PACKAGE.rglob("*.py")):
        is_of_the_engine = path.parent.name == "engine" and path.name.startswith("ray_")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # not those within functions
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert is_of_the_engine or not [name for name in names if "engine.ray_" in name], path
            assert not [name for name in names if name.partition(".")[0] == "ray"], path


def test_everything_promised_at_the_top_can_be_imported():
    for name in fewshot_bench.__all__:
        assert getattr(fewshot_bench, name) is not None
    with pytest.raises(AttributeError):
        fewshot_bench.no_such_thing  # noqa: B018  # the access is what is tested
