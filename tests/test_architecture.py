"""Imports point down the flow of data, never up."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fewshot_bench

PACKAGE = Path(fewshot_bench.__file__).parent

ALLOWED: dict[str, set[str]] = {
    "datasets": set(),
    "episodes": {"datasets"},
    "losses": set(),
    "cache": set(),
    "backbones": {"datasets", "cache"},
    "_io": set(),
    "training": {"datasets", "losses", "backbones"},
    "finetuning": {"datasets", "losses", "backbones", "training"},
    "adaptation": {"losses", "training", "finetuning"},
    "outcomes": set(),
    "statistics": set(),
    "report": {"datasets", "episodes", "outcomes", "statistics"},
    "interop": {"datasets", "outcomes", "report"},
    "engine": {"adaptation", "episodes", "outcomes", "backbones", "datasets", "training", "finetuning"},
    "study": {
        "datasets", "episodes", "losses", "backbones", "adaptation", "training", "outcomes", "statistics", "report",
        "engine", "cache", "finetuning",
    },
    "audit": {
        "datasets", "episodes", "backbones", "adaptation", "outcomes", "statistics", "report", "engine", "study",
    },
}  # fmt: skip


def rooms_imported_by(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "fewshot_bench" and len(part) > 1 and (PACKAGE / part[1]).is_dir()}


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_knows_only_what_is_left_of_it(room):
    for path in sorted((PACKAGE / room).rglob("*.py")):
        assert rooms_imported_by(path) <= ALLOWED[room] | {room, "_io"}, path.name


def test_every_room_is_under_the_rule():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms - {"cli"} == set(ALLOWED)


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
