"""Every command that prints results has --json, and then prints JSON and nothing else; piped, no command colours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from fewshot_bench.cli.main import app, exit_code
from fewshot_bench.datasets import importing, open_dataset

pytestmark = pytest.mark.slow

RUN = "run --base-loss none --adapt centroid,ridge --episodes 20 --runs 1 --shots 1,2"
LOCK = Path(__file__).parents[2] / "episodes" / "glyphs-5way-1shot.toml"
FIT = "fit --backbone conv4_32 --base-loss none --adapt ridge --shot 2"
COMMANDS = (
    RUN,
    f"{RUN} --dry-run",
    f"{RUN} --shard 1/2 --results parts",
    "train --name mine --backbone conv4_32 --epochs 1 --validate-every 0 --set train_share=0.1",
    "sweep --adapt ridge --base-loss none --loss ce --grid penalty=0.1,1 --episodes 20",
    "sweep --adapt ridge --base-loss none --loss ce --grid penalty=0.1,1 --episodes 20 --shard 1/2 --results parts",
    "status",
    "compare",
    "compare centroid ridge --per-class",
    "leaderboard",
    "leaderboard --svg table.svg --markdown table.md",
    "embeddings conv4_32 --layout none --no-intervals --no-thumbnails",
    "power centroid ridge",
    "power --sd 8 --correlation 0.5",
    "report",
    "audit --episodes 0",
    "audit --episodes 5",
    "reproduce centroid --episodes 5 --shots 1",
    *(f"ls {kind}" for kind in ("datasets", "backbones", "adaptations", "losses", "recipes", "checkpoints", "studies")),
    "ls adaptations centroid",
    f"{FIT} -o another",
    "predict model photos",
    "new adaptation mine --into made",
    "data ls",
    "data check",
    "data check glyphs",
    "data check photos",
    "data import photos --from photos",
    "data get cifar-fs",
    "cache ls",
    "cache clear nothing",
    "outcomes export all.csv",
    "outcomes import mine.csv --dataset glyphs --way 5 --shot 1 --results elsewhere",
    "store compact",
    "store check",
    "store merge results --results elsewhere",
    "store prune CELL --yes --results copy",
    f"episodes verify {LOCK}",
    "episodes show --dataset glyphs --png sheet.png",
    "episodes freeze --dataset glyphs --shots 1 --episodes 10 --runs 1",
)
WITHOUT = {"study": "prints a file", "": "is the list of commands"}
MAY_NOT_PASS = ("audit",)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A home and a folder in which a small study has been run."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSHOT_BENCH_HOME", str(folder / "home"))
        patch.chdir(folder)
        assert exit_code(RUN.split()) == 0
        assert exit_code([*FIT.split(), "-o", "model"]) == 0
        pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        for name in ("cats", "dogs"):
            (folder / "photos" / name).mkdir(parents=True)
            for number in range(3):
                Image.fromarray(pixels + np.uint8(number + len(name))).save(folder / "photos" / name / f"{number}.png")
        (folder / "mine.csv").write_text("mine,yours\n0.5,0.6\n0.7,0.6\n0.9,0.3\n")
    return folder


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    """A copy of that folder as the current one."""
    for each in finished.iterdir():
        (shutil.copytree if each.is_dir() else shutil.copy)(each, tmp_path / each.name)
    shutil.copytree(tmp_path / "results", tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importing, "download_dataset", lambda *_, **__: open_dataset("glyphs"))
    return tmp_path


def parsed(text):
    """JSON as a strict reader takes it: without NaN and Infinity."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def typed(folder, command):
    """The words of a command, with the key of a stored cell."""
    return command.replace("CELL", next((folder / "copy" / "outcomes").iterdir()).name).split()


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_valid_and_alone_on_stdout(here, capsys, command):
    code = exit_code([*typed(here, command), "--json"])
    out = capsys.readouterr().out
    assert code == 0 or command.split()[0] in MAY_NOT_PASS, out
    assert isinstance(parsed(out), dict | list)


def test_the_page_names_every_command_that_has_json():
    page = (Path(__file__).parents[2] / "docs" / "scripts.md").read_text().partition("\n## Pipes")[0]
    for path, options in leaves(get_command(app)):
        if "--json" in options:
            assert path.split()[0] in page, path
            assert path.split()[-1] in page, path


def leaves(command, path=""):
    """Every command without sub-commands, with its options."""
    names = command.list_commands(None) if hasattr(command, "list_commands") else []
    if not names:
        yield path, [option for parameter in command.params for option in parameter.opts]
    for name in names:
        yield from leaves(command.get_command(None, name), f"{path} {name}".strip())


def test_every_command_has_json_and_is_tried_here():
    for path, options in leaves(get_command(app)):
        if path in WITHOUT:
            assert "--json" not in options
        else:
            assert "--json" in options, path
            assert any(command.startswith(path) for command in COMMANDS), path


@pytest.mark.parametrize("command", [command for command in COMMANDS if "--dry-run" not in command])
def test_a_pipe_gets_no_colours_and_whole_names(here, capsys, monkeypatch, command):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    exit_code(typed(here, command))
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert "…" not in printed.out.replace("/…", "")  # what all names begin with is their heading


def test_names_are_not_cut_in_a_pipe_and_tables_fit_the_columns_that_are_asked_for(here, capsys, monkeypatch):
    name = "conv4_32/ridge@penalty=0.123456789012345"
    assert exit_code([*RUN.split(), "--adapt", "ridge", "--set", "penalty=0.123456789012345"]) == 0
    monkeypatch.delenv("COLUMNS", raising=False)
    for command in ("leaderboard", "compare", "status"):
        capsys.readouterr()
        assert exit_code([command]) == 0
        assert any(name.removeprefix("conv4_32/") in line for line in capsys.readouterr().out.splitlines()), command
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_code(["leaderboard"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("variables", "is_coloured"),
    [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_the_usual_variables_decide_on_colours(here, capsys, monkeypatch, variables, is_coloured):
    for variable in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert exit_code(["compare", "centroid", "ridge"]) == 0
    out = capsys.readouterr().out
    assert any(f"\x1b[{code}m" in out for code in ("31", "32", "33", "2", "1")) == is_coloured or not is_coloured
    assert ("\x1b[3" in out) is is_coloured or is_coloured


def test_paths_in_json_are_where_files_are(here, capsys):
    assert exit_code(["report", "--json"]) == 0
    assert Path(parsed(capsys.readouterr().out)["report"]).is_file()
    assert exit_code(["outcomes", "export", "all.csv", "--json"]) == 0
    assert parsed(capsys.readouterr().out) == {"file": "all.csv", "rows": 80}
