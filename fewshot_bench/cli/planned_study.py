"""From the command line of `run` to what it runs: a study file or preset with its changes, or options alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fewshot_bench.cli.options import assignment
from fewshot_bench.cli.study_options import (
    admit_typed,
    chosen_fields,
    named_backbones,
    study_fields,
    typed_options,
    validated_study,
)

if TYPE_CHECKING:
    from fewshot_bench.study.plan import StudyPlan
    from fewshot_bench.study.study_parser import Override

_WITH_A_FILE = ("results", "device", "chunk", "baseline")
"""Options that say where a study runs, or how it is looked at, and so go with a file that describes it."""

_KEYS = {
    "dataset": "datasets",
    "adapt": "adaptations",
    "loss": "losses",
    "base_loss": "base_losses",
    "checkpoint": "checkpoints",
    "lambda_": "lambda",
}


def planned_study(
    context: typer.Context,
    study: str | None,
    setting: Path | None,
    set_: list[str] | None,
    *,
    trusts_code: bool = False,
) -> StudyPlan:
    """What a command line asks to be run; code that it names is imported, code that a file names only if trusted.

    Args:
        context: of the command.
        study: a file or a preset; None where the options describe the study.
        setting: what a sweep chose.
        set_: `key=value` texts.
        trusts_code: whether code that a file, a setting or a checkpoint names may be imported.

    Raises:
        FewshotBenchError: a value is refused, an option says what the file says already, or code cannot be imported.
    """
    from fewshot_bench.study.known_names import refuse_misspelt
    from fewshot_bench.study.study_file import preset_text

    if study is None:
        fields = chosen_fields(context, setting)
        backbones = named_backbones(fields)
        described = validated_study({**fields, "backbone": backbones[0] if backbones else None})
        for backbone in backbones[1:]:
            refuse_misspelt("backbone", backbone)
        from fewshot_bench.study.plan import StudyPlan  # which imports pandas; a misspelt name should not wait for it

        plan = StudyPlan.of_options(described, backbones)
        admit_typed(context)
        if trusts_code:
            _admit(plan)
        return plan
    preset_text(study)  # a name or a file that is not there is found before pandas is imported
    from fewshot_bench.study.study_parser import Override, plan_of_file

    _refuse_descriptions(context, study)
    overrides = [Override.from_text(*assignment(text)) for text in set_ or []]
    plan = plan_of_file(study, [*overrides, *_options(context)], trusts_code=trusts_code)
    if trusts_code:
        _admit(plan)
    return plan


def _admit(plan: StudyPlan) -> None:
    """Import all code that the studies name."""
    from fewshot_bench.study.admission import admit_all

    for described in plan.studies:
        admit_all(described)


def _options(context: typer.Context) -> list[Override]:
    """The options that were typed beside a file, as changes of its keys."""
    from fewshot_bench.study.study_parser import Override

    typed = [name for name in typed_options(context) if name in _WITH_A_FILE]
    values = {name: context.params[name] for name in typed}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    return [Override((name,), value, f"--{name} {value}") for name, value in plain.items()]


def _refuse_descriptions(context: typer.Context, study: str) -> None:
    """See that nothing but the file describes the study.

    Raises:
        StudyError: an option does.
    """
    from fewshot_bench.errors import StudyError

    for name in typed_options(context):
        value = context.params[name]
        option = f"--{name.rstrip('_').replace('_', '-')}"
        if name == "setting":
            raise StudyError(f"{option} describes a study, and {study} describes it already. Leave one of them out.")
        if name != "set_" and study_fields({name: value}).keys() - set(_WITH_A_FILE):
            raise StudyError(
                f"{option} describes a study, and {study} describes it already. Change the file, or use "
                f"--set {_key(name, value)}={value}."
            )


def _key(option: str, value: object) -> str:
    """What an option is called in a file."""
    fields = study_fields({option: value})
    if "hyper_parameters" in fields:
        return f"hyper_parameters.{option}"
    return _KEYS.get(option) or ("fractions" if "fractions" in fields and "split" not in fields else next(iter(fields)))
