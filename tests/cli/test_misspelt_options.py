"""A wrong option is answered with the right one of that command."""

from __future__ import annotations

import pytest
from typer.main import get_command

from fewshot_bench.cli.main import app, exit_code
from fewshot_bench.cli.misspelt_options import _CALLED, option_to_type


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("run --shot 5", "Did you mean --shots? See: fewshot-bench run --help"),
        ("run --k-shot 5", "Did you mean --shots?"),
        ("run --n-way 5", "Did you mean --way?"),
        ("run --ways 5", "Did you mean --way?"),
        ("run --n-episodes 5", "Did you mean --episodes?"),
        ("run --n_episodes=5", "Did you mean --episodes?"),
        ("run --gpu 0", "Did you mean --device cuda?"),
        ("run --lr 0.1", "Did you mean --set learning_rate=0.01?"),
        ("train --name x --lr 0.1", "Did you mean --learning-rate?"),
        ("run --output x", "Did you mean --results?"),
        ("compare -o x", "Did you mean --results?"),
        ("run --adpt centroid", "Did you mean --adapt?"),
        ("run --epis 4", "Did you mean --episodes?"),
        ("run --image_size 84", "Did you mean --image-size?"),
        ("episodes show --shots 5", "Did you mean --shot? See: fewshot-bench episodes show --help"),
        ("run --zzzzz", "No such option: --zzzzz. See: fewshot-bench run --help"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_the_right_one(capsys, typed, told):
    assert exit_code(typed.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_every_option_that_is_offered_belongs_to_some_command():
    def options(command):
        found = {option for parameter in command.params for option in parameter.opts}
        for name in command.list_commands(None) if hasattr(command, "list_commands") else []:
            found |= options(command.get_command(None, name))
        return found

    assert {option.split()[0] for option in _CALLED} <= options(get_command(app))


def test_an_option_of_another_command_is_not_offered():
    assert option_to_type("--lr", ["--shots", "--way"]) == ""
    assert option_to_type("-o", ["--way"]) == ""


@pytest.mark.parametrize("command", ["new", "compare lite0/logistic", "episodes show --episode one"])
def test_a_command_that_is_typed_wrong_names_its_own_help(capsys, command):
    assert exit_code(command.split()) == 2
    name = "episodes show" if command.startswith("episodes") else command.split()[0]
    assert capsys.readouterr().err.rstrip().endswith(f"See: fewshot-bench {name} --help")
