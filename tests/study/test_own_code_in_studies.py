"""Studies with code of one's own: changed code is a new method beside the old one, and never mixed with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from own_code import ADAPTATION, BACKBONE, LOSS, code, forget, helper, write  # noqa: F401  # a fixture

from fewshot_bench import Centroid, Protocol, create_backbone, evaluate, open_dataset, run_study, sample_episodes
from fewshot_bench.adaptation import ADAPTATIONS
from fewshot_bench.backbones import BACKBONES, embeddings_file
from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import CodeError, CodeNotTrustedError
from fewshot_bench.losses import LOSSES
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.study import Study
from fewshot_bench.study.checkpoints import read_checkpoint
from fewshot_bench.study.resolved import resolve_study
from fewshot_bench.study.run import run_resolved

pytestmark = pytest.mark.slow

SMALL = ("--device", "cpu", "--shots", "1", "--runs", "1")
MINE = ("--base-loss", "none", "--adapt", "mine:Mine")
OWN = ("mine", "helping", "nets", "losing")


@pytest.fixture(autouse=True)
def _apart(code):  # noqa: F811
    write(
        code, mine=ADAPTATION.format(helper="helping"), helping=helper(1), nets=BACKBONE, losing=LOSS.format(factor=1)
    )


def command(*arguments: str) -> int:
    """A command in the next process, as far as own code is concerned."""
    forget({name for name in sys.modules if name not in OWN})
    return exit_code(list(arguments))


def run(*arguments: str, episodes: int = 6) -> int:
    return command("run", *SMALL, "--episodes", str(episodes), *arguments)


def cells() -> list[Cell]:
    return sorted(OutcomeStore(Path("results/outcomes")).cells(), key=lambda cell: cell.key)


def stored(cell: Cell) -> pd.DataFrame:
    return OutcomeStore(Path("results/outcomes")).read(cell)


CHANGES: dict[str, dict[str, str]] = {
    "the module": {"mine": ADAPTATION.format(helper="helping") + "\n# edited\n"},
    "a module that it imports": {"helping": helper(-1)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_code_is_a_new_method_beside_the_old_one(change, capsys):
    assert run(*MINE) == 0
    (before,) = cells()
    old = stored(before)
    write(Path(), **CHANGES[change])
    assert command("run", *SMALL, "--episodes", "6", *MINE, "--dry-run") == 0
    assert "the code of mine:Mine has changed since conv4_32/mine was stored" in " ".join(
        capsys.readouterr().out.split()
    )
    assert run(*MINE, episodes=9) == 0
    (new,) = [cell for cell in cells() if cell.key != before.key]
    assert len(stored(new)) == 9
    pd.testing.assert_frame_equal(stored(before), old)
    assert new.method.name == before.method.name
    frame = pd.read_csv("results/leaderboard.csv")
    assert sorted(frame["method"]) == sorted([before.method.label, new.method.label])
    capsys.readouterr()
    assert command("compare", before.method.name, new.method.label) == 2
    assert "2 methods" in capsys.readouterr().err
    assert command("compare", before.method.label, new.method.label) == 0


def test_what_has_changed_is_said_once_and_before_it_is_run(caplog):
    assert run(*MINE) == 0
    assert not caplog.records
    write(Path(), helping=helper(-1))
    assert run(*MINE) == 0
    (record,) = caplog.records
    assert record.getMessage() == (
        "note: the code of mine:Mine has changed since conv4_32/mine was stored (helping.py). Its outcomes are those "
        "of a new method; the stored ones were not changed."
    )
    caplog.clear()
    assert run(*MINE, episodes=8) == 0
    assert not caplog.records


def test_code_that_did_not_change_goes_on_in_its_cell():
    assert run(*MINE) == 0
    write(Path(), unrelated="x = 1\n")
    assert run(*MINE, episodes=9) == 0
    (cell,) = cells()
    assert len(stored(cell)) == 9
    (recorded,) = cell.method.code.values()
    assert list(recorded["files"]) == ["helping.py", "mine.py"]
    assert str(Path.cwd()) not in cell.as_json()


# A method with code of each kind, the module to edit, the edit, and the part of the method that it changes.
KINDS: dict[str, tuple[tuple[str, ...], str, str, str]] = {
    "a backbone": (("--base-loss", "none", "--backbone", "nets:backbone"), "nets", BACKBONE, "backbone"),
    "a loss of episodes": (
        ("--base-loss", "none", "--adapt", "finetune-head", "--set", "steps=2", "--loss", "losing:loss"),
        "losing",
        LOSS.format(factor=3),
        "loss",
    ),
    "a loss of the base stage": (
        ("--base-loss", "losing:loss", "--base-epochs", "1"),
        "losing",
        LOSS.format(factor=3),
        "base loss",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_every_part_counts(kind):
    options, module, edited, part = KINDS[kind]
    assert run(*options) == 0
    (before,) = cells()
    assert list(before.method.code) == [part]
    write(Path(), **{module: edited + "\n# edited\n"})
    assert run(*options) == 0
    (new,) = [cell for cell in cells() if cell.key != before.key]
    assert new.method.code[part]["files"] != before.method.code[part]["files"]


def test_a_backbone_is_embedded_anew_whose_code_changed_and_whose_weights_did_not():
    """The module that changes defines no class of the network."""
    novel = open_dataset("glyphs").novel
    source = BACKBONE.replace("def backbone", "import helping, torch\n\ndef backbone")
    files, weights = [], []
    for factor in (1, 2):
        write(Path(), nets=source.replace("network =", "torch.manual_seed(0); network ="), helping=helper(factor))
        forget({name for name in sys.modules if name not in OWN})
        backbone = create_backbone("nets:backbone")
        weights.append(backbone.weights)
        files.append(embeddings_file(novel, backbone, "", "cpu"))
    assert weights[0] == weights[1]
    assert files[0] != files[1]


def test_a_network_is_trained_anew_where_the_code_of_its_loss_changed(capsys):
    train = ("train", "--name", "net", "--backbone", "conv4_32", "--loss", "losing:loss", "--epochs", "1")
    assert command(*train, "--validate-every", "0", "--device", "cpu") == 0
    assert list(read_checkpoint("net").card.code) == ["loss"]
    write(Path(), losing=LOSS.format(factor=3))
    assert command(*train, "--validate-every", "0", "--device", "cpu") == 2
    assert "net was trained otherwise: this command has other code of the loss (losing.py)" in capsys.readouterr().err
    assert command("run", *SMALL, "--episodes", "4", "--checkpoint", "net") == 0  # which needs no loss


def test_the_network_of_a_checkpoint_is_imported_only_where_it_is_trusted(capsys):
    train = ("train", "--name", "net", "--backbone", "nets:backbone", "--epochs", "1", "--validate-every", "0")
    assert command(*train, "--device", "cpu") == 0
    BACKBONES._entries.pop("nets:backbone")
    use = ("run", *SMALL, "--episodes", "4", "--checkpoint", "net")
    assert command(*use) == 2
    assert "nets:backbone names code, which is imported only with --trust-code" in capsys.readouterr().err
    assert "nets" not in sys.modules
    assert command(*use, "--trust-code") == 0
    (cell,) = cells()
    assert list(cell.method.code) == ["backbone"]


def test_a_study_file_names_code_where_it_is_trusted_or_typed(capsys):
    Path("study.toml").write_text(
        "shots = [1]\nepisodes = 4\nruns = 1\ndevice = 'cpu'\nbase_losses = []\nadaptations = ['mine:Mine']\n"
    )
    assert command("run", "study.toml") == 2
    assert "study.toml, line 6: mine:Mine names code" in capsys.readouterr().err
    assert "mine" not in sys.modules
    assert command("run", "study.toml", "--trust-code") == 0
    forget({name for name in sys.modules if name not in OWN})
    ADAPTATIONS._entries.pop("mine:Mine")
    assert command("run", "study.toml", "--set", "adaptations=mine:Mine") == 0
    (cell,) = cells()
    assert cell.method.adaptation == "mine"


def test_an_audit_says_that_the_code_is_another_and_does_not_fail(capsys):
    assert run(*MINE) == 0
    trusting = ("audit", "--device", "cpu", "--trust-code", "--json")
    capsys.readouterr()
    assert command(*trusting) == 0
    (audited,) = json.loads(capsys.readouterr().out)["cells"]
    assert {one["check"]: one["verdict"] for one in audited["findings"]}["same predictions"] == "pass"
    write(Path(), helping=helper(-1))
    assert command(*trusting) == 1, "it is not confirmed"
    assert "code of the adaptation here is not that which made the outcomes (helping.py)" in capsys.readouterr().out
    assert command("reproduce", "results", "--device", "cpu", "--trust-code") == 2
    assert "not that which made the outcomes (helping.py)" in capsys.readouterr().err


NEXT = {
    "an adaptation of one's own": (("--adapt", "mine:Mine", "--grid", "image_size=16,20"), True),
    "a loss of one's own": (("--adapt", "finetune-head", "--loss", "losing:loss", "--grid", "steps=1,2"), True),
    "nothing of one's own": (("--adapt", "centroid", "--grid", "metric=cosine,euclidean"), False),
}


@pytest.mark.parametrize("case", NEXT)
def test_the_command_that_a_sweep_names_next_is_one_that_runs(case, capsys):
    own, trusts_code = NEXT[case]
    assert command("sweep", "--device", "cpu", "--episodes", "4", "--base-loss", "none", "--name", "s", *own) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next ")]
    assert line.endswith(" --trust-code") is trusts_code
    LOSSES._entries.pop("losing:loss", None), ADAPTATIONS._entries.pop("mine:Mine", None)
    following = line.partition("fewshot-bench ")[2].split()
    assert command(*following, "--device", "cpu", "--episodes", "4", "--runs", "1") == 0


def test_a_sweep_runs_its_points_again_with_other_code():
    sweep = ("sweep", "--device", "cpu", "--episodes", "4", "--base-loss", "none", "--adapt", "finetune-head")
    sweep = (*sweep, "--set", "steps=2", "--loss", "losing:loss", "--name", "s", "--grid", "learning_rate=0.1,0.2")
    assert command(*sweep) == 0
    points = sorted(Path("results/sweeps/s/points").glob("*.json"))
    write(Path(), losing=LOSS.format(factor=3))
    assert command(*sweep) == 0
    assert len(list(Path("results/sweeps/s/points").glob("*.json"))) == 2 * len(points) == 4


def test_what_python_hands_over_is_its_own_and_what_a_file_says_is_not():
    study: dict[str, Any] = {"base_losses": (), "shots": (1,), "episodes": 3, "runs": 1, "device": "cpu"}
    known = Study(**study, adaptations=("mine:Mine",), results=Path("results"))
    with pytest.raises(CodeNotTrustedError):
        run_resolved(resolve_study(known))
    (cell,) = run_study(known).cells
    assert cell.method.code["adaptation"]["name"] == "mine:Mine"


def test_an_object_in_memory_carries_the_identity_of_its_code():
    novel = open_dataset("glyphs").novel
    embeddings = np.random.default_rng(0).normal(size=(len(novel), 4)).astype(np.float32)
    episodes = sample_episodes(novel, Protocol("glyphs", shot=1, episodes=2, runs=1))
    sys.path.insert(0, "")
    from mine import Mine

    mine = evaluate(Mine(), embeddings, episodes).outcomes.cell.method
    assert list(mine.code["adaptation"]["files"]) == ["helping.py", "mine.py"]
    assert evaluate(Centroid(), embeddings, episodes).outcomes.cell.method.code == {}


HEAD = (
    "from dataclasses import dataclass, InitVar\nfrom typing import ClassVar\n"
    "from fewshot_bench.adaptation import Centroid, EmbeddingAdaptation, Logistic\n"
)
FROZEN = "@dataclass(frozen=True, kw_only=True)\n"
UNRECORDED: dict[str, tuple[str, str]] = {
    "no decorator": (
        "class Mine(Centroid):\n    k: float = 1.0\n",
        "the setting 'k' of mine:Mine would not be recorded",
    ),
    "no decorator, text": (
        "from __future__ import annotations\n" + HEAD + "class Mine(Centroid):\n    k: float = 1.0\n",
        "the setting 'k'",
    ),
    "below a class without one": (
        f"class Base(Centroid):\n    k: float = 1.0\n{FROZEN}class Mine(Base):\n    m: int = 2\n",
        "the setting 'k' of mine:Mine (Base)",
    ),
    "a mixture": (f"class Mixed:\n    k: float = 1.0\n{FROZEN}class Mine(Mixed, Centroid):\n    m: int = 2\n", "'k'"),
    "for the start alone": (
        f"{FROZEN}class Mine(Centroid):\n    k: InitVar[int] = 1\n    def __post_init__(self, k): pass\n",
        "'k'",
    ),
    "an __init__": (
        "class Mine(Centroid):\n    def __init__(self, k=1): pass\n",
        "takes 'k' in an __init__ of its own",
    ),
    "an __init__ of anything": ("class Mine(Centroid):\n    def __init__(self, **k): pass\n", "takes 'k'"),
    "a field without its type": ("class Mine(Logistic):\n    C = 10.0\n", "'C = ...' in mine:Mine changes nothing"),
    "decorated, and one without its type": (f"{FROZEN}class Mine(Logistic):\n    C = 10.0\n", "'C = ...'"),
    "not frozen": ("@dataclass\nclass Mine(Centroid):\n    k: float = 1.0\n", "cannot inherit non-frozen"),
    "without a name": (
        f"{FROZEN}class Mine(EmbeddingAdaptation):\n    def scores(self, *_): pass\n",
        "has no name for its methods",
    ),
}


@pytest.mark.parametrize("case", UNRECORDED)
def test_settings_that_would_not_be_recorded_are_refused(case, capsys):
    source, told = UNRECORDED[case]
    write(Path(), mine=source if source.startswith("from") else HEAD + source)
    assert run("--base-loss", "none", "--adapt", "mine:Mine") == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("error:") == 1
    assert told in error.splitlines()[-1]
    assert not Path("results").exists()


RECORDED = {
    "a field": FROZEN + "class Mine(Centroid):\n    k: float = 1.0\n",
    "nothing of its own": "class Mine(Centroid):\n    pass\n",
    "constants": "class Mine(Centroid):\n    LIMIT: ClassVar[int] = 3\n    other = 4\n",
    "slots": "@dataclass(frozen=True, kw_only=True, slots=True)\nclass Mine(Centroid):\n    k: float = 1.0\n",
    "text": "from __future__ import annotations\n" + HEAD + FROZEN + "class Mine(Centroid):\n    k: float = 1.0\n",
    "an __init__ of the fields": (
        FROZEN
        + "class Mine(Centroid):\n    def __init__(self, features='l2'):\n        super().__init__(features=features)\n"
    ),
}


@pytest.mark.parametrize("case", RECORDED)
def test_settings_that_are_recorded_are_not(case):
    source = RECORDED[case]
    write(Path(), mine=source if source.startswith("from") else HEAD + source)
    assert run("--base-loss", "none", "--adapt", "mine:Mine", episodes=2) == 0


def test_an_object_of_such_a_class_is_refused_in_python_too(code):  # noqa: F811
    write(code, mine=HEAD + "class Mine(Centroid):\n    k: float = 1.0\n")
    sys.path.insert(0, "")
    from mine import Mine

    novel = open_dataset("glyphs").novel
    episodes = sample_episodes(novel, Protocol("glyphs", shot=1, episodes=2, runs=1))
    with pytest.raises(CodeError, match="'k' of Mine would not be recorded"):
        evaluate(Mine(), np.zeros((len(novel), 4)), episodes)


BROKEN = {
    "a syntax error": ("x = 1\ndef f(:\n", "mine.py, line 2: SyntaxError: invalid syntax"),
    "a module that is not there": (
        "x = 1\n\nimport no_such_module\n",
        "mine.py, line 3: ModuleNotFoundError: No module",
    ),
    "a name that is not there": ("from json import no_such_name\n", "mine.py, line 1: ImportError: cannot import name"),
    "an error of its own": ("def f():\n    raise KeyError('my_bug')\nf()\n", "mine.py, line 2: KeyError: 'my_bug'"),
    "an error deep in Python": (
        "import json\njson.loads('{')\n",
        "mine.py, line 2: JSONDecodeError: Expecting property",
    ),
    "an error deep in a package": (
        "import numpy\nnumpy.zeros(-1)\n",
        "mine.py, line 2: ValueError: negative dimensions",
    ),
    "an error in a module that it imports": (
        "import helping\n",
        "helping.py, line 1: ZeroDivisionError: division by zero",
    ),
    "an end": ("import sys\nsys.exit('enough')\n", "mine.py, line 2: SystemExit: enough"),
    "an error without words": ("raise RuntimeError\n", "mine.py, line 1: RuntimeError: no reason is given"),
    "an error of many lines": ("raise RuntimeError('a\\nb')\n", "mine.py, line 1: RuntimeError: a b"),
    "an error of this project": (
        "from fewshot_bench import Logistic\nLogistic(features='x')\n",
        "mine.py, line 2: StudyError: features",
    ),
}


@pytest.mark.parametrize("option", ["--adapt", "--backbone", "--dataset", "--base-loss"])
@pytest.mark.parametrize("case", BROKEN)
def test_an_error_while_importing_is_one_line_with_the_line_of_the_user(case, option, capsys):
    source, told = BROKEN[case]
    write(Path(), mine=source, helping="1 / 0\n")
    assert command("run", *SMALL, option, "mine:Mine") == 2
    error = capsys.readouterr().err
    assert f"error: mine:Mine cannot be imported: {told}" in error
    assert error.count("error:") == 1
    assert told in error.splitlines()[-1]


def test_modules_are_found_in_the_current_folder_and_still_are_when_they_import_more(monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(Path.cwd()))])
    late = ADAPTATION.format(helper="helping").replace(
        "return changed", "import late\n        return late.late * changed"
    )
    write(Path(), mine=late, late="late = 1\n")
    assert run(*MINE) == 0
    assert sys.path[-1] == str(Path.cwd())


def test_the_current_folder_is_left_alone_where_nothing_of_it_was_imported(monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(Path.cwd()))])
    before = list(sys.path)
    LOSSES.admit("math:hypot")
    assert command("run", *SMALL, "--adapt", "no_such_module:x") == 2
    assert sys.path == before
