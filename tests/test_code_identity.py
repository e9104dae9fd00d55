"""Which code somebody's own thing is: its source, that of what it imports beside it, and its distribution."""

from __future__ import annotations

import importlib
import json
import os
import py_compile
import sys
import types
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from own_code import code, forget, write  # noqa: F401  # a fixture

from fewshot_bench.adaptation import ADAPTATIONS, Centroid
from fewshot_bench.backbones import BACKBONES
from fewshot_bench.code_identity import CodeIdentity, code_of, what_changed
from fewshot_bench.errors import CodeError
from fewshot_bench.losses import LOSSES
from fewshot_bench.plugins import is_code

pytestmark = pytest.mark.slow

# What `thing.py` imports, and from where the value in it comes.
IMPORTS = {
    "a module beside it": ("from other import x", "other"),
    "a module by its name": ("import other", "other"),
    "a module by another name": ("import other as o", "other"),
    "within a function": ("def late():\n    import other", "other"),
    "within a condition": ("try:\n    import other\nexcept ImportError:\n    pass", "other"),
    "everything of it": ("from other import *", "other"),
    "by name at run time": ("import importlib\nimportlib.import_module('other')", "other"),
    "a package beside it": ("import pack.inner", "pack__inner"),
    "a module of a package": ("from pack import inner", "pack__inner"),
    "at two removes": ("import between", "other"),
}


@pytest.fixture(autouse=True)
def _apart(code):  # noqa: F811
    """Every test has a folder of its own."""


def identity(name: str = "thing:f") -> CodeIdentity:
    """The identity in the next process."""
    forget({name for name in sys.modules if name not in ("thing", "other", "between", "pack", "pack.inner")})
    LOSSES._entries.pop(name, None)
    LOSSES.admit(name)
    found = LOSSES[name].code
    assert found is not None
    return found


@pytest.mark.parametrize("case", IMPORTS)
def test_what_a_module_imports_from_its_folder_is_part_of_its_identity(case, tmp_path):
    imports, changed = IMPORTS[case]
    folder = tmp_path / "code"
    sources = {"thing": f"{imports}\ndef f(): pass\n", "between": "import other\n", "other": "x = 1\n"}
    write(folder, **sources, pack__inner="x = 1\n", unrelated="x = 1\n")
    before = identity()
    write(folder, unrelated="x = 2\n")
    assert identity() == before
    write(folder, **{changed: "x = 2\n"})
    after = identity()
    assert after.digest != before.digest
    assert what_changed(before.as_record(), after.as_record()) == f"{changed.replace('__', '/')}.py"
    write(folder, **{changed: "x = 1\n"})
    assert identity() == before


# Modules of a package `mine`, of which `mine.deep.thing` defines something: one of them, and whether it counts.
PACKAGE = {
    "mine__deep__thing": True,
    "mine__deep__INIT": True,
    "mine__INIT": True,
    "mine__deep__beside": True,
    "mine__above": True,
    "mine__of_init": True,
    "mine__not_imported": False,
    "other_package__inner": False,
}


@pytest.mark.parametrize("changed", PACKAGE)
def test_of_a_package_what_is_run_to_import_a_module_counts(tmp_path, changed):
    sources = {
        "mine__deep__thing": "from . import beside\nfrom ..above import x\nfrom .. import y\ndef f(): pass\n",
        "mine__deep__INIT": "",
        "mine__INIT": "from . import of_init\ny = 1\n",
        "mine__deep__beside": "",
        "mine__above": "x = 1\n",
        "mine__of_init": "",
        "mine__not_imported": "",
        "other_package__inner": "",
    }

    def in_the_next_process() -> CodeIdentity:
        forget({name for name in sys.modules if name.partition(".")[0] != "mine"})
        LOSSES.admit("mine.deep.thing:f")
        found = LOSSES["mine.deep.thing:f"].code
        assert found is not None
        return found

    write(tmp_path / "code", **sources)
    before = in_the_next_process()
    write(tmp_path / "code", **{changed: sources[changed] + "# edited\n"})
    assert (in_the_next_process() != before) is PACKAGE[changed]


def test_an_identity_names_no_folder_of_this_machine_and_is_the_same_in_another(tmp_path, monkeypatch):
    found = []
    for folder in (tmp_path / "one", tmp_path / "two" / "deeper"):
        folder.mkdir(parents=True)
        write(folder, thing="import other\ndef f(): pass\n", other="")
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [path for path in sys.path if str(tmp_path) not in path])
        found.append(identity())
    assert found[0] == found[1]
    assert list(found[0].files) == ["other.py", "thing.py"]
    assert str(tmp_path) not in json.dumps(found[0].as_record())


def test_every_byte_of_a_file_counts(tmp_path):
    write(tmp_path / "code", thing="def f(): pass\n")
    before = identity()
    (tmp_path / "code" / "thing.py").write_bytes(b"def f(): pass\r\n")
    assert identity() != before


def test_a_file_that_is_no_python_that_can_be_read_counts_as_it_is(tmp_path):
    write(tmp_path / "code", thing="def late():\n    import other\ndef f(): pass\n", other="x = (")
    assert "other.py" in identity().files


def test_a_compiled_module_counts_by_its_bytes(tmp_path):
    write(tmp_path / "code", thing="def late():\n    import fast\ndef f(): pass\n")
    compiled = tmp_path / "code" / f"fast{EXTENSION_SUFFIXES[-1]}"
    compiled.write_bytes(b"one")
    before = identity()
    assert compiled.name in before.files
    compiled.write_bytes(b"two")
    assert identity() != before


def test_what_this_project_and_its_dependencies_define_has_no_code_of_its_own():
    import torch

    for thing in (Centroid, LOSSES["ce"].factory, torch.nn.functional.cross_entropy, json.dumps, len, partial(len)):
        assert code_of(thing) is None
    for registry in (ADAPTATIONS, LOSSES, BACKBONES):
        assert [entry.name for entry in registry if entry.code is not None and not is_code(entry.name)] == []


THINGS = {
    "a partial": "from functools import partial\nimport other\nf = partial(other.g, 1)",
    "an object that is called": "import other\nf = other.Thing()",
    "a method": "import other\nf = other.Thing().__call__",
    "a function of another module": "from other import g as f",
    "a wrapped function": "import functools, other\nf = functools.wraps(len)(other.g)",
    "a lambda": "import other\nf = lambda *_: other.g()",
    "a class of a base": "import other\nclass f(other.Thing): pass",
    "a made class": "import other\nf = type('f', (other.Thing,), {})",
}


@pytest.mark.parametrize("case", THINGS)
def test_whatever_a_name_stands_for_its_source_counts(case, tmp_path):
    other = "def g(*_): return {}\nclass Thing:\n    def __call__(self, *_): return g()\n"
    write(tmp_path / "code", thing=THINGS[case] + "\n", other=other.format(1))
    before = identity()
    write(tmp_path / "code", other=other.format(2))
    assert identity() != before


def test_the_file_that_was_imported_counts_not_what_it_becomes_meanwhile(tmp_path):
    write(tmp_path / "code", thing="def f(): return 1\n")
    LOSSES.admit("thing:f")
    before = LOSSES["thing:f"].code
    write(tmp_path / "code", thing="def f(): return 2\n")
    LOSSES.admit("thing:f")
    assert LOSSES["thing:f"].code == before
    importlib.reload(sys.modules["thing"])
    LOSSES.admit("thing:f")
    assert LOSSES["thing:f"].code != before


@pytest.mark.parametrize("other", ["def g(): return {}\n", "class K:\n    def g(self): return {}\n", "x = {}\n"])
def test_a_module_that_is_loaded_again_makes_another_method_of_what_uses_it(tmp_path, other):
    write(tmp_path / "code", thing="import other\ndef f(): pass\n", other=other.format(1))
    LOSSES.admit("thing:f")
    before = LOSSES["thing:f"].code
    write(tmp_path / "code", other=other.format(2))
    assert LOSSES["thing:f"].code == before
    importlib.reload(sys.modules["other"])
    assert LOSSES["thing:f"].code != before


def test_code_without_a_file_is_refused_where_results_are_stored_and_never_the_same_elsewhere(monkeypatch):
    module = types.ModuleType("made_up")
    exec("def f(): return 1", module.__dict__)
    monkeypatch.setitem(sys.modules, "made_up", module)
    with pytest.raises(CodeError, match="made_up:f has no file with its source"):
        LOSSES.admit("made_up:f")
    one = code_of(module.f)
    assert one is not None
    assert one == code_of(module.f)
    assert not one.is_known
    exec("def f(): return 1", module.__dict__)
    assert code_of(module.f) != one


def distribution(folder: Path, version: str, source: str = "def f(): return 1\n") -> None:
    write(folder, plugged=source)
    for old in folder.glob("plugged*.dist-info"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    place = folder / f"plugged-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plugged\nVersion: {version}\n")
    (place / "top_level.txt").write_text("plugged\n")
    (place / "RECORD").write_text("plugged.py,,\n")
    (place / "entry_points.txt").write_text("[fewshot_bench.losses]\nmine = plugged:f\n")


def plugged(monkeypatch, name="mine") -> CodeIdentity:
    forget({name for name in sys.modules if name != "plugged"})
    LOSSES._entries.pop(name, None)
    LOSSES.__dict__.pop("_points", None)
    if ":" in name:
        LOSSES.admit(name)
    found = LOSSES[name].code
    LOSSES.__dict__.pop("_points", None)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["mine", "plugged:f"])
def test_the_version_of_a_distribution_is_part_of_the_identity(tmp_path, monkeypatch, name):
    folder = tmp_path / "installed"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    distribution(folder, "1.0")
    before = plugged(monkeypatch, name)
    assert before.distribution == "plugged 1.0"
    distribution(folder, "1.1")
    after = plugged(monkeypatch, name)
    assert after.distribution == "plugged 1.1"
    assert what_changed(before.as_record(), after.as_record()) == "plugged 1.0, now plugged 1.1"
    distribution(folder, "1.1", "def f(): return 2\n")
    assert what_changed(after.as_record(), plugged(monkeypatch, name).as_record()) == "plugged.py"


@pytest.mark.parametrize("record", [None, 3, "x", [], {}, {"files": 3}, {"files": {"a": {}}}, {"distribution": []}])
def test_what_changed_takes_whatever_a_stranger_has_recorded(record):
    assert isinstance(what_changed(record, {"files": {"a.py": "12"}}), str)
    assert isinstance(what_changed({"files": {"a.py": "12"}}, record), str)


def test_a_class_of_this_project_stays_one_under_a_name_of_somebodys_module(code):  # noqa: F811
    write(Path(), renamed="from fewshot_bench.adaptation import Centroid as Mine\n")
    ADAPTATIONS.admit("renamed:Mine")
    assert ADAPTATIONS["renamed:Mine"].code is None
    assert ADAPTATIONS["centroid"].code is None


# How a file changes while its size and the second of its time stay; `load` imports it as another command would.
UNSEEN_EDITS = {
    "the module itself": {"thing": "def f(): return {}\n"},
    "a module beside it": {"thing": "import other\ndef f(): return other.f()\n", "other": "def f(): return {}\n"},
    "within a function": {"thing": "def f():\n    import other\n    return other.x\n", "other": "x = {}\n"},
    "a module of a package": {"thing": "from pack.inner import f\n", "pack__inner": "def f(): return {}\n"},
}


@pytest.mark.parametrize("case", UNSEEN_EDITS)
def test_what_runs_is_the_source_though_python_keeps_bytecode_of_the_same_size_and_time(case, tmp_path):
    folder = tmp_path / "code"
    first, second = ({name: text.format(value) for name, text in UNSEEN_EDITS[case].items()} for value in (1, 2))
    write(folder, **first)
    for path in folder.rglob("*.py"):
        os.utime(path, (1e9, 1e9))
        py_compile.compile(str(path))
    before = identity()
    assert LOSSES["thing:f"].factory() == 1
    write(folder, **second)
    for path in folder.rglob("*.py"):
        os.utime(path, (1e9, 1e9))
    forget({name for name in sys.modules if name.partition(".")[0] not in ("thing", "other", "pack")})
    assert identity() != before
    assert LOSSES["thing:f"].factory() == 2


def test_an_identity_is_that_of_the_source_that_was_loaded_though_the_file_has_changed_since(tmp_path):
    source = "def f(): return 1\n"
    write(tmp_path / "code", thing=source)
    before = identity()
    write(tmp_path / "code", thing=f"open(__file__, 'w').write({source!r})\ndef f(): return 2\n")
    edited_while_it_was_imported = identity()
    assert LOSSES["thing:f"].factory() == 2
    assert edited_while_it_was_imported.digest != before.digest
