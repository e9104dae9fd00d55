"""From the options of `run`, which `sweep` takes too, to a study."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fewshot_bench.cli.options import numbers, setting, words

if TYPE_CHECKING:
    from fewshot_bench.study import Study


def study_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a study that options say.

    Args:
        options: by the name of the parameter of `run`, any of them; those that say nothing about a study are passed
            over, and those called like a field of a study are that field.

    Raises:
        typer.BadParameter: an option cannot be read.
    """
    from fewshot_bench.study import Study

    fields: dict[str, Any] = {}
    named = {option: options[option] for option in _HYPER_PARAMETERS if options.get(option) is not None}
    if named or "set_" in options:
        others = dict(setting(text) for text in options.get("set_") or [])
        twice = sorted(named.keys() & others.keys())
        if twice:
            raise typer.BadParameter(f"--{twice[0]} and --set {twice[0]} say the same; leave one of them out.")
        fields["hyper_parameters"] = named | others
    for option, value in options.items():
        if option in _READERS:
            fields |= _READERS[option](value)
        elif option in Study.model_fields:
            fields[option] = value
    return fields


_READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "split": lambda text: {"fractions": tuple(words(text))} if "," in text else {"split": text, "fractions": None},
    "base_loss": lambda text: {"base_losses": None if text is None else () if text == "none" else words(text)},
    "checkpoint": lambda text: {"checkpoints": None if text is None else words(text)},
    "adapt": lambda text: {"adaptations": words(text)},
    "loss": lambda text: {"losses": words(text)},
    "shots": lambda text: {"shots": numbers(text, "--shots")},
}
_HYPER_PARAMETERS = ("tune", "bn", "views", "precision")
"""Options that are hyper-parameters of adaptations, as if typed behind --set."""


def chosen_fields(context: typer.Context, setting_path: Path | None = None) -> dict[str, Any]:
    """The fields of the study that a command line describes, with the setting that a sweep chose.

    Raises:
        StudyError: the setting cannot be read, or an option contradicts it.
    """
    typed = study_fields({name: context.params[name] for name in typed_options(context)})
    fields = study_fields(context.params)
    if fields.get("sampler") == "disjoint":  # which has as many as the split gives, unless fewer are asked for
        fields = {name: value for name, value in fields.items() if name in typed or name not in ("episodes", "runs")}
    if fields.get("until_ci") is not None and "episodes" not in typed:
        fields.pop("episodes", None)
    if setting_path is None:
        return fields
    from fewshot_bench.study import read_best_configuration

    return read_best_configuration(setting_path).applied_to(fields, typed, str(setting_path))


def named_backbones(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The backbones that `--backbone` lists; none where the option is not there.

    Args:
        fields: as `chosen_fields` gives them.

    Raises:
        StudyError: it lists none.
    """
    from fewshot_bench.errors import StudyError

    text = fields.get("backbone")
    backbones = () if text is None else words(text)
    if text is not None and not backbones:
        raise StudyError("--backbone takes one value or more; none was given.")
    return backbones


def admit_typed(context: typer.Context) -> None:
    """Import the code that somebody has typed the name of; names from a file are not among these.

    Raises:
        CodeError: it cannot be imported.
    """
    fields = study_fields({name: context.params[name] for name in typed_options(context)})
    if not any(":" in str(value) for value in fields.values()):
        return  # no code is named, so torch need not be imported for it
    from fewshot_bench.study.admission import admit_fields

    for backbone in named_backbones(fields) or (None,):
        admit_fields({**fields, "backbone": backbone})


def typed_options(context: typer.Context) -> list[str]:
    """The names of the parameters that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def typed_arguments(context: typer.Context) -> list[str]:
    """The whole command line behind the program's name, as `main` has handed it on."""
    return list(context.find_root().obj or [])


def validated_study(fields: Mapping[str, Any]) -> Study:
    """A study, or one sentence that names the option with the wrong value.

    Raises:
        StudyError: a value is refused.
        UnknownNameError: a name is not known.
    """
    from pydantic import ValidationError

    from fewshot_bench.errors import StudyError
    from fewshot_bench.study import Study
    from fewshot_bench.study.known_names import refuse_misspelt_of

    try:
        study = Study.model_validate(dict(fields))
        refuse_misspelt_of(study)
        return study
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]).rstrip("_").replace("_", "-")
        option = "--" + _OPTIONS.get(field, field)
        if first["type"] == "too_short":
            raise StudyError(f"{option} takes one value or more; none was given.") from error
        raise StudyError(f"{option}: {first['msg']}, not {first['input']!r}.") from error


_OPTIONS = {"fractions": "split", "least-images": "min-images", "adaptations": "adapt", "losses": "loss"}
"""What a field of a study is called on a command line, where that is another word."""


def takes_options_of(
    command: Callable[..., None], *, without: Collection[str], defaults: Mapping[str, Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command with `**options` take those of another one as well, as they are written there.

    Args:
        command: whose options to take.
        without: those that make no sense.
        defaults: that differ, by the name of the parameter.
    """
    taken = [
        parameter.replace(default=defaults.get(parameter.name, parameter.default))
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.name not in without
    ]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = {name: own for name, own in signature.parameters.items() if own.kind is not own.VAR_KEYWORD}
        parameters = [*own.values(), *(parameter for parameter in taken if parameter.name not in own)]
        function.__dict__["__signature__"] = signature.replace(parameters=parameters)
        function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return function

    return decorate
