"""`fewshot-bench new` writes a package that works, and never over anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import StudyError, UnknownNameError
from fewshot_bench.study.known_names import taken_names
from fewshot_bench.testing import KINDS, write_package

ROOT = Path(__file__).parents[2]
NAMES = {kind: f"own-{kind}" for kind in KINDS}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_has_code_an_entry_point_a_test_and_ten_lines_to_read(kind: str, tmp_path: Path) -> None:
    folder = write_package(kind, "own-thing", tmp_path)
    assert folder == tmp_path / "own-thing"
    names = {"pyproject.toml", "README.md", "own_thing/__init__.py", "own_thing/py.typed", "tests/test_own_thing.py"}
    assert files(tmp_path) == {f"own-thing/{name}" for name in names}
    assert f"testing.check_{kind}(" in (folder / "tests/test_own_thing.py").read_text()
    assert f'"fewshot_bench.{"losses" if kind == "loss" else f"{kind}s"}"' in (folder / "pyproject.toml").read_text()
    assert len((folder / "README.md").read_text().splitlines()) <= 10
    assert not [path for path in files(tmp_path) if "$" in (tmp_path / path).read_text()]


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("", "'' cannot name a package"),
        ("9lives", "cannot name a package"),
        ("My-Method", "cannot name a package"),
        ("a b", "cannot name a package"),
        ("a--b", "cannot name a package"),
        ("-a", "cannot name a package"),
        ("../escape", "cannot name a package"),
        ("a/b", "cannot name a package"),
        ("ce+mine", "cannot name a package"),
        ("méthode", "cannot name a package"),
        ("a" * 41, "cannot name a package"),
        ("own-thing\n", "cannot name a package"),
        ("lambda", "'lambda' means something in Python packages"),
        ("tests", "'tests' means something"),
        ("random", "a Python package called random"),
        ("torch", "a Python package called torch"),
        ("fewshot-bench", "a Python package called fewshot_bench"),
        ("centroid", "the adaptation centroid exists already"),
        ("label-propagation", "label-propagation exists already"),
        ("all", "all exists already"),
        ("tensor", "uses the name Tensor already"),
        ("class-var", "uses the name ClassVar already"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_the_reason(name: str, finding: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=finding.replace("+", r"\+")):
        write_package("adaptation", name, tmp_path, taken=taken_names("adaptation"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "name"), [("loss", "normalize"), ("backbone", "conv4_32"), ("dataset", "glyphs")])
def test_names_of_every_kind_are_known(kind: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=f"{name}"):
        write_package(kind, name, tmp_path, taken=taken_names(kind))


@pytest.mark.parametrize("there", ["a folder", "an empty folder", "a file", "a broken link"])
def test_nothing_is_overwritten(there: str, tmp_path: Path) -> None:
    target = tmp_path / "own-thing"
    if there == "a file":
        target.write_text("mine")
    elif there == "a broken link":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
        if there == "a folder":
            (target / "README.md").write_text("mine")
    with pytest.raises(StudyError, match="exists already"):
        write_package("loss", "own-thing", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["own-thing"]
    assert files(tmp_path) <= {"own-thing/README.md", "own-thing"}


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text, written = Path.write_text, []

    def fails(path: Path, *arguments: str, **options: str) -> int:
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(path))
        return write_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="No space left"):
        write_package("adaptation", "own-thing", tmp_path)
    assert len(written) == 3
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["new", "adaptation", "own-thing", "--into", str(tmp_path / "projects")]) == 0
    words = capsys.readouterr().out
    assert f"cd {tmp_path / 'projects' / 'own-thing'}" in words
    assert "pip install -e" in words
    assert "--adapt centroid,own-thing" in words
    assert exit_code(["new", "adaptation", "own-thing", "--into", str(tmp_path / "projects")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_misspelt_kind_is_answered(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean adaptation"):
        write_package("adaption", "own-thing", tmp_path)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One package of every kind."""
    folder = tmp_path_factory.mktemp("packages")
    for kind, name in NAMES.items():
        write_package(kind, name, folder)
    return folder


def ran(*command: str, folder: Path, **variables: str) -> str:
    """The output of a command that succeeds, and of one that fails as a failure."""
    environment = {**os.environ, **variables}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.slow
def test_the_code_passes_ruff_and_mypy_strict(packages: Path) -> None:
    config = str(ROOT / "pyproject.toml")
    checks = (["--isolated"], ["--config", config], ["--isolated", "--select", "I"])
    for name in NAMES.values():
        for tool in (*(["check", *options] for options in checks), ["format", "--check"]):
            ran(sys.executable, "-m", "ruff", *tool, ".", folder=packages / name)
    code = [f"{name}/{part}" for name in NAMES.values() for part in (name.replace("-", "_"), "tests")]
    places = os.pathsep.join(map(str, (ROOT, *(packages / name for name in NAMES.values()))))
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(packages / "mypy"), "--strict", *code]
    ran(*command, folder=packages, MYPYPATH=places)


@pytest.mark.slow
def test_the_packages_install_pass_their_tests_and_give_a_row_of_the_leaderboard(packages: Path, home: Path) -> None:
    installed = packages.parent / "installed"
    folders = [str(packages / name) for name in NAMES.values()]
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    ran(*pip, str(installed), *folders, folder=packages)
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(installed)]), "FEWSHOT_BENCH_HOME": str(home)}
    tests = [f"{name}/tests" for name in NAMES.values()]
    assert " passed" in ran(sys.executable, "-m", "pytest", "-q", *tests, folder=packages, **paths)
    program = [sys.executable, "-c", "from fewshot_bench.__main__ import main; main()"]
    assert NAMES["adaptation"] in ran(*program, "ls", "adaptations", folder=packages, **paths)
    adaptation, loss, backbone, dataset = (NAMES[kind] for kind in KINDS)
    study = ["run", "--dataset", dataset, "--backbone", backbone, "--base-loss", loss, "--adapt", adaptation]
    small = ["--base-epochs", "1", "--episodes", "20", "--runs", "1", "--shots", "1", "--results", "results"]
    ran(*program, *study, *small, folder=packages, **paths)
    (row,) = pd.read_csv(packages / "results" / "leaderboard.csv").to_dict("records")
    assert row["method"] == f"{backbone}/base-{loss}@epochs=1/{adaptation}"
    assert row["mean"] > 30
