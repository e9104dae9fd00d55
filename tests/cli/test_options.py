"""The options of a study are the fields of its model: on the command line, in help, and in messages."""

from __future__ import annotations

import re
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from fewshot_bench.cli.main import app, main
from fewshot_bench.cli.study_options import study_fields
from fewshot_bench.study.study import NamedHyperParameters, Study

WITHOUT_OPTION = {"fractions", "hyper_parameters", "base_settings"}  # --split, --set and --base-set give them
GROUP = get_command(app)


def commands(group=GROUP, path=()):
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def options_of(command) -> dict:
    return {parameter.name: parameter for parameter in command.params if parameter.param_type_name == "option"}


def test_every_field_of_a_study_is_an_option_of_run():
    options = options_of(GROUP.get_command(None, "run"))
    for model in (Study, NamedHyperParameters):
        for name, field in model.model_fields.items():
            if name not in WITHOUT_OPTION:
                assert options[name].opts == [model.flag(name)]
                assert options[name].help == field.description


def test_defaults_of_run_are_those_of_a_study():
    options = options_of(GROUP.get_command(None, "run"))
    defaults = {name: option.default for name, option in options.items() if name in Study.model_fields}
    assert Study.model_validate(study_fields(defaults)) == Study()


def test_the_help_of_run_has_sections_and_fits_two_screens():
    text = CliRunner().invoke(app, ["run", "--help"], terminal_width=100).output
    assert re.findall(r"^(\w+):$", text, re.MULTILINE)[1:-1] == ["Data", "Method", "Episodes", "Computing", "Output"]
    assert len(text.splitlines()) <= 100


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_help_is_one_plain_sentence_or_two(path):
    command = dict(commands())[path]
    for option in options_of(command).values():
        if not option.hidden and option.name != "help":
            assert option.help, option.name
            assert not option.help.startswith("Of "), option.name
            assert len(option.help) <= 130, option.name


def test_a_text_names_a_weights_file():
    from fewshot_bench.backbones import BackboneRequest

    assert BackboneRequest("conv4_32", weights="mine.safetensors").weights.name == "mine.safetensors"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_the_caller_closed_is_nowhere(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    with pytest.raises(SystemExit) as end:
        main(["ls", "adaptations"])
    assert end.value.code == 0
