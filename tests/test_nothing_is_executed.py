"""No line of the package runs, or could be talked into running, what a stranger's file says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import fewshot_bench
from fewshot_bench.cli.processes import _BEGIN

PACKAGE = Path(fewshot_bench.__file__).parent
PLACES = [place for place in (PACKAGE, PACKAGE.parent / "benchmarks") if place.is_dir()]

MODULES = (
    "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "subprocess", "pty", "runpy", "code",
    "codeop", "imp", "ctypes",
)  # fmt: skip
NAMES = (
    "pickle.load", "pickle.loads", "pickle.*Unpickler", "pickle._load*", "torch.hub.load*", "torch.jit.load*",
    "torch.package.*", "numpy.lib.npyio.*", "pandas.read_pickle", "pandas.eval", "shutil.unpack_archive",
    "os.system", "os.popen", "os.exec*", "os.spawn*", "os.posix_spawn*", "os.startfile",
    "asyncio.create_subprocess_*", "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__",
)  # fmt: skip
BUILTINS = ("eval", "exec", "compile", "__import__")
METHODS = ("extract", "extractall", "unpack_archive")
NEEDED = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
"""Functions that are safe with one argument, and that only if it is written out."""

ALLOWED_ONLY = {"allow_pickle": False, "shell": False, "trust_remote_code": False, "weights_only": True}
"""Arguments that may have one value, whatever the function."""


def dangers(source: str) -> Iterator[str]:
    """What in a source could run something, by the full name of what is called."""
    tree = ast.parse(source)
    full_names = {name: f"builtins.{name}" for name in BUILTINS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in MODULES:
                    yield f"import {alias.name}"
                full_names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module.partition(".")[0] in MODULES:
                yield f"import {node.module}"
            for alias in node.names:
                full_names[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def full_name(node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return full_names.get(node.id, "")
        if isinstance(node, ast.Attribute):
            of = full_name(node.value)
            return f"{of}.{node.attr}" if of else ""
        return ""

    safe_calls = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and full_name(node.func) in NEEDED
        and NEEDED[full_name(node.func)] in [(argument.arg, constant(argument.value)) for argument in node.keywords]
    }
    for node in ast.walk(tree):
        name = full_name(node)
        if name in NEEDED and id(node) not in safe_calls:
            yield f"{name} without {'{}={}'.format(*NEEDED[name])}"
        if any(fnmatchcase(name, pattern) for pattern in NAMES) or (
            name.startswith("yaml.") and not name.startswith("yaml.safe_")
        ):
            yield name
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            yield f".{node.attr}"
        if (
            isinstance(node, ast.keyword)
            and node.arg in ALLOWED_ONLY
            and constant(node.value) is not ALLOWED_ONLY[node.arg]
        ):
            yield f"{node.arg}={ast.unparse(node.value)}"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            module = full_name(node.args[0])
            if module in ("pickle", "os", "builtins", "torch", "numpy", "shutil") and not isinstance(
                constant(node.args[1]), str
            ):
                yield f"getattr({module}, ...)"
            elif isinstance(constant(node.args[1]), str):
                reached = f"{module}.{constant(node.args[1])}"
                if reached in NEEDED or any(fnmatchcase(reached, pattern) for pattern in NAMES):
                    yield reached


def constant(node: ast.AST) -> object:
    return node.value if isinstance(node, ast.Constant) else None


@pytest.mark.slow
def test_the_package_runs_nothing_that_it_reads():
    """But for the class that the reader of pickles restricts, and processes: of benchmarks, this program, git."""
    found = {
        (path.relative_to(PACKAGE.parent).as_posix(), danger)
        for place in PLACES
        for path in sorted(place.rglob("*.py"))
        for danger in dangers(path.read_text(encoding="utf-8"))
    }
    own_processes = {(file, danger) for file, danger in found if fnmatchcase(file, "benchmarks/*.py")}
    assert {danger for _, danger in own_processes} <= {"import subprocess"}
    assert found - own_processes == {
        ("fewshot_bench/datasets/sources/safe_pickle.py", "pickle._Unpickler"),
        ("fewshot_bench/cli/processes.py", "import subprocess"),
        ("fewshot_bench/study/provenance.py", "import subprocess"),
    }


def test_a_command_starts_nothing_but_this_program():
    tree = ast.parse((PACKAGE / "cli" / "processes.py").read_text(encoding="utf-8"))
    started = [ast.unparse(call) for call in ast.walk(tree) if isinstance(call, ast.Call)]
    started = [call for call in started if call.startswith("subprocess.")]
    assert len(started) == 1
    assert started[0].startswith("subprocess.Popen(command, ")
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    names = ("command", "module_folders")
    values = {name: [ast.unparse(a.value) for a in assigned if ast.unparse(a.targets[0]) == name] for name in names}
    assert values["module_folders"] == ["'\\n'.join(filter(None, sys.path))"]
    assert values["command"] == ["[sys.executable, '-c', _BEGIN, module_folders, *arguments, *own]"]
    own_imports = ("import sys\n", "from fewshot_bench.cli.processes import main\n")
    assert [line for line in _BEGIN.splitlines(keepends=True) if "import" in line] == list(own_imports)
    handed_on = {
        "sweep.py": "[['--worker', device, '--memory-share', str(1 / where.count(device))] for device in where]"
    }
    handed_on["run.py"] = "[['--worker', str(number)] for number in range(1, count + 1)]"
    for file, of_each in handed_on.items():
        source = ast.unparse(ast.parse((PACKAGE / "cli" / file).read_text(encoding="utf-8")))
        assert f"of_each = {of_each}" in source


ADMITTING = {
    "admit": {
        "fewshot_bench/registry.py", "fewshot_bench/study/admission.py", "fewshot_bench/datasets/catalogue.py",
        "fewshot_bench/backbones/timm_backbones.py", "fewshot_bench/study/study_file.py",
        "fewshot_bench/study/study_parser.py",
    },
    "admit_dataset": {
        "fewshot_bench/datasets/catalogue.py", "fewshot_bench/study/admission.py", "fewshot_bench/study/study_file.py",
    },
    "admit_fields": {
        "fewshot_bench/study/admission.py", "fewshot_bench/study/run.py", "fewshot_bench/study/sweep.py",
        "fewshot_bench/study/train.py", "fewshot_bench/audit/rebuild.py", "fewshot_bench/cli/study_options.py",
        "fewshot_bench/study/embeddings.py", "fewshot_bench/evaluation/fit.py",
        "fewshot_bench/evaluation/classifier.py",
    },
    "admit_checkpoints": {
        "fewshot_bench/study/admission.py", "fewshot_bench/audit/rebuild.py", "fewshot_bench/cli/sweep.py",
        "fewshot_bench/study/embeddings.py", "fewshot_bench/evaluation/classifier.py",
    },
    "admit_all": {"fewshot_bench/cli/study_options.py", "fewshot_bench/cli/fit.py"},
    "run_study": {"fewshot_bench/study/sweep_run.py"},
    "open_dataset": {"fewshot_bench/cli/episodes.py", "fewshot_bench/evaluation/fit.py"},
    "create_backbone": {"fewshot_bench/evaluation/fit.py"},
}  # fmt: skip
"""What imports or fetches what it is told to, and the files that may use it: with names that a user has typed, handed
over in Python, or trusts."""


@pytest.mark.slow
def test_only_those_who_have_names_from_a_user_import_what_is_named():
    used: dict[str, set[str]] = {name: set() for name in ADMITTING}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", getattr(node, "id", "")) if isinstance(node, ast.Attribute | ast.Name) else ""
            if name in used:
                used[name].add(path.relative_to(PACKAGE.parent).as_posix())
    for name, files in used.items():
        assert files <= ADMITTING[name], name


def test_the_reader_of_pickles_restricts_one_class_and_makes_none_of_it():
    tree = ast.parse((PACKAGE / "datasets" / "sources" / "safe_pickle.py").read_text(encoding="utf-8"))
    uses = {node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "_Unpickler"}
    bases = {base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases}
    tables = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "dispatch"}
    assert len(uses & bases) == 1
    assert uses <= bases | tables


PLANTED = {
    "pickle.load": "import pickle\npickle.load(file)",
    "pickle.loads": "import pickle as p\np.loads(data)",
    "pickle.loads by another name": "from pickle import loads as read\nread(data)",
    "pickle.loads as a value": "import pickle\nlist(map(pickle.loads, parts))",
    "pickle.loads by getattr": "import pickle\ngetattr(pickle, 'loads')(data)",
    "a name that is computed": "import pickle\ngetattr(pickle, 'lo' + 'ads')(data)",
    "Unpickler": "import pickle\nclass Mine(pickle.Unpickler): pass",
    "the Unpickler in Python": "import pickle\npickle._Unpickler(file).load()",
    "the pickle module in C": "import _pickle",
    "import in a function": "def read(file):\n    import pickle\n    return pickle.load(file)",
    "torch.load": "import torch\ntorch.load(path)",
    "torch.load, unsafe": "import torch\ntorch.load(path, weights_only=False)",
    "torch.load, perhaps": "import torch\ntorch.load(path, weights_only=safe)",
    "torch.load by another name": "from torch import load\nload(path)",
    "torch.load as a value": "import torch\nread = torch.load",
    "torch.jit.load": "import torch\ntorch.jit.load(path)",
    "torch.hub": "import torch\ntorch.hub.load('a/b', 'c')",
    "np.load": "import numpy as np\nnp.load(path)",
    "np.load, unsafe": "import numpy as np\nnp.load(path, allow_pickle=True)",
    "np.load, perhaps": "import numpy as np\nnp.load(path, allow_pickle=flag)",
    "np.load, by position": "import numpy as np\nnp.load(path, None, False)",
    "np.load by another name": "from numpy import load as read\nread(path)",
    "read_array": "import numpy as np\nnp.lib.format.read_array(file, allow_pickle=True)",
    "eval": "eval(text)",
    "exec": "exec(text)",
    "compile": "compile(text, '', 'exec')",
    "eval as a value": "convert = eval",
    "eval by its module": "import builtins\nbuiltins.eval(text)",
    "__import__": "__import__(name)",
    "os.system": "import os\nos.system('ls')",
    "os.popen": "from os import popen\npopen('ls')",
    "os.execv": "import os\nos.execv('/bin/ls', [])",
    "os.spawnl": "import os\nos.spawnl(0, '/bin/ls')",
    "subprocess": "import subprocess\nsubprocess.run(['ls'])",
    "subprocess in parts": "from subprocess import run",
    "a shell": "run('ls', shell=True)",
    "yaml.load": "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
    "yaml.unsafe_load": "from yaml import unsafe_load\nunsafe_load(text)",
    "extractall of a tar": "import tarfile\ntarfile.open(path).extractall(folder)",
    "extract of a zip": "archive.extract(name, folder)",
    "unpack_archive": "import shutil\nshutil.unpack_archive(path)",
    "shelve": "import shelve",
    "marshal": "from marshal import loads",
    "dill": "import dill",
    "joblib.load": "import joblib\njoblib.load(path)",
    "pandas": "import pandas as pd\npd.read_pickle(path)",
    "remote code": "datasets.load_dataset(name, trust_remote_code=True)",
    "remote code, perhaps": "datasets.load_dataset(name, trust_remote_code=flag)",
    "runpy": "import runpy",
}


@pytest.mark.parametrize("case", PLANTED)
def test_the_search_finds_what_is_planted(case):
    assert list(dangers("from __future__ import annotations\n" + PLANTED[case]))


HARMLESS = {
    "a pickle written": "import pickle\npickle.dumps(data, protocol=pickle.HIGHEST_PROTOCOL)",
    "weights alone": "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
    "arrays alone": "import numpy as np\nnp.load(path, mmap_mode='r', allow_pickle=False)",
    "a network in evaluation": "network.eval()",
    "a regular expression": "import re\nre.compile('a')",
    "other loads": "import json\njson.load(file)\njson.loads(text)",
    "safe yaml": "import yaml\nyaml.safe_load(text)",
    "a local name": "import os\nos.path.join('a', 'b')\nos.environ.get('x')",
    "an attribute by name": "getattr(thing, 'names', None)",
}


@pytest.mark.parametrize("case", HARMLESS)
def test_the_search_leaves_alone_what_is_harmless(case):
    assert list(dangers(HARMLESS[case])) == []
