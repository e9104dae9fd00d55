"""The options of a study: from the fields of its model to a command's options, and from a command line to a study."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from fewshot_bench.cli.completion import completer
from fewshot_bench.cli.options import Location, assignment, hyper_parameter, numbers, results_folder, words
from fewshot_bench.study.study import OF_FEW_SHOT, NamedHyperParameters, Options, Study

if TYPE_CHECKING:
    from fewshot_bench.study.plan import StudyPlan
    from fewshot_bench.study.study_file import StudyFile
    from fewshot_bench.study.study_parser import Override

_SECTIONS = ("data", "method", "episodes", "computing", "output")
_WITHOUT_OPTION = ("fractions", "hyper_parameters", "base_settings")  # --split, --set and --base-set give them
_FIRST = ("dataset", "backbone", "results")


def field_option(
    name: str, model: type[Options] = Study, *, text: str = "", has_bounds: bool = True, metavar: str = ""
) -> Any:
    """The option of a field.

    Args:
        name: of the field.
        model: that has it.
        text: instead of the field's help.
        has_bounds: whether the command line checks the bounds of a number; otherwise the model does.
        metavar: instead of the field's.
    """
    field, found = model.model_fields[name], dict[str, Any]()
    if metavar := metavar or model.fact(name, "metavar") or "|".join(model.choices(name)):
        found["metavar"] = metavar
    if name == "results":
        found["parser"] = results_folder
    if (names := completer(name)) is not None:
        found["autocompletion"] = names
    for part in field.metadata if has_bounds else ():
        found |= {"min": part.ge} if hasattr(part, "ge") else {"max": part.le} if hasattr(part, "le") else {}
    panel = model.fact(name, "section").title()
    return typer.Option(model.flag(name), help=text or field.description, rich_help_panel=panel, **found)


def takes_fields(
    *models: type[Options],
    only: Collection[str] = (),
    without: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command with `**options` take an option for every field of some models.

    Args:
        models: of the fields.
        only: these fields; all by default.
        without: not these.
        defaults: that differ from the fields' own.
        texts: help that differs from the fields' own.
    """
    homes = {name: model for model in models for name in model.model_fields if name not in (*_WITHOUT_OPTION, *without)}
    names = sorted([name for name in homes if not only or name in only], key=lambda name: name not in _FIRST)
    changed, helps = defaults or {}, texts or {}

    def parameter(name: str) -> inspect.Parameter:
        model, text = homes[name], helps.get(name, "")
        default = changed.get(name, model.model_fields[name].get_default())
        kind: Any = None | model.kind(name) if default is None else model.kind(name)
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        annotation = Annotated[kind, field_option(name, model, text=text, has_bounds=model is not Study)]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=annotation)

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        parameters = sorted([*map(parameter, names), *own], key=lambda each: (each.kind, _section(each)))
        function.__dict__["__signature__"] = signature.replace(parameters=parameters)
        function.__annotations__ = {each.name: each.annotation for each in parameters}
        return function

    return decorate


def _section(parameter: inspect.Parameter) -> int:
    """The position of a parameter's section in the help."""
    panels = [getattr(part, "rich_help_panel", None) for part in get_args(parameter.annotation)]
    return next((_SECTIONS.index(panel.lower()) for panel in panels if panel), len(_SECTIONS))


ResultsOption = Annotated[Location, field_option("results")]
BaselineOption = Annotated[str | None, field_option("baseline")]
DeviceOption = Annotated[str, field_option("device")]

PROBES = {"linear": "linear-probe", "knn": "knn-probe"}
"""What --probe calls the probes of frozen embeddings, and their names among the adaptations."""

ProbeOption = Annotated[
    str | None,
    typer.Option(
        metavar="linear,knn",
        rich_help_panel="Method",
        help="Probes of frozen embeddings, with --protocol full.",
    ),
]


def typed_options(context: typer.Context) -> list[str]:
    """The names of the parameters that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def typed_arguments(context: typer.Context) -> list[str]:
    """The whole command line behind the program's name, as `main` has handed it on."""
    return list(context.find_root().obj or [])


def describes_study(context: typer.Context, others: type[Options]) -> bool:
    """Whether a command line says anything of a study, beside where to compute it and where to store its results.

    Args:
        context: of the command.
        others: the model of the command's own options, which do not describe a study; a sweep's setting does.
    """
    beside = {*Study.fields_where("section", "computing", "output"), *others.model_fields} - {"setting"}
    return bool({*typed_options(context)} - beside - {"as_json", "trust_code", "worker"})


def study_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a study that options give.

    Args:
        options: by the name of the parameter; those that are not options of a study are passed over.

    Raises:
        typer.BadParameter: an option cannot be read.
    """
    fields: dict[str, Any] = {}
    named = {name: options[name] for name in NamedHyperParameters.model_fields if options.get(name) is not None}
    if named or "set_" in options:
        others = dict(hyper_parameter(text) for text in options.get("set_") or [])
        twice = sorted(named.keys() & others.keys())
        if twice:
            raise typer.BadParameter(f"--{twice[0]} and --set {twice[0]} say the same; leave one of them out.")
        fields["hyper_parameters"] = named | others
    if options.get("base_set"):
        fields["base_settings"] = dict(hyper_parameter(text) for text in options["base_set"])
    for name, value in options.items():
        if name == "split" and "," in value:
            fields["fractions"] = tuple(words(value))
        elif name == "split":
            fields |= {"split": value, "fractions": None}
        elif name == "shots":
            fields[name] = numbers(value, "--shots")
        elif name == "base_losses" and value == "none":
            fields[name] = ()
        elif name in Study.model_fields:
            fields[name] = words(value) if Study.takes_several(name) and value is not None else value
    if options.get("probe") is not None:
        fields["adaptations"] = _adaptations_of_probes(options["probe"])
    return fields


def _adaptations_of_probes(text: str) -> tuple[str, ...]:
    """The adaptations that --probe names; raises typer.BadParameter if it names none or another."""
    names = words(text)
    if not names or not set(names) <= set(PROBES):
        raise typer.BadParameter(f"--probe takes {' or '.join(PROBES)}, or both with a comma, not '{text}'.")
    return tuple(PROBES[name] for name in names)


def typed_fields(context: typer.Context) -> dict[str, Any]:
    """The fields of a study that stand on the command line."""
    typed = {name: context.params[name] for name in typed_options(context)}
    if "probe" in typed and "adaptations" in typed:
        both = ",".join([typed["adaptations"], *_adaptations_of_probes(typed["probe"])])
        raise typer.BadParameter(f"--adapt and --probe both name methods; use --adapt {both} instead.")
    return study_fields(typed)


def chosen_fields(context: typer.Context, setting_path: Path | None = None) -> dict[str, Any]:
    """The fields that a command line describes, with a sweep's setting; StudyError if it is contradicted."""
    typed, fields = typed_fields(context), study_fields(context.params)
    replaced = ["episodes", "runs"] if fields["sampler"] == "disjoint" else ["episodes"] if fields["until_ci"] else []
    replaced += ["adaptations"] if fields.get("recipe") is not None else []  # the recipe has one of its own
    if fields.get("protocol") == "full":  # which decides them itself
        replaced += [*OF_FEW_SHOT, "adaptations", "losses"]
    fields = {name: value for name, value in fields.items() if name in typed or name not in replaced}
    if setting_path is None:
        return fields
    from fewshot_bench.study import read_best_configuration

    return read_best_configuration(setting_path).applied_to(fields, typed, str(setting_path))


def listed_names(fields: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """The names that `--backbone` or `--recipe` lists, if given; raises StudyError if it lists none."""
    from fewshot_bench.errors import StudyError

    text = fields.get(field)
    names = () if text is None else words(text)
    if text is not None and not names:
        raise StudyError(f"{Study.flag(field)} takes one value or more; none was given.")
    return names


def validated_study(fields: Mapping[str, Any]) -> Study:
    """A study; raises StudyError with the option of a refused value, UnknownNameError for an unknown name."""
    from pydantic import ValidationError

    from fewshot_bench.errors import StudyError
    from fewshot_bench.study.known_names import refuse_misspelt_study

    try:
        study = Study.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        flag = Study.flag(field) if field in Study.model_fields else f"--{field}"
        if first["type"] == "too_short":
            raise StudyError(f"{flag} takes one value or more; none was given.") from error
        raise StudyError(f"{flag}: {first['msg']}, not {first['input']!r}.") from error
    refuse_misspelt_study(study)
    return study


def planned_study(
    context: typer.Context,
    study: str | None,
    setting_path: Path | None,
    *,
    announce: Callable[[Sequence[str]], None],
    trusts_code: bool = False,
) -> StudyPlan:
    """What a command line asks to run: a study file or preset with its changes, or options alone.

    Code that the command line names is imported; code that a file names only if it is trusted.

    Args:
        context: of the command.
        study: a file or a preset; None if options describe the study.
        setting_path: what a sweep chose.
        announce: is told what the studies are going to do, in lines, before torch is imported.
        trusts_code: whether code that a file, a setting or a checkpoint names may be imported.

    Raises:
        FewshotBenchError: a value is refused, an option repeats what the file describes, or code cannot be imported.
    """
    if study is None:
        plan = _plan_of_options(context, setting_path, announce)
    else:
        plan = _plan_of_file(context, study, trusts_code, announce)
    if trusts_code:
        from fewshot_bench.study.admission import admit_all

        for described in plan.studies:
            admit_all(described)
    return plan


def _plan_of_options(
    context: typer.Context, setting_path: Path | None, announce: Callable[[Sequence[str]], None]
) -> StudyPlan:
    from fewshot_bench.study.announcement import announced
    from fewshot_bench.study.known_names import refuse_misspelt

    fields = chosen_fields(context, setting_path)
    backbones, recipes = listed_names(fields, "backbone"), listed_names(fields, "recipe")
    one = {"backbone": next(iter(backbones), None), "recipe": next(iter(recipes), None)}
    if recipes:
        _announce_recipes(fields, recipes, announce, is_fresh=context.params["fresh"])
    described = [validated_study({**fields, **one})]
    for backbone in dict.fromkeys(backbones[1:]):
        refuse_misspelt("backbone", backbone)
        described.append(described[0].model_copy(update={"backbone": backbone}))
    described += [validated_study({**fields, "recipe": recipe}) for recipe in dict.fromkeys(recipes[1:])]
    if not recipes:
        announce(announced(described, is_fresh=context.params["fresh"]))
    from fewshot_bench.study.plan import StudyPlan  # imports pandas, which a misspelt name should not wait for

    plan = StudyPlan.of_options(described)
    _admit_typed(context)
    return plan


def _announce_recipes(
    fields: Mapping[str, Any], recipes: Sequence[str], announce: Callable[[Sequence[str]], None], *, is_fresh: bool
) -> None:
    """Announce the studies of named recipes, whose validation imports torch; what is refused later is left to that."""
    from pydantic import ValidationError

    from fewshot_bench.errors import FewshotBenchError
    from fewshot_bench.study.announcement import announced
    from fewshot_bench.training.named_recipes import recipe_names

    without = {name: value for name, value in fields.items() if name not in ("recipe", "base_settings")}
    with suppress(ValidationError, FewshotBenchError):
        study = Study.model_validate(without)
        known = [recipe for recipe in dict.fromkeys(recipes) if recipe in recipe_names() or recipe.endswith(".toml")]
        if len(known) == len(set(recipes)):
            announce(announced([study.model_copy(update={"recipe": name}) for name in known], is_fresh=is_fresh))


def _admit_typed(context: typer.Context) -> None:
    """Import code whose name the user typed, never a file's; raises CodeError if it cannot be imported."""
    fields = typed_fields(context)
    if not any(":" in str(value) for value in fields.values()):
        return  # no code is named, so torch need not be imported
    from fewshot_bench.study.admission import admit_fields

    for backbone in listed_names(fields, "backbone") or (None,):
        admit_fields({**fields, "backbone": backbone})


def _plan_of_file(
    context: typer.Context, study: str, trusts_code: bool, announce: Callable[[Sequence[str]], None]
) -> StudyPlan:
    from fewshot_bench.study.announcement import announced_file
    from fewshot_bench.study.study_file import preset_text

    preset_text(study)  # a name or a file that does not exist is found before pandas is imported
    from fewshot_bench.study.study_parser import Override, plan_of_file

    beside = _options_beside_a_file(context, study)
    overrides = [Override.from_text(*assignment(text)) for text in context.params["set_"] or []]

    def announce_file(file: StudyFile) -> None:
        announce(announced_file(file, study, is_fresh=context.params["fresh"]))

    return plan_of_file(study, [*overrides, *beside], trusts_code=trusts_code, announce=announce_file)


def _options_beside_a_file(context: typer.Context, study: str) -> list[Override]:
    """The options of computing and output that were typed beside a file, as changes of its keys.

    Raises:
        StudyError: an option describes the study, which the file does already.
    """
    from fewshot_bench.errors import StudyError
    from fewshot_bench.study.study_parser import Override

    beside = Study.fields_where("section", "computing", "output")
    overrides = []
    for name in typed_options(context):
        value = context.params[name]
        if name == "setting":
            raise StudyError(f"--setting describes a study, and {study} describes it already. Leave one of them out.")
        if name in beside:
            plain = str(value) if name == "results" else value
            overrides.append(Override((name,), plain, f"--{name} {plain}"))
        elif name in ("base_set", "probe") or name in Study.model_fields or name in NamedHyperParameters.model_fields:
            raise StudyError(
                f"{_flag(name)} describes a study, and {study} describes it already. Change the file, "
                f"or use --set {_key(name, value)}={value}."
            )
    return overrides


def _flag(name: str) -> str:
    if name in ("base_set", "probe"):
        return Study.flag("base_settings") if name == "base_set" else "--probe"
    return (Study if name in Study.model_fields else NamedHyperParameters).flag(name)


def _key(name: str, value: object) -> str:
    """What an option of a study is called in a file."""
    if name in ("base_set", "probe"):
        return "base_settings.NAME" if name == "base_set" else "adaptations"
    if name in NamedHyperParameters.model_fields:
        return f"hyper_parameters.{name}"
    if name == "split" and "," in str(value):
        return "fractions"
    return "datasets" if name == "dataset" else Study.model_fields[name].alias or name
