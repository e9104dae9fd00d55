"""The best configuration of a sweep: a TOML file that `run --setting` reads. Without torch, so that typos are quick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fewshot_bench._io.storage import read_named
from fewshot_bench._io.toml import tomllib
from fewshot_bench.errors import IrregularFileError, OutcomeError, StudyError
from fewshot_bench.plugins import is_code
from fewshot_bench.report.names import value_text
from fewshot_bench.study.study import Study

Value = bool | int | float | str

NOT_OF_THE_METHOD = frozenset(Study.fields_where("section", "episodes", "computing", "output"))
"""Fields of a study that fix its episodes, or say where it runs: no part of what is done with an episode."""


RULE = "highest mean accuracy over the shots on the validation split; ties go to the earlier point of the grid"
_LARGEST_TOML = 1_000_000  # bytes
HEADER = "# Chosen by fewshot-bench sweep. Use it: fewshot-bench run --setting THIS_FILE\n\n"


def swept_fields() -> dict[str, str]:
    """The fields of a study that a grid may vary, by the name that a user types."""
    return {name.rstrip("_"): name for name in Study.fields_where("is_axis")}


class BestConfiguration(BaseModel):
    """The best configuration of a sweep, and what it was chosen from; only known fields count.

    Attributes:
        sweep: name of the sweep.
        rule: how it was chosen.
        chosen: the best value of every axis of the grid.
        method: the other fields of the study that differ from a study's defaults.
        accuracy: in %, by shot: mean, 95% half-width, median of the run means.
        budget: shots, episodes and runs of each, points of the grid and how many were run, seconds.
        grid: every value of every axis.
        protocol: what fixes the episodes, with the fingerprint of the dataset.
        versions: of the packages that can change a result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format: Literal["fewshot-bench setting 1"] = "fewshot-bench setting 1"
    sweep: str
    rule: str
    chosen: dict[str, Value] = Field(min_length=1)
    method: dict[str, Any]
    accuracy: dict[str, dict[str, float]]
    budget: dict[str, Any]
    grid: dict[str, list[Value]]
    protocol: dict[str, Any]
    versions: dict[str, str]

    def names_code(self) -> bool:
        """Whether it names code, which `run` imports only with --trust-code."""
        named = [self.method.get(name) for name in ("backbone", "adaptations", "losses", "base_losses")]
        values = (*named, *self.chosen.values())
        names = [name for value in values for name in (value if isinstance(value, list) else [value])]
        return any(isinstance(name, str) and is_code(name) and not name.startswith("timm:") for name in names)

    def applied_to(self, fields: Mapping[str, Any], typed: Mapping[str, Any], source: str) -> dict[str, Any]:
        """The fields of a study with the chosen values.

        Args:
            fields: of the study without this configuration.
            typed: the fields that a user gave explicitly. They override the configuration's method; chosen values
                they may repeat but not change.
            source: the name of this configuration in messages.

        Raises:
            StudyError: a typed value contradicts a chosen one.
        """
        swept = swept_fields()
        own = typed.get("hyper_parameters", {})
        for name, value in self.chosen.items():
            given = typed.get(swept[name], value) if name in swept else own.get(name, value)
            if given != value:
                option = f"--{name.replace('_', '-')} " if name in swept else f"--set {name}="
                raise StudyError(
                    f"{option}{value_text(given)} contradicts {source}, which chose {value_text(value)}. "
                    "Leave out one of them."
                )
        fixed = {name: value for name, value in self.method.items() if name not in typed}
        others = {name: value for name, value in self.chosen.items() if name not in swept}
        hyper_parameters = {**self.method.get("hyper_parameters", {}), **own, **others}
        chosen = {swept[name]: value for name, value in self.chosen.items() if name in swept}
        return {**fields, **fixed, **chosen, "hyper_parameters": hyper_parameters}


def method_fields(study: Study, swept: Mapping[str, Value]) -> dict[str, Any]:
    """The fields of a study that describe its method, in plain values: those decided, or different from a default."""
    decided = {"dataset", "adaptations", "losses", "base_losses"}
    content = study.model_dump(mode="json", exclude=set(NOT_OF_THE_METHOD), exclude_none=True)
    default = Study().model_dump(mode="json")
    kept = {name: value for name, value in content.items() if name in decided or value != default[name]}
    if study.checkpoints is None:
        kept["backbone"] = study.backbone_name
    return {name: value for name, value in kept.items() if name.rstrip("_") not in swept}


def read_best_configuration(path: Path) -> BestConfiguration:
    """Read the best.toml of a sweep.

    Raises:
        StudyError: the file is missing, damaged, or something else.
    """
    try:
        best = BestConfiguration.model_validate(tomllib.loads(read_named(path, _LARGEST_TOML).decode()))
        foreign = sorted(set(best.method) - (set(Study.model_fields) - NOT_OF_THE_METHOD))
        if foreign:
            raise ValueError(f"'{foreign[0]}' does not describe a method")
        if not isinstance(best.method.get("hyper_parameters", {}), dict):
            raise ValueError("'hyper_parameters' is not a table")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _not_a_configuration(path, f"{place}: {first['msg']}") from error
    except FileNotFoundError as error:
        raise StudyError(f"there is no configuration {path}. Make one with: fewshot-bench sweep") from error
    except IrregularFileError as error:
        raise _not_a_configuration(path, f"it is {error.finding}") from error
    except (OSError, OutcomeError, ValueError, RecursionError) as error:
        raise _not_a_configuration(path, str(error)) from error
    return best


def _not_a_configuration(path: Path, finding: str) -> StudyError:
    return StudyError(
        f"{path} is not the best configuration of a sweep ({finding}). --setting takes the best.toml that "
        "fewshot-bench sweep writes."
    )
