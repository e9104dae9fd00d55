"""A name of code in any text of any stored file: whichever command reads it, nothing is imported and nothing fetched.

Every text and every key is replaced in turn, and every value in all of its places at once; the spellings and, of the
commands that only read, the command take turns. FEWSHOT_BENCH_EVERY=1 tries all of them on everything, which takes
hours.
"""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib.machinery import ModuleSpec
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tomli_w
from audited_results import rewritten
from own_code import code, forget  # noqa: F401  # a fixture

from fewshot_bench._io.tensors import read_tensors, write_tensors
from fewshot_bench._io.toml import tomllib
from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes.part import digest
from fewshot_bench.outcomes.store import parts_in
from fewshot_bench.study.checkpoints import checkpoint_file, state_file

pytestmark = pytest.mark.slow

EVERY = bool(os.environ.get("FEWSHOT_BENCH_EVERY"))
SPELLINGS = (
    "evil:Thing", "evil:1", "evil:", "1vil:1", "évil:x", " evil:x", "evil :x", "timm:evil", "hf:evil/x",
    "torchvision:evil", "evil.deep:x", "hf-hub:evil/x", "timm:hf-hub:evil/x", "evil", "evil;evil:x", "resnet18.evil:x",
)  # fmt: skip
TRAPS = ("evil", "1vil", "évil", " evil", "evil ", "hf", "timm:evil")
READERS: tuple[tuple[str, ...], ...] = (
    ("leaderboard",), ("compare",), ("compare", "centroid", "logistic"), ("report",), ("status", "--once"),
    ("store", "check"), ("store", "compact"), ("store", "merge", "results", "--results", "merged"),
    ("outcomes", "export", "all.csv"), ("power", "centroid", "logistic"), ("leaderboard", "--markdown", "a.md"),
    ("run", "--device", "cpu", "--base-loss", "none", "--shots", "1", "--episodes", "3", "--runs", "1"),
)  # fmt: skip


class Trap:
    """Finds no module, but notes which were looked for."""

    def __init__(self) -> None:
        self.sprung: list[str] = []

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.startswith(TRAPS):
            self.sprung.append(name)
        return None


@pytest.fixture
def trap(code, monkeypatch) -> Iterator[Callable[..., int]]:  # noqa: F811
    """Runs a command; afterwards no module of a planted name has been looked for, and no dataset asked of a hub."""
    import datasets

    mark = code / "mark"
    for name in ("evil", "évil", "1vil"):
        (code / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\nThing = x = print\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(code))
    found = Trap()
    monkeypatch.setattr(sys, "meta_path", [found, *sys.meta_path])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *_, **__: found.sprung.append(f"hf:{name}"))

    def run(*arguments: str, planted: object = "") -> int:
        result = -1
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), suppress(Exception, SystemExit):
            result = exit_code(list(arguments))
        assert (found.sprung, mark.exists()) == ([], False), (arguments, planted)
        return result

    return run


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """Every text in plain data, and every key (True); of a long list the first and the last element."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key), True
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for number in dict.fromkeys((0, len(value) - 1)) if value else ():
            yield from places(value[number], (*path, number))
    elif isinstance(value, str) or value is None:
        yield path, False


def planted(value: Any, path: tuple[Any, ...], text: str, *, is_key: bool) -> Any:
    """Plain data with a text in one place."""
    changed = copy.deepcopy(value)
    inner = changed
    for part in path[:-1]:
        inner = inner[part]
    if is_key:
        inner[text] = inner.pop(path[-1])
    else:
        inner[path[-1]] = text
    return changed


def everywhere(value: Any, old: str, new: str) -> Any:
    """Plain data with a text in the place of another one, wherever that is."""
    if isinstance(value, dict):
        return {key: everywhere(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [everywhere(inner, old, new) for inner in value]
    return new if value == old else value


def plants(value: Any) -> Iterator[tuple[Any, str]]:
    """Plain data with one of the spellings in each place, and what was done."""
    turns = count()
    for path, is_key in places(value):
        for text in SPELLINGS if EVERY else (SPELLINGS[next(turns) % len(SPELLINGS)],):
            yield planted(value, path, text, is_key=is_key), f"{text!r} at {path}"
    texts = Counter(get(value, path) for path, is_key in places(value) if not is_key)
    for old in sorted(text for text, times in texts.items() if isinstance(text, str) and times > 1):
        for text in SPELLINGS if EVERY else ("evil:Thing", SPELLINGS[next(turns) % len(SPELLINGS)]):
            yield everywhere(value, old, text), f"{text!r} for {old!r}"


def get(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


def turn(commands: tuple[tuple[str, ...], ...], number: int) -> tuple[tuple[str, ...], ...]:
    return commands if EVERY else (commands[number % len(commands)],)


STUDY = ("--device", "cpu", "--shots", "1", "--episodes", "3", "--runs", "1")


def test_in_the_description_of_a_cell(trap):
    """Read by every command that reads outcomes, and run again by an audit and a reproduction."""
    study = (*STUDY, "--base-loss", "ce", "--base-epochs", "1", "--adapt", "centroid,finetune-head", "--set", "steps=1")
    assert trap("run", *study) == 0
    found = {path.parent: json.loads(path.read_text("utf-8")) for path in Path("results").rglob("cell.json")}
    ((folder, content),) = [pair for pair in found.items() if pair[1]["method"]["adaptation"] == "finetune-head"]
    again = (("audit",), ("reproduce",))
    for command in again:
        assert trap(*command, str(folder), "--device", "cpu", "--episodes", "1") == 0
    original = Path("results").rename("original")
    for number, (changed, what) in enumerate(plants(content)):
        shutil.rmtree("results", ignore_errors=True)
        shutil.copytree(original, "results")
        place = folder
        try:
            place = rewritten(folder, lambda told, changed=changed: (told.clear(), told.update(changed)))
        except (FewshotBenchError, OSError):
            (folder / "cell.json").write_text(json.dumps(changed), encoding="utf-8")
        is_run_again = "'study'" in what or "'method'" in what or " for " in what
        for command in turn(again, number) if is_run_again or EVERY else ():
            trap(*command, str(place), "--device", "cpu", "--episodes", "1", planted=what)
        for command in turn(READERS, number) if not is_run_again or EVERY else ():
            trap(*command, planted=what)


def test_in_a_part_of_the_outcomes(trap):
    assert trap("run", *STUDY, "--base-loss", "none", "--adapt", "centroid,logistic") == 0
    folder = next(Path("results/outcomes").iterdir())
    (part,) = parts_in(folder)
    table, plain = pq.read_table(part.location), part.location.name.rpartition("-")[0]
    metadata = {key.decode(): json.loads(value) for key, value in table.schema.metadata.items() if b"fewshot" in key}
    tables = [
        (table.replace_schema_metadata({key: json.dumps(value) for key, value in changed.items()}), what)
        for changed, what in plants(metadata)
    ]
    for name in ("protocol", "method", "seed"):
        column = table.schema.get_field_index(name)
        for text in SPELLINGS:
            tables.append((table.set_column(column, name, [[text] * len(table)]), f"{text!r} in {name}"))
    for number, (changed, what) in enumerate(tables):
        for old in folder.rglob("*.parquet"):
            old.unlink()
        pq.write_table(changed, "new.parquet")
        Path("new.parquet").rename(part.location.parent / f"{plain}-{digest(Path('new.parquet').read_bytes())}.parquet")
        for command in turn((("audit", "results", "--device", "cpu", "--episodes", "1"), *READERS), number):
            trap(*command, planted=what)


def test_in_records_of_studies_leases_and_failures(trap):
    assert trap("run", *STUDY, "--base-loss", "none", "--adapt", "centroid,logistic") == 0
    files = [path for path in sorted(Path("results/studies").rglob("*")) if path.is_file()]
    cell = next(Path("results/outcomes").iterdir())
    for name in ("failures", "leases"):
        (cell / name).mkdir(exist_ok=True)
    files += [cell / "failures" / "0-0.json", cell / "leases" / "0-0-3.json"]
    commands = (("status", "--once"), ("status", "--once", "--json"), READERS[-1], ("report",), ("store", "check"))
    for file in files:
        text = file.read_text("utf-8") if file.is_file() else ""
        content = json.loads(text) if text.startswith("{") else {"owner": {"host": "a"}, "reason": "b", "method": "c"}
        for number, (changed, what) in enumerate(plants(content)):
            file.write_text(json.dumps(changed), encoding="utf-8")
            for command in turn(commands, number):
                trap(*command, planted=(file, what))
        file.write_text(text, encoding="utf-8")


def test_in_what_a_sweep_leaves(trap):
    sweep = ("sweep", "--device", "cpu", "--episodes", "3", "--base-loss", "none", "--adapt", "logistic", "--name", "s")
    sweep = (*sweep, "--grid", "C=1,2")
    assert trap(*sweep) == 0
    best = Path("results/sweeps/s/best.toml")
    use = ("run", *STUDY, "--setting", str(best), "--results", "used")
    assert trap(*use) == 0
    text = best.read_text("utf-8")
    for number, (changed, what) in enumerate(plants(tomllib.loads(text))):
        best.write_text(tomli_w.dumps(changed), encoding="utf-8")
        for command in turn((use, (*use, "--dry-run")), number):
            trap(*command, planted=what)
    best.write_text(text, encoding="utf-8")
    point = min(Path("results/sweeps/s/points").glob("*.json"))
    for number, (changed, what) in enumerate(plants(json.loads(point.read_text("utf-8")))):
        if EVERY or not number % 4:  # it holds a cell, which is planted above, and a point is run again each time
            point.write_text(json.dumps(changed), encoding="utf-8")
            trap(*sweep, planted=what)


STUDY_FILE = """
name = "ours"
description = "all that there is"
datasets = ["glyphs"]
split = "novel"
sampler = "standard"
shots = [1]
episodes = 3
runs = 1
device = "cpu"
results = "results"
backbone = "conv4_32"
interpolation = "bilinear"
base_losses = []
reading = "out"
baseline.glyphs = "centroid"

[[methods]]
adaptations = ["centroid"]
hyper_parameters.metric = "cosine"

[[methods]]
datasets = ["glyphs"]
adaptations = ["finetune-head"]
losses = ["ce+schane"]
hyper_parameters.steps = 1

[outputs]
markdown = "table.md"
labels.centroid = "Ours"
"""


def test_in_a_study_file(trap):
    file = Path("study.toml")
    file.write_text(STUDY_FILE)
    assert trap("run", "study.toml") == 0
    content = tomllib.loads(STUDY_FILE)
    more = {"weights": "a.safetensors", "checkpoints": ["mine"], "losses": ["ce"]}
    for base in (content, {**content, "methods": [], **more}):
        for number, (changed, what) in enumerate(plants(base)):
            file.write_text(tomli_w.dumps(changed), encoding="utf-8")
            for command in turn((("run", "study.toml", "--dry-run"), ("run", "study.toml")), number):
                trap(*command, planted=what)


def test_in_the_card_of_a_checkpoint(trap):
    train = ("train", "--name", "net", "--backbone", "conv4_32", "--epochs", "1", "--validate-every", "0")
    train = (*train, "--device", "cpu")
    assert trap(*train) == 0
    use = ("run", *STUDY, "--checkpoint", "net")
    assert trap(*use) == 0
    path, state = checkpoint_file("net"), state_file("net")
    tensors, metadata = read_tensors(path)
    content = {name: json.loads(text) for name, text in metadata.items() if text.startswith("{")}
    kept = {name: text for name, text in metadata.items() if name not in content}
    commands = (train, ("ls", "checkpoints"), ("run", *STUDY, "--checkpoint", "net", "--dry-run"))
    for number, (changed, what) in enumerate(plants(content)):
        told = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in changed.items()}
        write_tensors(path, tensors, {**kept, **told})
        for command in turn((use, *commands), number):
            trap(*command, planted=what)
        if EVERY or not number % 5:
            shutil.copy(path, state)
            trap(*train, planted=what)
            state.unlink(missing_ok=True)


def test_in_tables_and_lists_of_comma_separated_values(trap):
    assert trap("run", *STUDY, "--base-loss", "none", "--adapt", "centroid,logistic") == 0
    header = "table,backbone,method,dataset,split,way,shot,queries,accuracy,ci95,episodes,source,reported_in"
    header += ",recipe,adaptation,trained_on,is_transductive,note"
    row = "1,conv4_32,centroid,glyphs,novel,5,1,15,55.5,0.7,600,Somebody,2023,net,centroid,base,false,seen"
    published = Path("results/published/mine.csv")
    published.parent.mkdir()
    rows = {
        published: f"{header}\n{row}\n",
        Path("theirs.csv"): "method,episode,accuracy,classes\nours,0,0.5,0 1 2 3 4\nours,1,0.6,0 1 2 3 4\n",
        Path("results/leaderboard.csv"): Path("results/leaderboard.csv").read_text("utf-8"),
    }
    imported = ("outcomes", "import", "theirs.csv", "--dataset", "glyphs", "--way", "5", "--shot", "1")
    commands = (("leaderboard",), imported, READERS[-1], ("report",), ("compare", "--published"))
    for file, text in rows.items():
        table = [line.split(",") for line in text.splitlines()]
        for number, (changed, what) in enumerate(plants(table)):
            file.write_text("\n".join(",".join(row) for row in changed) + "\n", encoding="utf-8")
            for command in turn(commands, number):
                trap(*command, planted=(file, what))
        file.write_text(text, encoding="utf-8")


def test_in_a_lock_file_and_a_stored_dataset(trap, home):
    freeze = ("episodes", "freeze", "--dataset", "glyphs", "--shots", "1", "--episodes", "3", "--out", "locks")
    assert trap(*freeze) == 0
    (lock,) = Path("locks").glob("*.toml")
    for changed, what in plants(tomllib.loads(lock.read_text("utf-8"))):
        lock.write_text(tomli_w.dumps(changed), encoding="utf-8")
        trap("episodes", "verify", str(lock), planted=what)
    stored = home / "datasets" / "glyphs" / "dataset.json"
    other = stored.parent.with_name("other")
    shutil.copytree(stored.parent, other)
    commands = (
        ("data", "ls"),
        ("data", "check", "other"),
        ("run", *STUDY, "--base-loss", "none", "--dataset", "other"),
    )
    for number, (changed, what) in enumerate(plants(json.loads(stored.read_text("utf-8")))):
        (other / "dataset.json").write_text(json.dumps(changed), encoding="utf-8")
        for command in turn(commands, number):
            trap(*command, planted=what)


@pytest.mark.parametrize("option", ["--adapt", "--loss", "--base-loss", "--backbone", "--dataset"])
def test_the_trap_is_sprung_by_what_a_user_types(trap, option):
    """Or the tests above would show nothing."""
    with pytest.raises(AssertionError, match="evil"):
        trap("run", option, "evil:Thing", "--way", "1000")


def test_a_hub_is_asked_by_who_types_it(trap):
    with pytest.raises(AssertionError, match="hf:evil/x"):
        trap("run", "--dataset", "hf:evil/x")
